package grid

import (
	"bytes"
	"encoding/json"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// defaultJSONSize is the size in bytes expected of a JSON text before one has been written.
const defaultJSONSize = 512

// JSONPool makes JSON payloads of one type and reuses the values that they decode into. It is safe
// for concurrent use.
type JSONPool[T any] struct {
	values   sync.Pool // of *T, zeroed
	size     atomic.Int64
	maxDepth int // 0 is defaultMaxDepth
}

// NewJSONPool returns a JSONPool, which is equivalent to the zero value. Create one per type and
// keep it.
func NewJSONPool[T any]() *JSONPool[T] {
	return new(JSONPool[T])
}

// WithMaxDepth sets how deeply arrays and objects may be nested in a text that is decoded: 1,000
// levels by default and if n is 0 or less. A deeper one is refused before it is decoded, because
// decoding needs stack for each level. It must be called before anything is decoded, and returns p.
func (p *JSONPool[T]) WithMaxDepth(n int) *JSONPool[T] {
	if p != nil {
		p.maxDepth = n
	}
	return p
}

// NewJSON returns a JSON without a value, to be Set or decoded into.
func (p *JSONPool[T]) NewJSON() *JSON[T] {
	return &JSON[T]{pool: p}
}

// NewJSONWith returns a JSON with the value val, which stays the caller's: Recycle only drops the
// reference.
func (p *JSONPool[T]) NewJSONWith(val *T) *JSON[T] {
	return &JSON[T]{pool: p, val: val}
}

// decode reads a text that came from a peer.
func (p *JSONPool[T]) decode(text []byte, v *T) error {
	maxDepth := defaultMaxDepth
	if p != nil {
		maxDepth = orDefault(p.maxDepth)
	}
	shape, err := mpack.CheckJSON(text, maxDepth)
	if err != nil {
		return err
	}
	if shape.Depth > maxSharedStack {
		return decodeDeepJSON(text, v)
	}
	return json.Unmarshal(text, v)
}

func decodeDeepJSON(text []byte, v any) (err error) {
	deepJSON.run(func() { err = json.Unmarshal(text, v) })
	return err
}

func (p *JSONPool[T]) get() *T {
	if p != nil {
		if v, ok := p.values.Get().(*T); ok {
			return v
		}
	}
	return new(T)
}

func (p *JSONPool[T]) put(v *T) {
	if p == nil {
		return
	}
	var zero T
	*v = zero
	p.values.Put(v)
}

// expectedSize is how many bytes the next text is likely to have.
func (p *JSONPool[T]) expectedSize() int {
	if p != nil {
		if n := p.size.Load(); n > 0 {
			return int(n)
		}
	}
	return defaultJSONSize
}

// sized tells the pool of a text of n bytes. The estimate rises to a larger
// one at once, as a buffer too small costs a copy, and falls slowly.
func (p *JSONPool[T]) sized(n int) {
	if p == nil {
		return
	}
	was := p.size.Load()
	is := int64(n)
	if is < was {
		is = was - (was-is+7)/8
	}
	if is != was {
		p.size.Store(is) // a concurrent size may be lost: it is an estimate
	}
}

// JSON carries a value of any type as a payload, encoded as JSON text, for types without
// MessagePack code. It costs more than those. The methods of a nil *JSON are safe to call, and a
// JSON without a value is encoded as nil. The zero JSON works, without reuse. A JSON must not be
// changed while another goroutine uses it.
type JSON[T any] struct {
	pool *JSONPool[T]
	val  *T
	read bool // val was made by UnmarshalMsg and is the pool's
}

// Value returns the value, nil if there is none. A received one is valid until Recycle.
func (j *JSON[T]) Value() *T {
	if j == nil {
		return nil
	}
	return j.val
}

// ValueOrZero returns a copy of the value, or the zero value if there is none.
func (j *JSON[T]) ValueOrZero() T {
	if j == nil || j.val == nil {
		var zero T
		return zero
	}
	return *j.val
}

// Set sets the value; nil means none. v stays the caller's: Recycle only drops the reference. On a
// nil *JSON it does nothing.
func (j *JSON[T]) Set(v *T) {
	if j == nil {
		return
	}
	j.val, j.read = v, false
}

// MarshalMsg appends the JSON text of the value to b, or nil if there is none. It returns the
// errors of encoding/json.
func (j *JSON[T]) MarshalMsg(b []byte) ([]byte, error) {
	if j == nil || j.val == nil {
		return msgp.AppendNil(b), nil
	}
	w := jsonWriters.Get().(*jsonWriter)
	defer w.release()
	if err := w.enc.Encode(j.val); err != nil {
		return b, err
	}
	j.pool.sized(w.text.Len())
	return msgp.AppendBytes(b, w.text.Bytes()), nil
}

// UnmarshalMsg replaces the value with the one at the start of b and returns the rest of b. It
// never writes into a value that was Set. After an error there is no value.
func (j *JSON[T]) UnmarshalMsg(b []byte) ([]byte, error) {
	if j == nil {
		return b, errNilReceiver
	}
	j.Recycle()
	if msgp.IsNil(b) {
		return b[1:], nil
	}
	text, rest, err := readBytes(b)
	if err != nil {
		return b, err
	}
	v := j.pool.get()
	if err := j.pool.decode(text, v); err != nil {
		j.pool.put(v)
		return b, err
	}
	j.val, j.read = v, true
	return rest, nil
}

// Msgsize returns an estimate of the encoded size in bytes, based on the texts that values of the
// pool have had so far.
func (j *JSON[T]) Msgsize() int {
	if j == nil || j.val == nil {
		return msgp.NilSize
	}
	return msgp.BytesPrefixSize + j.pool.expectedSize()
}

// Recycle returns a received value to the pool. j has no value afterwards.
func (j *JSON[T]) Recycle() {
	if j == nil || j.val == nil {
		return
	}
	if j.read {
		j.pool.put(j.val)
	}
	j.val, j.read = nil, false
}

func (j *JSON[T]) self() any { return j }

func (j *JSON[T]) refill() bool {
	return j.pool != nil
}

// jsonWriter is an encoder with the buffer it writes to, kept together for reuse.
type jsonWriter struct {
	text bytes.Buffer
	enc  *json.Encoder
}

var jsonWriters = sync.Pool{New: func() any {
	w := new(jsonWriter)
	w.enc = json.NewEncoder(&w.text)
	return w
}}

func (w *jsonWriter) release() {
	if w.text.Cap() > maxKeptBuffer {
		return
	}
	w.text.Reset()
	jsonWriters.Put(w)
}

func (j *JSON[T]) decodedSize(b []byte, _ mpack.Shape) int {
	text, _, err := readBytes(b)
	if err != nil {
		return 0
	}
	s, _ := mpack.CheckJSON(text, len(text))
	return newSize[*JSON[T]]() + newSize[*T]() + jsonSize(text, s)
}

// jsonSize returns how much memory the value decoded from a JSON text takes.
func jsonSize(text []byte, s mpack.Shape) int {
	n := textSize(len(text))
	if !utf8.Valid(text) {
		n *= 3 // each wrong byte of a text becomes three
	}
	return n + s.Values*perValue + s.Containers*perContainer
}
