package grid

import (
	"runtime"
	"time"

	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// minProgress is the number of bytes of an unfinished message that are a sign
// of life. So a message may come in as slowly as that many bytes in each
// PeerTimeout, 3 KiB/s with the default: no link in use is slower, and nobody
// can make this node hold a message forever with a byte now and then.
const minProgress = 64 << 10

// liveness tells a peer that is slow from one that is gone. It looks at what the
// reader and the flusher count anyway, once in each round of the janitor.
type liveness struct {
	heard time.Time // the last sign of life

	whole, bytes uint64 // received at that time
	seen         uint64 // bytes received at the last look
	flushes      uint64 // at the last look

	looked time.Time // when the last look was
}

// start takes note of what was received before the session. The reader calls it.
func (p *liveness) start(now time.Time, in *wsframe.Reader) {
	p.heard, p.looked = now, now
	p.whole, p.bytes = in.Received()
	p.seen = p.bytes
}

// check takes a look at the connection.
func (p *liveness) check(late, tick time.Duration, in *wsframe.Reader, out *batch.Writer) look {
	l := look{now: time.Now(), late: late}
	l.missed = max(l.now.Sub(p.looked)-2*tick, 0)
	p.looked = l.now
	whole, bytes := in.Received()
	flushes, writing := out.Flushes()
	l.busy = whole == p.whole && bytes != p.seen || writing && flushes == p.flushes
	p.seen, p.flushes = bytes, flushes
	if whole != p.whole || bytes-p.bytes >= minProgress {
		p.heard, p.whole, p.bytes = l.now, whole, bytes
	} else {
		p.heard = p.heard.Add(l.missed)
	}
	l.silent = l.silence(l.now.Sub(p.heard))
	return l
}

// look is what a session sees in one round of the janitor.
type look struct {
	now time.Time
	// silent is how long the peer has been silent.
	silent time.Duration
	// busy is set where the connection has carried nothing but a single large message since the
	// last look, in either direction: then nothing else gets through, which is no stream's fault.
	busy bool
	// missed is the time since the last look that says nothing of the peer, as this process did not
	// run.
	missed time.Duration
	// late is how long something that is ready to run has to wait for its turn, the reader too.
	late time.Duration
}

// silence is how much of a time in which nothing was heard is the peer's: what has come may wait
// for its turn here, and so may have what it answers.
func (l *look) silence(d time.Duration) time.Duration { return d - 2*l.late }

// rounds is how many rounds of the janitor of a time each passed between two looks. What stands
// still for long counts as two: what has come meanwhile is still to be read.
func (l *look) rounds() uint32 {
	if l.missed > 0 {
		return 2
	}
	return 1
}

// turn gives way to all that is ready to run, and returns how long that took.
func turn() time.Duration {
	start := time.Now()
	runtime.Gosched()
	return time.Since(start)
}

// lateTurn is how long a turn takes on a node that is late itself.
const lateTurn = 20 * time.Millisecond

// unhurried is a time that a peer has for something that takes this node a few turns: longer where
// these take long. Who makes this node busy cannot make it wait for much longer.
func unhurried(limit time.Duration) time.Duration {
	late := turn()
	if late < lateTurn {
		return limit
	}
	return limit + min(4*late, maxUnhurried)
}

// maxUnhurried bounds what unhurried adds.
const maxUnhurried = 30 * time.Second
