package link

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	relayBuffer = 32 << 10             // bytes: of its sockets, and of a read
	relayBurst  = 2 * time.Millisecond // worth of the rate that is let through at once: sleeping is no more exact
)

// relay carries bytes between the sides no faster than its rate. All connections of a direction
// share it.
type relay struct {
	loopback
	rate    float64 // bits a second
	buckets [2]bucket

	mu     sync.Mutex // Protects following.
	closed bool
	open   []interface{ Close() error }
}

func (r *relay) Via(addrs [2][]string) (via [2]map[string]string, err error) {
	for i := range r.buckets {
		r.buckets[i].perByte = time.Duration(8e9 / r.rate)
		if r.rate <= 0 {
			r.buckets[i].perByte = 0
		}
	}
	for side := range via {
		via[side] = make(map[string]string)
		for _, addr := range addrs[1-side] {
			l, err := r.listen()
			if err != nil {
				return via, err
			}
			via[side][addr] = l.Addr().String()
			go r.serve(l, side, addr)
		}
	}
	return via, nil
}

// listen returns a listener whose connections have small buffers. They have to be small from the
// start: what TCP offers as a window later is bounded by what it has offered at first.
func (r *relay) listen() (net.Listener, error) {
	config := net.ListenConfig{Control: smallBuffers}
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err == nil {
		r.keep(l)
	}
	return l, err
}

func smallBuffers(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) { err = setBuffers(fd, relayBuffer) })
	if cerr != nil {
		return cerr
	}
	return err
}

// serve connects what side dials to addr.
func (r *relay) serve(l net.Listener, side int, addr string) {
	dialer := net.Dialer{Control: smallBuffers}
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := dialer.Dial("tcp", addr)
		if err != nil {
			near.Close()
			continue
		}
		r.keep(near)
		r.keep(far)
		go carry(far, near, &r.buckets[side])
		go carry(near, far, &r.buckets[1-side])
	}
}

// keep remembers what Close has to close.
func (r *relay) keep(c interface{ Close() error }) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return
	}
	r.open = append(r.open, c)
}

// carry copies until one of the two ends.
func carry(to, from net.Conn, b *bucket) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, relayBuffer)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		time.Sleep(b.take(n))
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (r *relay) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, c := range r.open {
		c.Close()
	}
}

// bucket is a token bucket.
type bucket struct {
	perByte time.Duration

	mu   sync.Mutex // Protects following.
	free time.Time  // when all bytes so far have passed
}

// take lets n bytes pass and returns how long they have to wait.
func (b *bucket) take(n int) time.Duration {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if earliest := now.Add(-relayBurst); b.free.Before(earliest) {
		b.free = earliest
	}
	b.free = b.free.Add(time.Duration(n) * b.perByte)
	return b.free.Sub(now)
}
