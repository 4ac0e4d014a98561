package grid

import (
	"runtime/debug"
	"sync"
	"time"
)

// byteTeller reports byte counts to a callback of the application, on a goroutine that lives while
// there are any to report: readers and flushers only add them up, and never wait for the callback.
// A nil byteTeller reports nothing.
type byteTeller struct {
	tell     func(n int64)
	panicked func(value any, stack []byte)

	mu     sync.Mutex // Protects following.
	untold int64
	told   chan struct{} // closed once all is told; nil while idle
}

// newByteTeller returns nil for a nil callback. Panics of the callback go to panicked.
func newByteTeller(tell func(n int64), panicked func(value any, stack []byte)) *byteTeller {
	if tell == nil {
		return nil
	}
	return &byteTeller{tell: tell, panicked: panicked}
}

// add counts bytes to report.
func (b *byteTeller) add(n int64) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.untold += n
	if b.told == nil {
		b.told = make(chan struct{})
		go b.run()
	}
}

// run reports sums until nothing is left.
func (b *byteTeller) run() {
	for n := b.collect(); n != 0; n = b.collect() {
		guarded(func() { b.tell(n) }, func(how endedBy, value any) {
			switch how {
			case panicked:
				b.panicked(value, debug.Stack())
			case exited:
				go b.run()
			}
		})
	}
}

// collect returns the bytes to report. If there are none, the goroutine that runs the callback is
// gone.
func (b *byteTeller) collect() (n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, b.untold = b.untold, 0
	if n == 0 {
		close(b.told)
		b.told = nil
	}
	return n
}

// flush waits until all is told, at most for patience: the callback may be stuck, or may itself be
// the one waiting.
func (b *byteTeller) flush(patience time.Duration) {
	if b == nil {
		return
	}
	b.mu.Lock()
	told := b.told
	b.mu.Unlock()
	if told == nil {
		return
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-told:
	case <-late.C:
	}
}
