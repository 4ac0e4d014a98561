package batch

import (
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
)

// Slot is the place of one message in the queue of a Writer. The queue is locked from Begin until
// Commit, Abort or Detach.
type Slot struct {
	w        *Writer
	in       Lane
	reserved bool // from BeginNow: the message counts in the reserve
}

func (s Slot) lane() *lane { return &s.w.lanes[s.in] }

// Open returns the buffer to append a message of exactly size bytes to. It has room for them.
func (s Slot) Open(size int) []byte {
	w, l := s.w, s.lane()
	l.grow(headroom+mpack.BinHeaderSize(size)+size, min(l.usual, w.cfg.Limit))
	return l.open(size, w.cfg.MaxShared)
}

// Commit takes the buffer of Open with the message appended, and unlocks the queue.
func (s Slot) Commit(buf []byte) {
	w, l := s.w, s.lane()
	if s.reserved {
		l.reserved += len(buf) - l.frames[len(l.frames)-1].end
		w.answers.Store(int64(w.reserved()))
	}
	l.commit(buf)
	w.signalAndUnlock(s.in)
}

// Abort unlocks the queue without a message, in place of Open and Commit.
func (s Slot) Abort() { s.w.mu.Unlock() }

// Hurry sends the message without waiting for others to join it.
func (s Slot) Hurry() { s.lane().hurry = true }

// Behind sends the message, which is of the lane Normal, behind all that High has in its queue.
func (s Slot) Behind() { s.w.lanes[Normal].behind = true }

// Detach may replace Open if a message need not keep its place among the others. For a large one it
// unlocks the queue, so that nobody waits while the message is encoded, and returns a separate
// buffer to append exactly size bytes to, for Attach. The message counts as queued from then on.
// For smaller ones, and after BeginNow, it returns false and the queue stays locked.
func (s Slot) Detach(size int) (buf []byte, ok bool) {
	if size < s.w.cfg.Large || s.reserved {
		return nil, false
	}
	s.lane().apart += size
	s.w.mu.Unlock()
	return bytepool.Get(headroom + size)[:headroom], true
}

// Attach queues the buffer of Detach with the message appended. It takes the lock itself.
func (s Slot) Attach(buf []byte) {
	w, l := s.w, s.lane()
	w.mu.Lock()
	l.apart -= len(buf) - headroom
	l.attach(buf)
	w.signalAndUnlock(s.in)
}
