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

// Streamer opens streams. *Connection and *Subroute implement it.
type Streamer interface {
	// NewStream opens a stream to handler h with payload. ctx bounds the whole stream.
	NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error)
}

// StreamTypeHandler is a stream handler with a typed payload, requests and responses. One value,
// usually a package variable, serves both ends: Register on the node that answers, Call on the node
// that asks, which must have registered it too. Create it with NewStream. All methods except
// Register and those that set options are safe for concurrent use.
//
// Values are reused to save allocations. What is sent, in either direction, belongs to this package
// from then on and must not be used any more (see WithSharedResponse). What is received belongs to
// the receiver, who may give it back with PutRequest or PutResponse. The payload is not reused.
type StreamTypeHandler[Payload, Req, Resp RoundTripper] struct {
	// WithPayload is whether Call sends its payload and the handler function gets it. NewStream
	// sets it if there is a function for new payloads. It must not change after registration.
	WithPayload bool

	// OutCapacity is how many responses may be in flight to the caller. The default and the minimum
	// is 1. It must not change after registration.
	OutCapacity int

	// InCapacity is how many requests may be in flight to the handler, 0 if it takes none. The
	// default is 1, or 0 if there is no function for new requests. It must not change after
	// registration.
	InCapacity int

	id             HandlerID
	payloads       pool[Payload]
	reqs           pool[Req]
	resps          pool[Resp]
	sharedResponse bool
}

// NewStream returns a typed stream handler for h. The functions return new values to decode into,
// and must be safe for concurrent use. newPayload is nil if there is no payload, newReq if the
// handler takes no requests.
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

// WithSharedResponse turns off the reuse of responses, for handler functions that send values which
// others also use. It also makes PutResponse do nothing. It must be called before Register and
// Call, and returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithSharedResponse() *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.sharedResponse = true
	}
	return h
}

// WithMaxDepth sets how deeply arrays and maps may be nested in what is decoded, like that of
// SingleHandler: 1,000 levels by default and if n is 0 or less. It must be called before Register
// and Call, and returns h.
func (h *StreamTypeHandler[Payload, Req, Resp]) WithMaxDepth(n int) *StreamTypeHandler[Payload, Req, Resp] {
	if h != nil {
		h.payloads.maxDepth, h.reqs.maxDepth, h.resps.maxDepth = n, n, n
	}
	return h
}

// Register registers handle on m, at a subroute if one is given; several parts are joined with "/".
// handle gets the payload, which is zero unless WithPayload is set, and a nil in if InCapacity is
// 0. It must not close out. What it sends, and then what it returns, reaches the caller in that
// order.
//
// A payload that cannot be decoded is answered with a RemoteErr without calling handle. A request
// that cannot be decoded, or a response that cannot be encoded, ends the stream with an error to
// the caller, and ends ctx. The errors are those of registering with the Manager, and some for a
// nil handle or missing functions for new values.
func (h *StreamTypeHandler[Payload, Req, Resp]) Register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return h.register(m, func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) error {
		return handle(ctx, p, in, out).orNil()
	}, subroute)
}

// RegisterNoInput is Register for a function that takes no requests. It sets InCapacity to 0.
func (h *StreamTypeHandler[Payload, Req, Resp]) RegisterNoInput(m *Manager, handle func(ctx context.Context, p Payload, out chan<- Resp) *RemoteErr, subroute ...string) error {
	if h != nil && h.InCapacity != 0 {
		h.InCapacity = 0
	}
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return h.register(m, func(ctx context.Context, p Payload, _ <-chan Req, out chan<- Resp) error {
		return handle(ctx, p, out).orNil()
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
	return h.register(m, func(ctx context.Context, _ Payload, in <-chan Req, out chan<- Resp) error {
		return handle(ctx, in, out).orNil()
	}, subroute)
}

// HandledBy is like that of SingleHandler.
func (h *StreamTypeHandler[Payload, Req, Resp]) HandledBy(c Streamer) bool {
	return h != nil && handledBy(c, h.id, true)
}

// Call opens a stream over c with the given payload, which stays the caller's and is ignored unless
// WithPayload is set. ctx bounds the whole stream; canceling it ends the stream. The errors are
// those of c.NewStream, ErrDisconnected for a nil connection, and those of encoding the payload,
// wrapped.
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

// NewRequest returns a new or reused request.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewRequest() (r Req) {
	if h == nil {
		return r
	}
	return h.reqs.get()
}

// NewResponse returns a new or reused response.
func (h *StreamTypeHandler[Payload, Req, Resp]) NewResponse() (r Resp) {
	if h == nil {
		return r
	}
	return h.resps.get()
}

// PutRequest gives a received request back for reuse. Neither r nor anything it holds may be used
// afterwards. A nil r is ignored.
func (h *StreamTypeHandler[Payload, Req, Resp]) PutRequest(r Req) {
	if h != nil {
		h.reqs.put(r)
	}
}

// PutResponse gives a received response back for reuse. Neither r nor anything it holds may be used
// afterwards. A nil r is ignored.
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
	return cannotRegister(target{id: h.id}, err)
}

func (h *StreamTypeHandler[Payload, Req, Resp]) register(m *Manager, handle func(ctx context.Context, p Payload, in <-chan Req, out chan<- Resp) error, subroute []string) error {
	// Both ends need not have the same idea of a payload: one that comes unasked is dropped.
	withPayload := h.WithPayload
	of := &streamHandlerOf[Req, Resp]{
		codec: codec[Req, Resp]{decode: h.reqs.decode, encode: h.encodeResponse},
		to:    target{id: h.id, route: joinRoutes(subroute)},
		handle: func(ctx context.Context, payload []byte, in <-chan Req, out chan<- Resp) error {
			var p Payload
			if !withPayload {
				PutByteBuffer(payload)
				return handle(ctx, p, in, out)
			}
			p, err := h.payloads.decode(payload, roomOf(ctx))
			if err != nil {
				return err
			}
			return handle(ctx, p, in, out)
		},
	}
	return registerStreamOf(m, of, h.InCapacity, h.OutCapacity)
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

// encodeRequest and encodeResponse recycle what they encode: a sender does not use it again.
func (h *StreamTypeHandler[Payload, Req, Resp]) encodeRequest(r Req) ([]byte, error) {
	defer h.reqs.put(r)
	return h.reqs.encode(r)
}

func (h *StreamTypeHandler[Payload, Req, Resp]) encodeResponse(r Resp) ([]byte, error) {
	defer h.PutResponse(r)
	return h.resps.encode(r)
}

// TypedStream is the caller's side of a typed stream. Sending and receiving may go on concurrently;
// the responses have one consumer at a time, through Recv, Results or All. A stream that is given up early needs
// its context canceled. The methods of a nil *TypedStream are safe to call.
type TypedStream[Req, Resp RoundTripper] struct {
	// Requests carries requests to the handler; closing it ends the input, as CloseSend does. It is
	// nil if the handler takes none. What is sent must not be used any more. A plain send blocks
	// once the handler has returned, the stream has ended or CloseSend was called; Send does not.
	Requests chan<- Req

	raw    *Stream
	decode func(b []byte, r room) (Resp, error)
	put    func(Resp)
}

// Send sends a request, which must not be used any more. It waits while the handler has no room. It
// fails once the handler has returned, with the handler's error if there is one, even while
// responses are still waiting to be read; if the stream has ended in another way, it fails with
// that error. It also fails after CloseSend, and if Requests is closed. An error from encoding req
// ends the stream, and is returned by later Sends and by Results.
func (s *TypedStream[Req, Resp]) Send(req Req) error {
	if s == nil || s.raw == nil {
		return ErrDisconnected
	}
	if s.Requests == nil {
		return errNoInput
	}
	return sendTo(s.raw, s.Requests, req, nil)
}

// CloseSend ends the handler's input, after all requests for which Send has returned nil. It does
// not wait. It may be called again, and concurrently with Send, which fails from then on. It
// returns the error that has ended the stream, and nil if there is none: also if the handler takes
// no requests, or has returned without an error.
func (s *TypedStream[Req, Resp]) CloseSend() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.CloseSend()
}

// Done returns a channel that is closed when nothing can be sent any more: the handler has
// returned, or the stream has ended in another way. Err returns the reason. There may still be
// responses to read.
func (s *TypedStream[Req, Resp]) Done() <-chan struct{} {
	if s == nil {
		return alwaysDone
	}
	return s.raw.Done()
}

// Err returns nil until Done is closed. After that it returns the same error as Results: the
// handler's *Error, or nil if the handler returned without one, or what ended the stream before
// that. A nil error does not mean that all responses have arrived: only Results tells that.
func (s *TypedStream[Req, Resp]) Err() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.Err()
}

// Recv returns the handler's next response, and waits for it. It returns io.EOF after the last one, and
// otherwise the errors of Stream.Recv, whose rules apply; and an error for a response that cannot be
// decoded, which cancels the stream. The response belongs to the caller, who may give it back with the
// handler's PutResponse.
func (s *TypedStream[Req, Resp]) Recv() (resp Resp, err error) {
	if s == nil || s.raw == nil {
		return resp, ErrDisconnected
	}
	b, err := s.raw.Recv()
	if err != nil {
		return resp, err
	}
	resp, err = s.decode(b, s.raw.room())
	if err != nil {
		s.raw.Cancel(err)
	}
	return resp, err
}

// Results calls next for each response, in order, until the stream ends. It returns the stream's
// error, which is nil if the handler returned nil before its context ended, and everything it sent
// was consumed. The response belongs to next, which may give it back with the handler's
// PutResponse. An error of next, or a response that cannot be decoded, cancels the stream and is
// returned. A nil next drops the responses.
func (s *TypedStream[Req, Resp]) Results(next func(resp Resp) error) (err error) {
	if s == nil || s.raw == nil {
		return ErrDisconnected
	}
	if next == nil {
		next = func(resp Resp) error { //nolint:unparam // has to be like any other
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

// All is Results as an iterator: it yields each response with a nil error, and then the stream's
// error if there is one. Leaving the loop cancels the stream.
func (s *TypedStream[Req, Resp]) All() iter.Seq2[Resp, error] {
	return iterate(s.Results)
}

// Header is that of Stream.
func (s *TypedStream[Req, Resp]) Header() Metadata {
	if s == nil {
		return nil
	}
	return s.raw.Header()
}

// WaitForHeader is that of Stream.
func (s *TypedStream[Req, Resp]) WaitForHeader(ctx context.Context) (Metadata, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	return s.raw.WaitForHeader(ctx)
}

// Trailer is that of Stream.
func (s *TypedStream[Req, Resp]) Trailer() Metadata {
	if s == nil {
		return nil
	}
	return s.raw.Trailer()
}
