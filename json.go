package grid

import (
	"bytes"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/tinylib/msgp/msgp"
)

// JSONPool makes JSON values of one type and keeps them for reuse.
type JSONPool[T any] struct {
	pool sync.Pool
	size atomic.Int64 // bytes of the encoded values, smoothed
}

// firstJSONSize is the assumed size of an encoded value, in bytes, before one was seen.
const firstJSONSize = 64

// NewJSONPool returns a pool.
func NewJSONPool[T any]() *JSONPool[T] {
	p := new(JSONPool[T])
	p.size.Store(firstJSONSize)
	return p
}

// NewJSON returns a JSON that holds the zero value.
func (p *JSONPool[T]) NewJSON() *JSON[T] {
	val, ok := p.pool.Get().(*T)
	if !ok {
		val = new(T)
	}
	return &JSON[T]{p: p, val: val}
}

// NewJSONWith returns a JSON that holds val itself. Recycle keeps it for reuse.
func (p *JSONPool[T]) NewJSONWith(val *T) *JSON[T] {
	return &JSON[T]{p: p, val: val}
}

// seen corrects the estimated size.
func (p *JSONPool[T]) seen(size int) {
	if p == nil {
		return
	}
	old := p.size.Load()
	p.size.Store((3*old + int64(size)) / 4) // a lost update costs an estimate
}

// put keeps a value for reuse.
func (p *JSONPool[T]) put(val *T) {
	if p == nil || val == nil {
		return
	}
	var zero T
	*val = zero
	p.pool.Put(val)
}

// JSON carries a value as JSON text, for types without msgp methods. nil stays nil over the wire.
type JSON[T any] struct {
	p   *JSONPool[T]
	val *T
}

// Value returns the value itself; nil where there is none.
func (j *JSON[T]) Value() *T {
	if j == nil {
		return nil
	}
	return j.val
}

// ValueOrZero returns a copy of the value; the zero value where there is none.
func (j *JSON[T]) ValueOrZero() T {
	if j == nil || j.val == nil {
		var zero T
		return zero
	}
	return *j.val
}

// Set makes v the value. The one before is kept for reuse.
func (j *JSON[T]) Set(v *T) {
	if j.val != v {
		j.p.put(j.val)
	}
	j.val = v
}

// Recycle keeps the value for reuse.
func (j *JSON[T]) Recycle() {
	if j == nil {
		return
	}
	j.p.put(j.val)
	j.val = nil
}

// MarshalMsg appends the JSON text, which ends in a newline.
func (j *JSON[T]) MarshalMsg(b []byte) (o []byte, err error) {
	if j == nil || j.val == nil {
		return msgp.AppendNil(b), nil
	}
	buf := bytes.NewBuffer(GetByteBufferCap(j.estimate()))
	defer func() { PutByteBuffer(buf.Bytes()) }()
	if err := json.NewEncoder(buf).Encode(j.val); err != nil {
		return b, err
	}
	j.p.seen(buf.Len())
	return msgp.AppendBytes(b, buf.Bytes()), nil
}

// UnmarshalMsg reads JSON text or nil.
func (j *JSON[T]) UnmarshalMsg(bytes []byte) ([]byte, error) {
	if msgp.IsNil(bytes) {
		j.Recycle()
		return bytes[1:], nil
	}
	text, rest, err := msgp.ReadBytesZC(bytes)
	if err != nil {
		return bytes, msgp.WrapError(err, "JSON")
	}
	val := new(T)
	if err := json.Unmarshal(text, val); err != nil {
		return bytes, msgp.WrapError(err, "JSON")
	}
	j.Set(val)
	j.p.seen(len(text))
	return rest, nil
}

// Msgsize returns an estimate of the encoded size in bytes, from what has been seen.
func (j *JSON[T]) Msgsize() int {
	if j == nil || j.val == nil {
		return msgp.NilSize
	}
	return msgp.BytesPrefixSize + j.estimate()
}

func (j *JSON[T]) estimate() int {
	if j.p == nil {
		return firstJSONSize
	}
	return int(j.p.size.Load())
}

func (j *JSON[T]) marshalsNil() {}
