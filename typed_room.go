package grid

import (
	"reflect"

	"github.com/gridmesh/grid/internal/mpack"
)

// What decoding makes of one byte is up to a hundred times as large: a map of one pair, of three bytes, takes 350. So what a
// value takes in memory is estimated before it is decoded, by the number of values in it, and counts where its message does.

// takeDecoded counts what a value takes that b is decoded to. What is no larger than the buffer of
// its message counts with that.
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
	// decodedSize is an upper bound of the bytes that the value takes which b, of the given shape, is decoded to.
	// The receiver may be nil.
	decodedSize(b []byte, s mpack.Shape) int
}

// What a value takes at the most, in bytes. TestWhatDecodedValuesTake measures it.
const (
	// perValue is for each value: a slot of a map that has just grown, or a place in a slice and what it points to; and its
	// own memory where it has some. It is enough for all that is made without a type, such as an any, and for strings and numbers.
	perValue = 72
	// perContainer is for each array, map or object besides: the least map.
	perContainer = 336
)

// textSize is what n bytes of texts take that are copied one by one, their values aside.
func textSize(n int) int { return n + n/8 }

// decodedSize is what a value takes that b is decoded to.
func decodedSize(v any, b []byte, s mpack.Shape) int {
	if own, ok := v.(sized); ok {
		return own.decodedSize(b, s)
	}
	return textSize(len(b)) + s.Values*perValue + s.Containers*perContainer
}

// newSize is what a new value takes that a T points to.
func newSize[T any]() int {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Pointer {
		return 16
	}
	return 16 + textSize(int(t.Elem().Size()))
}
