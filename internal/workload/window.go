package workload

import (
	"fmt"
	"sync/atomic"
)

// window is a bit for each of the last calls: whether its handler has run. A call that was
// forgotten when it ended can still be found to run again.
type window struct {
	bits []atomic.Uint64
	last atomic.Uint64 // the number of the last call
}

// windowSize is how many calls the window goes back. It takes 512 KiB.
const windowSize = 1 << 22

func newWindow() *window { return &window{bits: make([]atomic.Uint64, windowSize/64)} }

// next returns the number of a new call, which has not run.
func (w *window) next() uint64 {
	id := w.last.Add(1)
	word, bit := w.at(id)
	word.And(^bit)
	return id
}

// run takes note that the handler of a call runs, and says what is wrong with that.
func (w *window) run(id uint64) error {
	switch last := w.last.Load(); {
	case id == 0 || id > last:
		return fmt.Errorf("the handler runs for call %d, which nobody has made", id)
	case last-id >= windowSize/2:
		return fmt.Errorf("the handler of call %d runs %d calls later", id, last-id)
	}
	word, bit := w.at(id)
	if word.Or(bit)&bit != 0 {
		return fmt.Errorf("the handler of call %d runs again", id)
	}
	return nil
}

func (w *window) at(id uint64) (word *atomic.Uint64, bit uint64) {
	id %= windowSize
	return &w.bits[id/64], 1 << (id % 64)
}
