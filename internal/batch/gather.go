package batch

import (
	"runtime"
	"time"
)

const (
	// maxYields bounds how often the flusher yields for one batch.
	maxYields = 8
	// slowYield is how long a yield takes where more goroutines want to run than there are cores
	// for. A thousand callers that only call take some milliseconds.
	slowYield = 20 * time.Millisecond
	// slowRest is how many times as long as a slow yield took the flusher goes without, up to
	// maxRest.
	slowRest = 20
	maxRest  = 10 * time.Second
)

// restraint decides whether the flusher may yield. A yield is a turn of all that is ready to run:
// next to nothing among callers that only call, and seconds where handlers compute. Then what is
// queued would come so late that the peer takes this node for dead. The lock of the Writer guards
// it.
type restraint struct {
	until time.Time // no yield before
}

// spent takes note of a yield that has ended now. It reports whether another one may follow.
func (r *restraint) spent(took time.Duration, now time.Time) bool {
	if took <= slowYield {
		return true
	}
	if until := now.Add(min(slowRest*took, maxRest)); until.After(r.until) { // a shorter turn was luck
		r.until = until
	}
	return false
}

// Late takes note of how long a turn of all that is ready to run has taken elsewhere, so that the
// flusher need not find it out: it would try again every 10 seconds, at the cost of a whole turn.
func (w *Writer) Late(turn time.Duration) { w.yielded(turn, time.Now()) }

// yielded is restraint.spent with the lock.
func (w *Writer) yielded(took time.Duration, now time.Time) (more bool) {
	if took <= slowYield {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.restraint.spent(took, now)
}

// gather lets everybody who is ready to send get into the batch: it yields until the queue no
// longer grows. What cannot wait, such as a pong, does not wait for others.
func (w *Writer) gather() {
	start := time.Now()
	queued, hurry, rest := w.gathered()
	if start.Before(rest) {
		return
	}
	for range maxYields {
		if hurry {
			return
		}
		runtime.Gosched()
		now := time.Now()
		if !w.yielded(now.Sub(start), now) {
			return
		}
		n, urgent, _ := w.gathered()
		if n == queued || n >= maxShared {
			return
		}
		queued, hurry, start = n, urgent, now
	}
}

// gathered returns the bytes that wait to be written, whether some of them cannot wait for others,
// and until when the flusher does not yield.
func (w *Writer) gathered() (queued int, hurry bool, rest time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued(), len(w.control) > 0 || w.hurry, w.restraint.until
}
