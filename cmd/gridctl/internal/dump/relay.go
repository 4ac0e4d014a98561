package dump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// heardAhead is how many chunks a relay passes on before they are understood. With more of them, some
// are left out: the nodes do not wait.
const heardAhead = 1024

// Relay stands in front of a node: it passes on what comes to a listener, to an address, and back, and
// reads what it passes. It runs until ctx ends, then closes the listener and all connections. Options.Each
// is called on the goroutine of the caller.
func Relay(ctx context.Context, l net.Listener, to string, o Options) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &relay{factory: &factory{options: &o, names: newNames(o.Names)}, to: to, heard: make(chan chunk, heardAhead)}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	r.running.Go(func() { r.accept(ctx, l) })
	go func() {
		r.running.Wait()
		close(r.heard)
	}()
	for c := range r.heard {
		c.tell()
		if r.err != nil {
			cancel()
		}
	}
	cancel()
	stop()
	r.sum.Connections = int(r.connections.Load())
	return r.sum, r.err
}

// relay is a Relay that runs. The factory is the caller's goroutine's alone.
type relay struct {
	*factory
	to          string
	heard       chan chunk
	running     sync.WaitGroup // everybody who sends to heard
	connections atomic.Int64   // for the sum; heard has no room for them while the output is blocked
}

// chunk is what was read at once from one side of a connection.
type chunk struct {
	half *half
	at   time.Time
	data []byte
	lost int // bytes before it that were left out
}

// tell has its half read the chunk.
func (c *chunk) tell() {
	h := c.half
	h.sum.Packets++
	if c.lost > 0 {
		h.lose(c.at, c.lost)
	}
	h.receive(c.at, c.data)
}

func (r *relay) accept(ctx context.Context, l net.Listener) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		r.running.Go(func() { r.pass(ctx, from) })
	}
}

// pass passes on what comes and goes over a connection, until one side of it ends.
func (r *relay) pass(ctx context.Context, from net.Conn) {
	defer from.Close()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", r.to)
	if err != nil {
		return // as if nobody listened
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { from.Close(); to.Close() })()
	c := &conversation{factory: r.factory}
	here, there := from.RemoteAddr().String(), to.RemoteAddr().String()
	c.halves[0] = half{conversation: c, from: here, to: there}
	c.halves[1] = half{conversation: c, from: there, to: here}
	r.connections.Add(1)
	var both sync.WaitGroup
	both.Go(func() { r.copy(to, from, &c.halves[0]) })
	both.Go(func() { r.copy(from, to, &c.halves[1]) })
	both.Wait()
}

// copy passes on one direction, and its end.
func (r *relay) copy(to, from net.Conn, h *half) {
	lost := 0
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			// It is heard before it is passed on: else the answer to it may be heard first.
			select {
			case r.heard <- chunk{h, time.Now(), bytes.Clone(b[:n]), lost}:
				lost = 0
			default:
				lost += n
			}
			if _, err := to.Write(b[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			if tcp, ok := to.(*net.TCPConn); ok && errors.Is(err, io.EOF) {
				_ = tcp.CloseWrite() // the other direction may go on
			} else {
				to.Close()
			}
			return
		}
	}
}
