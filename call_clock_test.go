package grid

import (
	"testing"
	"testing/synctest"
	"time"
)

// Quick calls do not seem to wait, and those that wait are not much older than they seem, however often
// somebody looks.
func TestCallClock(t *testing.T) {
	for _, step := range []time.Duration{100 * time.Millisecond, clockStep, time.Second, 2500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			clock := callClock{began: time.Now()}
			clock.times.Store(1<<64 - 1) // as if it had moved just before
			clock.began = clock.began.Add(-(1<<32 - 1) * time.Millisecond)
			off := max(step, clockStep)
			began := make(map[time.Time]uint32)
			for range 40 {
				time.Sleep(step / 2)
				began[time.Now()] = clock.read()
				time.Sleep(step / 2)
				ages := clock.ages()
				for at, read := range began {
					age, got := time.Since(at), ages.of(read)
					if got < age-off || got > age+off || age < step && got != 0 {
						t.Errorf("with a look each %v, a call that began %v ago is %v old", step, age, got)
					}
				}
				clock.move()
				clock.move() // which must change nothing
			}
		})
	}
}
