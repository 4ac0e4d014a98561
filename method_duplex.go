package grid

import (
	"context"
	"io"
	"iter"
)

// DuplexMethod is a method with a stream of values in each direction. One value, usually a package
// variable, serves both ends: Handle on the node that answers, Call on the node that asks. Create it
// with NewDuplexMethod or NewDuplexMethodCodec. All methods but WithMaxDepth are safe for concurrent
// use.
//
// Values are new each time, and belong to whoever gets them. A nil one is sent as a zero value.
type DuplexMethod[In, Out any] struct {
	methodName
	ins  form[In]
	outs form[Out]
}

// NewDuplexMethod returns the method with a name: see NewMethod.
func NewDuplexMethod[In, Out any, PIn Message[In], POut Message[Out]](name string) *DuplexMethod[In, Out] {
	return &DuplexMethod[In, Out]{
		methodName: methodName{name: name},
		ins:        msgpForm[In, PIn](name, "message"),
		outs:       msgpForm[Out, POut](name, "message"),
	}
}

// NewDuplexMethodCodec is NewDuplexMethod for values that c encodes.
func NewDuplexMethodCodec[In, Out any](name string, c Codec) *DuplexMethod[In, Out] {
	return &DuplexMethod[In, Out]{
		methodName: methodName{name: name},
		ins:        codecForm[In](c, name, "message"),
		outs:       codecForm[Out](c, name, "message"),
	}
}

// WithMaxDepth is like that of Method.
func (m *DuplexMethod[In, Out]) WithMaxDepth(n int) *DuplexMethod[In, Out] {
	m.ins.limit(n)
	m.outs.limit(n)
	return m
}

// Handle registers handle, on a subroute if one is given, as that of Method does. Everything that
// handle has sent before it returns reaches the caller, and then its error.
func (m *DuplexMethod[In, Out]) Handle(node *Manager, handle func(ctx context.Context, st *ServerStream[In, Out]) error, subroute ...string) error {
	to, err := method(m.on(subroute), handle == nil)
	if err != nil {
		return err
	}
	return node.registerRaw(to, func(ctx context.Context, raw *RawStream) error {
		PutByteBuffer(raw.Payload())
		return handle(ctx, newServerStream(raw, &m.ins, &m.outs))
	})
}

// Call opens a stream to the method. It ends with ctx. The errors are those of Connection.OpenStream,
// and ErrDisconnected for a nil connection.
func (m *DuplexMethod[In, Out]) Call(ctx context.Context, c Opener) (*ClientStream[In, Out], error) {
	raw, err := m.open(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	return &ClientStream[In, Out]{raw, &m.ins, &m.outs}, nil
}

// HandledBy is like that of Method.
func (m *DuplexMethod[In, Out]) HandledBy(c Opener) bool { return m.handledBy(c) }

// ServerStream is the handler's side of a DuplexMethod. One goroutine may receive while others send;
// none of them may use it once the handler has returned.
type ServerStream[In, Out any] struct {
	raw  *RawStream
	ins  *form[In]
	outs *form[Out]
	room messageRoom // of the last value that was received
}

func newServerStream[In, Out any](raw *RawStream, ins *form[In], outs *form[Out]) *ServerStream[In, Out] {
	return &ServerStream[In, Out]{raw, ins, outs, messageRoom{mux: raw.mux}}
}

// messageRoom is the room for one value at a time: it counts until the handler takes the next.
type messageRoom struct {
	mux  *muxServer
	used bool
}

func (r *messageRoom) reserve(bytes int) error {
	err := (*requestRoom)(r.mux).reserve(bytes)
	r.used = r.used || err == nil
	return err
}

func (r *messageRoom) clear() {
	if r.used {
		r.used = false
		r.mux.finishedWith()
	}
}

// Recv returns the caller's next value, and waits for it. It returns io.EOF once the caller has ended
// its messages, and otherwise the errors of RawStream.Recv; and an error for a message that cannot be
// decoded, after which the stream goes on.
func (s *ServerStream[In, Out]) Recv() (*In, error) {
	s.room.clear()
	b, err := s.raw.Recv()
	if err != nil {
		return nil, err
	}
	return s.ins.decode(b, &s.room)
}

// All returns the caller's values as an iterator. An error other than io.EOF is the last element, with
// a nil value. The stream goes on after the loop is left.
func (s *ServerStream[In, Out]) All() iter.Seq2[*In, error] { return receiveAll(s.Recv) }

// Send is like that of Sender. It also fails after CloseSend.
func (s *ServerStream[In, Out]) Send(v *Out) error { return sendOver(s.raw, s.outs, v) }

// CloseSend tells the caller that no more values come: see RawStream.CloseSend.
func (s *ServerStream[In, Out]) CloseSend() { s.raw.CloseSend() }

// Done is that of RawStream.
func (s *ServerStream[In, Out]) Done() <-chan struct{} { return s.raw.Done() }

// ClientStream is the caller's side of a DuplexMethod. One goroutine may receive while others send. A
// stream that is not read to its end goes on until its context ends. The methods of a nil
// *ClientStream are safe to call.
type ClientStream[In, Out any] struct {
	raw  *Stream
	ins  *form[In]
	outs *form[Out]
}

// Send sends one value to the handler, which stays the caller's. It waits while the handler is too far
// behind. Its errors are those of Stream.Send, and that of encoding v, after which the stream goes on.
// It may be called by several goroutines at once.
func (s *ClientStream[In, Out]) Send(v *In) error {
	if s == nil {
		return ErrDisconnected
	}
	return sendOver(s.raw, s.ins, v)
}

// CloseSend ends the handler's input: see Stream.CloseSend.
func (s *ClientStream[In, Out]) CloseSend() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.CloseSend()
}

// Recv returns the handler's next value, and waits for it. It returns io.EOF after the last one, and
// otherwise the errors of Stream.Recv; and an error for a message that cannot be decoded, which
// cancels the stream.
func (s *ClientStream[In, Out]) Recv() (*Out, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	b, err := s.raw.Recv()
	if err != nil {
		return nil, err
	}
	v, err := s.outs.decode(b, s.raw.room())
	if err != nil {
		s.raw.Cancel(err)
	}
	return v, err
}

// All returns the handler's values as an iterator. An error other than io.EOF is the last element,
// with a nil value. Leaving the loop cancels the stream.
func (s *ClientStream[In, Out]) All() iter.Seq2[*Out, error] {
	return func(yield func(*Out, error) bool) {
		left := s != nil
		defer func() { // also after a panic
			if left {
				s.raw.Cancel(errResultsLeft) // unless it has ended
			}
		}()
		for {
			v, err := s.Recv()
			if err == io.EOF { // the handler may go on receiving
				left = false
				return
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// results is Stream.Results for values: it lasts until the handler has returned, even if that has ended
// its messages before.
func (s *ClientStream[In, Out]) results(next func(*Out) error) error {
	defer s.raw.Cancel(errResultsLeft) // also after a panic of next; an ended stream has ended
	for {
		v, err := s.Recv()
		switch {
		case err == io.EOF:
			_ = s.raw.CloseSend() // a handler that has not returned may wait for that
			<-s.raw.Done()
			return s.raw.Err()
		case err != nil:
			return err
		}
		if err := next(v); err != nil {
			return err
		}
	}
}

// Done is that of Stream.
func (s *ClientStream[In, Out]) Done() <-chan struct{} {
	if s == nil {
		return alwaysDone
	}
	return s.raw.Done()
}

// Err is that of Stream.
func (s *ClientStream[In, Out]) Err() error {
	if s == nil {
		return ErrDisconnected
	}
	return s.raw.Err()
}

// WaitForHeader is that of Stream.
func (s *ClientStream[In, Out]) WaitForHeader(ctx context.Context) (Metadata, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	return s.raw.WaitForHeader(ctx)
}

// Header is that of Stream.
func (s *ClientStream[In, Out]) Header() Metadata {
	if s == nil {
		return nil
	}
	return s.raw.Header()
}

// Trailer is that of Stream.
func (s *ClientStream[In, Out]) Trailer() Metadata {
	if s == nil {
		return nil
	}
	return s.raw.Trailer()
}
