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
	// MaxMetadataSize is the maximum size of the metadata in bytes, as encoded: its keys and
	// values, plus 2 to 5 bytes for each of them.
	MaxMetadataSize = 8 << 10
	// MaxMetadataPairs is the maximum number of keys.
	MaxMetadataPairs = 64
)

// ErrMetadata is returned by calls whose context carries metadata that cannot be sent, because it
// breaks the rules of Metadata. Nothing has been sent then.
var ErrMetadata = errors.New("grid: invalid metadata")

// Metadata travels with a request or a stream alongside its payload, such as a trace ID. The caller
// sets it with WithMetadata, the handler reads it with MetadataFrom.
//
// A key is not empty, is valid UTF-8, and is case-sensitive. A value is any bytes. MaxMetadataSize
// and MaxMetadataPairs limit how much there may be. Get, Set and Keys are what OpenTelemetry's
// propagators expect of a carrier.
type Metadata map[string]string

// Get returns the value of a key, or the empty string if there is none.
func (md Metadata) Get(key string) string { return md[key] }

// Set sets the value of a key. As with any map, md must not be nil.
func (md Metadata) Set(key, value string) { md[key] = value }

// Keys returns the keys in sorted order.
func (md Metadata) Keys() []string { return slices.Sorted(maps.Keys(md)) }

// Clone returns a copy, nil for nil.
func (md Metadata) Clone() Metadata { return maps.Clone(md) }

// Validate returns an error that wraps ErrMetadata and names the rule that the metadata breaks, or
// nil if it breaks none.
func (md Metadata) Validate() error {
	_, err := md.encode()
	return err
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
	all := maps.Clone(OutgoingMetadata(ctx))
	if all == nil {
		all = make(Metadata, len(md))
	}
	maps.Copy(all, md)
	return context.WithValue(ctx, outgoingKey{}, &outgoingMetadata{md: all})
}

// OutgoingMetadata returns the metadata that requests and streams with this context carry, as set
// by WithMetadata; nil if there is none. It must not be changed: use Clone.
func OutgoingMetadata(ctx context.Context) Metadata {
	if ctx == nil {
		return nil
	}
	if out, ok := ctx.Value(outgoingKey{}).(*outgoingMetadata); ok {
		return out.md
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
	return context.WithValue(ctx, incomingKey{}, &incomingMetadata{md: maps.Clone(md)})
}

type (
	outgoingKey struct{}
	incomingKey struct{}
)

// outgoingMetadata is metadata to be sent. It is encoded once, by the first call that needs it.
type outgoingMetadata struct {
	md Metadata

	once    sync.Once
	encoded []byte
	err     error
}

// encodedMetadata returns the encoded metadata of a call, or nil if there is none or the peer does
// not support it.
func (a *agreement) encodedMetadata(ctx context.Context) ([]byte, error) {
	out, ok := ctx.Value(outgoingKey{}).(*outgoingMetadata)
	if !ok {
		return nil, nil
	}
	out.once.Do(func() { out.encoded, out.err = out.md.encode() })
	if out.err != nil || !a.has(featureMetadata) {
		return nil, out.err
	}
	return out.encoded, nil
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

// encode returns the metadata in its wire format: a msgpack map of strings to bins, in the order of
// its keys, each once. nil stands for no metadata.
func (md Metadata) encode() ([]byte, error) {
	if len(md) == 0 {
		return nil, nil
	}
	if len(md) > MaxMetadataPairs {
		return nil, fmt.Errorf("%w: %d pairs, at most %d may be sent", ErrMetadata, len(md), MaxMetadataPairs)
	}
	keys := md.Keys()
	size := mpack.MapHeaderSize(len(keys))
	for _, key := range keys {
		if err := checkMetadataKey([]byte(key)); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMetadata, err)
		}
		size += mpack.StringSize(len(key)) + mpack.BinSize(len(md[key]))
	}
	if size > MaxMetadataSize {
		return nil, fmt.Errorf("%w: %d bytes, at most %d may be sent", ErrMetadata, size, MaxMetadataSize)
	}
	b := msgp.AppendMapHeader(make([]byte, 0, size), uint32(len(keys)))
	for _, key := range keys {
		b = msgp.AppendString(b, key)
		b = msgp.AppendBytes(b, []byte(md[key]))
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
	err = readMetadata(b, func(key, value []byte) {
		if md == nil {
			md = make(Metadata)
		}
		md[string(key)] = string(value)
	})
	return md, err
}

// checkMetadata returns an error that says what is wrong with encoded metadata. It allocates
// nothing for valid metadata.
func checkMetadata(b []byte) error {
	return readMetadata(b, func(_, _ []byte) {})
}

// readMetadata calls each with the pairs of encoded metadata, which point into b.
func readMetadata(b []byte, each func(key, value []byte)) (err error) {
	defer recoverMsgp(&err)
	if len(b) > MaxMetadataSize {
		return fmt.Errorf("%d bytes, at most %d are taken", len(b), MaxMetadataSize)
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return err
	}
	if n > MaxMetadataPairs {
		return fmt.Errorf("%d pairs, at most %d are taken", n, MaxMetadataPairs)
	}
	var key, value, last []byte
	for range n {
		if key, b, err = msgp.ReadStringZC(b); err != nil {
			return err
		}
		if value, b, err = msgp.ReadBytesZC(b); err != nil {
			return err
		}
		if err := checkMetadataKey(key); err != nil {
			return err
		}
		if bytes.Compare(key, last) <= 0 { // also a key that is there twice
			return fmt.Errorf("key %q does not follow %q", key, last)
		}
		last = key
		each(key, value)
	}
	if len(b) > 0 {
		return fmt.Errorf("%d bytes behind the last pair", len(b))
	}
	return nil
}

// takeMetadata checks the metadata of a message, and drops it if it has no meaning there. If the
// two nodes have not agreed on metadata, whatever is in its place is ignored.
func (a *agreement) takeMetadata(m *message) error {
	if !a.has(featureMetadata) {
		m.metadata = nil
		return nil
	}
	if err := checkMetadata(m.metadata); err != nil {
		return fmt.Errorf("malformed message: metadata: %w", err)
	}
	switch {
	case m.Op == OpRequest, m.Op == OpConnectMux:
	case m.Op != OpMuxClientMsg && m.Flags&FlagPayloadIsErr != 0: // the marks of an error; callers send none
	default:
		m.metadata = nil
	}
	return nil
}
