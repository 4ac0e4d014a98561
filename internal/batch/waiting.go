package batch

import (
	"errors"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/bytepool"
)

// ErrQueued is returned by BeginOrWait where there is no room, or others wait already: the item
// waits in line.
var ErrQueued = errors.New("waiting for room in the send queue")

// Item is a message that may have to wait for room.
//
// Its owner leaves the goroutine that has the message to send out of it: when the item's turn
// comes, Run itself encodes it, straight into the buffer that is written next. So nobody is woken
// to find the room taken, and who came first goes first.
type Item interface {
	// Opens reports whether the message starts something new, which is of no use at the end of a
	// connection. It is called with the queue locked, and so is Admit: they must not block.
	Opens() bool
	// Admit is called when it is the item's turn, which is now. It returns the size of the message
	// in bytes, or false to leave it out.
	Admit(now time.Time) (size int, ok bool)
	// AppendTo appends the message of that size. It is called by Run, without the lock, and only
	// after Admit.
	AppendTo(b []byte) []byte
	// Done is told the end of the wait, last of all: nil once the message is encoded, or was left
	// out, and ErrClosed where the writer was closed before.
	Done(err error)
}

// Waiter is the place of an Item in line, to be kept with it. It is in one line at a time.
type Waiter struct {
	// Guarded by the lock of the queue.
	item       Item
	prev, next *Waiter
	linked     bool
	size       int // of the message, in bytes; -1 for one that is left out

	encoding sync.Mutex // held by Run from the time the item leaves the line until it is encoded
}

// maxEncoded is the number of items for whose Done a writer keeps room.
const maxEncoded = 1 << 10

// line is a first-in-first-out list of items.
type line struct {
	first, last *Waiter
	bytes       int // of all messages
}

func (l *line) push(x *Waiter) {
	x.prev, x.next, x.linked = l.last, nil, true
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
	x.prev, x.next, x.linked = nil, nil, false
	l.bytes -= x.size
}

// Withdraw takes an item out of the line. It returns false where it was no longer there, because it
// is encoded, or the writer is closed. Nothing of its message is looked at any more when Withdraw
// returns. Where that is false, Done has been called or will be.
func (w *Writer) Withdraw(x *Waiter) bool {
	w.mu.Lock()
	linked := x.linked
	if linked {
		w.waiting.remove(x)
		x.item = nil
	}
	w.mu.Unlock()
	if !linked {
		x.encoding.Lock()
		x.encoding.Unlock() //lint:ignore SA2001 Run may be at it, and is waited for
	}
	return linked
}

// admit takes those out of the line whose turn it is, up to the limit, and returns them linked by
// next, with the bytes of those messages that have no buffer of their own. w.mu is held.
func (w *Writer) admit() (turn *Waiter, shared int) {
	var last *Waiter
	var now time.Time
	if w.waiting.first != nil {
		now = time.Now()
	}
	bytes := 0
	for w.waiting.first != nil && bytes < w.cfg.Limit {
		x := w.waiting.first
		w.waiting.remove(x)
		x.encoding.Lock() // waits for nobody: who withdraws holds it for a moment only
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

// encode appends the messages of items whose turn it is to q, which is Run's own by now. shared is
// how many bytes go into q's buffer.
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
	for _, item := range w.encoded { // only now: Done may be slow, and nobody who withdraws waits for it
		item.Done(nil)
	}
	clear(w.encoded)
	if w.encoded = w.encoded[:0]; cap(w.encoded) > maxEncoded {
		w.encoded = nil
	}
}

// dismiss takes everybody out of the line, or those alone who open something, and returns them
// linked by next. w.mu is held.
func (w *Writer) dismiss(openers bool) (gone *Waiter) {
	var stay line
	var last *Waiter
	for w.waiting.first != nil {
		x := w.waiting.first
		w.waiting.remove(x)
		switch {
		case openers && !x.item.Opens():
			stay.push(x)
			continue
		case last == nil:
			gone = x
		default:
			last.next = x
		}
		last = x
	}
	w.waiting = stay
	return gone
}
