package grid

import (
	"context"
	"io"
	"maps"
	"net/url"
	"slices"

	"github.com/tinylib/msgp/msgp"
)

// RoundTripper is what typed handlers exchange: a msgp type, nearly always a
// pointer to a struct that the msgp tool has generated methods for.
type RoundTripper interface {
	msgp.Unmarshaler
	msgp.Marshaler
	msgp.Sizer

	comparable
}

// Recycler is a type that knows how to be used again. Recycle is called when
// nobody uses the value any more.
type Recycler interface {
	Recycle()
}

// Requester sends single requests: a Connection or a Subroute.
type Requester interface {
	Request(ctx context.Context, h HandlerID, req []byte) ([]byte, error)
}

// Streamer opens streams: a Connection or a Subroute.
type Streamer interface {
	NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error)
}

// MSS is a map of strings to strings. A nil map stays nil over the wire.
type MSS map[string]string

// NewMSS returns an empty map.
func NewMSS() *MSS {
	return NewMSSWith(make(map[string]string))
}

// NewMSSWith returns a MSS that uses m itself.
func NewMSSWith(m map[string]string) *MSS {
	mss := MSS(m)
	return &mss
}

// Get returns the value of a key; "" where there is none.
func (m *MSS) Get(key string) string {
	if m == nil {
		return ""
	}
	return (*m)[key]
}

// Set sets the value of a key. It makes the map where there is none yet.
func (m *MSS) Set(key, value string) {
	if *m == nil {
		*m = make(MSS)
	}
	(*m)[key] = value
}

// ToQuery returns the map as a URL query with its leading "?", sorted by key; "" for an empty map.
func (m *MSS) ToQuery() string {
	if m == nil || len(*m) == 0 {
		return ""
	}
	values := make(url.Values, len(*m))
	for k, v := range *m {
		values.Set(k, v)
	}
	return "?" + values.Encode()
}

// Recycle empties the map for its next use.
func (m *MSS) Recycle() {
	if m != nil {
		clear(*m)
	}
}

// MarshalMsg appends the map, with its keys in order, so that equal maps have equal bytes.
func (m *MSS) MarshalMsg(bytes []byte) (o []byte, err error) {
	if m == nil || *m == nil {
		return msgp.AppendNil(bytes), nil
	}
	o = msgp.AppendMapHeader(bytes, uint32(len(*m)))
	for _, k := range slices.Sorted(maps.Keys(*m)) {
		o = msgp.AppendString(o, k)
		o = msgp.AppendString(o, (*m)[k])
	}
	return o, nil
}

// UnmarshalMsg reads a map or nil.
func (m *MSS) UnmarshalMsg(bts []byte) (o []byte, err error) {
	if msgp.IsNil(bts) {
		*m = nil
		return bts[1:], nil
	}
	n, o, err := msgp.ReadMapHeaderBytes(bts)
	if err != nil {
		return bts, msgp.WrapError(err, "MSS")
	}
	if *m == nil {
		*m = make(MSS, claimed(n, o))
	}
	clear(*m)
	for range n {
		var k, v string
		if k, o, err = msgp.ReadStringBytes(o); err != nil {
			return bts, msgp.WrapError(err, "MSS")
		}
		if v, o, err = msgp.ReadStringBytes(o); err != nil {
			return bts, msgp.WrapError(err, "MSS", k)
		}
		(*m)[k] = v
	}
	return o, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (m *MSS) Msgsize() int {
	if m == nil || *m == nil {
		return msgp.NilSize
	}
	s := msgp.MapHeaderSize
	for k, v := range *m {
		s += 2*msgp.StringPrefixSize + len(k) + len(v)
	}
	return s
}

// claimed is how many elements to make room for when a header claims n and
// rest is left: never more than could be there.
func claimed(n uint32, rest []byte) int {
	return int(min(uint64(n), uint64(len(rest))))
}

func (m *MSS) marshalsNil() {}
func (m *MSS) renew()       {}

// Bytes is a slice of bytes. A nil slice stays nil over the wire.
type Bytes []byte

// NewBytes returns an empty Bytes with a buffer from the pool.
func NewBytes() *Bytes {
	b := Bytes(GetByteBuffer())
	return &b
}

// NewBytesCap returns an empty Bytes with a buffer from the pool that has room for size bytes.
func NewBytesCap(size int) *Bytes {
	b := Bytes(GetByteBufferCap(size))
	return &b
}

// NewBytesWith returns a Bytes that uses b itself. Recycle gives b to the pool.
func NewBytesWith(b []byte) *Bytes {
	bb := Bytes(b)
	return &bb
}

// NewBytesWithCopyOf returns a Bytes with a copy of b in a buffer from the pool; nil stays nil.
func NewBytesWithCopyOf(b []byte) *Bytes {
	if b == nil {
		return new(Bytes)
	}
	return NewBytesWith(append(GetByteBufferCap(len(b)), b...))
}

// Recycle gives the buffer to the pool.
func (b *Bytes) Recycle() {
	if b != nil && *b != nil {
		PutByteBuffer(*b)
		*b = nil
	}
}

// MarshalMsg appends the bytes.
func (b *Bytes) MarshalMsg(bytes []byte) ([]byte, error) {
	if b == nil || *b == nil {
		return msgp.AppendNil(bytes), nil
	}
	return msgp.AppendBytes(bytes, *b), nil
}

// UnmarshalMsg copies bytes, or nil, into a buffer of its own.
func (b *Bytes) UnmarshalMsg(bytes []byte) ([]byte, error) {
	if msgp.IsNil(bytes) {
		b.Recycle()
		return bytes[1:], nil
	}
	val, rest, err := msgp.ReadBytesZC(bytes)
	if err != nil {
		return bytes, msgp.WrapError(err, "Bytes")
	}
	if cap(*b) < len(val) || *b == nil {
		PutByteBuffer(*b)
		*b = GetByteBufferCap(len(val))
	}
	*b = append((*b)[:0], val...)
	return rest, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (b *Bytes) Msgsize() int {
	if b == nil || *b == nil {
		return msgp.NilSize
	}
	return msgp.BytesPrefixSize + len(*b)
}

func (b *Bytes) marshalsNil() {}

func (b *Bytes) renew() { *b = GetByteBuffer() }

// URLValues is an url.Values.
type URLValues map[string][]string

// NewURLValues returns an empty URLValues.
func NewURLValues() *URLValues {
	return NewURLValuesWith(make(map[string][]string))
}

// NewURLValuesWith returns a URLValues that uses values itself.
func NewURLValuesWith(values map[string][]string) *URLValues {
	u := URLValues(values)
	return &u
}

// Values returns the url.Values itself, not a copy.
func (u *URLValues) Values() url.Values {
	if u == nil {
		return nil
	}
	return url.Values(*u)
}

// Recycle empties the map for its next use.
func (u *URLValues) Recycle() {
	if u != nil {
		clear(*u)
	}
}

// MarshalMsg appends the values, with their keys in order. A nil map is written as an empty one.
func (u *URLValues) MarshalMsg(b []byte) (o []byte, err error) {
	if u == nil {
		return msgp.AppendMapHeader(b, 0), nil
	}
	o = msgp.AppendMapHeader(b, uint32(len(*u)))
	for _, k := range slices.Sorted(maps.Keys(*u)) {
		o = msgp.AppendString(o, k)
		o = msgp.AppendArrayHeader(o, uint32(len((*u)[k])))
		for _, v := range (*u)[k] {
			o = msgp.AppendString(o, v)
		}
	}
	return o, nil
}

// UnmarshalMsg reads values. nil is read as an empty map.
func (u *URLValues) UnmarshalMsg(bts []byte) (o []byte, err error) {
	var n uint32
	if msgp.IsNil(bts) {
		o = bts[1:]
	} else if n, o, err = msgp.ReadMapHeaderBytes(bts); err != nil {
		return bts, msgp.WrapError(err, "URLValues")
	}
	if *u == nil {
		*u = make(URLValues, claimed(n, o))
	}
	clear(*u)
	for range n {
		var k string
		if k, o, err = msgp.ReadStringBytes(o); err != nil {
			return bts, msgp.WrapError(err, "URLValues")
		}
		var values []string
		if values, o, err = readStrings(o); err != nil {
			return bts, msgp.WrapError(err, "URLValues", k)
		}
		(*u)[k] = values
	}
	return o, nil
}

// readStrings reads an array of strings.
func readStrings(b []byte) (values []string, o []byte, err error) {
	n, o, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, b, err
	}
	values = make([]string, 0, claimed(n, o))
	for range n {
		var v string
		if v, o, err = msgp.ReadStringBytes(o); err != nil {
			return nil, b, err
		}
		values = append(values, v)
	}
	return values, o, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (u *URLValues) Msgsize() (s int) {
	s = msgp.MapHeaderSize
	if u == nil {
		return s
	}
	for k, values := range *u {
		s += msgp.StringPrefixSize + len(k) + msgp.ArrayHeaderSize
		for _, v := range values {
			s += msgp.StringPrefixSize + len(v)
		}
	}
	return s
}

func (u *URLValues) marshalsNil() {}
func (u *URLValues) renew()       {}

// NoPayload is the type of a request or answer without content.
type NoPayload struct{}

// NewNoPayload returns a NoPayload.
func NewNoPayload() NoPayload { return NoPayload{} }

// NewNPErr returns what a handler without an answer returns: err, which may be nil.
func NewNPErr(err error) (NoPayload, *RemoteErr) { return NoPayload{}, NewRemoteErr(err) }

// MarshalMsg appends nothing.
func (p NoPayload) MarshalMsg(bytes []byte) ([]byte, error) { return bytes, nil }

// UnmarshalMsg reads nothing.
func (p NoPayload) UnmarshalMsg(bytes []byte) ([]byte, error) { return bytes, nil }

// Msgsize returns 0.
func (p NoPayload) Msgsize() int { return 0 }

// Recycle does nothing.
func (p NoPayload) Recycle() {}

// WriterToChannel returns a writer that sends a copy of each Write to ch, in a
// buffer from the pool. Write waits until the copy is taken; when ctx ends it fails with the cause.
func WriterToChannel(ctx context.Context, ch chan<- []byte) io.Writer {
	return &channelWriter{ctx: ctx, ch: ch}
}

type channelWriter struct {
	ctx context.Context
	ch  chan<- []byte
}

func (w *channelWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	if len(p) == 0 {
		return 0, nil
	}
	b := append(GetByteBufferCap(len(p)), p...)
	select {
	case w.ch <- b:
		return len(p), nil
	case <-w.ctx.Done():
		PutByteBuffer(b)
		return 0, context.Cause(w.ctx)
	}
}
