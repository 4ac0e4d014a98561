// Package bytepool lends byte slices out of a few size classes.
//
//	b := bytepool.Get(1000) // len 0, cap at least 1000
//	b = append(b, header...)
//	bytepool.Put(b)
//
// The classes are the powers of two from 256 bytes to 4 MiB, each a sync.Pool, so idle memory
// returns to the garbage collector. Neither Get nor Put allocates once a class is warm. All
// functions are safe for concurrent use.
package bytepool

import (
	"math/bits"
	"sync"
	"unsafe"
)

const (
	minBits = 8  // 256 bytes
	maxBits = 22 // 4 MiB

	// MinSize is the capacity, in bytes, of the smallest class.
	MinSize = 1 << minBits
	// MaxSize is the capacity, in bytes, of the largest class. Larger slices are newly allocated
	// and left to the garbage collector.
	MaxSize = 1 << maxBits
)

// classes hold array pointers (*byte) instead of slices: a pointer fits into an interface without
// an allocation, and the class implies the capacity.
var classes [maxBits - minBits + 1]sync.Pool

// Get returns a slice of length 0 and a capacity of at least n bytes, which the caller owns. Its
// contents are undefined.
func Get(n int) []byte {
	if n > MaxSize {
		return make([]byte, 0, n)
	}
	class := classOf(n)
	size := 1 << (class + minBits)
	if p, ok := classes[class].Get().(*byte); ok {
		return unsafe.Slice(p, size)[:0]
	}
	return make([]byte, 0, size)
}

// Size returns the capacity, in bytes, of the slice that Get returns for n.
func Size(n int) int {
	if n > MaxSize {
		return n
	}
	return 1 << (classOf(n) + minBits)
}

// classOf returns the smallest class for n bytes, which must not exceed MaxSize.
func classOf(n int) int {
	if n <= MinSize {
		return 0
	}
	return bits.Len(uint(n-1)) - minBits
}

// Put gives b back; afterwards the caller must not use it, or anything else that shares its array.
// b need not come from Get: it goes into the largest class that its capacity fills. Slices below
// MinSize or above MaxSize are dropped.
func Put(b []byte) {
	if cap(b) < MinSize || cap(b) > MaxSize {
		return
	}
	classes[bits.Len(uint(cap(b)))-1-minBits].Put(unsafe.SliceData(b))
}
