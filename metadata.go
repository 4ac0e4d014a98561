package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// Limits on the metadata of one request or stream, checked by the sender and by the receiver.
const (
	// MaxMetadataSize is the default of Limits.MaxMetadataSize, in bytes, and what holds with nodes
	// that have no such limit.
	MaxMetadataSize = defaultMaxMetadataSize
	// MaxMetadataPairs is the maximum number of pairs of a key and a value. A key with three values
	// counts three times.
	MaxMetadataPairs = 64
)

// ErrMetadata is returned by calls whose context carries metadata that cannot be sent, because it
// breaks the rules of Metadata. Nothing has been sent then.
var ErrMetadata = errors.New("grid: invalid metadata")

// Metadata travels with a request or a stream alongside its payload, such as a trace ID, and back
// with its answer. The caller sets it with WithMetadata and the handler reads it with MetadataFrom;
// the handler sets it with SetHeader and SetTrailer and the caller reads it with WithAnswerMetadata.
//
// A key is not empty, is valid UTF-8, and is case-sensitive. It has one value or several, each of
// which is any bytes, in an order that is kept; a key without values is not sent.
// Limits.MaxMetadataSize and MaxMetadataPairs limit how much there may be. Get, Set and Keys are what
// OpenTelemetry's propagators expect of a carrier.
type Metadata map[string][]string

// Get returns the first value of a key, or the empty string if there is none.
func (md Metadata) Get(key string) string {
	if values := md[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Values returns the values of a key; nil if there are none. They must not be changed.
func (md Metadata) Values(key string) []string { return md[key] }

// Set gives a key one value, in place of those that it has. As with any map, md must not be nil.
func (md Metadata) Set(key, value string) { md[key] = []string{value} }

// Add gives a key one more value. As with any map, md must not be nil.
func (md Metadata) Add(key, value string) { md[key] = append(slices.Clip(md[key]), value) }

// Keys returns the keys in sorted order.
func (md Metadata) Keys() []string { return slices.Sorted(maps.Keys(md)) }

// Clone returns a copy that shares nothing with md, nil for nil.
func (md Metadata) Clone() Metadata {
	c := maps.Clone(md)
	for key, values := range c {
		c[key] = slices.Clone(values)
	}
	return c
}

// Validate returns an error that wraps ErrMetadata and names the rule that the metadata breaks, or
// nil if it breaks none. It takes MaxMetadataSize for the limit of its size.
func (md Metadata) Validate() error {
	b, err := md.encode()
	if err == nil && len(b) > MaxMetadataSize {
		return tooMuchMetadata(len(b), MaxMetadataSize)
	}
	return err
}

func tooMuchMetadata(size, most int) error {
	return fmt.Errorf("%w: %d bytes, at most %d may be sent", ErrMetadata, size, most)
}

// WithMetadata returns a context whose requests and streams carry a copy of md. Metadata that an
// outer WithMetadata has set is carried too, except for keys that md also has. A nil ctx stands for
// context.Background.
//
// If the metadata breaks the rules, the calls fail with ErrMetadata. A peer that does not support
// metadata, such as a node of the original, gets the call without it. A handler's own calls do not
// carry what its caller sent. To pass that on, use WithMetadata(ctx, MetadataFrom(ctx)).
func WithMetadata(ctx context.Context, md Metadata) context.Context {
	if ctx == nil {
		ctx = context.Background()
	}
	if len(md) == 0 {
		return ctx
	}
	all := OutgoingMetadata(ctx).Clone()
	if all == nil {
		all = make(Metadata, len(md))
	}
	maps.Copy(all, md.Clone())
	return changeOutgoing(ctx, func(out *outgoing) { out.metadata = &outgoingMetadata{md: all} })
}

// OutgoingMetadata returns the metadata that requests and streams with this context carry, as set
// by WithMetadata; nil if there is none. It must not be changed: use Clone.
func OutgoingMetadata(ctx context.Context) Metadata {
	if ctx == nil {
		return nil
	}
	if out := outgoingOf(ctx); out != nil && out.metadata != nil {
		return out.metadata.md
	}
	return nil
}

// MetadataFrom returns the metadata of the call for which a handler got ctx; nil if there is none.
// It must not be changed: use Clone.
func MetadataFrom(ctx context.Context) Metadata {
	if ctx == nil {
		return nil
	}
	if in, ok := ctx.Value(incomingKey{}).(*incomingMetadata); ok && in != nil {
		return in.decoded()
	}
	return nil
}

// WithIncomingMetadata returns a context from which MetadataFrom reads a copy of md in place of
// what the caller sent, for interceptors and for tests of handlers.
func WithIncomingMetadata(ctx context.Context, md Metadata) context.Context {
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithValue(ctx, incomingKey{}, &incomingMetadata{md: md.Clone()})
}

type incomingKey struct{}

// outgoingMetadata is metadata to be sent. It is encoded once, by the first call that needs it.
type outgoingMetadata struct {
	md Metadata

	once    sync.Once
	encoded []byte
	err     error
}

// takes returns an error if metadata that has been encoded cannot be sent to the peer.
func (a *agreement) takes(md Metadata, encoded []byte) error {
	if len(encoded) > a.maxMetadata {
		return tooMuchMetadata(len(encoded), a.maxMetadata)
	}
	if a.has(featureAnswers) || !a.has(featureMetadata) {
		return nil
	}
	for _, key := range md.Keys() {
		if n := len(md[key]); n > 1 {
			return fmt.Errorf("%w: key %q has %d values, and the peer takes one for each", ErrMetadata, key, n)
		}
	}
	return nil
}

// encodedMetadata returns the encoded metadata of a call, or nil if there is none or the peer does
// not support it.
func (a *agreement) encodedMetadata(out *outgoing) ([]byte, error) {
	if out == nil || out.metadata == nil {
		return nil, nil
	}
	md := out.metadata
	md.once.Do(func() { md.encoded, md.err = md.md.encode() })
	if md.err != nil {
		return nil, md.err
	}
	if err := a.takes(md.md, md.encoded); err != nil || !a.has(featureMetadata) {
		return nil, err
	}
	return md.encoded, nil
}

// incomingMetadata is metadata that was received. It is decoded on demand.
type incomingMetadata struct {
	once    sync.Once
	encoded []byte // nil once decoded
	md      Metadata
}

// newIncomingMetadata copies the metadata of a message out of the read buffer; nil if there is
// none.
func newIncomingMetadata(m *message) *incomingMetadata {
	if m.metadata == nil {
		return nil
	}
	return &incomingMetadata{encoded: bytes.Clone(m.metadata)}
}

func (in *incomingMetadata) decoded() Metadata {
	in.once.Do(func() {
		if in.encoded != nil {
			in.md, _ = decodeMetadata(in.encoded) // checked when it came in
			in.encoded = nil
		}
	})
	return in.md
}

// encode returns the metadata in its wire format: a msgpack map of strings to bins, or to arrays of
// several bins, in the order of its keys, each once. nil stands for no metadata.
func (md Metadata) encode() ([]byte, error) {
	keys := md.Keys()
	keys = slices.DeleteFunc(keys, func(key string) bool { return len(md[key]) == 0 })
	if len(keys) == 0 {
		return nil, nil
	}
	size, pairs := mpack.MapHeaderSize(len(keys)), 0
	for _, key := range keys {
		if err := checkMetadataKey([]byte(key)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
		}
		values := md[key]
		pairs += len(values)
		size += mpack.StringSize(len(key))
		if len(values) > 1 {
			size += mpack.MapHeaderSize(len(values)) // which is that of an array, too
		}
		for _, value := range values {
			size += mpack.BinSize(len(value))
		}
	}
	if pairs > MaxMetadataPairs {
		return nil, fmt.Errorf("%w: %d pairs, at most %d may be sent", ErrMetadata, pairs, MaxMetadataPairs)
	}
	b := msgp.AppendMapHeader(make([]byte, 0, size), uint32(len(keys)))
	for _, key := range keys {
		b = msgp.AppendString(b, key)
		values := md[key]
		if len(values) > 1 {
			b = msgp.AppendArrayHeader(b, uint32(len(values)))
		}
		for _, value := range values {
			b = msgp.AppendBytes(b, []byte(value))
		}
	}
	return b, nil
}

func checkMetadataKey(key []byte) error {
	switch {
	case len(key) == 0:
		return errors.New("a key is empty")
	case !utf8.Valid(key):
		return fmt.Errorf("key %q is not UTF-8", key)
	}
	return nil
}

// decodeMetadata is the reverse of encode.
func decodeMetadata(b []byte) (md Metadata, err error) {
	err = readMetadata(b, true, func(key, value []byte) {
		if md == nil {
			md = make(Metadata)
		}
		md[string(key)] = append(md[string(key)], string(value))
	})
	return md, err
}

// checkMetadata returns an error that says what is wrong with encoded metadata of the peer. It
// allocates nothing for valid metadata.
func (a *agreement) checkMetadata(b []byte) error {
	if len(b) > a.maxMetadata {
		return fmt.Errorf("%d bytes, at most %d are taken", len(b), a.maxMetadata)
	}
	return readMetadata(b, a.has(featureAnswers), func(_, _ []byte) {})
}

// readMetadata calls each with the pairs of encoded metadata, which point into b. A key has several
// values only if that is allowed.
func readMetadata(b []byte, several bool, each func(key, value []byte)) (err error) {
	defer recoverMsgp(&err)
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return err
	}
	if n > MaxMetadataPairs {
		return tooManyPairs(n)
	}
	var key, last []byte
	pairs := uint32(0)
	for range n {
		if key, b, err = msgp.ReadStringZC(b); err != nil {
			return err
		}
		if err := checkMetadataKey(key); err != nil {
			return err
		}
		if bytes.Compare(key, last) <= 0 { // also a key that is there twice
			return fmt.Errorf("key %q does not follow %q", key, last)
		}
		last = key
		values := uint32(1)
		if several && msgp.NextType(b) == msgp.ArrayType {
			if values, b, err = msgp.ReadArrayHeaderBytes(b); err != nil {
				return err
			}
			if values < 2 {
				return fmt.Errorf("key %q has an array of %d", key, values)
			}
		}
		if pairs += min(values, MaxMetadataPairs+1); pairs > MaxMetadataPairs {
			return tooManyPairs(pairs)
		}
		for range values {
			var value []byte
			if value, b, err = msgp.ReadBytesZC(b); err != nil {
				return err
			}
			each(key, value)
		}
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes behind the last pair", len(b))
	}
	return nil
}

func tooManyPairs(n uint32) error {
	return fmt.Errorf("%d pairs, at most %d are taken", n, MaxMetadataPairs)
}
