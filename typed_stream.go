package grid

import (
	"bytes"
	"context"
	"errors"
	"iter"
)

// The capacities of a typed stream, in messages, unless they are set.
const (
	defaultInCapacity  = 1
	defaultOutCapacity = 1
)

var (
	errNoResponses = errors.New("no function for new responses")
	errNoPayloads  = errors.New("no function for new payloads")
	errNoRequests  = errors.New("no function for new requests")
)

// Streamer opens streams: a *Connection or a *Subroute.
type Streamer interface {
	// NewStream calls the streaming handler h with payload. ctx bounds the whole stream.
	NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error)
}

// StreamTypeHandler is a streaming handler with a typed payload, requests and responses.
// One value, usually a package variable, serves both ends: Register where streams are answered, Call where they are
// opened; the calling node must have registered it too.
//
// Values are used again to save allocations: what is sent, in either direction, belongs to this package from then on and must not
// be used any more (see WithSharedResponse). What is received belongs to the
// receiver, who may give it back with PutRequest or PutResponse. The payload is not reused.
//
// All methods but the options and Register may be used by several goroutines at once. Create one with NewStream.
type StreamTypeHandler[Payload, Req, Resp RoundTripper] struct {
	// WithPayload says whether Call sends its payload and the handler function is given it.
	// NewStream sets it where there is a function for new payloads. It must not change after registration.
	WithPayload bool

	// OutCapacity is how many responses may be on their way to the caller. The default is 1, which is also the least.
	// It must not change after registration.
	OutCapacity int

	// InCapacity is how many requests may be on their way to the handler, 0 if it takes none.
	// The default is 1, or 0 where there is no function for new requests. It must not change after registration.
	InCapacity int

	id             HandlerID
	payloads       pool[Payload]
	reqs           pool[Req]
	resps          pool[Resp]
	sharedResponse bool
}

// NewStream returns a typed streaming handler for h. The functions return new
// values to read into. newPayload is nil where there is no payload, newReq where the handler takes no requests.
func NewStream[Payload, Req, Resp RoundTripper](h HandlerID, newPayload func() Payload, newReq func() Req, newResp func() Resp) *StreamTypeHandler[Payload, Req, Resp] {
	s := &StreamTypeHandler[Payload, Req, Resp]{
		WithPayload: newPayload != nil,
		OutCapacity: defaultOutCapacity,
		id:          h,
		payloads:    pool[Payload]{newFn: newPayload, id: h, what: "payload"},
		reqs:        pool[Req]{newFn: newReq, id: h, what: "request"},
		resps:       pool[Resp]{newFn: newResp, id: h, what: "response"},
	}
	if newReq != nil {
		s.InCapacity = defaultInCapacity
	}
	return s
}

// WithInCapacity sets InCapacity, in messages, and returns h. It must be called before Register.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithInCapacity(in int) *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.InCapacity = in
	}
	return h
}

// WithOutCapacity sets OutCapacity, in messages, and returns h. It must be called before Register.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithOutCapacity(out int) *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.OutCapacity = out
	}
	return h
}

// WithSharedResponse turns the reuse of responses off, for handler functions
// that send something others use as well. It also makes PutResponse do nothing.
// It must be called before Register and Call, and returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithSharedResponse() *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.sharedResponse = true
	}
	return h
}

// WithMaxDepth sets how many arrays and maps may be within each other in what is decoded, as that of SingleHandler does: 1,000 by
// default, and where n is 0 or less. It must be called before Register and Call, and returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithMaxDepth(n int) *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.payloads.maxDepth, h.reqs.maxDepth, h.resps.maxDepth = n, n, n
	}
	return h
}

// Register registers handle on m, at a subroute if one is given; several parts are joined with "/".
// handle gets the payload, zero unless WithPayload is set, and a nil in where
// InCapacity is 0. It must not close out. What it sends, and what it returns, reaches the caller in
// that order. A payload that cannot be decoded is answered with a RemoteErr without
// calling handle. A request that cannot be decoded or a response that cannot be
// encoded ends the stream with an error to the caller, and ctx.
// Besides the errors of registering with the Manager there are some for a nil handle or missing functions for new values.
func (h *StreamTypeHandler[Payload, Req, Resp]) Register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return h.register(m, handle, subroute)
}

// RegisterNoInput is Register for a function that takes no requests. It sets InCapacity to 0.
func (h *StreamTypeHandler[Payload, Req, Resp]) RegisterNoInput(m *Manager, handle func(ctx context.Context, p Payload, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if h != nil && h.InCapacity != 0 {
		h.InCapacity = 0
	}
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return h.register(m, func(ctx context.Context, p Payload, _ <-chan Req, out chan<- Resp) *RemoteErr {
		return handle(ctx, p, out)
	}, subroute)
}

// RegisterNoPayload is Register for a function that takes no payload. It sets WithPayload to false.
func (h *StreamTypeHandler[Payload, Req, Resp]) RegisterNoPayload(m *Manager, handle func(ctx context.Context, in <-chan Req, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if h != nil && h.WithPayload {
		h.WithPayload = false
	}
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return h.register(m, func(ctx context.Context, _ Payload, in <-chan Req, out chan<- Resp) *RemoteErr {
		return handle(ctx, in, out)
	}, subroute)
}

// Call opens a stream over c with the given payload, which stays the caller's
// and is ignored unless WithPayload is set. ctx bounds the whole stream; canceling it ends the stream.
// The errors are those of c.NewStream, ErrDisconnected for a nil connection, and that of encoding the payload, wrapped.
func (h *StreamTypeHandler[Payload, Req, Resp]) Call(ctx context.Context, c Streamer, payload Payload) (st *TypedStream[Req, Resp], err error) {
	if h == nil {
		return nil, ErrUnknownHandler
	}
	if isNilConn(c) {
		return nil, ErrDisconnected
	}
	var b []byte
	if h.WithPayload {
		if b, err = h.encodePayload(payload); err != nil {
			return nil, err
		}
	}
	raw, err := c.NewStream(ctx, h.id, b)
	if err != nil {
		return nil, err
	}
	return &TypedStream[Req, Resp]{
		Requests: typedRequests(raw, h.encodeRequest),
		raw:      raw,
		decode:   h.resps.decode,
		put:      h.PutResponse,
	}, nil
}

// NewPayload returns a new payload.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewPayload() (p Payload) {
	if h == nil {
		return p
	}
	return h.payloads.get()
}

// NewRequest returns a new request, one given back earlier if there is one.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewRequest() (r Req) {
	if h == nil {
		return r
	}
	return h.reqs.get()
}

// NewResponse returns a new response, one given back earlier if there is one.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewResponse() (r Resp) {
	if h == nil {
		return r
	}
	return h.resps.get()
}

// PutRequest gives a received request back for reuse. Neither r nor what it
// holds may be used afterwards. A nil r is ignored.
func (h *StreamTypeHandler[Payload, Req, Resp]) PutRequest(r Req) {
	if h != nil {
		h.reqs.put(r)
	}
}

// PutResponse gives a received response back for reuse. Neither r nor what it
// holds may be used afterwards. A nil r is ignored.
func (h *StreamTypeHandler[Payload, Req, Resp]) PutResponse(r Resp) {
	if h != nil && !h.sharedResponse {
		h.resps.put(r)
	}
}

func (h *StreamTypeHandler[Payload, Req, Resp]) mayRegister(m *Manager, nilHandle bool) error {
	var err error
	switch {
	case h == nil:
		return ErrUnknownHandler
	case nilHandle:
		err = errNilHandler
	case m == nil:
		err = errNilManager
	case h.WithPayload && h.payloads.newFn == nil:
		err = errNoPayloads
	case h.InCapacity > 0 && h.reqs.newFn == nil:
		err = errNoRequests
	case h.resps.newFn == nil:
		err = errNoResponses
	default:
		return nil
	}
	return cannotRegister(h.id, err)
}

func (h *StreamTypeHandler[Payload, Req, Resp]) register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) *RemoteErr, subroute []string) error {
	route := ""
	for _, part := range subroute {
		route = joinRoute(route, part)
	}
	// Both ends need not have the same idea of a payload: one that comes unasked is dropped.
	withPayload := h.WithPayload
	of := &streamHandlerOf[Req, Resp]{
		codec: codec[Req, Resp]{decode: h.reqs.decode, encode: h.encodeResponse},
		id:    h.id,
		handle: func(ctx context.Context, payload []byte, in <-chan Req, out chan<- Resp) *RemoteErr {
			var p Payload
			if !withPayload {
				PutByteBuffer(payload)
				return handle(ctx, p, in, out)
			}
			p, err := h.payloads.decode(payload, roomOf(ctx))
			if err != nil {
				return NewRemoteErr(err)
			}
			return handle(ctx, p, in, out)
		},
	}
	return registerStreamOf(m, of, route, h.InCapacity, h.OutCapacity)
}

// encodePayload returns the payload in memory that does not come from the
// buffer pool: how long a stream holds on to it is not for the caller to know.
func (h *StreamTypeHandler[Payload, Req, Resp]) encodePayload(p Payload) ([]byte, error) {
	buf, err := h.payloads.encode(p)
	if err != nil {
		return nil, err
	}
	b := bytes.Clone(buf)
	PutByteBuffer(buf)
	return b, nil
}

// encodeRequest and encodeResponse give what they encode back: a sender does not look at it again.
func (h *StreamTypeHandler[Payload, Req, Resp]) encodeRequest(r Req) ([]byte, error) {
	defer h.reqs.put(r)
	return h.reqs.encode(r)
}

func (h *StreamTypeHandler[Payload, Req, Resp]) encodeResponse(r Resp) ([]byte, error) {
	defer h.PutResponse(r)
	return h.resps.encode(r)
}

// TypedStream is the caller's end of a typed stream. Sending and receiving may
// go on at the same time on different goroutines; the responses have one consumer, by Results or All.
// The stream ends when its context does, so one that is given up early needs its context canceled.
// The methods of a nil *TypedStream are safe.
type TypedStream[Req, Resp RoundTripper] struct {
	// Requests takes the requests for the handler; closing it ends the input, as CloseSend does.
	// It is nil where the handler takes none. What is sent must not be used any more.
	// A plain send blocks when the handler has returned, the stream has ended or CloseSend was called; Send does not.
	Requests chan<- Req

	raw    *Stream
	decode func(b []byte, r room) (Resp, error)
	put    func(Resp)
}

// Send sends a request, which must not be used any more. It blocks while the handler has no room.
// It fails once the handler has returned, with its error if it has one, also while responses still wait to be read, and
// with the stream's error when that has ended otherwise. An error from encoding req ends the
// stream, and shows in later Sends and in Results. It also fails after CloseSend, and where Requests is closed.
func (s *TypedStream[Req, Resp]) Send(req Req) error {
	if s == nil || s.raw == nil {
		return ErrDisconnected
	}
	if s.Requests == nil {
		return errNoInput
	}
	return sendTo(s.raw, s.Requests, req)
}

// CloseSend ends the handler's input, behind all requests for which Send has returned nil. It waits for nothing, may be
// called again, and beside Send, which fails from then on. It returns the error that has ended the stream, and nil
// where none has: also where the handler takes no requests, or has returned without an error.
func (s *TypedStream[Req, Resp]) CloseSend() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.CloseSend()
}

// Done returns a channel that is closed when nothing can be sent any more: the handler has returned, or the stream has ended
// otherwise. Err says why. There may still be responses to be read.
func (s *TypedStream[Req, Resp]) Done() <-chan struct{} {
	if s == nil {
		return alwaysDone
	}
	return s.raw.Done()
}

// Err returns nil until Done is closed, and then the handler's *RemoteErr, nil where it returned without an error, or what
// has ended the stream before that, as Results does. Nil does not say that the responses have all arrived: only Results does.
func (s *TypedStream[Req, Resp]) Err() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.Err()
}

// Results calls next for each response, in order, until the stream ends, and returns
// the stream's error: nil when the handler returned nil, before its context ended, and everything it sent was consumed.
// The response belongs to next, which may give it back with the handler's PutResponse.
// An error from next, or a response that cannot be decoded, cancels the stream and is returned.
// A nil next drops the responses.
func (s *TypedStream[Req, Resp]) Results(next func(resp Resp) error) (err error) {
	if s == nil || s.raw == nil {
		return ErrDisconnected
	}
	if next == nil {
		next = func(resp Resp) error {
			s.put(resp)
			return nil
		}
	}
	return s.raw.Results(func(b []byte) error {
		resp, err := s.decode(b, s.raw.room())
		if err != nil {
			return err
		}
		return next(resp)
	})
}

// All is Results as a loop: it yields each response with a nil error, and then the stream's error if there is one.
// Leaving the loop cancels the stream.
func (s *TypedStream[Req, Resp]) All() iter.Seq2[Resp, error] {
	return iterate(s.Results)
}
