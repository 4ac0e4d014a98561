package grid

import (
	"context"
)

// Requester makes single requests. *Connection and *Subroute implement it.
type Requester interface {
	// Request sends req to handler h and returns its response, or one error. The implementation
	// must not keep req. The response belongs to the caller.
	Request(ctx context.Context, h HandlerID, req []byte) ([]byte, error)
}

// SingleHandler is a single request handler with typed requests and responses. One value, usually a
// package variable, serves both ends: Register on the node that answers, Call on the node that
// asks. Create it with NewSingleHandler. All methods except those that set options are safe for
// concurrent use.
//
// Values are reused to save allocations. A request belongs to the handler function until that
// returns. A response belongs to this package once the handler function has returned it, and is
// reused after it is encoded (see WithSharedResponse). A response that Call returns belongs to the
// caller, who may give it to PutResponse. A type with a Recycle method is recycled by calling it.
// Other types are reused if the functions for new values return a pointer to a zero value, to which
// a reused value is reset.
//
// A nil request or response is sent as a new value, except for the payload types of this package,
// which are sent as nil.
type SingleHandler[Req, Resp RoundTripper] struct {
	id    HandlerID
	reqs  pool[Req]
	resps pool[Resp]

	// Options.
	sharedResponse  bool
	recycleRequests bool
	ignoreNilConn   bool
}

// NewSingleHandler returns a typed handler for h. newReq and newResp return new values to decode
// into; they must be safe for concurrent use. Create one and keep it: it pools requests and
// responses.
func NewSingleHandler[Req, Resp RoundTripper](h HandlerID, newReq func() Req, newResp func() Resp) *SingleHandler[Req, Resp] {
	return &SingleHandler[Req, Resp]{
		id:    h,
		reqs:  pool[Req]{newFn: newReq, id: h, what: "request"},
		resps: pool[Resp]{newFn: newResp, id: h, what: "response"},
	}
}

// WithSharedResponse turns off the reuse of responses, for handler functions that return values
// which others also use. It also makes PutResponse do nothing. It must be called before Register
// and Call, and returns h.
func (h *SingleHandler[Req, Resp]) WithSharedResponse() *SingleHandler[Req, Resp] {
	if h != nil {
		h.sharedResponse = true
	}
	return h
}

// AllowCallRequestPool sets whether Call reuses the request it is given, which must then not be
// used after Call. The default is false: the request stays the caller's. It must be called before
// Call, and returns h.
func (h *SingleHandler[Req, Resp]) AllowCallRequestPool(b bool) *SingleHandler[Req, Resp] {
	if h != nil {
		h.recycleRequests = b
	}
	return h
}

// IgnoreNilConn makes Call on a nil connection return a zero response and no error instead of
// ErrDisconnected. It must be called before Call, and returns h.
func (h *SingleHandler[Req, Resp]) IgnoreNilConn() *SingleHandler[Req, Resp] {
	if h != nil {
		h.ignoreNilConn = true
	}
	return h
}

// WithMaxDepth sets how deeply arrays and maps may be nested in requests and responses: 1,000
// levels by default and if n is 0 or less. Deeper ones are refused before they are decoded, even in
// a field that the type does not have, because decoding needs stack for each level. It must be
// called before Register and Call, and returns h.
func (h *SingleHandler[Req, Resp]) WithMaxDepth(n int) *SingleHandler[Req, Resp] {
	if h != nil {
		h.reqs.maxDepth, h.resps.maxDepth = n, n
	}
	return h
}

// Call sends req to the handler over c and returns its response, which belongs to the caller and
// may be given back with PutResponse. The errors are those of c.Request, among them the handler's
// as RemoteErr; ErrDisconnected for a nil connection; and errors of encoding req or decoding the
// response, wrapped.
func (h *SingleHandler[Req, Resp]) Call(ctx context.Context, c Requester, req Req) (resp Resp, err error) {
	if h == nil {
		return resp, ErrUnknownHandler
	}
	if h.recycleRequests {
		defer h.reqs.put(req)
	}
	if isNilConn(c) {
		if h.ignoreNilConn {
			return resp, nil
		}
		return resp, ErrDisconnected
	}
	payload, err := h.reqs.encode(req)
	if err != nil {
		return resp, err
	}
	answer, err := c.Request(ctx, h.id, payload)
	PutByteBuffer(payload)
	if err != nil {
		return resp, err
	}
	return h.resps.decode(answer, answerRoom(c))
}

// HandledBy reports whether the peer is known to have the handler: see Connection.Handles. c is a
// *Connection or a *Subroute; of anything else nothing is known.
func (h *SingleHandler[Req, Resp]) HandledBy(c Requester) bool {
	return h != nil && handledBy(c, h.id, false)
}

// Register registers handle on m, at a subroute if one is given; several parts are joined with "/".
// Each request runs handle on its own goroutine. handle must not keep the request, which is reused
// once handle has returned, nor the response, which is reused once it is encoded, unless
// WithSharedResponse was called. The response may share memory with the request, or be the request
// itself.
//
// A request that cannot be decoded is answered with a RemoteErr without calling handle. The errors
// are those of Manager.RegisterSingleHandler, and one for a nil handle.
func (h *SingleHandler[Req, Resp]) Register(m *Manager, handle func(req Req) (resp Resp, err *RemoteErr), subroute ...string) error {
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	to := target{id: h.id, route: joinRoutes(subroute)}
	return m.registerSingle(&singleHandler{target: to, handleTyped: func(r room, payload []byte) ([]byte, error) {
		req, err := h.reqs.decode(payload, r)
		if err != nil {
			return nil, err
		}
		resp, rerr := handle(req)
		return h.answer(req, resp, rerr.orNil())
	}})
}

// RegisterContext is Register for a function with a context. It has the request's deadline, works
// with GetCaller, GetSubroute and MetadataFrom, and is canceled when the caller gives up or
// disconnects.
func (h *SingleHandler[Req, Resp]) RegisterContext(m *Manager, handle func(ctx context.Context, req Req) (resp Resp, err error), subroute ...string) error {
	if err := h.mayRegister(m, handle == nil); err != nil {
		return err
	}
	return m.RegisterSingleHandlerContext(h.id, func(ctx context.Context, payload []byte) ([]byte, error) {
		req, err := h.reqs.decode(payload, roomOf(ctx))
		if err != nil {
			return nil, err
		}
		resp, err := handle(ctx, req)
		return h.answer(req, resp, outcomeOf(err))
	}, subroute...)
}

// NewRequest returns a new or reused request, which belongs to the caller.
func (h *SingleHandler[Req, Resp]) NewRequest() (req Req) {
	if h == nil {
		return req
	}
	return h.reqs.get()
}

// NewResponse returns a new or reused response, which belongs to the caller, to be returned by a
// handler or given back with PutResponse.
func (h *SingleHandler[Req, Resp]) NewResponse() (resp Resp) {
	if h == nil {
		return resp
	}
	return h.resps.get()
}

// PutResponse gives r back for reuse. Neither r nor anything it holds may be used afterwards. A nil
// r is ignored.
func (h *SingleHandler[Req, Resp]) PutResponse(r Resp) {
	if h == nil || h.sharedResponse {
		return
	}
	h.resps.put(r)
}

func (h *SingleHandler[Req, Resp]) mayRegister(m *Manager, nilHandle bool) error {
	switch {
	case h == nil:
		return ErrUnknownHandler
	case nilHandle:
		return cannotRegister(target{id: h.id}, errNilHandler)
	case m == nil:
		return cannotRegister(target{id: h.id}, errNilManager)
	}
	return nil
}

// answer encodes what the handler function returned, and gives request and response back.
func (h *SingleHandler[Req, Resp]) answer(req Req, resp Resp, err error) ([]byte, error) {
	if err != nil {
		h.reqs.put(req)
		return nil, err
	}
	payload, err := h.resps.encode(resp)
	// Whether they share anything can only be told while both are whole.
	if !h.sharedResponse && !haveShared(req, resp) {
		h.resps.put(resp)
	}
	h.reqs.put(req)
	return payload, err
}

// haveShared reports whether recycling both values would give the same memory back twice.
func haveShared[Req, Resp RoundTripper](req Req, resp Resp) bool {
	var noReq Req
	var noResp Resp
	if req == noReq || resp == noResp {
		return false
	}
	if any(req) == any(resp) {
		return true
	}
	s, ok := any(req).(sharer)
	return ok && s.shares(any(resp))
}

// handledBy reports whether the peer of a connection is known to have a handler of requests, or of
// streams.
func handledBy(c any, h HandlerID, stream bool) bool {
	switch c := c.(type) {
	case *Connection:
		return c.handles(h, nil, stream)
	case *Subroute:
		return c != nil && c.handles(h, c.to(h), stream)
	}
	return false
}

// isNilConn reports whether c is no connection at all, even if its type hides that.
func isNilConn(c any) bool {
	switch c := c.(type) {
	case nil:
		return true
	case *Connection:
		return c == nil
	case *Subroute:
		return c == nil || c.Connection == nil
	}
	return false
}
