package gridgrpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var errNotOpen = status.Error(codes.Internal, "gridgrpc: the request of the stream has not been sent")

// clientStream is a stream at its caller. As in gRPC, one goroutine may send and close the input while
// another receives.
type clientStream struct {
	client *Client
	desc   *grpc.StreamDesc
	method string
	ctx    context.Context // the caller's
	inner  context.Context // grid's
	o      callOptions

	// raw is nil until the request is sent, if there is only one: it opens the stream. Everybody who
	// receives comes after that.
	raw      *grid.Stream
	sentLast bool // the sender's

	// The receiver's.
	received bool  // RecvMsg has had a message
	end      error // how the stream ended; io.EOF if without an error

	finish sync.Once   // tells the options
	forget func() bool // the end of ctx, if somebody wants to be told; may be nil
}

// newStream opens a stream, behind all interceptors.
func (c *Client) newStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (grpc.ClientStream, error) {
	o, err := newCallOptions(opts)
	if err != nil {
		return nil, err
	}
	s := &clientStream{client: c, desc: desc, method: method, ctx: ctx, o: o}
	s.inner, err = c.begin(ctx, method, &s.o)
	if err == nil && desc.ClientStreams {
		err = s.open(nil)
	}
	if err == nil && ctx.Err() != nil {
		err = statusOf(ctx, ctx.Err())
	}
	if err != nil {
		s.finished(err)
		return nil, err
	}
	if o.onFinish { // which are called also where nobody reads to the end
		s.forget = context.AfterFunc(ctx, func() {
			s.finish.Do(func() { s.o.callOnFinish(status.FromContextError(ctx.Err()).Err()) })
		})
	}
	return s, nil
}

func (s *clientStream) open(request []byte) (err error) {
	s.raw, err = s.client.conn.OpenStream(s.inner, methodName(s.method), request)
	return statusOf(s.ctx, err)
}

// Context returns the stream's context, from which peer.FromContext works.
func (s *clientStream) Context() context.Context { return &clientContext{s.ctx, s.client} }

// SendMsg sends a message; the request of a stream that has only one opens it.
func (s *clientStream) SendMsg(m any) error {
	if s.sentLast {
		return s.fail(status.Error(codes.Internal, "SendMsg called after CloseSend"))
	}
	b, err := s.o.codec.marshal(m)
	if err == nil {
		err = s.o.tooLarge(len(b), true)
	}
	if err != nil {
		return s.fail(err)
	}
	if !s.desc.ClientStreams {
		s.sentLast = true
		err := s.open(b)
		grid.PutByteBuffer(b)
		if err != nil {
			return s.fail(err)
		}
		return nil
	}
	err = s.raw.Send(b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, grid.ErrMessageTooLarge):
		return s.fail(statusOf(s.ctx, err))
	}
	return io.EOF // RecvMsg has the reason
}

// CloseSend ends the handler's input. It may be called again.
func (s *clientStream) CloseSend() error {
	s.sentLast = true
	if s.raw != nil && s.desc.ClientStreams {
		_ = s.raw.CloseSend() // RecvMsg has the error that has ended the stream
	}
	return nil
}

// RecvMsg receives a message. It returns io.EOF after the last one. Where there is only one, it
// returns it once the handler has returned without an error.
func (s *clientStream) RecvMsg(m any) error {
	if s.end != nil {
		return s.end
	}
	err := s.receive(m)
	if err == nil && !s.desc.ServerStreams {
		switch err = s.receive(nil); err {
		case io.EOF:
			s.ended(err)
			return nil
		case nil:
			err = status.Error(codes.Internal,
				"cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message")
			s.cancel(err)
		}
	}
	if err != nil {
		s.ended(err)
	}
	return err
}

// receive receives a message into m, which is nil where none must come.
func (s *clientStream) receive(m any) error {
	b, err := s.next()
	switch {
	case err == io.EOF && !s.desc.ServerStreams && !s.received:
		return status.Error(codes.Internal, "cardinality violation: received no response message from non-server-streaming RPC")
	case err != nil:
		return err
	}
	s.received = true
	if m == nil {
		grid.PutByteBuffer(b)
		return nil
	}
	if err = s.o.tooLarge(len(b), false); err == nil {
		err = s.o.codec.unmarshal(b, m)
	}
	if err != nil {
		s.cancel(err)
	}
	return err
}

// next returns the next message; io.EOF once the handler has returned without an error.
func (s *clientStream) next() ([]byte, error) {
	if s.raw == nil {
		return nil, errNotOpen
	}
	b, err := s.raw.Recv()
	switch {
	case err == nil:
		return b, nil
	case err != io.EOF:
		return nil, statusOf(s.ctx, err)
	}
	<-s.raw.Done() // a handler of grid may end its messages before it returns
	if err := s.raw.Err(); err != nil {
		return nil, statusOf(s.ctx, err)
	}
	return nil, io.EOF
}

// Header returns the header of the answer, and waits for it: until the handler has sent it, or its first
// message, or the stream has ended.
func (s *clientStream) Header() (metadata.MD, error) {
	if s.raw == nil {
		return nil, errNotOpen
	}
	header, err := s.raw.WaitForHeader(s.ctx)
	if err != nil && s.ctx.Err() != nil {
		return nil, statusOf(s.ctx, s.ctx.Err())
	}
	return received(header), nil // RecvMsg has the error that has ended the stream
}

// Trailer returns the trailer of the answer, once RecvMsg has returned an error, io.EOF or other.
func (s *clientStream) Trailer() metadata.MD { return received(s.raw.Trailer()) }

// fail ends the stream with an error of its sender.
func (s *clientStream) fail(err error) error {
	s.cancel(err)
	s.finished(err)
	return err
}

func (s *clientStream) cancel(err error) {
	if s.raw != nil {
		s.raw.Cancel(err)
	}
}

// ended notes what the receiver gets from now on.
func (s *clientStream) ended(err error) {
	s.end = err
	s.finished(err)
}

// finished tells the options of the stream how it has ended, once.
func (s *clientStream) finished(err error) {
	if len(s.o.all) == 0 {
		return
	}
	if s.forget != nil {
		s.forget()
	}
	s.finish.Do(func() {
		if err == io.EOF {
			err = nil
		}
		header, trailer := received(s.raw.Header()), received(s.raw.Trailer())
		s.o.finish(header, trailer, s.client.peer, err)
	})
}
