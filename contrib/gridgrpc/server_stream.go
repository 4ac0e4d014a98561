package gridgrpc

import (
	"context"
	"io"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// serverStream is a stream at its handler. As in gRPC, one goroutine may send while another receives.
type serverStream struct {
	call    serverCall
	streams bool // the caller sends a stream; otherwise it sends one message, which opens it
	got     bool // the receiver's: it has had it
}

var _ grpc.ServerStream = (*serverStream)(nil)

func newServerStream(ctx context.Context, m *method, raw *grid.RawStream, streams bool) *serverStream {
	s := &serverStream{streams: streams}
	s.call.raw, s.call.request = raw, raw.Payload()
	s.call.begin(ctx, m)
	return s
}

// Context returns the context of the handler.
func (s *serverStream) Context() context.Context { return &s.call.context }

// SetHeader adds to the header, which goes with the first message if SendHeader does not send it.
func (s *serverStream) SetHeader(md metadata.MD) error { return s.call.SetHeader(md) }

// SendHeader adds to the header, and sends it.
func (s *serverStream) SendHeader(md metadata.MD) error { return s.call.SendHeader(md) }

// SetTrailer adds to the trailer.
func (s *serverStream) SetTrailer(md metadata.MD) {
	if err := s.call.SetTrailer(md); err != nil {
		logger.Errorf("%s: invalid trailer: %v", s.call.method.name, err)
	}
}

// SendMsg sends a message to the caller, and waits while that is too far behind.
func (s *serverStream) SendMsg(m any) error {
	b, err := s.call.codec.marshal(m)
	if err != nil {
		return err
	}
	s.call.sentHeader()
	return statusOf(s.Context(), s.call.raw.Send(b))
}

// RecvMsg receives a message of the caller; io.EOF after the last one.
func (s *serverStream) RecvMsg(m any) error {
	if !s.streams {
		if s.got {
			return io.EOF
		}
		s.got = true
		return s.call.decode(m)
	}
	b, err := s.call.raw.Recv()
	switch {
	case err == io.EOF:
		return err
	case err != nil:
		return statusOf(s.Context(), err)
	}
	return s.call.codec.unmarshal(b, m)
}
