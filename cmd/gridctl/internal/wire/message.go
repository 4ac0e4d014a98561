// Package wire reads and writes the messages of the protocol for tools that look at it from outside:
// docs/protocol.md describes them. It reads whatever it is given, and keeps no state.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tinylib/msgp/msgp"
	"github.com/zeebo/xxh3"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/mpack"
)

// Message is one message. What Parse returns points into its argument.
type Message struct {
	MuxID      uint64
	Seq        uint32
	DeadlineMS uint32
	Handler    grid.HandlerID
	Op         grid.Op
	Flags      grid.Flags
	Payload    []byte // of an OpMerged, the messages in it
	Metadata   []byte // nil for none
	Subroute   []byte // 32 bytes, or nil for none
	Sum        Sum
}

// Sum is what a message has for a checksum.
type Sum uint8

const (
	SumNone Sum = iota
	SumRight
	SumWrong
)

// Flags that package grid does not export: see docs/protocol.md.
const (
	FlagMetadata grid.Flags = 1 << 6
	FlagPriority grid.Flags = 1 << 7
)

// Operations that this package looks into.
const (
	OpPiece        grid.Op = 18
	OpAckPieces    grid.Op = 19
	OpFacts        grid.Op = 20
	OpAckFacts     grid.Op = 21
	OpMuxServerEnd grid.Op = 22
)

const (
	fields       = 7
	checksumSize = 4
	subrouteSize = 32
	maxDepth     = 16 // of the maps of the protocol, which have two levels
)

var (
	errShort   = errors.New("it ends too early")
	errForeign = errors.New("not a message: it does not begin with an array of 7")
)

// Parse reads a message.
func Parse(b []byte) (m Message, err error) {
	m, rest, err := ParseHead(b)
	if err != nil {
		return m, err
	}
	if m.Payload, rest, err = msgp.ReadBytesZC(rest); err != nil {
		return m, err
	}
	if m.Op == grid.OpMerged {
		m.Payload = rest
		return m, nil
	}
	return m, m.parseTail(b, rest)
}

// ParseHead reads the fields before the payload, of a message that may be cut short.
func ParseHead(b []byte) (m Message, rest []byte, err error) {
	if len(b) == 0 || b[0] != 0x90|fields {
		return m, nil, errForeign
	}
	rest = b[1:]
	var n [fields - 1]uint64
	for i, limit := range [fields - 1]uint64{math.MaxUint64, math.MaxUint32, math.MaxUint32, math.MaxUint8, math.MaxUint8, math.MaxUint8} {
		if n[i], rest, err = msgp.ReadUint64Bytes(rest); err != nil {
			return m, nil, err
		}
		if n[i] > limit {
			return m, nil, fmt.Errorf("field %d is %d, at most %d is possible", i, n[i], limit)
		}
	}
	m.MuxID, m.Seq, m.DeadlineMS = n[0], uint32(n[1]), uint32(n[2])
	m.Handler, m.Op, m.Flags = grid.HandlerID(n[3]), grid.Op(n[4]), grid.Flags(n[5])
	return m, rest, nil
}

// parseTail reads what is behind the array, whose bytes are the end of those of the message.
func (m *Message) parseTail(b, rest []byte) error {
	if m.Flags&grid.FlagCRCxxh3 != 0 {
		if len(rest) < checksumSize {
			return errShort
		}
		at := len(b) - checksumSize
		m.Sum = SumRight
		if binary.LittleEndian.Uint32(b[at:]) != uint32(xxh3.Hash(b[:at])) {
			m.Sum = SumWrong
		}
		rest = rest[:len(rest)-checksumSize]
	}
	if m.Flags&grid.FlagSubroute != 0 {
		if len(rest) < subrouteSize {
			return errShort
		}
		m.Subroute = rest[len(rest)-subrouteSize:]
		rest = rest[:len(rest)-subrouteSize]
	}
	if m.Flags&FlagMetadata != 0 {
		m.Metadata = rest
	}
	return nil
}

// Merged returns the messages in an OpMerged. With an error come those before what is wrong.
func (m *Message) Merged() (all []Message, err error) {
	rest := m.Payload
	for len(rest) > 0 {
		var one []byte
		if one, rest, err = msgp.ReadBytesZC(rest); err != nil {
			return all, err
		}
		inner, err := Parse(one)
		if err != nil {
			return all, err
		}
		if inner.Op == grid.OpMerged {
			return all, errors.New("a merged message in another")
		}
		all = append(all, inner)
	}
	if len(all) != int(m.Seq) {
		return all, fmt.Errorf("%d messages, and it says %d", len(all), m.Seq)
	}
	return all, nil
}

// Append appends a message that is no OpMerged. The flags of its parts are set as the fields ask
// for, that of the checksum as it is.
func (m *Message) Append(b []byte) []byte {
	start := len(b)
	flags := m.Flags &^ (grid.FlagSubroute | FlagMetadata)
	if m.Subroute != nil {
		flags |= grid.FlagSubroute
	}
	if m.Metadata != nil {
		flags |= FlagMetadata
	}
	b = append(b, 0x90|fields)
	for _, n := range []uint64{m.MuxID, uint64(m.Seq), uint64(m.DeadlineMS), uint64(m.Handler), uint64(m.Op), uint64(flags)} {
		b = mpack.AppendUint(b, n)
	}
	b = msgp.AppendBytes(b, m.Payload)
	b = append(b, m.Metadata...)
	b = append(b, m.Subroute...)
	if flags&grid.FlagCRCxxh3 != 0 {
		b = binary.LittleEndian.AppendUint32(b, uint32(xxh3.Hash(b[start:])))
	}
	return b
}
