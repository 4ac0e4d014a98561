package griddrpc

import (
	"cmp"
	"context"
	"errors"
	"io"

	"github.com/gridmesh/grid"
	"storj.io/drpc"
)

var _ drpc.Conn = (*Conn)(nil)

// Conn calls the methods of another node. It is a drpc.Conn, for the clients that protoc-gen-go-drpc
// has generated. Its methods may be called by any number of goroutines, and any number of calls and
// streams may be open at once.
type Conn struct {
	conn   *grid.Connection
	closed context.Context
	close  context.CancelFunc
}

var errClosed = drpc.ClosedError.New("griddrpc: the Conn is closed")

// NewConn returns a Conn to the peer of a connection.
func NewConn(conn *grid.Connection) *Conn {
	closed, cancel := context.WithCancel(context.Background())
	return &Conn{conn, closed, cancel}
}

// Close makes calls that begin later fail. The connection, which others use too, stays, and so do the
// calls and streams that are open.
func (c *Conn) Close() error {
	c.close()
	return nil
}

// Closed returns a channel that is closed by Close. A lost connection does not close it: grid connects
// again.
func (c *Conn) Closed() <-chan struct{} { return c.closed.Done() }

// Invoke makes a unary call. Generated code calls it. Its error is the handler's, with its text and code,
// that of ctx, or one of grid.Connection.Call.
func (c *Conn) Invoke(ctx context.Context, rpc string, enc drpc.Encoding, in, out drpc.Message) error {
	if c.closed.Err() != nil {
		return errClosed
	}
	request, err := encode(in, enc)
	if err != nil {
		return err
	}
	answer, err := c.conn.Call(outgoing(ctx), methodName(rpc), request)
	grid.PutByteBuffer(request)
	if err != nil {
		return errorOf(ctx, err)
	}
	return decode(answer, out, enc)
}

// NewStream opens a stream. Generated code calls it. A stream ends with its context at the latest.
func (c *Conn) NewStream(ctx context.Context, rpc string, _ drpc.Encoding) (drpc.Stream, error) {
	if c.closed.Err() != nil {
		return nil, errClosed
	}
	raw, err := c.conn.OpenStream(outgoing(ctx), methodName(rpc), nil)
	if err != nil {
		return nil, errorOf(ctx, err)
	}
	return &clientStream{ctx, raw}, nil
}

// clientStream is a stream at its caller. One goroutine may receive while others send.
type clientStream struct {
	ctx context.Context // the caller's
	raw *grid.Stream
}

// Context returns the context of the stream, which ends when the stream has ended.
func (s *clientStream) Context() context.Context { return streamContext{s.ctx, s.raw} }

// streamContext ends with a stream. A context made with context.WithCancel would stay in that of the
// caller where nobody notices the end, such as that of a stream whose only answer was received.
type streamContext struct {
	context.Context // the caller's
	raw             *grid.Stream
}

func (c streamContext) Done() <-chan struct{} { return c.raw.Done() }

func (c streamContext) Err() error {
	select {
	case <-c.raw.Done():
		return cmp.Or(c.Context.Err(), context.Canceled)
	default:
		return nil
	}
}

// MsgSend sends a message. It returns io.EOF if the stream has ended: MsgRecv has the reason.
func (s *clientStream) MsgSend(msg drpc.Message, enc drpc.Encoding) error {
	b, err := encode(msg, enc)
	if err != nil {
		return err
	}
	err = s.raw.Send(b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, grid.ErrMessageTooLarge):
		return err
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	}
	return io.EOF
}

// MsgRecv receives a message. It returns io.EOF after the last one.
func (s *clientStream) MsgRecv(msg drpc.Message, enc drpc.Encoding) error {
	b, err := s.raw.Recv()
	switch err {
	case nil:
		return decode(b, msg, enc)
	case io.EOF: // the handler may go on receiving
		return err
	}
	return errorOf(s.ctx, err)
}

// CloseSend ends the handler's input.
func (s *clientStream) CloseSend() error {
	_ = s.raw.CloseSend() // MsgRecv has the error that has ended the stream
	return nil
}

// Close ends the stream. If the handler has not returned, its context is canceled.
func (s *clientStream) Close() error {
	s.raw.Cancel(nil)
	return nil
}
