package grid

import (
	"sync"

	"github.com/tinylib/msgp/msgp"
)

// ArrayOf makes Arrays of one element type and keeps elements for reuse.
type ArrayOf[T RoundTripper] struct {
	newElement func() T
	elements   sync.Pool
	arrays     sync.Pool
}

// NewArrayOf returns a maker of arrays. newFn returns a new element.
func NewArrayOf[T RoundTripper](newFn func() T) *ArrayOf[T] {
	return &ArrayOf[T]{newElement: newFn}
}

// New returns an empty array.
func (p *ArrayOf[T]) New() *Array[T] {
	if a, ok := p.arrays.Get().(*Array[T]); ok {
		return a
	}
	return &Array[T]{p: p, val: []T{}}
}

// NewWith returns an array that uses val itself. Recycle keeps its elements for reuse.
func (p *ArrayOf[T]) NewWith(val []T) *Array[T] {
	return &Array[T]{p: p, val: val}
}

func (p *ArrayOf[T]) element() T {
	if v, ok := p.elements.Get().(T); ok {
		return v
	}
	return p.newElement()
}

func (p *ArrayOf[T]) putElement(v T) {
	var zero T
	if v == zero {
		return
	}
	if r, ok := any(v).(Recycler); ok {
		r.Recycle()
	}
	p.elements.Put(v)
}

// Array is a sequence of msgp values. A nil slice stays nil over the wire.
type Array[T RoundTripper] struct {
	p   *ArrayOf[T]
	val []T
}

// Value returns the elements themselves, not a copy.
func (j *Array[T]) Value() []T {
	if j == nil {
		return nil
	}
	return j.val
}

// Set makes val the elements.
func (j *Array[T]) Set(val []T) { j.val = val }

// Append adds elements, and returns the array.
func (j *Array[T]) Append(v ...T) *Array[T] {
	j.val = append(j.val, v...)
	return j
}

// Recycle keeps the elements and the array for reuse. Neither may be used afterwards.
func (j *Array[T]) Recycle() {
	if j == nil || j.p == nil {
		return
	}
	j.drop()
	if j.val == nil {
		j.val = []T{}
	}
	j.p.arrays.Put(j)
}

// drop empties the array and keeps its elements for reuse.
func (j *Array[T]) drop() {
	for _, v := range j.val {
		j.p.putElement(v)
	}
	clear(j.val)
	j.val = j.val[:0]
}

// MarshalMsg appends the elements.
func (j *Array[T]) MarshalMsg(b []byte) (o []byte, err error) {
	if j == nil || j.val == nil {
		return msgp.AppendNil(b), nil
	}
	o = msgp.AppendArrayHeader(b, uint32(len(j.val)))
	for i, v := range j.val {
		if o, err = v.MarshalMsg(o); err != nil {
			return b, msgp.WrapError(err, "Array", i)
		}
	}
	return o, nil
}

// UnmarshalMsg reads elements or nil. The elements there were are kept for reuse.
func (j *Array[T]) UnmarshalMsg(bytes []byte) ([]byte, error) {
	j.drop()
	if msgp.IsNil(bytes) {
		j.val = nil
		return bytes[1:], nil
	}
	n, o, err := msgp.ReadArrayHeaderBytes(bytes)
	if err != nil {
		return bytes, msgp.WrapError(err, "Array")
	}
	if uint64(n) > uint64(len(o)) {
		return bytes, msgp.WrapError(msgp.ErrShortBytes, "Array") // an element has a byte at least
	}
	if j.val == nil {
		j.val = []T{}
	}
	for i := range n {
		v := j.p.element()
		if o, err = v.UnmarshalMsg(o); err != nil {
			j.drop()
			return bytes, msgp.WrapError(err, "Array", i)
		}
		j.val = append(j.val, v)
	}
	return o, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (j *Array[T]) Msgsize() int {
	if j == nil || j.val == nil {
		return msgp.NilSize
	}
	s := msgp.ArrayHeaderSize
	for _, v := range j.val {
		s += v.Msgsize()
	}
	return s
}

func (j *Array[T]) marshalsNil() {}
