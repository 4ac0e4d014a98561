package netgrid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/gridmesh/grid"
)

// Dial connects to the Listener that another node has under this name. It returns once that has it
// in its backlog. ctx only bounds Dial itself; the metadata and the priority of the grid that it
// carries are those of the Conn's stream.
//
// It fails with grid.Unimplemented if nobody has ever listened there, with grid.Unavailable if nobody
// does anymore, with grid.ResourceExhausted if too many wait to be accepted, and with
// grid.ErrDisconnected if the nodes are not connected, as errors.Is finds them.
func Dial(ctx context.Context, conn *grid.Connection, name string) (*Conn, error) {
	c, err := dial(ctx, conn, name)
	if err != nil {
		to := Addr{Node: nodeOf(conn), Name: name}
		return nil, &net.OpError{Op: "dial", Net: to.Network(), Addr: to, Err: fmt.Errorf("%s: %w", name, err)}
	}
	return c, nil
}

func dial(ctx context.Context, conn *grid.Connection, name string) (*Conn, error) {
	if ctx == nil {
		return nil, errNil
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end) // Dial gives up
	s, err := open(life, conn, name, nil)
	if err == nil {
		err = awaitAccept(life, s)
	}
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, err
	}
	c := newConn(s, Addr{}, Addr{})
	c.local, c.remote = addresses(conn.Local, conn, conn.Remote, name)
	c.leave = func() { c.linger(s, end) }
	return c, nil
}

// awaitAccept waits for the message with which a Listener begins. There is nothing in it.
func awaitAccept(ctx context.Context, s stream) error {
	b, err := s.recv(ctx)
	grid.PutByteBuffer(b)
	switch {
	case err == io.EOF, len(b) > 0:
		return errNoListener
	default:
		return err
	}
}

var errNoListener = errors.New("the method is not that of a Listener")

// linger ends a Conn that was dialed and is closed. The other end still gets what was written, and
// has to learn if it writes to nobody.
func (c *Conn) linger(s outgoing, end context.CancelFunc) {
	_ = s.closeSend() // it fails only if the stream has ended
	go func() {
		defer end()
		c.abandon()
		b, err := s.recv(context.Background())
		grid.PutByteBuffer(b)
		if err == io.EOF {
			<-s.Done() // the other end may still read
		}
	}()
}

// addresses returns those of the two ends of a Conn between this node and another.
func addresses(here string, conn *grid.Connection, there, name string) (local, remote Addr) {
	p := conn.Peer() // empty for a node that is no longer one of the hosts
	return Addr{Node: here, Name: name, Socket: p.LocalAddr}, Addr{Node: there, Name: name, Socket: p.RemoteAddr}
}
