package grid

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
)

// SingleHandler is a typed handler of single requests. Make one per handler ID
// with NewSingleHandler and keep it: it pools requests and answers. Its
// methods may be called by any number of goroutines, after its options are set.
//
// A value that is pooled must not be used once it has been given back. A type
// that has Recycle is recycled by that before.
type SingleHandler[Req, Resp RoundTripper] struct {
	id             HandlerID
	requests       valuePool[Req]
	responses      valuePool[Resp]
	sharedResponse bool // answers are not used again
	reuseRequest   bool // the caller's requests are used again
	ignoreNilConn  bool
}

// NewSingleHandler describes handler h. newReq and newResp return new values to unmarshal into.
func NewSingleHandler[Req, Resp RoundTripper](h HandlerID, newReq func() Req, newResp func() Resp) *SingleHandler[Req, Resp] {
	return &SingleHandler[Req, Resp]{
		id:        h,
		requests:  valuePool[Req]{fresh: newReq},
		responses: valuePool[Resp]{fresh: newResp},
	}
}

// WithSharedResponse is for handlers whose answers are shared, such as a
// cached value: they are not used again after they are sent. It returns h.
func (h *SingleHandler[Req, Resp]) WithSharedResponse() *SingleHandler[Req, Resp] {
	h.sharedResponse = true
	return h
}

// AllowCallRequestPool sets whether Call keeps its request for reuse once it
// is sent; the caller must not touch it then. It returns h.
func (h *SingleHandler[Req, Resp]) AllowCallRequestPool(b bool) *SingleHandler[Req, Resp] {
	h.reuseRequest = b
	return h
}

// IgnoreNilConn makes Call on a nil connection return a zero answer and no error. It returns h.
func (h *SingleHandler[Req, Resp]) IgnoreNilConn() *SingleHandler[Req, Resp] {
	h.ignoreNilConn = true
	return h
}

// NewRequest returns a request, from the pool where that has one.
func (h *SingleHandler[Req, Resp]) NewRequest() Req { return h.requests.get() }

// NewResponse returns an answer, from the pool where that has one.
func (h *SingleHandler[Req, Resp]) NewResponse() Resp { return h.responses.get() }

// PutResponse gives an answer of Call back. It must not be used afterwards.
func (h *SingleHandler[Req, Resp]) PutResponse(r Resp) { h.responses.put(r) }

// Register makes handle answer the requests with this ID. The request is used
// again when handle has returned, and so is the answer, unless it is shared: handle keeps neither.
// It fails as Manager.RegisterSingleHandler does.
func (h *SingleHandler[Req, Resp]) Register(m *Manager, handle func(req Req) (resp Resp, err *RemoteErr), subroute ...string) error {
	if handle == nil {
		return nilHandler(h.id)
	}
	return m.RegisterSingleHandler(h.id, func(payload []byte) ([]byte, *RemoteErr) {
		req, err := h.readRequest(payload)
		if err != nil {
			return nil, err
		}
		resp, err := handle(req)
		return h.answer(req, resp, err)
	}, subroute...)
}

// RegisterContext is Register for a handler that is given a context, as SingleHandlerContextFn is.
func (h *SingleHandler[Req, Resp]) RegisterContext(m *Manager, handle func(ctx context.Context, req Req) (resp Resp, err *RemoteErr), subroute ...string) error {
	if handle == nil {
		return nilHandler(h.id)
	}
	return m.RegisterSingleHandlerContext(h.id, func(ctx context.Context, payload []byte) ([]byte, *RemoteErr) {
		req, err := h.readRequest(payload)
		if err != nil {
			return nil, err
		}
		resp, err := handle(ctx, req)
		return h.answer(req, resp, err)
	}, subroute...)
}

// readRequest unmarshals a request and gives its buffer back.
func (h *SingleHandler[Req, Resp]) readRequest(payload []byte) (Req, *RemoteErr) {
	req, err := h.requests.read(payload)
	if err != nil {
		return req, NewRemoteErrf("grid: handler %v: request: %v", h.id, err)
	}
	return req, nil
}

// answer marshals what a handler has returned.
func (h *SingleHandler[Req, Resp]) answer(req Req, resp Resp, failure *RemoteErr) ([]byte, *RemoteErr) {
	defer h.requests.put(req)
	if !h.sharedResponse && any(req) != any(resp) {
		defer h.responses.put(resp)
	}
	if failure != nil {
		return nil, failure
	}
	payload, err := marshal(resp)
	if err != nil {
		return nil, NewRemoteErrf("grid: handler %v: response: %v", h.id, err)
	}
	return payload, nil
}

// Call sends req and returns the answer, which may be given back with
// PutResponse. It fails as Connection.Request does, and where a value does not
// marshal or unmarshal. c is nil, or holds a nil pointer, where there is no connection.
func (h *SingleHandler[Req, Resp]) Call(ctx context.Context, c Requester, req Req) (resp Resp, err error) {
	if isNil(c) {
		if h.ignoreNilConn {
			return resp, nil
		}
		return resp, ErrDisconnected
	}
	payload, err := marshal(req)
	if err != nil {
		return resp, fmt.Errorf("grid: handler %v: request: %w", h.id, err)
	}
	if h.reuseRequest {
		h.requests.put(req)
	}
	answer, err := c.Request(ctx, h.id, payload)
	PutByteBuffer(payload)
	if err != nil {
		return resp, err
	}
	resp, err = h.responses.read(answer)
	if err != nil {
		return resp, fmt.Errorf("grid: handler %v: response: %w", h.id, err)
	}
	return resp, nil
}

// isNil says whether there is no connection behind c.
func isNil(c any) bool {
	switch c := c.(type) {
	case nil:
		return true
	case *Connection:
		return c == nil
	case *Subroute:
		return c == nil || c.Connection == nil
	}
	v := reflect.ValueOf(c)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

var errNilValue = errors.New("nil value")

// nilMarshaler is implemented by this package's types, which marshal a nil pointer as nil.
type nilMarshaler interface{ marshalsNil() }

// marshal encodes a value into a buffer from the pool.
func marshal[T RoundTripper](v T) (b []byte, err error) {
	if isNilPointer(v) {
		if _, ok := any(v).(nilMarshaler); !ok {
			return nil, errNilValue
		}
	}
	b = GetByteBufferCap(v.Msgsize())
	out, err := v.MarshalMsg(b)
	if err != nil {
		PutByteBuffer(b)
		return nil, err
	}
	return out, nil
}

func isNilPointer[T comparable](v T) bool {
	var zero T
	return v == zero && reflect.TypeFor[T]().Kind() == reflect.Pointer
}

// valuePool keeps values of one type for reuse. A type with Recycle looks after itself.
type valuePool[T RoundTripper] struct {
	pool  sync.Pool
	fresh func() T
}

// renewer is implemented by types of this package that Recycle leaves ready for the pool.
type renewer interface {
	renew() // makes a recycled value like a new one
}

func (p *valuePool[T]) get() T {
	v, ok := p.pool.Get().(T)
	if !ok {
		return p.fresh()
	}
	if r, ok := any(v).(renewer); ok {
		r.renew()
	}
	return v
}

// put recycles a value. A zero value is ignored.
func (p *valuePool[T]) put(v T) {
	var zero T
	if v == zero {
		return
	}
	if r, ok := any(v).(Recycler); ok {
		r.Recycle()
		if _, ok := any(v).(renewer); !ok {
			return
		}
	}
	p.pool.Put(v)
}

// read unmarshals a value and gives the buffer back.
func (p *valuePool[T]) read(payload []byte) (T, error) {
	v := p.get()
	_, err := v.UnmarshalMsg(payload)
	PutByteBuffer(payload)
	if err != nil {
		var zero T
		p.put(v)
		return zero, err
	}
	return v, nil
}
