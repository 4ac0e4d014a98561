package grid

import (
	"runtime"
	"time"

	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// minProgress is how many bytes of an unfinished message count as a sign of life. So a message may
// arrive as slowly as that many bytes per PeerTimeout, 3 KiB/s by default: no link in use is
// slower, and a byte now and then cannot make this node hold a message forever.
const minProgress = 64 << 10

// minBusy is the number of bytes of an unfinished message between two looks that keep a connection
// busy. Fewer may be a small message that a look has caught on its way.
const minBusy = 1 << 10

// liveness tells a slow peer from one that is gone. Once per round of the janitor, it looks at what
// the reader and the flusher count anyway.
type liveness struct {
	heard time.Time // the last sign of life

	whole, bytes uint64 // received by then
	seen         uint64 // bytes received at the last look
	flushes      uint64 // at the last look

	looked time.Time // time of the last look
}

// start records what was received before the session. The reader calls it.
func (p *liveness) start(now time.Time, in *wsframe.Reader) {
	p.heard, p.looked = now, now
	p.whole, p.bytes = in.Received()
	p.seen = p.bytes
}

// check looks at the connection.
func (p *liveness) check(late, tick time.Duration, in *wsframe.Reader, out *batch.Writer) look {
	l := look{now: time.Now(), late: late}
	l.missed = max(l.now.Sub(p.looked)-2*tick, 0)
	p.looked = l.now
	whole, bytes := in.Received()
	flushes, writing := out.Flushes()
	l.busy = whole == p.whole && bytes-p.seen >= minBusy || writing && flushes == p.flushes
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
	// busy is set if, since the last look, the connection has carried nothing but a single large
	// message in either direction: nothing else gets through then, through no stream's fault.
	busy bool
	// missed is the part of the time since the last look that says nothing about the peer, because
	// this process did not run.
	missed time.Duration
	// late is how long anything that is ready to run, the reader included, has to wait for its
	// turn.
	late time.Duration
}

// silence returns how much of d, a time without input, to blame on the peer. Twice our own delay is
// taken off: once for our question, once for its answer.
func (l *look) silence(d time.Duration) time.Duration { return d - 2*l.late }

// rounds returns how many rounds of the janitor to count for this look. After a standstill of any
// length it returns two, because what arrived meanwhile is still to be read.
func (l *look) rounds() uint32 {
	if l.missed > 0 {
		return 2
	}
	return 1
}

// turn yields to everything that is ready to run, and returns how long that took.
func turn() time.Duration {
	start := time.Now()
	runtime.Gosched()
	return time.Since(start)
}

// lateTurn is the length of a turn from which this node counts as overloaded.
const lateTurn = 20 * time.Millisecond

// unhurried returns limit, extended by four turns (at most maxUnhurried) while this node is
// overloaded.
func unhurried(limit time.Duration) time.Duration {
	late := turn()
	if late < lateTurn {
		return limit
	}
	return limit + min(4*late, maxUnhurried)
}

// maxUnhurried bounds what unhurried adds.
const maxUnhurried = 30 * time.Second
