package simnet

import (
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Conn is one end of a connection. It is a net.Conn with CloseWrite, as a net.TCPConn is. One
// goroutine may read while another writes; all other methods may be called at any time.
type Conn struct {
	net           *Network
	number        int
	hosts         route // of this end and of the other
	local, remote addr
	peer          *Conn

	// Guarded by the network's lock.
	in, out       *pipe
	readDeadline  time.Time
	writeDeadline time.Time
	closed        bool      // by Close
	writeClosed   bool      // by Close or CloseWrite
	reset         time.Time // when a reset by the other end arrives; zero for none
	broken        bool      // a reset has arrived
}

var _ net.Conn = (*Conn)(nil)

// Read reads bytes that have arrived, at most a segment. It returns io.EOF
// once the other end has closed, ECONNRESET after a reset, which destroys what was not read,
// os.ErrDeadlineExceeded and net.ErrClosed, wrapped in a net.OpError.
func (c *Conn) Read(b []byte) (n int, err error) {
	c.await(c.in, func(now time.Time) (bool, time.Time) {
		var wake time.Time
		n, wake, err = c.tryRead(b, now)
		return n > 0 || err != nil || len(b) == 0, wake
	})
	if err != nil && err != io.EOF {
		err = opError("read", c.local, c.remote, err)
	}
	return n, err
}

// Write sends b. It waits while the buffer is full, and returns errors as Read does, EPIPE after
// CloseWrite, and the number of bytes that were sent.
func (c *Conn) Write(b []byte) (n int, err error) {
	c.await(c.out, func(now time.Time) (bool, time.Time) {
		var sent int
		var wake time.Time
		sent, wake, err = c.tryWrite(b[n:], now)
		n += sent
		return n == len(b) || err != nil, wake
	})
	if err != nil {
		err = opError("write", c.local, c.remote, err)
	}
	return n, err
}

// CloseWrite tells the other end, behind what was written, that nothing follows.
func (c *Conn) CloseWrite() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if err := c.usable(time.Time{}, time.Now()); err != nil {
		return opError("close", c.local, c.remote, err)
	}
	proxied := !c.writeClosed && !c.broken && c.out.path.link.Proxied
	c.closeWrite()
	if now := time.Now(); proxied && c.in.cut(now) {
		c.out.cut(now)
		c.peer.resetAt(now.Add(c.out.path.delay()))
	}
	return nil
}

// Close ends the connection. The other end still gets what was written and then
// the end, unless there is something unread here or more comes in: that resets the connection.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return opError("close", c.local, c.remote, net.ErrClosed)
	}
	c.close()
	return nil
}

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.readDeadline, c.writeDeadline = t, t })
}

// SetReadDeadline sets when Read gives up; the zero time is never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.readDeadline = t })
}

// SetWriteDeadline sets when Write gives up; the zero time is never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(func() { c.writeDeadline = t })
}

func (c *Conn) setDeadlines(set func()) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return opError("set", c.local, c.remote, net.ErrClosed)
	}
	set()
	c.in.notify()
	c.out.notify()
	return nil
}

// await calls try, under the network's lock, until it is done: each time something on p has
// changed, and when wake has come.
func (c *Conn) await(p *pipe, try func(now time.Time) (done bool, wake time.Time)) {
	for {
		c.net.mu.Lock()
		now := time.Now()
		wake := c.net.frozen[c.hosts.from]
		if !wake.After(now) {
			var done bool
			if done, wake = try(now); done {
				c.net.mu.Unlock()
				return
			}
		}
		changed := p.change()
		c.net.mu.Unlock()
		if wake.IsZero() {
			<-changed
			continue
		}
		timer := time.NewTimer(wake.Sub(now))
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (c *Conn) tryRead(b []byte, now time.Time) (n int, wake time.Time, err error) {
	if err := c.usable(c.readDeadline, now); err != nil {
		return 0, time.Time{}, err
	}
	n, end, wake := c.in.read(b, now)
	if end {
		return 0, time.Time{}, io.EOF
	}
	return n, c.earliest(wake, c.readDeadline), nil
}

func (c *Conn) tryWrite(b []byte, now time.Time) (n int, wake time.Time, err error) {
	if err := c.usable(c.writeDeadline, now); err != nil {
		return 0, time.Time{}, err
	}
	if c.writeClosed {
		return 0, time.Time{}, syscall.EPIPE
	}
	if (c.peer.closed || c.out.over) && !c.out.lost {
		// There and back: the other end takes nothing any more.
		c.resetAt(now.Add(c.out.path.delay() + c.in.path.delay()))
		return len(b), time.Time{}, nil
	}
	n = min(len(b), c.out.room())
	if n > 0 {
		c.out.push(b[:n], now)
	}
	return n, c.earliest(time.Time{}, c.writeDeadline), nil
}

// usable says why nothing can be read or written.
func (c *Conn) usable(deadline, now time.Time) error {
	if at := c.in.ready(c.reset); !c.reset.IsZero() && !at.IsZero() && !at.After(now) {
		c.breakOff()
	}
	switch {
	case c.closed:
		return net.ErrClosed
	case !deadline.IsZero() && !deadline.After(now):
		return os.ErrDeadlineExceeded
	case c.broken:
		return syscall.ECONNRESET
	}
	return nil
}

// earliest returns the earliest time at which something happens by itself; zero for never.
func (c *Conn) earliest(wake, deadline time.Time) time.Time {
	first := wake
	at := time.Time{}
	if !c.reset.IsZero() {
		at = c.in.ready(c.reset)
	}
	for _, t := range []time.Time{at, deadline} {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// resetAt lets a reset by the other end arrive. The first one counts.
func (c *Conn) resetAt(at time.Time) {
	if !c.reset.IsZero() {
		return
	}
	if at.Before(c.in.arrives) {
		at = c.in.arrives
	}
	c.reset = at
	c.in.notify()
	c.out.notify()
}

// breakOff is the arrival of a reset.
func (c *Conn) breakOff() {
	c.broken = true
	c.in.clear()
	c.out.clear()
}

func (c *Conn) closeWrite() {
	if !c.writeClosed && !c.broken {
		c.out.end(time.Now())
	}
	c.writeClosed = true
	c.out.notify()
}

func (c *Conn) close() {
	now := time.Now()
	c.closed = true
	delete(c.net.open, c)
	unread := c.in.clear()
	if c.peer.closed {
		delete(c.in.path.pipes, c.in)
		delete(c.out.path.pipes, c.out)
	}
	if unread && !c.broken {
		c.writeClosed = true
		c.peer.resetAt(now.Add(c.out.path.delay()))
		c.out.notify()
		return
	}
	c.closeWrite()
}

func (c *Conn) order() int { return c.number }

// between reports whether the connection is one of two hosts.
func (c *Conn) between(a, b string) bool {
	return c.hosts == route{a, b} || c.hosts == route{b, a}
}
