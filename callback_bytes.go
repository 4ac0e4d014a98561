package grid

import (
	"runtime/debug"
	"sync"
	"time"
)

// byteTeller tells a callback of the application of bytes, from a goroutine that lives while there
// are any to tell of: readers and flushers only add up, and never wait for it. A nil one tells
// nobody.
type byteTeller struct {
	tell     func(n int64)
	panicked func(value any, stack []byte)

	mu     sync.Mutex // Protects following.
	untold int64
	told   chan struct{} // closed when all is told; nil while nothing is being told
}

// newByteTeller returns nil for a nil callback. Panics of the callback are given to panicked.
func newByteTeller(tell func(n int64), panicked func(value any, stack []byte)) *byteTeller {
	if tell == nil {
		return nil
	}
	return &byteTeller{tell: tell, panicked: panicked}
}

// add counts bytes that are to be told.
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

// run tells sums until there is nothing to tell.
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

// collect returns what is to be told. Where that is nothing the goroutine that asks is gone.
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

// flush waits until all is told, for so long: the callback may be stuck, or be who waits.
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
