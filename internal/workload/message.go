package workload

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/gridmesh/grid"
)

// Side says what a message is for, so that none is taken for another.
type Side byte

const (
	SidePayload  Side = iota // of a call
	SideAnswer               // to a single request
	SideRequest              // of a stream
	SideResponse             // of a stream
)

// header is the least size of a message: call, side, number and size.
const header = 8 + 1 + 4 + 4

// Message returns the nth message of a side of a call, in a buffer of the caller's. All of its
// bytes follow from that.
func Message(id uint64, s Side, n, size int) []byte {
	size = max(size, header)
	b := grid.GetByteBufferCap(size)[:0]
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, byte(s))
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	x := id<<32 ^ uint64(s)<<24 ^ uint64(n)*0x9e3779b97f4a7c15
	for len(b)+8 <= size {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	for len(b) < size {
		b = append(b, byte(len(b)))
	}
	return b
}

// Verify compares a message to what it has to be.
func Verify(b []byte, id uint64, s Side, n, size int) error {
	want := Message(id, s, n, size)
	defer grid.PutByteBuffer(want)
	if bytes.Equal(b, want) {
		return nil
	}
	if len(b) < header {
		return fmt.Errorf("got %d bytes in place of a message", len(b))
	}
	return fmt.Errorf("wanted message %d of side %d and call %d with %d bytes, got %d of side %d and call %d with %d bytes of %d",
		n, s, id, len(want), binary.BigEndian.Uint32(b[9:]), b[8], binary.BigEndian.Uint64(b), len(b), binary.BigEndian.Uint32(b[13:]))
}

// callOf returns the number of the call that a message is of; 0 for none.
func callOf(b []byte) uint64 {
	if len(b) < header {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
