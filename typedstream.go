package grid

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// StreamTypeHandler is a typed handler of streams. Make one per handler ID with
// NewStream and keep it: it pools requests and answers. Its methods may be
// called by any number of goroutines, after its options are set.
//
// A value that is pooled must not be used once it has been given back. A type
// that has Recycle is recycled by that.
type StreamTypeHandler[Payload, Req, Resp RoundTripper] struct {
	// WithPayload says whether the stream is opened with a payload. NewStream sets it, RegisterNoPayload clears it.
	WithPayload bool
	// InCapacity is the number of requests that the caller may send ahead of
	// the handler; 0 where it takes none. NewStream sets 1 unless Req is NoPayload.
	InCapacity int
	// OutCapacity is the number of answers that the handler may send ahead of the caller's consumer. NewStream sets 1.
	OutCapacity int

	id             HandlerID
	payloads       valuePool[Payload]
	requests       valuePool[Req]
	responses      valuePool[Resp]
	sharedResponse bool // answers are not used again
}

// NewStream describes handler h. The functions return new values to unmarshal
// into; newReq may be nil for a stream without input.
func NewStream[Payload, Req, Resp RoundTripper](h HandlerID, newPayload func() Payload, newReq func() Req, newResp func() Resp) *StreamTypeHandler[Payload, Req, Resp] {
	s := &StreamTypeHandler[Payload, Req, Resp]{
		id:          h,
		WithPayload: newPayload != nil && !isNoPayload[Payload](),
		OutCapacity: 1,
		payloads:    valuePool[Payload]{fresh: newPayload},
		requests:    valuePool[Req]{fresh: newReq},
		responses:   valuePool[Resp]{fresh: newResp},
	}
	if newReq != nil && !isNoPayload[Req]() {
		s.InCapacity = 1
	}
	return s
}

func isNoPayload[T any]() bool {
	var zero T
	_, ok := any(zero).(NoPayload)
	return ok
}

// WithInCapacity sets InCapacity. It returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithInCapacity(in int) *StreamTypeHandler[Payload, Req, Resp] {
	h.InCapacity = in
	return h
}

// WithOutCapacity sets OutCapacity. It returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithOutCapacity(out int) *StreamTypeHandler[Payload, Req, Resp] {
	h.OutCapacity = out
	return h
}

// WithSharedResponse is for handlers whose answers are shared: they are not used again after they are sent. It returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithSharedResponse() *StreamTypeHandler[Payload, Req, Resp] {
	h.sharedResponse = true
	return h
}

// NewPayload returns a payload, from the pool where that has one.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewPayload() Payload { return h.payloads.get() }

// NewRequest returns a request, from the pool where that has one.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewRequest() Req { return h.requests.get() }

// NewResponse returns an answer, from the pool where that has one.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewResponse() Resp { return h.responses.get() }

// PutRequest gives back a request that a handler has received. It must not be used afterwards.
func (h *StreamTypeHandler[Payload, Req, Resp]) PutRequest(r Req) { h.requests.put(r) }

// PutResponse gives back an answer that a caller has received. It must not be used afterwards.
func (h *StreamTypeHandler[Payload, Req, Resp]) PutResponse(r Resp) { h.responses.put(r) }

// Register makes handle serve the streams with this ID, as StreamHandlerFn
// does. It owns p and what it receives, which it may give back with
// PutRequest; what it sends is used again unless it is shared. A request that does not unmarshal, or an
// answer that does not marshal, ends the stream with an error for the caller and cancels ctx.
func (h *StreamTypeHandler[Payload, Req, Resp]) Register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if handle == nil {
		return nilHandler(h.id)
	}
	return h.register(m, handle, subroute)
}

// RegisterNoInput is Register for a handler that takes no requests. It sets InCapacity to 0.
func (h *StreamTypeHandler[Payload, Req, Resp]) RegisterNoInput(m *Manager, handle func(ctx context.Context, p Payload, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if handle == nil {
		return nilHandler(h.id)
	}
	h.InCapacity = 0
	return h.register(m, func(ctx context.Context, p Payload, _ <-chan Req, out chan<- Resp) *RemoteErr {
		return handle(ctx, p, out)
	}, subroute)
}

// RegisterNoPayload is Register for a handler whose streams are opened without a payload. It clears WithPayload.
func (h *StreamTypeHandler[Payload, Req, Resp]) RegisterNoPayload(m *Manager, handle func(ctx context.Context, in <-chan Req, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if handle == nil {
		return nilHandler(h.id)
	}
	h.WithPayload = false
	return h.register(m, func(ctx context.Context, _ Payload, in <-chan Req, out chan<- Resp) *RemoteErr {
		return handle(ctx, in, out)
	}, subroute)
}

func (h *StreamTypeHandler[Payload, Req, Resp]) register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) *RemoteErr, subroute []string) error {
	route := ""
	for _, part := range subroute {
		route = joinRoute(route, part)
	}
	c := codec[Req, Resp]{decode: h.requests.read, encode: h.encodeResponse}
	return registerStream(m, h.id, route, h.InCapacity, h.OutCapacity, c,
		func(ctx context.Context, payload []byte, in <-chan Req, out chan<- Resp) *RemoteErr {
			var p Payload
			if h.WithPayload {
				var err error
				if p, err = h.payloads.read(payload); err != nil {
					return NewRemoteErrf("grid: handler %v: payload: %v", h.id, err)
				}
			} else {
				PutByteBuffer(payload)
			}
			return handle(ctx, p, in, out)
		})
}

func (h *StreamTypeHandler[Payload, Req, Resp]) encodeResponse(v Resp) ([]byte, error) {
	b, err := marshal(v)
	if !h.sharedResponse {
		h.responses.put(v)
	}
	return b, err
}

func (h *StreamTypeHandler[Payload, Req, Resp]) encodeRequest(v Req) ([]byte, error) {
	b, err := marshal(v)
	h.requests.put(v)
	return b, err
}

// Call opens a stream. It fails as Connection.NewStream does, with
// ErrDisconnected where c is nil or holds a nil pointer, and where payload does not marshal.
func (h *StreamTypeHandler[Payload, Req, Resp]) Call(ctx context.Context, c Streamer, payload Payload) (st *TypedStream[Req, Resp], err error) {
	if isNil(c) {
		return nil, ErrDisconnected
	}
	var b []byte
	if h.WithPayload {
		if b, err = marshal(payload); err != nil {
			return nil, fmt.Errorf("grid: handler %v: payload: %w", h.id, err)
		}
		defer PutByteBuffer(b)
	}
	raw, err := c.NewStream(ctx, h.id, b)
	if err != nil {
		return nil, err
	}
	return &TypedStream[Req, Resp]{
		Requests: typedRequests(raw, h.encodeRequest),
		raw:      raw,
		id:       h.id,
		read:     h.responses.read,
	}, nil
}

// TypedStream is the caller's side of a typed stream. See Stream.
type TypedStream[Req, Resp RoundTripper] struct {
	// Requests carries requests to the handler, as Stream.Requests does. A
	// request that has been sent is used again: it is no longer the sender's.
	Requests chan<- Req

	raw  *Stream
	id   HandlerID
	read func(payload []byte) (Resp, error)
}

// Send sends one request, as Stream.Send does.
func (s *TypedStream[Req, Resp]) Send(req Req) error {
	if s == nil {
		return ErrDisconnected
	}
	if s.Requests == nil {
		return errNoInput
	}
	return sendTo(s.raw, s.Requests, req)
}

// Results calls next with each answer of the handler, as Stream.Results does.
// next owns the answer, which may be given back with StreamTypeHandler.PutResponse.
// An answer that does not unmarshal cancels the stream and is returned as an error.
func (s *TypedStream[Req, Resp]) Results(next func(resp Resp) error) (err error) {
	if s == nil {
		return ErrDisconnected
	}
	if next == nil {
		return errNilConsumer
	}
	return s.raw.Results(func(b []byte) error {
		resp, err := s.read(b)
		if err != nil {
			return fmt.Errorf("grid: handler %v: response: %w", s.id, err)
		}
		return next(resp)
	})
}

// All returns the handler's answers as an iterator, as Stream.All does.
func (s *TypedStream[Req, Resp]) All() iter.Seq2[Resp, error] {
	return func(yield func(Resp, error) bool) {
		err := s.Results(func(resp Resp) error {
			if !yield(resp, nil) {
				return errResultsLeft
			}
			return nil
		})
		if err != nil && !errors.Is(err, errResultsLeft) {
			var none Resp
			yield(none, err)
		}
	}
}
