package simnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

// Listener accepts the connections to one address.
type Listener struct {
	net     *Network
	address string

	// Guarded by the network's lock.
	backlog []*Conn
	closed  bool
	changed chan struct{} // has room for the one signal that Accept waits for
}

// maxBacklog bounds the connections that nobody has accepted yet; more are refused.
const maxBacklog = 128

// Listen returns a listener for an address "host:port" that no other listener has.
func (n *Network) Listen(address string) (*Listener, error) {
	if _, err := hostOf(address); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] != nil {
		return nil, opError("listen", addr(address), addr(""), syscall.EADDRINUSE)
	}
	l := &Listener{net: n, address: address, changed: make(chan struct{}, 1)}
	n.listeners[address] = l
	return l, nil
}

// Accept waits for the next connection. Only one goroutine may call it at a time.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.net.mu.Lock()
		if l.closed {
			l.net.mu.Unlock()
			return nil, opError("accept", addr(l.address), addr(""), net.ErrClosed)
		}
		if len(l.backlog) > 0 {
			c := l.backlog[0]
			l.backlog = l.backlog[1:]
			l.net.mu.Unlock()
			return c, nil
		}
		l.net.mu.Unlock()
		<-l.changed
	}
}

// Close frees the address. Connections that were not accepted are reset, the others live on.
func (l *Listener) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if l.closed {
		return opError("close", addr(l.address), addr(""), net.ErrClosed)
	}
	l.closed = true
	delete(l.net.listeners, l.address)
	for _, c := range l.backlog {
		c.peer.breakOff()
		c.breakOff()
		c.close()
	}
	l.backlog = nil
	l.signal()
	return nil
}

// Addr returns the address.
func (l *Listener) Addr() net.Addr { return addr(l.address) }

func (l *Listener) signal() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// Dialer returns a function that opens connections from a host, as net.Dialer.DialContext does. A
// dial takes a round trip, and as long as the way is stalled.
func (n *Network) Dialer(host string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		c, err := n.dial(ctx, host, address)
		if err != nil {
			return nil, opError("dial", addr(host), addr(address), err)
		}
		return c, nil
	}
}

func (n *Network) dial(ctx context.Context, from, address string) (*Conn, error) {
	to, err := hostOf(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	p := n.path(from, to)
	p.dials++
	target := address
	if p.astray.After(time.Now()) {
		_, port, _ := net.SplitHostPort(address)
		to, target = p.via, net.JoinHostPort(p.via, port)
	}
	n.mu.Unlock()
	if err := n.travel(ctx, from, to); err != nil {
		return nil, err
	}
	c := n.connect(from, to, target, address)
	if err := n.travel(ctx, to, from); err != nil {
		if c != nil {
			c.Close()
		}
		return nil, err
	}
	if c == nil {
		return nil, syscall.ECONNREFUSED
	}
	return c, nil
}

// travel waits as long as a packet takes from one host to another.
func (n *Network) travel(ctx context.Context, from, to string) error {
	n.mu.Lock()
	p := n.path(from, to)
	arrives := time.Now().Add(p.delay() + p.resends(p.rng, resendsDial))
	n.mu.Unlock()
	for {
		n.mu.Lock()
		at, blocked, changed := arrives, p.blocked, p.changed
		if p.stalled.After(at) {
			at = p.stalled
		}
		n.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if blocked {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		left := time.Until(at)
		if left <= 0 {
			return nil
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// connect makes a connection to who listens at target, which the dialer takes for address, and
// returns the dialer's end; nil where nobody does.
func (n *Network) connect(from, to, target, address string) *Conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	there, back := n.path(from, to), n.path(to, from)
	l := n.listeners[target]
	if l == nil || len(l.backlog) >= maxBacklog || time.Now().Before(there.refused) {
		return nil
	}
	n.ports++
	local := addr(fmt.Sprintf("%s:%d", from, n.ports))
	out, in := n.newPipe(there), n.newPipe(back)
	client := &Conn{net: n, number: n.number(), hosts: route{from, to}, local: local, remote: addr(address), in: in, out: out}
	server := &Conn{net: n, number: n.number(), hosts: route{to, from}, local: addr(target), remote: local, in: out, out: in, peer: client}
	client.peer = server
	n.open[client], n.open[server] = struct{}{}, struct{}{}
	l.backlog = append(l.backlog, server)
	l.signal()
	return client
}

// newPipe returns a direction of a new connection, with accidents of its own. n.mu is held.
func (n *Network) newPipe(p *path) *pipe {
	pipe := &pipe{
		path:   p,
		number: n.number(),
		rng:    rand.New(rand.NewPCG(p.rng.Uint64(), p.rng.Uint64())),
	}
	p.pipes[pipe] = struct{}{}
	return pipe
}

// addr is an address in the network.
type addr string

// Network returns "sim".
func (addr) Network() string { return "sim" }

// String returns "host:port".
func (a addr) String() string { return string(a) }

func opError(op string, local, remote addr, err error) error {
	return &net.OpError{Op: op, Net: "sim", Source: local, Addr: remote, Err: err}
}
