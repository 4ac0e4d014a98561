package grid

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Caller calls methods. *Connection and *Subroute implement it.
type Caller interface {
	// Call sends req to a method and returns its answer, or one error. The implementation must not
	// keep req. The answer belongs to the caller.
	Call(ctx context.Context, method string, req []byte) ([]byte, error)
}

// Method is a handler of requests with a name and types. One value, usually a package variable,
// serves both ends: Handle on the node that answers, Call on the node that asks. Create it with
// NewMethod, or with NewMethodCodec for another encoding than MessagePack. All methods but
// WithMaxDepth are safe for concurrent use.
//
// Requests and responses are new values each time, which belong to whoever gets them. A nil one is
// sent as a zero value.
type Method[Req, Resp any] struct {
	methodName
	reqs  form[Req]
	resps form[Resp]
}

// NewMethod returns the method with a name. *Req and *Resp have the methods that the msgp tool
// generates; the last two type parameters follow from the first two. What cannot be a name (see
// Manager.Handle) is reported by Handle and Call.
func NewMethod[Req, Resp any, PReq Message[Req], PResp Message[Resp]](name string) *Method[Req, Resp] {
	return &Method[Req, Resp]{
		methodName: methodName{name: name},
		reqs:       msgpForm[Req, PReq](name, "request"),
		resps:      msgpForm[Resp, PResp](name, "response"),
	}
}

// NewMethodCodec is NewMethod for requests and responses that c encodes, such as JSONCodec.
func NewMethodCodec[Req, Resp any](name string, c Codec) *Method[Req, Resp] {
	return &Method[Req, Resp]{
		methodName: methodName{name: name},
		reqs:       codecForm[Req](c, name, "request"),
		resps:      codecForm[Resp](c, name, "response"),
	}
}

// WithMaxDepth sets how deeply arrays and maps may be nested in what is decoded: 1,000 levels by
// default and if n is 0 or less. Of a Codec other than JSONCodec, it is up to that. It must be called
// before Handle and Call, and returns m.
func (m *Method[Req, Resp]) WithMaxDepth(n int) *Method[Req, Resp] {
	m.reqs.limit(n)
	m.resps.limit(n)
	return m
}

// Handle registers handle, on a subroute if one is given: then its parts, and the name, are joined
// with "/". Each request runs handle on its own goroutine. Its context is that of a
// SingleHandlerContextFn, and so are its errors. What it returns must not be changed until it is
// encoded, right after handle has returned.
//
// A request that cannot be decoded is answered with an error without calling handle. The errors are
// those of Manager.Handle, and one for a nil handle.
func (m *Method[Req, Resp]) Handle(node *Manager, handle func(ctx context.Context, req *Req) (*Resp, error), subroute ...string) error {
	to, err := method(m.on(subroute), handle == nil)
	if err != nil {
		return err
	}
	return node.registerSingle(&singleHandler{target: to, handleContext: func(ctx context.Context, payload []byte) ([]byte, error) {
		req, err := m.reqs.decode(payload, roomOf(ctx))
		if err != nil {
			return nil, err
		}
		resp, err := handle(ctx, req)
		if err = outcomeOf(err); err != nil {
			return nil, err
		}
		return m.resps.encode(resp)
	}})
}

// Call sends req to the method over c and returns its response. The errors are those of
// Connection.Request, among them the handler's; ErrDisconnected for a nil connection; and errors of
// encoding req or decoding the response, wrapped. req may be changed once Call has returned.
func (m *Method[Req, Resp]) Call(ctx context.Context, c Caller, req *Req) (*Resp, error) {
	if isNilConn(c) {
		return nil, ErrDisconnected
	}
	payload, err := m.reqs.encode(req)
	if err != nil {
		return nil, err
	}
	answer, err := m.request(ctx, c, payload)
	PutByteBuffer(payload)
	if err != nil {
		return nil, err
	}
	return m.resps.decode(answer, answerRoom(c))
}

// HandledBy reports whether the peer is known to have the method: see Connection.Handles. c is a
// *Connection or a *Subroute; of anything else nothing is known.
func (m *Method[Req, Resp]) HandledBy(c Caller) bool { return m.handledBy(c) }

// methodName is the name of a method, which leads to its handlers.
type methodName struct {
	name string
	to   atomic.Pointer[route] // for calls; nil before the first
}

// Name returns the name of the method.
func (n *methodName) Name() string { return n.name }

// on returns the name on a subroute.
func (n *methodName) on(subroute []string) string { return joinRoute(joinRoutes(subroute), n.name) }

// route returns the route to the method. It fails for what cannot be a name.
func (n *methodName) route() (*route, error) {
	if to := n.to.Load(); to != nil {
		return to, nil
	}
	to, err := calledMethods.to(n.name)
	if err == nil {
		n.to.Store(to)
	}
	return to, err
}

// request calls the method. c is not nil.
func (n *methodName) request(ctx context.Context, c Caller, payload []byte) ([]byte, error) {
	conn, ok := c.(*Connection)
	if !ok {
		return c.Call(ctx, n.name, payload)
	}
	to, err := n.route()
	if err != nil {
		return nil, err
	}
	return conn.request(ctx, HandlerNamed, to, payload)
}

// handledBy reports whether the peer is known to have the method.
func (n *methodName) handledBy(c any) bool {
	switch c := c.(type) {
	case *Connection:
		return c.HandlesMethod(n.name)
	case *Subroute:
		return c.HandlesMethod(n.name)
	}
	return false
}

// form is what values of a type are in messages.
type form[T any] struct {
	name, what string                             // of what they are, for errors
	marshal    func(v *T) ([]byte, error)         // into a buffer that the caller gives back with PutByteBuffer
	unmarshal  func(b []byte, v *T, r room) error // keeps nothing of b; what it makes of it counts in r
	limit      func(maxDepth int)                 // for unmarshal; 0 or less is the default
}

// encode returns v, or a zero value for nil, as a message that goes back to the pool once it is sent.
func (f *form[T]) encode(v *T) ([]byte, error) {
	if v == nil {
		v = new(T)
	}
	b, err := f.marshal(v)
	if err != nil {
		return nil, fmt.Errorf("grid: %s: encode %s: %w", f.name, f.what, err)
	}
	return b, nil
}

// decode returns the value in a message, which it gives back. What the value takes counts in r,
// unless that is nil.
func (f *form[T]) decode(b []byte, r room) (*T, error) {
	v := new(T)
	err := f.unmarshal(b, v, r)
	PutByteBuffer(b)
	if err != nil {
		return nil, fmt.Errorf("grid: %s: decode %s: %w", f.name, f.what, err)
	}
	return v, nil
}
