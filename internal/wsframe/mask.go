package wsframe

import (
	"encoding/binary"
	"math/bits"
)

// Mask applies key to b in place (RFC 6455, 5.3), which masks and unmasks alike.
func Mask(b []byte, key [4]byte) {
	mask(b, binary.LittleEndian.Uint32(key[:]))
}

// mask applies key, the little-endian word of the wire's four bytes, and returns the key for the
// byte after b. So a payload can be unmasked piece by piece.
func mask(b []byte, key uint32) uint32 {
	k := uint64(key)<<32 | uint64(key)
	for len(b) >= 64 {
		// A pointer to an array spares the compiler the bounds checks of each word.
		w := (*[64]byte)(b)
		binary.LittleEndian.PutUint64(w[0:], binary.LittleEndian.Uint64(w[0:])^k)
		binary.LittleEndian.PutUint64(w[8:], binary.LittleEndian.Uint64(w[8:])^k)
		binary.LittleEndian.PutUint64(w[16:], binary.LittleEndian.Uint64(w[16:])^k)
		binary.LittleEndian.PutUint64(w[24:], binary.LittleEndian.Uint64(w[24:])^k)
		binary.LittleEndian.PutUint64(w[32:], binary.LittleEndian.Uint64(w[32:])^k)
		binary.LittleEndian.PutUint64(w[40:], binary.LittleEndian.Uint64(w[40:])^k)
		binary.LittleEndian.PutUint64(w[48:], binary.LittleEndian.Uint64(w[48:])^k)
		binary.LittleEndian.PutUint64(w[56:], binary.LittleEndian.Uint64(w[56:])^k)
		b = b[64:]
	}
	for len(b) >= 8 {
		w := (*[8]byte)(b)
		binary.LittleEndian.PutUint64(w[:], binary.LittleEndian.Uint64(w[:])^k)
		b = b[8:]
	}
	if len(b) >= 4 {
		binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)^key)
		b = b[4:]
	}
	for i := range b {
		b[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
	return key
}
