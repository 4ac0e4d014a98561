package grid

import (
	"context"
	"iter"
)

// Opener opens streams to methods. *Connection and *Subroute implement it.
type Opener interface {
	// OpenStream opens a stream to a method with payload, which stays the caller's. ctx bounds the
	// whole stream.
	OpenStream(ctx context.Context, method string, payload []byte) (*Stream, error)
}

// StreamMethod is a method that answers a request with a stream of values. One value, usually a
// package variable, serves both ends: Handle on the node that answers, Call on the node that asks.
// Create it with NewStreamMethod or NewStreamMethodCodec. All methods but WithMaxDepth are safe for
// concurrent use.
//
// Values are new each time, and belong to whoever gets them. A nil one is sent as a zero value.
type StreamMethod[Req, Out any] struct {
	methodName
	reqs form[Req]
	outs form[Out]
}

// NewStreamMethod returns the method with a name: see NewMethod.
func NewStreamMethod[Req, Out any, PReq Message[Req], POut Message[Out]](name string) *StreamMethod[Req, Out] {
	return &StreamMethod[Req, Out]{
		methodName: methodName{name: name},
		reqs:       msgpForm[Req, PReq](name, "request"),
		outs:       msgpForm[Out, POut](name, "message"),
	}
}

// NewStreamMethodCodec is NewStreamMethod for values that c encodes.
func NewStreamMethodCodec[Req, Out any](name string, c Codec) *StreamMethod[Req, Out] {
	return &StreamMethod[Req, Out]{
		methodName: methodName{name: name},
		reqs:       codecForm[Req](c, name, "request"),
		outs:       codecForm[Out](c, name, "message"),
	}
}

// WithMaxDepth is like that of Method.
func (m *StreamMethod[Req, Out]) WithMaxDepth(n int) *StreamMethod[Req, Out] {
	m.reqs.limit(n)
	m.outs.limit(n)
	return m
}

// Handle registers handle, on a subroute if one is given, as that of Method does. Everything that
// handle has sent before it returns reaches the caller, and then its error. A request that cannot be
// decoded is answered with an error without calling handle.
func (m *StreamMethod[Req, Out]) Handle(node *Manager, handle func(ctx context.Context, req *Req, out *Sender[Out]) error, subroute ...string) error {
	to, err := method(m.on(subroute), handle == nil)
	if err != nil {
		return err
	}
	return node.registerRaw(to, func(ctx context.Context, raw *RawStream) error {
		req, err := m.reqs.decode(raw.Payload(), roomOf(ctx))
		if err != nil {
			return err
		}
		return handle(ctx, req, &Sender[Out]{raw, &m.outs})
	})
}

// Call returns the method's answers to req, as an iterator that opens the stream and lasts until the
// handler has returned. An error is the last element, with a nil value: those of Connection.OpenStream
// and of Stream.Results, among them the handler's; and those of encoding and decoding, wrapped. Leaving
// the loop cancels the stream.
func (m *StreamMethod[Req, Out]) Call(ctx context.Context, c Opener, req *Req) iter.Seq2[*Out, error] {
	return func(yield func(*Out, error) bool) {
		payload, err := m.reqs.encode(req)
		if err != nil {
			yield(nil, err)
			return
		}
		raw, err := m.open(ctx, c, payload)
		PutByteBuffer(payload)
		if err != nil {
			yield(nil, err)
			return
		}
		iterate((&ClientStream[Req, Out]{raw, nil, &m.outs}).results)(yield)
	}
}

// HandledBy is like that of Method.
func (m *StreamMethod[Req, Out]) HandledBy(c Opener) bool { return m.handledBy(c) }

// Sender sends the values of a StreamMethod's handler. It must not be used once the handler has
// returned.
type Sender[Out any] struct {
	raw  *RawStream
	outs *form[Out]
}

// Send sends one value, which stays the handler's. It waits while the caller is too far behind. Its
// errors are those of RawStream.Send, and that of encoding v, after which the stream goes on. It may
// be called by several goroutines at once.
func (s *Sender[Out]) Send(v *Out) error { return sendOver(s.raw, s.outs, v) }

// open opens a stream to the method.
func (n *methodName) open(ctx context.Context, c Opener, payload []byte) (*Stream, error) {
	if isNilConn(c) {
		return nil, ErrDisconnected
	}
	conn, ok := c.(*Connection)
	if !ok {
		return c.OpenStream(ctx, n.name, payload)
	}
	to, err := n.route()
	if err != nil {
		return nil, err
	}
	return conn.openStream(ctx, HandlerNamed, to, payload, true)
}

// sendOver encodes a value and sends it over a stream.
func sendOver[T any](raw interface{ Send(b []byte) error }, f *form[T], v *T) error {
	b, err := f.encode(v)
	if err != nil {
		return err
	}
	if err := raw.Send(b); err != nil {
		PutByteBuffer(b)
		return err
	}
	return nil
}
