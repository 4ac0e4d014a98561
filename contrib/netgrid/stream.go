package netgrid

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/gridmesh/grid"
)

// stream is one end of a grid's stream.
type stream interface {
	// recv returns the next message, which then belongs to the caller, or io.EOF once the other end
	// sends nothing more. If ctx ends first, it returns the cause, and the stream goes on.
	recv(ctx context.Context) ([]byte, error)
	// send sends a message that stays the caller's. If ctx ends first, nothing is sent, and the
	// stream goes on.
	send(ctx context.Context, b []byte) error
	// closeSend tells the other end that nothing more is sent.
	closeSend() error
}

// outgoing is the end of a stream that was opened here.
type outgoing struct{ *grid.Stream }

// open opens a stream to a method of another node. It ends with ctx.
func open(ctx context.Context, conn *grid.Connection, name string, payload []byte) (outgoing, error) {
	st, err := conn.OpenStream(ctx, name, payload)
	return outgoing{st}, err
}

func (s outgoing) recv(ctx context.Context) ([]byte, error) { return s.RecvContext(ctx) }

func (s outgoing) send(ctx context.Context, b []byte) error {
	err := s.SendCopy(ctx, b)
	if err != nil && !gaveUp(err) {
		select {
		case <-s.Done():
			if s.Err() == nil { // the handler has returned
				err = syscall.EPIPE
			}
		default:
		}
	}
	return err
}

func (s outgoing) closeSend() error { return s.CloseSend() }

// errNil is the error for a nil argument.
var errNil = errors.New("the context, the reader or the writer is nil")

// nodeOf returns the name of the node that a connection leads to.
func nodeOf(conn *grid.Connection) string {
	if conn == nil {
		return "no node"
	}
	return conn.Remote
}

// ingoing is the end of a stream at its handler.
type ingoing struct {
	*grid.RawStream
	ctx context.Context // the handler's
}

// serve registers a handler of streams.
func serve(m *grid.Manager, name string, handle func(ctx context.Context, payload []byte, s stream) error) error {
	return m.HandleStream(name, func(ctx context.Context, st *grid.RawStream) error {
		return handle(ctx, st.Payload(), ingoing{st, ctx})
	})
}

func (s ingoing) recv(ctx context.Context) ([]byte, error) {
	b, err := s.RecvContext(ctx)
	return b, s.reason(err)
}

func (s ingoing) send(ctx context.Context, b []byte) error {
	return s.reason(s.SendCopy(ctx, b))
}

func (s ingoing) closeSend() error {
	s.CloseSend()
	return nil
}

// reason returns why the stream has failed, also where that has ended its handler meanwhile.
func (s ingoing) reason(err error) error {
	if err == nil || err == io.EOF || gaveUp(err) || s.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(s.ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return syscall.ECONNRESET // the caller has given it up
}
