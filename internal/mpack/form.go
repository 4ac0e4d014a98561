package mpack

import (
	"encoding/binary"
	"math"

	"github.com/tinylib/msgp/msgp"
)

// The shortest forms of MessagePack, in which nodes write, and their sizes in bytes.

// AppendUint appends n in its shortest form.
func AppendUint(dst []byte, n uint64) []byte {
	if n < 0x80 {
		return append(dst, byte(n))
	}
	return msgp.AppendUint64(dst, n)
}

// UintSize returns the number of bytes that AppendUint appends.
func UintSize(n uint64) int {
	switch {
	case n < 0x80:
		return 1
	case n <= math.MaxUint8:
		return 2
	case n <= math.MaxUint16:
		return 3
	case n <= math.MaxUint32:
		return 5
	default:
		return 9
	}
}

// BinSize returns the size of a bin with n bytes.
func BinSize(n int) int { return BinHeaderSize(n) + n }

// CutUint takes an unsigned integer of at most limit off the front of b. It takes no signed forms.
func CutUint(b []byte, limit uint64) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	first := b[0]
	if first < 0x80 {
		return uint64(first), b[1:], true
	}
	switch {
	case first == 0xcc && len(b) >= 2:
		n, rest = uint64(b[1]), b[2:]
	case first == 0xcd && len(b) >= 3:
		n, rest = uint64(binary.BigEndian.Uint16(b[1:])), b[3:]
	case first == 0xce && len(b) >= 5:
		n, rest = uint64(binary.BigEndian.Uint32(b[1:])), b[5:]
	case first == 0xcf && len(b) >= 9:
		n, rest = binary.BigEndian.Uint64(b[1:]), b[9:]
	default:
		return 0, nil, false
	}
	return n, rest, n <= limit
}

// CutBinHeader takes the header of a bin of n bytes off the front of b.
func CutBinHeader(b []byte) (n uint64, rest []byte, ok bool) {
	switch {
	case len(b) >= 2 && b[0] == 0xc4:
		return uint64(b[1]), b[2:], true
	case len(b) >= 3 && b[0] == 0xc5:
		return uint64(binary.BigEndian.Uint16(b[1:])), b[3:], true
	case len(b) >= 5 && b[0] == 0xc6:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	}
	return 0, nil, false
}

// CutBin takes a bin off the front of b.
func CutBin(b []byte) (bin, rest []byte, ok bool) {
	n, b, ok := CutBinHeader(b)
	if !ok || n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// StringSize returns the size of a msgpack string with n bytes.
func StringSize(n int) int {
	if n < 32 {
		return 1 + n
	}
	return BinSize(n)
}

// MapHeaderSize returns the size of the header of a msgpack map of n pairs.
func MapHeaderSize(n int) int {
	if n < 16 {
		return 1
	}
	return 3
}

// AppendBinHeader appends the header of a msgpack bin of n bytes in its shortest form.
func AppendBinHeader(b []byte, n int) []byte {
	switch BinHeaderSize(n) {
	case 2:
		return append(b, 0xc4, byte(n))
	case 3:
		return append(b, 0xc5, byte(n>>8), byte(n))
	default:
		return append(b, 0xc6, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
}

// BinHeaderSize returns the size of the header of a bin of n bytes.
func BinHeaderSize(n int) int {
	switch {
	case n <= 0xff:
		return 2
	case n <= 0xffff:
		return 3
	default:
		return 5
	}
}
