package grid

import (
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// RoundTripper is what typed handlers send and receive: a type that writes and
// reads itself as MessagePack, usually a pointer to a type with code generated
// by msgp. Bytes of a peer that are not whole MessagePack values are refused without calling UnmarshalMsg. It is comparable so that a missing value can be told from a present one.
type RoundTripper interface {
	msgp.Unmarshaler
	msgp.Marshaler
	msgp.Sizer

	comparable
}

// Recycler is implemented by payload types that know how to give themselves
// back for reuse. Typed handlers call Recycle instead of using their own pool.
// The value must not be used after Recycle.
type Recycler interface {
	Recycle()
}

// How far payloads trust what they read and keep what they used.
const (
	maxSizeHint   = 1024    // elements made room for by a claimed length alone
	maxKeptLen    = 32      // elements of a map or slice kept for reuse: whose memory does not matter where fewer are read into it
	maxKeptBuffer = 1 << 20 // bytes of a buffer worth keeping for reuse
)

// MSS is a map of strings as a payload. Nil and empty are different on the wire.
// The methods of a nil *MSS are safe; it is written as nil.
// An MSS must not be used by several goroutines at once while one changes it.
type MSS map[string]string

var mssMaps sync.Pool // of MSS, empty

// NewMSS returns an empty MSS.
func NewMSS() *MSS {
	m, ok := mssMaps.Get().(MSS)
	if !ok {
		m = make(MSS)
	}
	return &m
}

// NewMSSWith returns an MSS that holds m itself, not a copy. It owns the map:
// Recycle clears it. A handler that returns a map others use as well needs WithSharedResponse.
func NewMSSWith(m map[string]string) *MSS {
	mss := MSS(m)
	return &mss
}

// Get returns the value of key, and the empty string where there is none.
func (m *MSS) Get(key string) string {
	if m == nil {
		return ""
	}
	return (*m)[key]
}

// Set sets the value of key, making the map if there is none yet. On a nil *MSS it does nothing.
func (m *MSS) Set(key, value string) {
	if m == nil {
		return
	}
	if *m == nil {
		*m = make(MSS)
	}
	(*m)[key] = value
}

// ToQuery returns the map as a URL query sorted by key, with a leading "?"
// unless the map is empty.
func (m *MSS) ToQuery() string {
	if m == nil || len(*m) == 0 {
		return ""
	}
	keys := make([]string, 0, len(*m))
	for k := range *m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var q strings.Builder
	sep := byte('?')
	for _, k := range keys {
		q.WriteByte(sep)
		q.WriteString(url.QueryEscape(k))
		q.WriteByte('=')
		q.WriteString(url.QueryEscape((*m)[k]))
		sep = '&'
	}
	return q.String()
}

// MarshalMsg appends the map to b, or nil if there is none. The order of the keys varies.
func (m *MSS) MarshalMsg(b []byte) ([]byte, error) {
	if m == nil || *m == nil {
		return msgp.AppendNil(b), nil
	}
	b = msgp.AppendMapHeader(b, uint32(len(*m)))
	for k, v := range *m {
		b = msgp.AppendString(b, k)
		b = msgp.AppendString(b, v)
	}
	return b, nil
}

// UnmarshalMsg replaces the contents with the map at the start of b and returns the bytes after it.
// After an error the contents are undefined.
func (m *MSS) UnmarshalMsg(b []byte) ([]byte, error) {
	if m == nil {
		return b, errNilReceiver
	}
	if msgp.IsNil(b) {
		m.Recycle()
		return b[1:], nil
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return b, err
	}
	// A key and a value take a byte each at least.
	if uint64(n)*2 > uint64(len(b)) {
		return b, msgp.ErrShortBytes
	}
	if *m == nil {
		*m = make(MSS, min(n, maxSizeHint))
	}
	clear(*m)
	for range n {
		var k, v string
		if k, b, err = readString(b); err != nil {
			return b, err
		}
		if v, b, err = readString(b); err != nil {
			return b, msgp.WrapError(err, k)
		}
		(*m)[k] = v
	}
	return b, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (m *MSS) Msgsize() int {
	if m == nil || *m == nil {
		return msgp.NilSize
	}
	n := msgp.MapHeaderSize
	for k, v := range *m {
		n += 2*msgp.StringPrefixSize + len(k) + len(v)
	}
	return n
}

// Recycle clears the map and gives it back for use by another MSS; m is nil afterwards.
func (m *MSS) Recycle() {
	if m == nil || *m == nil {
		return
	}
	if kept := *m; len(kept) <= maxKeptLen {
		clear(kept)
		mssMaps.Put(kept)
	}
	*m = nil
}

func (m *MSS) self() any { return m }

func (m *MSS) refill() bool {
	*m = *NewMSS()
	return true
}

func (m *MSS) shares(other any) bool {
	o, ok := other.(*MSS)
	return ok && m != nil && *m != nil && reflect.ValueOf(*m).Pointer() == reflect.ValueOf(*o).Pointer()
}

// Bytes is a byte slice as a payload. Nil and empty are different on the wire.
// The methods of a nil *Bytes are safe; it is written as nil.
type Bytes []byte

// NewBytes returns empty Bytes with room from the buffer pool.
func NewBytes() *Bytes {
	b := Bytes(GetByteBuffer()[:0])
	return &b
}

// NewBytesCap returns empty Bytes with room for size bytes from the buffer pool.
func NewBytesCap(size int) *Bytes {
	b := Bytes(GetByteBufferCap(max(size, 0))[:0])
	return &b
}

// NewBytesWith returns Bytes that hold b itself, not a copy. They own it:
// Recycle puts it into the buffer pool. A handler that returns bytes others use as well needs WithSharedResponse.
func NewBytesWith(b []byte) *Bytes {
	bb := Bytes(b)
	return &bb
}

// NewBytesWithCopyOf returns Bytes with a copy of b, which stays the caller's. A copy of nil is nil.
func NewBytesWithCopyOf(b []byte) *Bytes {
	if b == nil {
		return new(Bytes)
	}
	bb := Bytes(append(GetByteBufferCap(len(b))[:0], b...))
	return &bb
}

// MarshalMsg appends the bytes to dst, or nil if they are nil.
func (b *Bytes) MarshalMsg(dst []byte) ([]byte, error) {
	if b == nil || *b == nil {
		return msgp.AppendNil(dst), nil
	}
	return msgp.AppendBytes(dst, *b), nil
}

// UnmarshalMsg replaces the contents with a copy of the bytes at the start of src and returns what follows them.
// It writes into the present bytes' memory where they fit, and otherwise gives that back to the buffer pool.
func (b *Bytes) UnmarshalMsg(src []byte) ([]byte, error) {
	if b == nil {
		return src, errNilReceiver
	}
	if msgp.IsNil(src) {
		b.Recycle()
		return src[1:], nil
	}
	read, src, err := readBytes(src)
	if err != nil {
		return src, err
	}
	if *b == nil || cap(*b) < len(read) {
		b.Recycle()
		*b = GetByteBufferCap(len(read))
	}
	*b = append((*b)[:0], read...)
	return src, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (b *Bytes) Msgsize() int {
	if b == nil || *b == nil {
		return msgp.NilSize
	}
	return msgp.BytesPrefixSize + len(*b)
}

// Recycle puts the bytes into the buffer pool; b is nil afterwards.
func (b *Bytes) Recycle() {
	if b == nil || *b == nil {
		return
	}
	PutByteBuffer((*b)[:0])
	*b = nil
}

func (b *Bytes) self() any { return b }

func (b *Bytes) refill() bool {
	*b = GetByteBuffer()[:0]
	return true
}

func (b *Bytes) shares(other any) bool {
	o, ok := other.(*Bytes)
	if !ok || b == nil || cap(*b) == 0 || cap(*o) == 0 {
		return false
	}
	bStart, oStart := uintptr(unsafe.Pointer(unsafe.SliceData(*b))), uintptr(unsafe.Pointer(unsafe.SliceData(*o)))
	return bStart < oStart+uintptr(cap(*o)) && oStart < bStart+uintptr(cap(*b))
}

// URLValues is a url.Values as a payload. Nil is written as an empty map.
// The methods of a nil *URLValues are safe.
type URLValues map[string][]string

var urlValuesMaps sync.Pool // of URLValues, empty

// NewURLValues returns empty URLValues.
func NewURLValues() *URLValues {
	u, ok := urlValuesMaps.Get().(URLValues)
	if !ok {
		u = make(URLValues)
	}
	return &u
}

// NewURLValuesWith returns URLValues that hold values itself, not a copy. They own it:
// Recycle clears it. A handler that returns a map others use as well needs WithSharedResponse.
func NewURLValuesWith(values map[string][]string) *URLValues {
	u := URLValues(values)
	return &u
}

// Values returns the map itself, which is valid until Recycle.
func (u *URLValues) Values() url.Values {
	if u == nil {
		return nil
	}
	return url.Values(*u)
}

// MarshalMsg appends the map to b. The order of the keys varies.
func (u *URLValues) MarshalMsg(b []byte) ([]byte, error) {
	if u == nil {
		return msgp.AppendMapHeader(b, 0), nil
	}
	b = msgp.AppendMapHeader(b, uint32(len(*u)))
	for k, vs := range *u {
		b = msgp.AppendString(b, k)
		b = msgp.AppendArrayHeader(b, uint32(len(vs)))
		for _, v := range vs {
			b = msgp.AppendString(b, v)
		}
	}
	return b, nil
}

// UnmarshalMsg replaces the contents with the map at the start of b and returns the bytes after it.
// After an error the contents are undefined.
func (u *URLValues) UnmarshalMsg(b []byte) ([]byte, error) {
	if u == nil {
		return b, errNilReceiver
	}
	if msgp.IsNil(b) {
		u.Recycle()
		return b[1:], nil
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return b, err
	}
	// A key and an array take a byte each at least.
	if uint64(n)*2 > uint64(len(b)) {
		return b, msgp.ErrShortBytes
	}
	if *u == nil {
		*u = make(URLValues, min(n, maxSizeHint))
	}
	clear(*u)
	for range n {
		var k string
		if k, b, err = readString(b); err != nil {
			return b, err
		}
		if (*u)[k], b, err = readStrings(b); err != nil {
			return b, msgp.WrapError(err, k)
		}
	}
	return b, nil
}

func readStrings(b []byte) ([]string, []byte, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, b, err
	}
	if uint64(n) > uint64(len(b)) {
		return nil, b, msgp.ErrShortBytes
	}
	vs := make([]string, 0, min(n, maxSizeHint))
	for i := range n {
		var v string
		if v, b, err = readString(b); err != nil {
			return nil, b, msgp.WrapError(err, i)
		}
		vs = append(vs, v)
	}
	return vs, b, nil
}

// Msgsize returns an upper bound of the encoded size in bytes.
func (u *URLValues) Msgsize() int {
	n := msgp.MapHeaderSize
	if u == nil {
		return n
	}
	for k, vs := range *u {
		n += msgp.StringPrefixSize + len(k) + msgp.ArrayHeaderSize
		for _, v := range vs {
			n += msgp.StringPrefixSize + len(v)
		}
	}
	return n
}

// Recycle clears the map and gives it back for use by other URLValues; u is nil afterwards.
func (u *URLValues) Recycle() {
	if u == nil || *u == nil {
		return
	}
	if kept := *u; len(kept) <= maxKeptLen {
		clear(kept)
		urlValuesMaps.Put(kept)
	}
	*u = nil
}

func (u *URLValues) self() any { return u }

func (u *URLValues) refill() bool {
	*u = *NewURLValues()
	return true
}

func (u *URLValues) shares(other any) bool {
	o, ok := other.(*URLValues)
	return ok && u != nil && *u != nil && reflect.ValueOf(*u).Pointer() == reflect.ValueOf(*o).Pointer()
}

// NoPayload is the payload of a request or response that carries nothing: no bytes at all.
type NoPayload struct{}

// NewNoPayload returns a NoPayload.
func NewNoPayload() NoPayload { return NoPayload{} }

// NewNPErr returns what a handler without a response returns for err: nothing, and err as a RemoteErr (nil for nil).
func NewNPErr(err error) (NoPayload, *RemoteErr) {
	return NoPayload{}, NewRemoteErr(err)
}

// MarshalMsg returns b as it is.
func (NoPayload) MarshalMsg(b []byte) ([]byte, error) { return b, nil }

// UnmarshalMsg returns b as it is.
func (NoPayload) UnmarshalMsg(b []byte) ([]byte, error) { return b, nil }

// Msgsize returns 0.
func (NoPayload) Msgsize() int { return 0 }

// Recycle does nothing.
func (NoPayload) Recycle() {}

func (m *MSS) decodedSize(b []byte, s mpack.Shape) int {
	return textSize(len(b)) + s.Values*54 + s.Containers*perContainer
}

func (b *Bytes) decodedSize(src []byte, _ mpack.Shape) int { return bytepool.Size(len(src)) }

func (u *URLValues) decodedSize(b []byte, s mpack.Shape) int {
	return textSize(len(b)) + s.Values*58 + perContainer
}
