package grid

import (
	"sync/atomic"
	"time"
)

// callClock tells calls when they begin, for the price of a load. It moves once per round of the
// janitor, and when somebody lists what is open. Its times are milliseconds since the session began,
// modulo 2^32.
type callClock struct {
	began time.Time     // of the session
	times atomic.Uint64 // when it last moved, in the lower half, and when before that
}

// clockStep is the least time between two moves of a callClock: looks that come together see the same
// ages.
const clockStep = 500 * time.Millisecond

// read returns the time to be given to callAges.of.
func (c *callClock) read() uint32 { return uint32(c.times.Load()) }

// move sets the clock.
func (c *callClock) move() {
	old := c.times.Load()
	now := uint32(time.Since(c.began) / time.Millisecond)
	if time.Duration(now-uint32(old))*time.Millisecond >= clockStep {
		c.times.CompareAndSwap(old, old<<32|uint64(now)) // else another has just moved it
	}
}

// ages returns what ages are told by.
func (c *callClock) ages() callAges {
	times := c.times.Load()
	return callAges{
		now:    uint32(time.Since(c.began) / time.Millisecond),
		moved:  uint32(times),
		before: uint32(times >> 32),
	}
}

// callAges are times of a callClock: now, when it last moved, and when it moved before that.
type callAges struct{ now, moved, before uint32 }

// of returns the age of a call that has read the time began. It is too small for a call that began
// since the clock moved before last, so that quick calls are not taken for waiting ones, and too large
// for others; both by no more than the time between two moves.
func (a callAges) of(began uint32) time.Duration {
	switch began {
	case a.moved:
		return 0
	case a.before:
		began = a.moved
	}
	return time.Duration(a.now-began) * time.Millisecond
}
