package batch

import (
	"runtime"
	"time"
)

const (
	// maxYields bounds how often the flusher yields for one batch.
	maxYields = 8
	// slowYield is how long a yield takes when more goroutines want to run than there are cores. A
	// thousand callers that only call take a few milliseconds.
	slowYield = 20 * time.Millisecond
	// slowRest is how many times the length of a slow yield the flusher goes without yielding, up
	// to maxRest.
	slowRest = 20
	maxRest  = 10 * time.Second
)

// restraint decides whether the flusher may yield. A yield lasts one turn of everything that is
// ready to run: next to nothing among callers that only call, and seconds if handlers compute. What
// is queued would then go out so late that the peer takes this node for dead. The lock of the
// Writer guards it.
type restraint struct {
	until time.Time // no yield before then
}

// spent records a yield that has just ended. It reports whether another may follow.
func (r *restraint) spent(took time.Duration, now time.Time) bool {
	if took <= slowYield {
		return true
	}
	if until := now.Add(min(slowRest*took, maxRest)); until.After(r.until) { // a shorter turn was luck
		r.until = until
	}
	return false
}

// Late records how long a turn of everything ready to run has taken elsewhere, so that the flusher
// need not find out itself: it would try again every 10 seconds, at the cost of a whole turn.
func (w *Writer) Late(turn time.Duration) { w.yielded(turn, time.Now()) }

// yielded is restraint.spent under the lock of the Writer.
func (w *Writer) yielded(took time.Duration, now time.Time) (more bool) {
	if took <= slowYield {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.restraint.spent(took, now)
}

// gather lets every goroutine that is ready to send get into the batch: it yields until the queue
// no longer grows. An urgent message, such as a pong, does not wait for others, and a piece of a
// large message takes long enough to write: what comes meanwhile is in the next batch. It returns how
// often it yielded.
func (w *Writer) gather() (yields int) {
	start := time.Now()
	queued, hurry, rest := w.gathered()
	if start.Before(rest) {
		return 0
	}
	for yields < maxYields {
		if hurry || yields > 0 && w.urgent.Load() { // those of High who are ready are in
			break
		}
		yields++
		runtime.Gosched()
		now := time.Now()
		if !w.yielded(now.Sub(start), now) {
			break
		}
		n, urgent, _ := w.gathered()
		if n == queued || n >= maxShared {
			break
		}
		queued, hurry, start = n, urgent, now
	}
	return yields
}

// gathered returns the bytes waiting to be written, whether some of them are urgent, and until when
// the flusher must not yield.
func (w *Writer) gathered() (queued int, hurry bool, rest time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hurry = len(w.control) > 0 || w.lanes[Normal].hurry || w.lanes[High].hurry || w.ready(Normal) || w.ready(High)
	return w.queued(), hurry, w.restraint.until
}
