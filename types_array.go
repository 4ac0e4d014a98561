package grid

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

var (
	errArrayWithoutPool = errors.New("grid: an Array must come from an ArrayOf to be read")
	errEmptyElement     = errors.New("grid: an Array's element has no bytes")
)

// ArrayOf makes Array payloads of one element type and reuses the elements that they decode into.
// It is safe for concurrent use.
type ArrayOf[T RoundTripper] struct {
	elems pool[T]
}

// NewArrayOf returns an ArrayOf that makes its elements with newFn, which must be safe for
// concurrent use.
func NewArrayOf[T RoundTripper](newFn func() T) *ArrayOf[T] {
	return &ArrayOf[T]{elems: pool[T]{newFn: newFn}}
}

// New returns an Array without a value.
func (p *ArrayOf[T]) New() *Array[T] {
	return &Array[T]{from: p}
}

// NewWith returns an Array of the elements val. The slice and its elements stay the caller's:
// Recycle only drops the reference.
func (p *ArrayOf[T]) NewWith(val []T) *Array[T] {
	return &Array[T]{from: p, val: val}
}

// Array is a slice of payloads as one payload. Nil and empty differ on the wire. Each element must
// take at least a byte there, which rules out NoPayload. The methods of a nil *Array are safe to
// call. An Array must not be changed while another goroutine uses it.
type Array[T RoundTripper] struct {
	from *ArrayOf[T]
	val  []T
	read int  // the first elements of val, made by UnmarshalMsg, are from's
	own  bool // the memory of val is the Array's
	kept []T  // memory for the next val; of length 0
}

// Value returns the elements. The slice, and elements that were received, are valid until Recycle.
func (a *Array[T]) Value() []T {
	if a == nil {
		return nil
	}
	return slices.Clip(a.val)
}

// Append appends v, whose elements stay the caller's, and returns a. On a nil *Array it does
// nothing.
func (a *Array[T]) Append(v ...T) *Array[T] {
	if a == nil || len(v) == 0 {
		return a
	}
	switch {
	case a.val == nil:
		a.val, a.own, a.kept = append(a.kept, v...), true, nil
	case a.own:
		a.val = append(a.val, v...)
	default:
		a.val, a.own = append(slices.Clip(a.val), v...), true
	}
	return a
}

// Set sets the elements to val. The slice and its elements stay the caller's: Recycle only drops
// the reference. On a nil *Array it does nothing.
func (a *Array[T]) Set(val []T) {
	if a == nil {
		return
	}
	// The former elements are not given back: val may hold some of them.
	a.val, a.read, a.own = val, 0, false
}

// MarshalMsg appends the elements to b, or nil if the slice is nil.
func (a *Array[T]) MarshalMsg(b []byte) ([]byte, error) {
	if a == nil || a.val == nil {
		return msgp.AppendNil(b), nil
	}
	b = msgp.AppendArrayHeader(b, uint32(len(a.val)))
	for i, v := range a.val {
		v, err := a.present(v)
		if err != nil {
			return b, fmt.Errorf("element %d: %w", i, err)
		}
		before := len(b)
		if b, err = v.MarshalMsg(b); err != nil {
			return b, fmt.Errorf("element %d: %w", i, err)
		}
		if len(b) == before {
			return b, fmt.Errorf("element %d: %w", i, errEmptyElement)
		}
	}
	return b, nil
}

// UnmarshalMsg replaces the elements with those at the start of b and returns the rest of b. It
// never writes into elements that were Set or appended. After an error there are no elements.
func (a *Array[T]) UnmarshalMsg(b []byte) ([]byte, error) {
	if a == nil {
		return b, errNilReceiver
	}
	a.Recycle()
	if msgp.IsNil(b) {
		return b[1:], nil
	}
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return b, err
	}
	if uint64(n) > uint64(len(b)) {
		return b, msgp.ErrShortBytes
	}
	if n > 0 && a.from == nil {
		return b, errArrayWithoutPool
	}
	if a.val = a.kept; a.val == nil {
		a.val = make([]T, 0, min(n, maxSizeHint))
	}
	a.own, a.kept = true, nil
	for i := range n {
		if b, err = a.readElement(b); err != nil {
			a.Recycle()
			return b, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return b, nil
}

func (a *Array[T]) readElement(b []byte) ([]byte, error) {
	var zero T
	elems := &a.from.elems
	v := elems.getToRead()
	if v == zero && nilable[T]() {
		return b, errNoValue
	}
	a.val = append(a.val, v)
	a.read = len(a.val)
	rest, err := v.UnmarshalMsg(b)
	if err == nil && len(rest) == len(b) {
		err = errEmptyElement
	}
	return rest, err
}

// Msgsize returns an upper bound of the encoded size in bytes, if Msgsize of the elements does.
func (a *Array[T]) Msgsize() int {
	if a == nil || a.val == nil {
		return msgp.NilSize
	}
	n := msgp.ArrayHeaderSize
	for _, v := range a.val {
		if v, err := a.present(v); err == nil {
			n += v.Msgsize()
		}
	}
	return n
}

// present returns v, or what stands for a nil v.
func (a *Array[T]) present(v T) (T, error) {
	if from := a.from; from != nil {
		return from.elems.present(v)
	}
	var zero T
	if v == zero && nilable[T]() {
		return v, errNoValue
	}
	return v, nil
}

// Recycle returns received elements to the ArrayOf. a has no elements afterwards.
func (a *Array[T]) Recycle() {
	if a == nil || a.val == nil {
		return
	}
	from := a.from // nil where nothing was read
	for _, v := range a.val[:a.read] {
		from.elems.put(v)
	}
	if a.own && len(a.val) <= maxKeptLen {
		clear(a.val)
		a.kept = a.val[:0]
	}
	a.val, a.read, a.own = nil, 0, false
}

func (a *Array[T]) self() any { return a }

func (a *Array[T]) refill() bool {
	return a.from != nil
}

func (a *Array[T]) shares(other any) bool {
	for _, v := range a.val[:a.read] {
		if s, ok := any(v).(sharer); ok && s.shares(other) {
			return true
		}
	}
	return false
}

func (a *Array[T]) decodedSize(b []byte, s mpack.Shape) int {
	var elem T
	size, each := 64, 16+newSize[T]() // a place in the slice, and what it points to
	if msgp.IsNil(b) {
		return size
	}
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var shape mpack.Shape
		one := b
		if shape, b, err = mpack.First(b, s.Depth); err == nil {
			size += each + decodedSize(elem, one[:len(one)-len(b)], shape)
		}
	}
	return size
}
