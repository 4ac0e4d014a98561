package batch

import (
	"errors"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/bytepool"
)

// ErrQueued is returned by BeginOrWait if there is no room, or others already wait: the item waits
// in line.
var ErrQueued = errors.New("waiting for room in the send queue")

// Item is a message that may have to wait for room.
//
// The goroutine that has a message to send does not send it: when the item's turn comes, Run
// encodes it straight into the buffer that is written next. So nobody is woken only to find the
// room taken, and first come is first served.
type Item interface {
	// Opens reports whether the message starts something new, which is useless at the end of a
	// connection. Opens and Admit are called with the queue locked: they must not block.
	Opens() bool
	// Admit is called at now, when it is the item's turn. It returns the size of the message in
	// bytes, or false to skip it.
	Admit(now time.Time) (size int, ok bool)
	// AppendTo appends the message, of the size Admit returned. Run calls it after Admit, without
	// the lock.
	AppendTo(b []byte) []byte
	// AppendPiece takes the place of AppendTo if the message is a large one (see AddLarge): it
	// appends a message that carries the next n bytes, and at most pieceOverhead bytes more. Run
	// calls it until it has all of the size Admit returned, without the lock.
	AppendPiece(b []byte, n int) []byte
	// AppendAbandoned appends a message, of at most pieceOverhead bytes, that tells the other end
	// that the rest of a large message does not come. It is called with the queue locked.
	AppendAbandoned(b []byte) []byte
	// Done is called last, at the end of the wait: with nil once the message is encoded or skipped,
	// with ErrClosed if the writer was closed first.
	Done(err error)
}

// Waiter is the place of an Item in line; keep it with the Item. It is in one line at a time.
type Waiter struct {
	// Guarded by the lock of the queue.
	item       Item
	prev, next *Waiter
	in         *line // nil for none
	size       int   // of the message, in bytes; -1 to skip it
	lane       Lane
	large      largeState

	encoding sync.Mutex // held by Run from the time the item leaves the line until it is encoded
}

// maxEncoded is the largest capacity of Writer.encoded that is kept for the next batch.
const maxEncoded = 1 << 10

// line is a first-in-first-out list of items.
type line struct {
	first, last *Waiter
	bytes       int // of all messages
}

func (l *line) push(x *Waiter) {
	x.prev, x.next, x.in = l.last, nil, l
	if l.last == nil {
		l.first = x
	} else {
		l.last.next = x
	}
	l.last = x
	l.bytes += x.size
}

func (l *line) remove(x *Waiter) {
	if x.prev == nil {
		l.first = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		l.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next, x.in = nil, nil, nil
	l.bytes -= x.size
}

// Withdraw takes an item out of the line. It returns false if all of the message is encoded or the
// writer is closed: then Done has been or will be called. If some pieces of it have been encoded,
// the other end is told that no more come. When Withdraw returns, nothing of the message is read
// anymore.
func (w *Writer) Withdraw(x *Waiter) bool {
	w.mu.Lock()
	waits := x.in != nil
	gone := w.withdraw(x, withdrawn)
	w.signalAndUnlock(x.lane)
	if !waits {
		x.encoding.Lock()
		x.encoding.Unlock() //lint:ignore SA2001 Run may be at it, and is waited for
	}
	return gone
}

// withdraw takes an item out of its line, or has Run end it as told when a piece of it, not the
// last, is encoded. w.mu is held.
func (w *Writer) withdraw(x *Waiter, how ending) bool {
	s := &x.large
	switch {
	case x.in != nil:
		x.in.remove(x)
		w.abandon(x)
		w.forget(x, &w.lanes[x.lane].queue)
		x.item = nil
		return true
	case s.begun && s.left > 0 && s.ended == goesOn:
		s.ended = how
		w.abandon(x)
		return true
	}
	return false
}

// admit takes the items whose turn it is out of the line of a lane, up to its limit. It returns them linked
// by next, and the bytes of their messages without a buffer of their own. w.mu is held.
func (w *Writer) admit(in Lane) (turn *Waiter, shared int) {
	var last *Waiter
	var now time.Time
	waiting, limit, bytes := &w.lanes[in].waiting, w.limit(in), 0
	if waiting.first != nil {
		now = time.Now()
	}
	for waiting.first != nil && bytes < limit {
		x := waiting.first
		waiting.remove(x)
		x.encoding.Lock() // never waits long: Withdraw holds it only for a moment
		size, ok := x.item.Admit(now)
		if x.size = -1; ok {
			x.size = size
			bytes += size
			if size < w.cfg.Large {
				shared += size
			}
		}
		if last == nil {
			turn = x
		} else {
			last.next = x
		}
		last = x
	}
	return turn, shared
}

// encode appends the messages of the items whose turn it is to q, which now belongs to Run. shared
// is how many bytes go into q's buffer.
func (w *Writer) encode(q *queue, turn *Waiter, shared int) {
	if turn == nil {
		return
	}
	q.grow(shared+shared/64+headroom, 0)
	for x := turn; x != nil; {
		next, item, size := x.next, x.item, x.size
		x.next, x.item = nil, nil
		switch {
		case size < 0:
		case size >= w.cfg.Large:
			q.attach(item.AppendTo(bytepool.Get(headroom + size)[:headroom]))
		default:
			q.commit(item.AppendTo(q.open(size, w.cfg.MaxShared)))
		}
		x.encoding.Unlock() // and x may be in use again
		w.encoded = append(w.encoded, item)
		x = next
	}
	for _, item := range w.encoded { // only now: Done may be slow, and Withdraw must not wait for it
		item.Done(nil)
	}
	clear(w.encoded)
	if w.encoded = w.encoded[:0]; cap(w.encoded) > maxEncoded {
		w.encoded = nil
	}
}

// lines returns all lines.
func (w *Writer) lines() (all []*line) {
	for in := range w.lanes {
		l := &w.lanes[in]
		all = append(all, &l.waiting, &l.turn, &l.next[0], &l.next[1])
	}
	return all
}

// dismiss takes all items out of their lines, or only those that open something, and returns them
// linked by next. w.mu is held.
func (w *Writer) dismiss(openers bool) (gone *Waiter) {
	var last *Waiter
	for _, l := range w.lines() {
		for x := l.first; x != nil; {
			one := x
			x = x.next
			if openers && !one.item.Opens() {
				continue
			}
			l.remove(one)
			w.abandon(one)
			w.forget(one, &w.lanes[one.lane].queue)
			if last == nil {
				gone = one
			} else {
				last.next = one
			}
			last = one
		}
	}
	return gone
}
