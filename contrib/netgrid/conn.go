package netgrid

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/gridmesh/grid"
)

// Sizes in bytes.
const (
	// messageSize is how much a message carries at most: the buffer of a frame of 256 KiB, the largest
	// that the grid sends, is then also that of the message.
	messageSize = 256<<10 - 256
	// firstRead is how much is read at once at first, by what reads until there is no more. While that
	// fills the buffer, it grows up to messageSize.
	firstRead = 32 << 10
)

// Conn is a connection over a stream of a grid. It is a net.Conn that can be closed for writing
// alone, as TCP's connections can. All methods may be called at the same time.
//
// Errors other than io.EOF are *net.OpError, with both addresses. Errors of the grid, such as
// grid.ErrDisconnected if the connection between the nodes is lost, can be told with errors.Is.
type Conn struct {
	stream        stream
	local, remote Addr
	leave         func() // ends the stream once what was written has arrived, without waiting for that

	in     half
	unread []byte // of the message in buffer; guarded by the turn of in
	buffer []byte // of the pool, nil for none
	ended  error  // what the other end has ended with, io.EOF or an error

	out    half
	halved bool // nothing more is sent; guarded by the turn of out

	closeOnce sync.Once
}

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
)

func newConn(s stream, local, remote Addr) *Conn {
	c := &Conn{stream: s, local: local, remote: remote}
	c.in.init()
	c.out.init()
	return c
}

// Read reads at least one byte, unless b is empty. It returns io.EOF once the other end has closed
// its half, or all, and everything before that is read.
func (c *Conn) Read(b []byte) (n int, err error) {
	p, err := c.in.take()
	if err != nil {
		return 0, c.failed("read", err)
	}
	defer c.in.give()
	if len(b) == 0 {
		return 0, nil
	}
	if err := c.fetch(p); err != nil {
		return 0, c.failed("read", err)
	}
	n = copy(b, c.unread)
	c.consume(n)
	return n, nil
}

// WriteTo writes to w what the other end sends, until that is all. It passes on messages as they
// come, in place of copying them. It is used by io.Copy.
func (c *Conn) WriteTo(w io.Writer) (total int64, err error) {
	p, err := c.in.take()
	if err != nil {
		return 0, c.failed("read", err)
	}
	defer c.in.give()
	for {
		err := c.fetch(p)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, c.failed("read", err)
		}
		n, err := writeAll(w, c.unread)
		c.consume(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// fetch sees to it that there is something unread. It is the caller's turn.
func (c *Conn) fetch(p *patience) error {
	for len(c.unread) == 0 {
		if c.ended != nil {
			return c.ended
		}
		if err := p.Err(); err != nil { // which recv sees only where it has to wait
			return err
		}
		b, err := c.stream.recv(p)
		if err != nil {
			if !gaveUp(err) {
				c.ended = err
			}
			return err
		}
		c.buffer, c.unread = b, b
		if len(b) == 0 {
			c.consume(0)
		}
	}
	return nil
}

// consume takes n bytes off what is unread.
func (c *Conn) consume(n int) {
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		grid.PutByteBuffer(c.buffer)
		c.buffer, c.unread = nil, nil
	}
}

// Write writes all of b, unless there is an error. Then n bytes have been written; what was
// written may still not reach the other end.
func (c *Conn) Write(b []byte) (n int, err error) {
	p, err := c.beginWrite()
	if err != nil {
		return 0, c.failed("write", err)
	}
	defer c.out.give()
	for n < len(b) {
		part := b[n:min(n+messageSize, len(b))]
		err := p.Err() // which send sees only where it has to wait
		if err == nil {
			err = c.stream.send(p, part)
		}
		if err != nil {
			return n, c.failed("write", err)
		}
		n += len(part)
	}
	return n, nil
}

// beginWrite waits for the turn to write.
func (c *Conn) beginWrite() (*patience, error) {
	p, err := c.out.take()
	if err == nil && c.halved {
		c.out.give()
		err = syscall.EPIPE
	}
	return p, err
}

// ReadFrom writes what r has, until that returns io.EOF. It is used by io.Copy. What is read at
// once is written at once.
func (c *Conn) ReadFrom(r io.Reader) (total int64, err error) {
	buf := newReadBuffer()
	defer func() { grid.PutByteBuffer(buf) }()
	for empty := 0; ; {
		n, readErr := r.Read(buf)
		if n < 0 || n > len(buf) {
			return total, errors.New("netgrid: invalid count of a Read")
		}
		if n > 0 {
			empty = 0
			written, err := c.Write(buf[:n])
			total += int64(written)
			if err != nil {
				return total, err
			}
			if n == len(buf) {
				buf = grown(buf)
			}
		} else if empty++; empty == maxEmptyReads && readErr == nil {
			readErr = io.ErrNoProgress
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
}

// newReadBuffer returns a buffer of the pool to read into.
func newReadBuffer() []byte { return grid.GetByteBufferCap(firstRead)[:firstRead] }

// grown returns a larger buffer in place of one that a read has filled.
func grown(buf []byte) []byte {
	if len(buf) == messageSize {
		return buf
	}
	size := min(2*len(buf), messageSize)
	grid.PutByteBuffer(buf)
	return grid.GetByteBufferCap(size)[:size]
}

// maxEmptyReads is how many reads in a row may bring neither bytes nor an error.
const maxEmptyReads = 100

// CloseWrite tells the other end that nothing more is written: once it has read what was, it gets
// io.EOF. Reading goes on. A deadline that has passed does not matter, as with TCP. A write that
// runs is waited for.
func (c *Conn) CloseWrite() error {
	if _, err := c.out.takeWithin(c.out.life); err != nil {
		return c.failed("close", err)
	}
	defer c.out.give()
	if c.halved {
		return nil
	}
	c.halved = true
	return c.failed("close", c.stream.closeSend())
}

// Close closes both halves. Waiting reads and writes return net.ErrClosed. The other end gets what
// was written before, and then io.EOF; what it writes from then on fails.
//
// If this end has dialed, and there was or will be something for it to read, the Conn is reset, as
// TCP does it: the other end loses what it has not read yet. To be sure of what it has written, an
// end that dialed reads up to io.EOF first.
//
// Close does not wait for the other end. It can be called again.
func (c *Conn) Close() error {
	c.closeOnce.Do(func() {
		c.in.close()
		c.out.close()
		<-c.out.turn // for good; a write that waits has given up
		c.leave()
	})
	return nil
}

// abandon discards what is unread, once nobody reads anymore. It takes the turn for good.
func (c *Conn) abandon() {
	<-c.in.turn
	c.consume(len(c.unread))
}

// LocalAddr returns an Addr with the name of this node and its address of the grid's connection.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns an Addr with the name of the other node and its address of the grid's
// connection.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline does SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.failed("set", cmp.Or(c.in.setDeadline(t), c.out.setDeadline(t)))
}

// SetReadDeadline ends reads that wait at t with os.ErrDeadlineExceeded, and later ones at once. A
// zero t means never. It can be moved at any time, also to let reads go on.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.failed("set", c.in.setDeadline(t))
}

// SetWriteDeadline does the same for writes. A write that it ends may have written some.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.failed("set", c.out.setDeadline(t))
}

// failed names the operation and the addresses in an error.
func (c *Conn) failed(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: c.local.Network(), Source: c.local, Addr: c.remote, Err: err}
}
