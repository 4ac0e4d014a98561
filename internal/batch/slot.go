package batch

import (
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
)

// Slot is the place of one message in the queue of a Writer. The queue is locked from Begin until
// Commit, Abort or Detach.
type Slot struct {
	w        *Writer
	reserved bool // from BeginNow: the message counts in the reserve
}

// Open returns the buffer to append a message of exactly size bytes to. It has room for them.
func (s Slot) Open(size int) []byte {
	w := s.w
	w.grow(headroom+mpack.BinHeaderSize(size)+size, min(w.usual, w.cfg.Limit))
	return w.open(size, w.cfg.MaxShared)
}

// Commit takes the buffer of Open with the message appended, and unlocks the queue.
func (s Slot) Commit(buf []byte) {
	w := s.w
	if s.reserved {
		w.reserved += len(buf) - w.frames[len(w.frames)-1].end
		w.answers.Store(int64(w.reserved))
	}
	w.commit(buf)
	w.signalAndUnlock()
}

// Abort unlocks the queue without a message, in place of Open and Commit.
func (s Slot) Abort() { s.w.mu.Unlock() }

// Hurry sends the message without waiting for others to join it.
func (s Slot) Hurry() { s.w.hurry = true }

// Detach may replace Open if a message need not keep its place among the others. For a large one it
// unlocks the queue, so that nobody waits while the message is encoded, and returns a separate
// buffer to append exactly size bytes to, for Attach. The message counts as queued from then on.
// For smaller ones, and after BeginNow, it returns false and the queue stays locked.
func (s Slot) Detach(size int) (buf []byte, ok bool) {
	if size < s.w.cfg.Large || s.reserved {
		return nil, false
	}
	s.w.apart += size
	s.w.mu.Unlock()
	return bytepool.Get(headroom + size)[:headroom], true
}

// Attach queues the buffer of Detach with the message appended. It takes the lock itself.
func (s Slot) Attach(buf []byte) {
	w := s.w
	w.mu.Lock()
	w.apart -= len(buf) - headroom
	w.attach(buf)
	w.signalAndUnlock()
}
