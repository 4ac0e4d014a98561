package grid

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// badConn is a connection of which one method misbehaves, once it is to.
type badConn struct {
	net.Conn
	method string
	armed  *atomic.Bool
	stuck  chan struct{}
}

func (c badConn) misbehave(method string) {
	switch {
	case !c.armed.Load() || c.method != method:
	case c.stuck != nil:
		<-c.stuck
	default:
		panic(method)
	}
}

func (c badConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.misbehave("Read")
	return n, err
}

func (c badConn) Write(b []byte) (int, error) {
	c.misbehave("Write")
	return c.Conn.Write(b)
}

func (c badConn) Close() error {
	err := c.Conn.Close()
	c.misbehave("Close")
	return err
}

func (c badConn) SetWriteDeadline(t time.Time) error {
	c.misbehave("SetWriteDeadline")
	return c.Conn.SetWriteDeadline(t)
}

func (c badConn) SetReadDeadline(t time.Time) error {
	c.misbehave("SetReadDeadline")
	return c.Conn.SetReadDeadline(t)
}

func (c badConn) RemoteAddr() net.Addr {
	if c.method == "RemoteAddr" {
		return nil
	}
	return c.Conn.RemoteAddr()
}

// A connection of the Dialer whose methods panic is lost at the most, and one whose Close is stuck
// holds up nobody. The node connects again.
func TestAForeignConnectionThatMisbehaves(t *testing.T) {
	for _, method := range []string{"Read", "Write", "Close", "SetWriteDeadline", "SetReadDeadline", "RemoteAddr", "a stuck Close"} {
		t.Run(method, func(t *testing.T) {
			var armed atomic.Bool
			var stuck chan struct{}
			bad := method
			if bad == "a stuck Close" {
				bad, stuck = "Close", make(chan struct{})
				defer close(stuck)
			}
			c := newTCPPair(t)
			c.start(t, func(_ int, o *ManagerOptions) {
				o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, address)
					if err != nil {
						return nil, err
					}
					return badConn{conn, bad, &armed, stuck}, nil
				}
			})
			c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			c.waitConnected(t)
			armed.Store(true)
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			c.conn(0, 1).Request(ctx, testSingle, nil)
			c.conn(1, 0).Request(ctx, testSingle, nil)
			for i := range 2 { // of which one has dialed
				if s := c.conn(i, 1-i).current.Load(); s != nil {
					s.end(errReplaced)
				}
			}
			armed.Store(false)
			for i := range 2 {
				eventually(t, "another connection", func() bool {
					_, err := c.conn(i, 1-i).Request(ctx, testSingle, nil)
					return err == nil
				})
			}
			armed.Store(method == "Close" || stuck != nil)
			for _, n := range c.nodes {
				n.Close()
			}
		})
	}
}

// A Dialer may have done TLS itself. Then too a write that ran into its deadline is not continued.
func TestTLSOfADialerIsKnown(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if !overTLS(guardConn(tls.Client(here, nil))) {
		t.Error("TLS is not known")
	}
	if overTLS(guardConn(here)) {
		t.Error("a pipe is taken for TLS")
	}
}
