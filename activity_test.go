package grid

import (
	"runtime"
	"testing"
)

// A shutdown waits for those whom it counts. Whoever is let in has to be among them, however close
// the two come: they are let loose on each other many times.
func TestAShutdownCountsWhoeverIsLetIn(t *testing.T) {
	in := make(chan int64)
	for i := range 500 {
		a := newActivity()
		go func() {
			n := int64(0)
			for a.enter() {
				n++
			}
			in <- n
		}()
		for a.running.Load() == 0 {
			runtime.Gosched()
		}
		a.stop(&errShutdown)
		counted := a.running.Load()
		if n := <-in; n > counted {
			t.Fatalf("round %d: %d were let in, and the shutdown saw %d", i, n, counted)
		}
	}
}
