package gridmemberlist

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

const pieceSize = 16 << 10 // bytes of a message of a stream

// stream is either side of a stream of the grid.
type stream interface {
	Send(b []byte) error
	Recv() ([]byte, error)
}

// conn is a net.Conn over a stream: the one end of a pipe, which has deadlines. A carrier has the
// other end.
type conn struct {
	net.Conn

	remote address
	failed *atomic.Pointer[error] // how the stream has ended
}

// carrier carries what goes through a pipe to a stream, and back.
type carrier struct {
	pipe   net.Conn
	failed *atomic.Pointer[error]
}

func newPipe(remote address) (*conn, *carrier) {
	a, b := net.Pipe()
	failed := new(atomic.Pointer[error])
	return &conn{a, remote, failed}, &carrier{b, failed}
}

// RemoteAddr is the name of the peer.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// Read returns what has ended the stream, if it was not the peer's Close.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if failed := c.failed.Load(); err == io.EOF && failed != nil {
		err = *failed
	}
	return n, err
}

// run returns when the stream has ended: when either side is closed, and the other one has noticed.
// There is no half-closed state, as memberlist has none. When ctx ends, the pipe is closed. closeSend
// is called when this side is.
func (c *carrier) run(ctx context.Context, st stream, closeSend func()) {
	stop := context.AfterFunc(ctx, func() { c.pipe.Close() })
	defer stop()
	var sending sync.WaitGroup
	sending.Go(func() { c.send(st, closeSend) })
	for {
		b, err := st.Recv()
		if err != nil {
			if err != io.EOF {
				c.failed.Store(&err)
			}
			break
		}
		_, _ = c.pipe.Write(b) // once it is closed, the rest is of no use
	}
	c.pipe.Close()
	sending.Wait()
}

// send sends what is written until the pipe is closed.
func (c *carrier) send(st stream, closeSend func()) {
	for b := make([]byte, pieceSize); ; {
		n, err := c.pipe.Read(b)
		if n > 0 && st.Send(bytes.Clone(b[:n])) != nil {
			return // Recv fails, too
		}
		if err != nil {
			break
		}
	}
	closeSend()
}
