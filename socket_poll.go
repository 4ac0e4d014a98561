package grid

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// fewCalls is how many calls and streams a connection may have open for its reader to poll.
	// With more of them frames come in quick succession anyway, and they need the time themselves.
	fewCalls = 4
	// maxPollRest is how many occasions to poll a reader lets pass at most.
	maxPollRest = 63
	// maxPolled is how long polls may follow each other. Then the reader waits once: in a process
	// that runs on one thread, other sockets are looked at only when nothing is ready to run.
	maxPolled = time.Millisecond
)

// polling is set while a reader of this process polls. A second one would take the time from those
// whom the first one waits for.
var polling atomic.Bool

// poller reads from a socket, for the reader of a session. When more is expected it polls before it
// waits: for some time it yields, looks whether something has come, and starts over. Nothing has to
// wake it then, which can take longer than a whole call.
//
// After a poll in vain it lets one occasion pass, after the next one three, and so on.
type poller struct {
	net.Conn
	limit time.Duration // of a poll
	open  *activity     // of the Connection

	// One of the two is set.
	readNow  func(b []byte) (int, error) // see there
	readable func() bool                 // of the socket below TLS; see there

	// The reader's alone.
	expects bool
	rest    int       // occasions to let pass
	pause   int       // rest after the last poll, if that was in vain
	since   time.Time // when the first of the polls began that have followed each other

	found, missed atomic.Int64 // polls
}

// newPoller returns a poller of a socket, or nil if that cannot be polled.
func newPoller(socket net.Conn, limit time.Duration, open *activity) *poller {
	p := &poller{Conn: socket, limit: limit, open: open}
	if secure, ok := socket.(*tls.Conn); ok {
		p.readable = readable(secure.NetConn())
	} else {
		p.readNow = readNow(socket)
	}
	if p.readNow == nil && p.readable == nil {
		return nil
	}
	return p
}

// Read is part of net.Conn.
func (p *poller) Read(b []byte) (int, error) {
	if p.due() {
		n, err := p.poll(b)
		polling.Store(false)
		if n > 0 || err != nil {
			return n, err
		}
	}
	return p.Conn.Read(b)
}

// due reports whether to poll now. If so, it has set polling.
func (p *poller) due() bool {
	if !p.expects {
		return false
	}
	p.expects = false
	if p.rest > 0 {
		p.rest--
		return false
	}
	if p.open.count() > fewCalls {
		p.rest = maxPollRest
		return false
	}
	return polling.CompareAndSwap(false, true)
}

// poll polls until it has read something or a read need not wait, for at most the limit.
func (p *poller) poll(b []byte) (int, error) {
	if p.readable != nil {
		if n, err := p.readHeld(b); n > 0 || err != nil {
			return n, err
		}
	}
	start := time.Now()
	if p.since.IsZero() {
		p.since = start
	}
	if start.Sub(p.since) > maxPolled {
		p.since = time.Time{}
		return 0, nil
	}
	for time.Since(start) < p.limit && p.open.count() <= fewCalls {
		runtime.Gosched()
		if n, found, err := p.look(b); found {
			p.pause = 0
			p.found.Add(1)
			return n, err
		}
	}
	p.since = time.Time{}
	p.pause = min(2*p.pause+1, maxPollRest)
	p.rest = p.pause
	p.missed.Add(1)
	return 0, nil
}

// look reports whether something is there. Without TLS it reads it, too.
func (p *poller) look(b []byte) (n int, found bool, err error) {
	if p.readable != nil {
		return 0, p.readable(), nil
	}
	n, err = p.readNow(b)
	return n, n > 0 || err != nil, err
}

// longAgo is a deadline that makes reads fail instead of waiting.
var longAgo = time.Unix(1, 0)

// readHeld reads what TLS has taken from the socket and not returned yet: nothing that can be seen
// there. No other deadline for reads may be set.
func (p *poller) readHeld(b []byte) (int, error) {
	if err := p.SetReadDeadline(longAgo); err != nil {
		return 0, err
	}
	n, err := p.Conn.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, errors.Join(err, p.SetReadDeadline(time.Time{}))
}
