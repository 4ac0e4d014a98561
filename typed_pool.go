package grid

import (
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"unsafe"
)

var (
	errNilReceiver = errors.New("grid: unmarshal into a nil value")
	errNoValue     = errors.New("grid: no value: the function for new values is missing or returned nil")
)

// reusable is implemented by the payload types of this package. Their Recycle gives the contents
// away and leaves the value itself with its owner, who may keep it for another call. So a second
// Recycle, by the handler's author, does no harm. A kept value has no contents: a pool that gets
// more values than it hands out must not hoard their buffers and maps.
type reusable interface {
	// self returns the value itself, to tell it from a type that embeds it.
	self() any
	// refill makes a recycled value like new, or reports that it can't.
	refill() bool
}

// sharer is implemented by payload types whose contents Recycle gives to others. If two of them
// share memory, only one may be recycled.
type sharer interface {
	shares(other any) bool
}

// pool hands out values of T and takes them back. A type with Recycle is recycled by calling it.
// Other values are kept and reused if they can be reset, that is if newFn returns a pointer to a
// zero value: what one call left in a value must not show up in the next. A pool is safe for
// concurrent use.
type pool[T RoundTripper] struct {
	newFn    func() T
	id       HandlerID // whose values they are, and
	what     string    // what they are to it, for errors
	maxDepth int       // of what unmarshal takes; 0 is defaultMaxDepth
	free     sync.Pool
	reset    atomic.Uint32 // whether zeroing makes a value like new: one of the consts below
}

const (
	resetUnknown = iota
	resetByZeroing
	resetImpossible
)

// get returns a value that is like new. It is zero if newFn is missing.
func (p *pool[T]) get() T {
	v, ok := p.free.Get().(T)
	if !ok {
		return p.fresh()
	}
	if r, ok := any(v).(reusable); ok && !r.refill() {
		return p.fresh()
	}
	return v
}

// getToRead returns a value to decode into, without a buffer that may be much larger than its
// contents will be.
func (p *pool[T]) getToRead() T {
	v, ok := p.free.Get().(T)
	if !ok {
		v = p.fresh()
	} else if r, own := any(v).(reusable); own {
		if _, bytes := any(v).(*Bytes); !bytes && !r.refill() {
			v = p.fresh()
		}
	}
	if b, ok := any(v).(*Bytes); ok {
		b.Recycle()
	}
	return v
}

func (p *pool[T]) fresh() (v T) {
	if p.newFn != nil {
		v = p.newFn()
	}
	return v
}

// put takes back v, which nobody may use any more.
func (p *pool[T]) put(v T) {
	var zero T
	if v == zero {
		return
	}
	if r, ok := any(v).(Recycler); ok {
		r.Recycle()
		if own, ok := r.(reusable); ok && own.self() == any(v) {
			p.free.Put(v)
		}
		return
	}
	if p.resets() {
		reflect.ValueOf(v).Elem().SetZero()
		p.free.Put(v)
	}
}

// resets reports whether newFn returns a zeroed value.
func (p *pool[T]) resets() bool {
	known := p.reset.Load()
	if known == resetUnknown {
		known = resetImpossible
		if reflect.TypeFor[T]().Kind() == reflect.Pointer {
			if v := reflect.ValueOf(p.fresh()); !v.IsNil() && v.Elem().IsZero() {
				known = resetByZeroing
			}
		}
		p.reset.Store(known)
	}
	return known == resetByZeroing
}

// encode is marshal with an error that names the handler.
func (p *pool[T]) encode(v T) ([]byte, error) {
	b, err := p.marshal(v)
	if err != nil {
		return nil, fmt.Errorf("grid: %s: encode %s: %w", p.id, p.what, err)
	}
	return b, nil
}

// decode is unmarshal with an error that names the handler.
func (p *pool[T]) decode(b []byte, r room) (T, error) {
	v, err := p.unmarshal(b, r)
	if err != nil {
		return v, fmt.Errorf("grid: %s: decode %s: %w", p.id, p.what, err)
	}
	return v, nil
}

// marshal returns v encoded into a buffer that the caller gives back with PutByteBuffer. v stays
// the caller's too.
func (p *pool[T]) marshal(v T) ([]byte, error) {
	v, err := p.present(v)
	if err != nil {
		return nil, err
	}
	buf := GetByteBufferCap(max(v.Msgsize(), 0))
	b, err := v.MarshalMsg(buf[:0])
	if err != nil {
		PutByteBuffer(buf)
		return nil, err
	}
	if unsafe.SliceData(b) != unsafe.SliceData(buf) {
		PutByteBuffer(buf)
	}
	return b, nil
}

// unmarshal decodes the value in b, and gives b back. What the value takes counts in r, unless that
// is nil.
func (p *pool[T]) unmarshal(b []byte, r room) (v T, err error) {
	var zero T
	v = p.getToRead()
	if v == zero && nilable[T]() {
		err = errNoValue
	} else {
		err = unmarshalHostile(v, b, orDefault(p.maxDepth), r)
	}
	PutByteBuffer(b)
	if err != nil {
		p.put(v)
		return zero, err
	}
	return v, nil
}

// orDefault returns the depth that an option sets.
func orDefault(maxDepth int) int {
	if maxDepth <= 0 {
		return defaultMaxDepth
	}
	return maxDepth
}

// present returns v, or a new value for a nil one whose methods may not be called. Those of this
// package's payload types may be, and encode what nil means to them.
func (p *pool[T]) present(v T) (T, error) {
	var zero T
	if v != zero || !nilable[T]() {
		return v, nil
	}
	v = p.fresh()
	if v == zero {
		return zero, errNoValue
	}
	if r, ok := any(v).(reusable); ok && r.self() == any(v) && reflect.TypeFor[T]().Kind() == reflect.Pointer {
		p.put(v)
		return zero, nil
	}
	return v, nil
}

func nilable[T any]() bool {
	k := reflect.TypeFor[T]().Kind()
	return k == reflect.Pointer || k == reflect.Interface || k == reflect.Map || k == reflect.Slice
}
