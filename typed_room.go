package grid

import (
	"reflect"

	"github.com/gridmesh/grid/internal/mpack"
)

// Decoding can turn one byte into a hundred: a map with one pair takes three bytes of a message and
// 350 of memory. So the memory that a value takes is estimated before it is decoded, by the number
// of values in it, and counts where its message does.

// takeDecoded counts the memory that the value decoded from b takes. If it is no larger than the
// buffer of its message, that already counts.
func takeDecoded(r room, v any, b []byte, s mpack.Shape) error {
	if r == nil {
		return nil
	}
	if size := decodedSize(v, b, s); size > footprint(len(b)) {
		return r.reserve(size)
	}
	return nil
}

// sized is implemented by the payload types of this package.
type sized interface {
	// decodedSize returns an upper bound of the memory, in bytes, that the value decoded from b, of
	// the given shape, takes. The receiver may be nil.
	decodedSize(b []byte, s mpack.Shape) int
}

// The most that a value can take, in bytes. TestWhatDecodedValuesTake measures it.
const (
	// perValue is for each value: a slot of a map that has just grown, or a place in a slice and
	// what it points to, and its own memory if it has some. It is enough for everything that is
	// decoded without a type, such as an any, and for strings and numbers.
	perValue = 72
	// perContainer is for each array, map or object in addition: the smallest map.
	perContainer = 336
)

// textSize returns the size of texts of n bytes in total that are copied one by one, without their
// values.
func textSize(n int) int { return n + n/8 }

// decodedSize returns how much memory the value decoded from b takes.
func decodedSize(v any, b []byte, s mpack.Shape) int {
	if own, ok := v.(sized); ok {
		return own.decodedSize(b, s)
	}
	return textSize(len(b)) + s.Values*perValue + s.Containers*perContainer
}

// newSize returns how much memory a new value takes that a T points to.
func newSize[T any]() int {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Pointer {
		return 16
	}
	return 16 + textSize(int(t.Elem().Size()))
}
