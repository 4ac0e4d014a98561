package grid

import (
	"bytes"
	"context"
	"sync"
)

// WithAnswerMetadata returns a context for calls whose answers' metadata is wanted, and where to read
// it. A context is for one call at a time: the next one takes the place of what is there. A nil ctx
// stands for context.Background.
func WithAnswerMetadata(ctx context.Context) (context.Context, *AnswerMetadata) {
	if ctx == nil {
		ctx = context.Background()
	}
	answer := new(AnswerMetadata)
	return changeOutgoing(ctx, func(out *outgoing) { out.answer = answer }), answer
}

// AnswerMetadata is the metadata that came with an answer, which may be an error of the handler. Its
// methods may be called at any time, by any number of goroutines, and on nil. What they return must
// not be changed: use Clone.
type AnswerMetadata struct {
	mu              sync.Mutex // Protects following.
	header, trailer *incomingMetadata
}

// Header returns what the handler has set with SetHeader; nil for nothing, and before that has come.
func (a *AnswerMetadata) Header() Metadata {
	header, _ := a.both()
	return header.read()
}

// Trailer returns what the handler has set with SetTrailer; nil for nothing, and before the call has
// ended.
func (a *AnswerMetadata) Trailer() Metadata {
	_, trailer := a.both()
	return trailer.read()
}

func (a *AnswerMetadata) both() (header, trailer *incomingMetadata) {
	if a == nil {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.header, a.trailer
}

// clear forgets the answer of an earlier call.
func (a *AnswerMetadata) clear() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.header, a.trailer = nil, nil
}

// answers returns where the metadata of the answer to a new call goes; nil for nowhere.
func (out *outgoing) answers() *AnswerMetadata {
	if out == nil {
		return nil
	}
	out.answer.clear()
	return out.answer
}

// take keeps a copy of what came with a message of the handler. A header that is there stays.
func (a *AnswerMetadata) take(header, trailer []byte) {
	if a == nil || header == nil && trailer == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if header != nil && a.header == nil {
		a.header = &incomingMetadata{encoded: bytes.Clone(header)}
	}
	if trailer != nil {
		a.trailer = &incomingMetadata{encoded: bytes.Clone(trailer)}
	}
}

// read is decoded, for nil too.
func (in *incomingMetadata) read() Metadata {
	if in == nil {
		return nil
	}
	return in.decoded()
}
