package link

import (
	"math/rand/v2"
	"time"
)

// lane is one direction of a cable: a rate, a queue before it, a delay behind it, and loss.
type lane struct {
	perByte float64 // nanoseconds
	delay   time.Duration
	longest time.Duration // that a frame may wait for those before it
	loss    float64

	free time.Time // when all frames so far have passed
}

// shortQueue is how long a frame may have to wait for those before it, at least; else as long as a
// round trip.
const shortQueue = 5 * time.Millisecond

func newLane(s Spec) *lane {
	l := &lane{delay: s.RoundTrip / 2, longest: max(shortQueue, s.RoundTrip), loss: s.Loss}
	if s.Rate > 0 {
		l.perByte = 8e9 / s.Rate
	}
	return l
}

// pass returns when a frame of n bytes that is sent now arrives, if it does.
func (l *lane) pass(now time.Time, n int) (due time.Time, ok bool) {
	if l.free.Before(now) {
		l.free = now
	}
	if l.free.Sub(now) > l.longest || l.loss > 0 && rand.Float64() < l.loss {
		return due, false
	}
	l.free = l.free.Add(time.Duration(float64(n) * l.perByte))
	return l.free.Add(l.delay), true
}
