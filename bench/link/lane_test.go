package link

import (
	"testing"
	"time"
)

func TestLane(t *testing.T) {
	const trip = 20 * time.Millisecond
	l := newLane(Spec{Rate: 8e6, RoundTrip: trip}) // a byte in a microsecond
	start := time.Now()
	passed, last := 0, time.Time{}
	for range 100 {
		if due, ok := l.pass(start, 1000); ok {
			passed, last = passed+1, due
		}
	}
	// Those of a round trip wait, and one more is on its way already.
	if passed != 21 {
		t.Errorf("%d of 100 frames have passed, want 21: the queue is full", passed)
	}
	if want := start.Add(21*time.Millisecond + trip/2); !last.Equal(want) {
		t.Errorf("the last arrives after %v, want %v", last.Sub(start), want.Sub(start))
	}
	later := start.Add(time.Second)
	if due, ok := l.pass(later, 1000); !ok || !due.Equal(later.Add(time.Millisecond+trip/2)) {
		t.Errorf("after a pause, one arrives after %v, %v", due.Sub(later), ok)
	}
}

// TestLaneLoses has half of the frames lost: that 700 of 1,000 pass does not happen.
func TestLaneLoses(t *testing.T) {
	l := newLane(Spec{Loss: 0.5})
	passed := 0
	for range 1000 {
		if _, ok := l.pass(time.Now(), 1000); ok {
			passed++
		}
	}
	if passed < 300 || passed > 700 {
		t.Errorf("%d of 1,000 frames have passed, want half of them", passed)
	}
}
