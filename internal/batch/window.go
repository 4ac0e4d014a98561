package batch

import "time"

// Sizes in bytes.
const (
	minWindow = 64 << 10
	maxWindow = 16 << 20
	// minPiece is the least that a piece carries, but for the last of a message.
	minPiece = 8 << 10
)

const (
	// gain is how much faster bytes must arrive with twice the window for that to be kept.
	gain = 1.1
	// loss is how much of the rate half a window must reach to be enough.
	loss = 0.95
	// leastMeasured is the least time over which a rate is measured. Within less, what is slow on
	// the way lets through what it likes.
	leastMeasured = 20 * time.Millisecond
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
// The window looks for its size itself. It doubles as long as bytes arrive faster for it, which
// takes a round trip each time, and goes back if they do not. After a while it tries half of its
// size, and twice. Only the rate counts, not the round trip: when a busy process acknowledges late,
// a larger window helps too, and costs nothing.
type window struct {
	size     int   // 0 stands for minWindow
	inFlight int   // bytes
	sent     int64 // bytes, since the beginning
	lifted   bool  // nothing is acknowledged anymore, nor counted

	phase phase
	rate  float64       // bytes a second, with the size that was the best so far
	next  time.Time     // when to try another size
	rest  time.Duration // until then, from when the size was settled on

	// What is being measured.
	since    time.Time // zero for nothing
	measured int       // bytes acknowledged
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

// open reports whether another piece may be sent.
func (f *window) open() bool { return f.lifted || f.inFlight < f.limit() }

// piece returns the most bytes that a piece is to carry: a quarter of the window, so that the other
// end acknowledges several times for each.
func (f *window) piece() int { return min(max(f.limit()/4, minPiece), maxPiece) }

// send records a piece of n bytes.
func (f *window) send(n int) {
	f.inFlight += n
	f.sent += int64(n)
}

// acknowledge records that n bytes have arrived. It returns false if there were not so many.
func (f *window) acknowledge(n int, now time.Time) bool {
	if n > f.inFlight {
		return false
	}
	full := f.inFlight+f.piece() > f.limit()
	f.inFlight -= n
	if !full { // something else than the window limits the rate
		f.since = time.Time{}
		return true
	}
	if f.since.IsZero() {
		f.since, f.measured = now, 0
		return true
	}
	f.measured += n
	if took := now.Sub(f.since); f.measured >= f.span() && took >= leastMeasured {
		f.adapt(float64(f.measured)/max(took, time.Microsecond).Seconds(), now)
		f.since, f.measured = now, 0
	}
	return true
}

// span returns over how many bytes a rate is measured.
func (f *window) span() int {
	if f.phase == growing {
		return f.limit()
	}
	return 4 * f.limit()
}

// adapt chooses the size of the window after bytes have arrived at a rate.
func (f *window) adapt(rate float64, now time.Time) {
	switch f.phase {
	case growing, doubled:
		if rate >= gain*f.rate {
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
		case f.limit() == minWindow:
			f.resize(2*minWindow, doubled, now)
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
	switch {
	case next == settled:
		f.rest = min(max(2*f.rest, probeSoon), probeLater)
		f.next = now.Add(f.rest)
	case next == growing, next == f.phase: // the last step was a good one
		f.rest = 0
	}
	f.size, f.phase = size, next
}
