package griddrpc

import (
	"context"
	"fmt"
	"io"
	"reflect"

	"github.com/gridmesh/grid"
	"storj.io/drpc"
	"storj.io/drpc/drpcmux"
)

var _ drpc.Mux = (*Mux)(nil)

// Mux registers the methods of services with a Manager. It is a drpc.Mux, for what protoc-gen-go-drpc
// has generated. Its methods may be called by any number of goroutines.
//
// The fields may be set before the first service is registered, and not after.
type Mux struct {
	// Wrap returns a handler around another one, such as one that looks at metadata, if it is not nil.
	// It is called once for each service.
	Wrap func(drpc.Handler) drpc.Handler

	m *grid.Manager
}

// NewMux returns a Mux for the handlers of a Manager.
func NewMux(m *grid.Manager) *Mux { return &Mux{m: m} }

// Register registers the methods of a service under their names, such as "kv.KV/Get". Generated code
// calls it. The errors are those of drpcmux.Mux.Register and of grid.Manager.Handle; after one, some
// methods may be registered.
func (x *Mux) Register(srv any, desc drpc.Description) error {
	mux := drpcmux.New() // of its own, as nothing may be registered with one that is in use
	if err := mux.Register(srv, desc); err != nil {
		return err
	}
	var handler drpc.Handler = mux
	if x.Wrap != nil {
		handler = x.Wrap(handler)
	}
	for i := range desc.NumMethods() {
		rpc, _, _, method, _ := desc.Method(i)
		var err error
		if reflect.TypeOf(method).NumOut() == 2 { // a message and an error
			err = x.m.Handle(methodName(rpc), unary(handler, rpc))
		} else {
			err = x.m.HandleStream(methodName(rpc), streaming(handler, rpc))
		}
		if err != nil {
			return fmt.Errorf("griddrpc: %w", err)
		}
	}
	return nil
}

// unary returns a handler of grid for a unary method.
func unary(h drpc.Handler, rpc string) func(context.Context, []byte) ([]byte, error) {
	return func(ctx context.Context, request []byte) ([]byte, error) {
		s := &unaryStream{ctx: incoming(ctx), request: request}
		if err := h.HandleRPC(s, rpc); err != nil {
			return nil, remoteError(err)
		}
		if !s.sent {
			return nil, grid.NewError(grid.Internal, "griddrpc: the handler has returned neither a message nor an error")
		}
		return s.answer, nil
	}
}

// unaryStream is a call of a unary method at its handler.
type unaryStream struct {
	ctx             context.Context
	request, answer []byte
	received, sent  bool
}

func (s *unaryStream) Context() context.Context { return s.ctx }
func (s *unaryStream) CloseSend() error         { return nil }
func (s *unaryStream) Close() error             { return nil }

func (s *unaryStream) MsgRecv(msg drpc.Message, enc drpc.Encoding) error {
	if s.received {
		return io.EOF
	}
	s.received = true
	return decode(s.request, msg, enc)
}

func (s *unaryStream) MsgSend(msg drpc.Message, enc drpc.Encoding) (err error) {
	if s.sent {
		return drpc.ProtocolError.New("griddrpc: more than one answer")
	}
	s.answer, err = encode(msg, enc)
	s.sent = err == nil
	return err
}

// streaming returns a handler of grid for a method that streams.
func streaming(h drpc.Handler, rpc string) func(context.Context, *grid.RawStream) error {
	return func(ctx context.Context, raw *grid.RawStream) error {
		grid.PutByteBuffer(raw.Payload())
		ctx, cancel := context.WithCancel(incoming(ctx))
		defer cancel()
		return remoteError(h.HandleRPC(&serverStream{ctx, cancel, raw}, rpc))
	}
}

// serverStream is a stream at its handler. One goroutine may receive while others send.
type serverStream struct {
	ctx    context.Context
	cancel context.CancelFunc
	raw    *grid.RawStream
}

// Context returns the context of the handler, which ends when the caller gives up.
func (s *serverStream) Context() context.Context { return s.ctx }

// MsgSend sends a message, and waits while the caller is too far behind.
func (s *serverStream) MsgSend(msg drpc.Message, enc drpc.Encoding) error {
	b, err := encode(msg, enc)
	if err != nil {
		return err
	}
	return s.raw.Send(b)
}

// MsgRecv receives a message of the caller. It returns io.EOF after the last one.
func (s *serverStream) MsgRecv(msg drpc.Message, enc drpc.Encoding) error {
	b, err := s.raw.Recv()
	if err != nil {
		return err
	}
	return decode(b, msg, enc)
}

// CloseSend ends the messages to the caller.
func (s *serverStream) CloseSend() error {
	s.raw.CloseSend()
	return nil
}

// Close ends the messages to the caller and the context of the stream.
func (s *serverStream) Close() error {
	s.raw.CloseSend()
	s.cancel()
	return nil
}
