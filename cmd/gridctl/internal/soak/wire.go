package soak

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wire is a TCP proxy between two nodes. What is sent over it can be cut, held up and slowed down.
type wire struct {
	listener net.Listener
	target   atomic.Value // the address that was dialed last, a string: a restart changes it
	done     sync.WaitGroup

	mu     sync.Mutex // Protects following.
	change *sync.Cond
	links  map[*link]struct{}
	silent int  // faults that hold everything up
	slow   int  // faults that leave little bandwidth
	refuse int  // faults that let nobody connect
	closed bool // for good
}

// link is one connection through a wire.
type link struct {
	near, far net.Conn // of the node that dials, and of the other
}

// slowBytes is how much a slow wire carries, in bytes in 10 milliseconds: about 400 KB a second.
const slowBytes = 4 << 10

func newWire() (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: l, links: make(map[*link]struct{})}
	w.change = sync.NewCond(&w.mu)
	w.done.Go(w.accept)
	return w, nil
}

// dial connects to an address through the wire. Of two nodes one dials, always the same.
func (w *wire) dial(ctx context.Context, address string) (net.Conn, error) {
	w.target.Store(address)
	return new(net.Dialer).DialContext(ctx, "tcp", w.listener.Addr().String())
}

func (w *wire) accept() {
	for {
		near, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.done.Go(func() { w.connect(near) })
	}
}

// connect connects who has dialed to the target.
func (w *wire) connect(near net.Conn) {
	far, err := net.DialTimeout("tcp", w.target.Load().(string), time.Second)
	if err != nil {
		near.Close()
		return
	}
	l := &link{near, far}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.refuse > 0 {
		l.close()
		return
	}
	w.links[l] = struct{}{}
	w.done.Go(func() { w.carry(l, l.far, l.near) })
	w.done.Go(func() { w.carry(l, l.near, l.far) })
}

// carry copies from one end to the other until either fails, and tells the other end of the end.
func (w *wire) carry(l *link, to, from net.Conn) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if _, ok := w.links[l]; ok { // else a fault decides about the sockets
			delete(w.links, l)
			l.close()
		}
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if n > 0 && w.pass(l, to, b[:n]) != nil || err != nil {
			return
		}
	}
}

var errLinkGone = errors.New("the link is gone")

// pass writes b, when and as fast as the wire lets it.
func (w *wire) pass(l *link, to io.Writer, b []byte) error {
	for len(b) > 0 {
		w.mu.Lock()
		for w.silent > 0 && w.has(l) {
			w.change.Wait()
		}
		gone, n := !w.has(l), len(b)
		slow := w.slow > 0
		if slow {
			n = min(n, slowBytes)
		}
		w.mu.Unlock()
		if gone {
			return errLinkGone
		}
		if slow {
			time.Sleep(10 * time.Millisecond)
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// has is called with the lock.
func (w *wire) has(l *link) bool {
	_, ok := w.links[l]
	return ok
}

// take takes all links out of the wire. Nothing passes any more; their sockets are the caller's.
func (w *wire) take() (links []*link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l := range w.links {
		links = append(links, l)
	}
	clear(w.links)
	w.change.Broadcast()
	return links
}

// add adds to a number of faults, under the lock.
func (w *wire) add(faults *int, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*faults += n
	w.change.Broadcast()
}

// close ends the wire and waits for its goroutines.
func (w *wire) close() {
	w.listener.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	for _, l := range w.take() {
		l.close()
	}
	w.done.Wait()
}

func (l *link) close() {
	l.near.Close()
	l.far.Close()
}

// reset closes both ends with RST in place of FIN.
func (l *link) reset() {
	for _, c := range []net.Conn{l.near, l.far} {
		_ = c.(*net.TCPConn).SetLinger(0) // fails where it is closed
		c.Close()
	}
}
