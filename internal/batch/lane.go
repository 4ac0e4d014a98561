package batch

import (
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
)

// Lane is one of the two ways through a Writer. Each has a queue and lines of its own, and keeps the
// order of its messages.
//
// High passes Normal: before each frame of Normal, Run writes what High has by then. So that Normal
// does not starve, it has a share of at least a quarter of the bytes whenever it has something to
// send: High may be ahead by maxLead, and each byte of Normal gives it leadPerByte more. It keeps
// the share where large messages wait for the window, and for room to begin.
type Lane uint8

// The lanes.
const (
	Normal Lane = iota
	High
)

const (
	maxLead     = 3 * maxShared // bytes
	leadPerByte = 3
)

// lane is what a Writer has of a Lane.
type lane struct {
	queue
	waiting line    // items waiting for room
	turn    line    // large messages that take turns
	next    [2]line // large messages that wait to begin, by class
	begun   [2]int  // bytes of large messages that take turns, or whose ends are not written, by class
	apart   int     // bytes of messages between Detach and Attach
	usual   int     // bytes that the queue probably holds when next taken
}

// queued returns the bytes in the queue.
func (l *lane) queued() int { return len(l.buf) + l.attached + l.apart }

// larges reports whether large messages are in line.
func (l *lane) larges() bool {
	return l.turn.first != nil || l.next[0].first != nil || l.next[1].first != nil
}

// limit returns the number of queued bytes from which messages of a lane wait in line. High has a
// short queue: what is in it goes out in one turn, however many others wait.
func (w *Writer) limit(in Lane) int {
	if in == High {
		return min(w.cfg.Limit, maxShared)
	}
	return w.cfg.Limit
}

// pending reports whether a lane has something that can be sent now. Control frames are in Normal.
// w.mu is held.
func (w *Writer) pending(in Lane) bool {
	l := &w.lanes[in]
	return len(l.frames) > 0 || l.waiting.first != nil || w.ready(in) || in == Normal && len(w.control) > 0
}

// look notes whether High has something. w.mu is held.
func (w *Writer) look() {
	if high := w.pending(High); high != w.urgent.Load() { // storing is dearer than looking
		w.urgent.Store(high)
	}
}

// overtake writes what High has, until it is ahead of its share. more reports whether frames of
// Normal that are taken wait for it.
func (w *Writer) overtake(more bool) error {
	for w.urgent.Load() && w.mayOvertake(more) {
		if err := w.flushHigh(); err != nil {
			return err
		}
	}
	return nil
}

// flushHigh writes what High has in its queue, and of its lines what goes with that.
func (w *Writer) flushHigh() error {
	_, q := w.take(High)
	defer w.recycle(High, q)
	for i := range q.frames {
		n, err := w.writeFrame(&q, i)
		if err != nil {
			return err
		}
		w.lead += n
	}
	return nil
}

// mayOvertake reports whether High may send. It has no share to keep within if Normal has nothing to
// send. If all that Normal has waits for the window, or for room to begin, it is its turn then.
func (w *Writer) mayOvertake(more bool) bool {
	if more {
		return w.lead < maxLead
	}
	w.mu.Lock()
	more, larges := w.pending(Normal), w.lanes[Normal].larges()
	w.mu.Unlock()
	switch {
	case more:
		return w.lead < maxLead
	case larges:
		w.lead = min(w.lead, maxLead)
	default:
		w.lead = 0
	}
	return true
}

// queue is what has been appended to a lane since it was last taken.
type queue struct {
	buf      []byte
	frames   []frame
	reserved int    // bytes of messages from BeginNow
	attached int    // bytes of messages from Attach
	hurry    bool   // a message cannot wait for others
	behind   bool   // of Normal: a message must come behind all that High had when it was queued
	over     [2]int // bytes of the large messages whose ends are in it, by class
}

// frame is a run of messages in a queue's buffer, each with its length in front.
type frame struct {
	start int // of the first message's length
	body  int // of the first message itself
	end   int
	n     int    // messages
	own   []byte // the buffer of a message from Attach, in place of the queue's
}

// open starts a message of size bytes, in the last frame if that has room.
func (q *queue) open(size, maxShared int) []byte {
	q.grow(headroom+mpack.BinHeaderSize(size)+size, 0)
	if !q.fits(size, maxShared) {
		q.buf = q.buf[:len(q.buf)+headroom]
		q.frames = append(q.frames, frame{start: len(q.buf), body: len(q.buf) + mpack.BinHeaderSize(size), end: len(q.buf)})
	}
	q.buf = mpack.AppendBinHeader(q.buf, size)
	return q.buf
}

// fits reports whether the last frame has room for one more message of size bytes.
func (q *queue) fits(size, maxShared int) bool {
	if len(q.frames) == 0 {
		return false
	}
	f := &q.frames[len(q.frames)-1]
	return f.own == nil && mergedRoom+f.end-f.start+mpack.BinHeaderSize(size)+size <= maxShared
}

// commit ends the message that open started.
func (q *queue) commit(buf []byte) {
	q.buf = buf
	f := &q.frames[len(q.frames)-1]
	f.n++
	f.end = len(buf)
}

// attach adds a message in a buffer of its own, behind its headroom.
func (q *queue) attach(buf []byte) {
	q.attached += len(buf)
	q.frames = append(q.frames, frame{start: headroom, body: headroom, end: len(buf), n: 1, own: buf})
}

// grow makes room for n more bytes, in a buffer of at least least bytes.
func (q *queue) grow(n, least int) {
	if cap(q.buf)-len(q.buf) >= n {
		return
	}
	bigger := bytepool.Get(max(firstBuffer, least, 2*len(q.buf), len(q.buf)+n))
	bigger = append(bigger, q.buf...)
	bytepool.Put(q.buf)
	q.buf = bigger
}
