package batch

import "time"

// Sizes in bytes.
const (
	minWindow = 64 << 10
	maxWindow = 16 << 20
	// minPiece is the least that a piece carries, but for a message that is shorter.
	minPiece = 8 << 10
)

const (
	// gain is how much faster bytes must arrive with twice the window for that to be kept. It is
	// queuedGain if they take more than twice the shortest round trip, and queued: then they wait
	// somewhere, and a window that is too small would be worth almost twice the rate.
	gain       = 1.1
	queuedGain = 1.5
	queued     = 3 * time.Millisecond
	// loss is how much of the rate half a window must reach to be enough.
	loss = 0.9
	// short is how long a small message may wait behind others. A window that holds no more than comes
	// within that time is too small: it saves nothing, and has both ends wait for each other.
	short = 400 * time.Microsecond
	// leastMeasured is the least time over which a rate is measured. Within less, what is slow on
	// the way lets through what it likes.
	leastMeasured = 50 * time.Millisecond
	// probeSoon and probeLater bound the time until a window is tried that was not good enough
	// before. It doubles each time.
	probeSoon  = 500 * time.Millisecond
	probeLater = 10 * time.Second
)

// window bounds the bytes of large messages that are on their way: sent, and not acknowledged by
// the reader at the other end. Whatever is on its way stands in queues, of both kernels, of the
// network, and of proxies. A small message has to pass through all of them, so they are to be as
// short as the rate allows.
//
// The window looks for its size itself. It doubles as long as bytes arrive faster for it, and goes
// back if they do not. After a while it tries half of its size, and twice. The rate decides: when a
// busy process acknowledges late, a larger window helps too, and costs nothing. The round trip only
// says how much must be gained. Rates are taken over round trips that the window limited from
// beginning to end, as bytes arrive in bursts, and messages have an end: from one piece's
// acknowledgment to that of a piece sent thereupon.
type window struct {
	size     int   // 0 stands for minWindow
	inFlight int   // bytes
	sent     int64 // bytes, since the beginning
	lifted   bool  // nothing is acknowledged anymore, nor counted

	phase phase
	rate  float64       // bytes a second, with the size that was the best so far
	fresh bool          // the size is new, and no round trip has ended since
	next  time.Time     // when to try another size
	rest  time.Duration // until then, from when the size was settled on

	probe    probe
	shortest time.Duration // that a probe ever took; 0 for none
	since    time.Time     // when the last one came back, if there was more to send ever since; else zero
	mark     int64         // bytes acknowledged by then
	limited  bool          // the window was full since then

	measured int           // bytes acknowledged in round trips that the window limited
	took     time.Duration // those took
	trips    int           // so many they are
}

// probe is a piece on its way there, whose acknowledgment ends a round trip.
type probe struct {
	end int64 // window.sent after the piece; 0 for none on its way
	at  time.Time
}

// phase says what the present size is.
type phase uint8

const (
	growing phase = iota // twice the best, or the first
	settled              // the best
	halved               // half of the best
	doubled              // twice the best, tried once more
)

func (f *window) limit() int { return max(f.size, minWindow) }

// open reports whether another piece, which is there, may be sent.
func (f *window) open() bool {
	if f.lifted || f.inFlight < f.limit() {
		return true
	}
	f.limited = true
	return false
}

// piece returns the most bytes that a piece is to carry: a quarter of the window, so that the other
// end acknowledges several times for each.
func (f *window) piece() int { return min(max(f.limit()/4, minPiece), maxPiece) }

// most returns the most bytes that the last piece of a message carries. There is to be no small rest,
// which would wait for the window. And a message that comes in one piece need not be put together at
// the other end, which costs a copy.
func (f *window) most() int { return min(max(f.piece()+minPiece, f.limit()/2), maxPiece) }

// send records a piece of n bytes.
func (f *window) send(n int, now time.Time) {
	f.inFlight += n
	f.sent += int64(n)
	if f.probe.end == 0 {
		f.probe = probe{end: f.sent, at: now}
	}
}

// acknowledge records that n bytes have arrived. more reports whether there is more to send. It
// returns false if not so many bytes were on their way.
func (f *window) acknowledge(n int, more bool, now time.Time) bool {
	if n > f.inFlight {
		return false
	}
	f.inFlight -= n
	acked := f.sent - int64(f.inFlight)
	if p := f.probe; p.end != 0 && acked >= p.end {
		f.probe = probe{}
		if trip := now.Sub(p.at); f.shortest == 0 || trip < f.shortest {
			f.shortest = trip
		}
		if !f.since.IsZero() && f.limited {
			f.round(int(acked-f.mark), now.Sub(f.since), now)
		}
		f.since, f.mark, f.limited = now, acked, false
	}
	if !more { // from now on something else than the window limits the rate
		f.since = time.Time{}
	}
	return true
}

// round takes a round trip in which n bytes have arrived, and that the window limited.
func (f *window) round(n int, took time.Duration, now time.Time) {
	if f.fresh { // TCP's own window may have to grow behind this one
		f.fresh = false
		return
	}
	f.measured += n
	f.took += took
	f.trips++
	if f.took >= leastMeasured {
		f.adapt(float64(f.measured)/f.took.Seconds(), f.took/time.Duration(f.trips), now)
		f.measured, f.took, f.trips = 0, 0, 0
	}
}

// adapt chooses the size of the window after bytes have arrived at a rate, each trip of which took
// so long.
func (f *window) adapt(rate float64, trip time.Duration, now time.Time) {
	soon := int(rate * short.Seconds())
	if f.limit() <= soon && f.phase != halved {
		f.rate = rate
		f.resize(2*f.limit(), growing, now)
		return
	}
	least := gain * f.rate
	if trip > 2*f.shortest+queued {
		least = queuedGain * f.rate
	}
	switch f.phase {
	case growing, doubled:
		if rate >= least {
			f.rate = rate
			f.resize(2*f.limit(), growing, now)
			return
		}
		f.resize(f.limit()/2, settled, now)
	case halved:
		if rate >= loss*f.rate {
			f.rate = rate
			f.resize(f.limit()/2, halved, now)
			return
		}
		f.resize(4*f.limit(), doubled, now)
	case settled:
		f.rate = rate
		switch {
		case now.Before(f.next):
		case f.limit() == minWindow, f.limit()/2 <= soon:
			f.resize(2*f.limit(), doubled, now)
		default:
			f.resize(f.limit()/2, halved, now)
		}
	}
}

// resize sets the size, unless it is out of bounds: then the present one is settled on.
func (f *window) resize(size int, next phase, now time.Time) {
	if size < minWindow || size > maxWindow {
		size, next = f.limit(), settled
	}
	switch next {
	case settled:
		f.rest = min(max(2*f.rest, probeSoon), probeLater)
		f.next = now.Add(f.rest)
	case growing, f.phase: // the last step was a good one
		f.rest = 0
	}
	f.fresh = true
	f.size, f.phase = size, next
}
