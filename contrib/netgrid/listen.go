package netgrid

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/gridmesh/grid"
)

// Backlog is how many connections of a Listener may wait for Accept. A Dial beyond that fails.
const Backlog = 1024

// Listener accepts connections that other nodes have dialed. It is a net.Listener. All methods may
// be called at the same time.
type Listener struct {
	m       *grid.Manager
	addr    Addr
	port    *port
	backlog chan *incoming
	life    context.Context // until Close
	end     context.CancelFunc
}

// Listen accepts connections under a name, from all nodes that m is connected to. The name is that
// of a stream method of m, and so must differ from those of other methods. Only one Listener may
// have it at a time. The Listener ends with m; http.Server and others that own a Listener close it
// themselves.
func Listen(m *grid.Manager, name string) (*Listener, error) {
	p, err := portOf(m, name)
	if err != nil {
		return nil, fmt.Errorf("netgrid: cannot listen on %q: %w", name, err)
	}
	l := &Listener{
		m:       m,
		addr:    Addr{Node: m.HostName(), Name: name},
		port:    p,
		backlog: make(chan *incoming, Backlog),
	}
	l.life, l.end = context.WithCancel(context.Background())
	if !p.listener.CompareAndSwap(nil, l) {
		return nil, fmt.Errorf("netgrid: cannot listen on %q: another Listener of %s does", name, m.HostName())
	}
	go l.endWith(m)
	return l, nil
}

// endWith closes the listener when the Manager ends. It runs until then, or until Close.
func (l *Listener) endWith(m *grid.Manager) {
	for range m.Events(l.life) { // only their end counts
	}
	l.Close()
}

// Accept waits for the next connection. It returns net.ErrClosed once the Listener is closed or its
// Manager has ended. The Conn is a *Conn.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.life.Done():
			return nil, l.failed("accept", net.ErrClosed)
		default:
		}
		select {
		case in := <-l.backlog:
			if in.claim() {
				return in.conn, nil
			}
		case <-l.life.Done():
		}
	}
}

// Close ends waiting calls of Accept, and the connections that wait for it. Those that were
// accepted go on. It can be called again.
func (l *Listener) Close() error {
	l.port.listener.CompareAndSwap(l, nil)
	l.end()
	return nil
}

// Addr returns an Addr with the name of the node, and the name that is listened on.
func (l *Listener) Addr() net.Addr { return l.addr }

func (l *Listener) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: l.addr.Network(), Addr: l.addr, Err: err}
}

// incoming is a connection that was dialed elsewhere.
type incoming struct {
	conn    *Conn
	claimed atomic.Bool   // by Accept, or by its handler, which then ends it
	left    chan struct{} // closed when the Conn is
}

func (in *incoming) claim() bool { return in.claimed.CompareAndSwap(false, true) }

// serve is the handler of the streams that are dialed. It returns once the Conn is closed.
func (p *port) serve(ctx context.Context, s stream) error {
	l := p.listener.Load()
	if l == nil {
		return errNobody
	}
	in := &incoming{conn: newConn(s, l.addr, Addr{}), left: make(chan struct{})}
	caller := grid.GetCaller(ctx).Name
	in.conn.local, in.conn.remote = addresses(l.addr.Node, l.m.Connection(caller), caller, l.addr.Name)
	in.conn.leave = func() { close(in.left) }
	<-in.conn.out.turn // nobody writes before what awaitAccept waits for
	select {
	case l.backlog <- in:
	default:
		return errFull
	}
	err := s.send(ctx, []byte{})
	in.conn.out.give()
	if err != nil {
		in.claim()
		return err
	}
	select {
	case <-in.left:
		return nil
	case <-ctx.Done():
		in.claim()
		return nil
	case <-l.life.Done():
		if in.claim() {
			return errNobody
		}
	}
	select {
	case <-in.left:
	case <-ctx.Done():
	}
	return nil
}

// Errors for those who dial.
var (
	errNobody = grid.NewError(grid.Unavailable, "nobody listens")
	errFull   = grid.NewError(grid.ResourceExhausted, "too many connections wait to be accepted")
)

// port is what a node has of a name for good: grid's handlers stay.
type port struct {
	listener atomic.Pointer[Listener]
}

// ports finds the ports of Managers again. A port lives as long as its Manager, which holds it by
// its handler.
var ports struct {
	sync.Mutex
	of map[portKey]weak.Pointer[port]
}

type portKey struct {
	manager weak.Pointer[grid.Manager]
	name    string
}

// portOf returns the port of a name, with its handler.
func portOf(m *grid.Manager, name string) (*port, error) {
	ports.Lock()
	defer ports.Unlock()
	key := portKey{weak.Make(m), name}
	if p := ports.of[key].Value(); p != nil {
		return p, nil
	}
	p := new(port)
	err := serve(m, name, func(ctx context.Context, _ []byte, s stream) error { return p.serve(ctx, s) })
	if err != nil {
		return nil, err
	}
	if ports.of == nil {
		ports.of = make(map[portKey]weak.Pointer[port])
	}
	ports.of[key] = weak.Make(p)
	runtime.AddCleanup(m, forget, key)
	return p, nil
}

// forget removes the port of a Manager that is gone.
func forget(key portKey) {
	ports.Lock()
	defer ports.Unlock()
	delete(ports.of, key)
}
