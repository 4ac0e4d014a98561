package batch

import (
	"errors"
	"time"

	"github.com/gridmesh/grid/internal/bytepool"
)

// Sizes in bytes.
const (
	// pieceOverhead bounds what a piece takes besides the bytes of its message.
	pieceOverhead = 64
	// maxPiece is the most bytes of a message in one piece. With all around them, they fit a buffer
	// of 256 KiB.
	maxPiece = 256<<10 - headroom - pieceOverhead
	// huge is the size beyond which a message waits for others of its kind.
	huge = 1 << 20
)

// ErrCanceled is what a message's Done gets after Cancel.
var ErrCanceled = errors.New("canceled")

// larges are the messages that go in pieces, so that none of them holds up anything else.
//
// In each flush, whatever else is queued goes first. Then comes one piece, of the message whose
// turn it is, if the window has room. A piece is copied just before it is written: no large message
// stands in a buffer here.
//
// The other end holds what it has of a message. So the sum of those that are begun but not finished
// is bounded, and the rest waits, in two classes: a message of 64 KiB need not wait until one of 64
// MiB is finished. The lock of the Writer guards all of it.
type larges struct {
	turn  line    // those that take turns, the next first
	next  [2]line // those that wait to begin, by class
	begun [2]int  // bytes of the messages that take turns, by class
	left  int     // bytes of all messages that are still to be encoded
	keys  map[uint64]*Waiter

	window window
}

// largeState is what a Waiter knows of a large message.
type largeState struct {
	key     uint64 // 0 for none
	total   int    // bytes of the message; 0 for one that is not large
	left    int    // of them, still to be encoded
	counted bool   // in larges.begun
	begun   bool   // Admit was called
	ended   ending // while a piece is being encoded
}

// ending says what happened to a large message while Run was encoding a piece of it.
type ending uint8

const (
	goesOn ending = iota
	withdrawn
	canceled
)

// class returns the index of the line in which a message waits to begin.
func class(size int) int {
	if size > huge {
		return 1
	}
	return 0
}

// AddLarge puts a message of at most size bytes in line, at x, to go in pieces; Admit has the last
// word. It returns ErrQueued, or ErrClosed once the writer is closed. A key other than 0 stands for
// the message in Cancel.
func (w *Writer) AddLarge(x *Waiter, item Item, size int, key uint64) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	x.item, x.size = item, size
	x.large = largeState{key: key, total: size, left: size}
	w.larges.add(x)
	w.signalAndUnlock()
	return ErrQueued
}

// Cancel withdraws the large message that a key stands for, as Withdraw does, and calls its Done
// with ErrCanceled. It does nothing if there is none, or only its last piece is still being
// encoded.
func (w *Writer) Cancel(key uint64) {
	w.mu.Lock()
	x := w.larges.keys[key]
	if x == nil {
		w.mu.Unlock()
		return
	}
	item, waits := x.item, x.in != nil
	gone := w.withdraw(x, canceled)
	w.signalAndUnlock()
	if gone && waits { // else Run calls Done, once it is through with the piece
		item.Done(ErrCanceled)
	}
}

// Acknowledge records that the other end has read n more bytes of large messages. It returns false
// if so many were not sent.
func (w *Writer) Acknowledge(n int) bool {
	w.mu.Lock()
	ok := w.larges.window.acknowledge(n, w.larges.left > 0, time.Now())
	w.signalAndUnlock()
	return ok
}

// Pieces returns how many bytes of large messages are on their way or with the other end, since the
// beginning, and how many of them it has not acknowledged.
func (w *Writer) Pieces() (sent int64, unacknowledged int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.larges.window.sent, w.larges.window.inFlight
}

// Large returns how many bytes of large messages are in line, those included that were sent of
// messages that are not finished.
func (w *Writer) Large() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.larges.left + w.larges.begun[0] + w.larges.begun[1]
}

// LiftWindow sends what is left of large messages without waiting for acknowledgments, which nobody
// reads anymore.
func (w *Writer) LiftWindow() {
	w.mu.Lock()
	w.larges.window.lifted = true
	w.signalAndUnlock()
}

// abandon tells the other end that the rest of a message does not come, if some of it was sent. It
// does so under the same lock as whatever lets another message begin, so that the other end never
// has more begun than this one. w.mu is held.
func (w *Writer) abandon(x *Waiter) {
	if !x.large.begun || w.closed && !w.drain {
		return
	}
	var room [pieceOverhead]byte
	b := x.item.AppendAbandoned(room[:0])
	w.commit(append(w.open(len(b), w.cfg.MaxShared), b...))
}

// add puts a message in line to begin.
func (l *larges) add(x *Waiter) {
	s := &x.large
	l.left += s.left
	if s.key != 0 {
		if l.keys == nil {
			l.keys = make(map[uint64]*Waiter)
		}
		l.keys[s.key] = x
	}
	l.next[class(s.total)].push(x)
}

// forget stops counting a message that is finished or given up, and is in no line anymore.
func (l *larges) forget(x *Waiter) {
	s := &x.large
	if s.total == 0 {
		return // not a large one
	}
	l.left -= s.left
	if s.counted {
		l.begun[class(s.total)] -= s.total
	}
	if l.keys[s.key] == x {
		delete(l.keys, s.key)
	}
	if len(l.keys) == 0 {
		l.keys = nil // an idle session keeps no table
	}
	x.large = largeState{}
}

// ready reports whether a piece may be sent now. most bounds the sum of the messages that are
// begun: a quarter of it is for those that are not huge.
func (l *larges) ready(most int) bool {
	for class, bound := range [2]int{most / 4, most - most/4} {
		for x := l.next[class].first; x != nil; x = l.next[class].first {
			total := x.large.total
			if l.begun[0]+l.begun[1]+total > most || l.begun[class] > 0 && l.begun[class]+total > bound {
				break
			}
			l.begun[class] += total
			x.large.counted = true
			l.next[class].remove(x)
			l.turn.push(x)
		}
	}
	return l.turn.first != nil && l.window.open()
}

// nextPiece takes the message whose turn it is out of its line. n is how many bytes of it to send:
// none if it is not to be sent at all. x is nil if there is nothing to send. w.mu is held; x stays
// locked for encoding.
func (w *Writer) nextPiece() (x *Waiter, n int) {
	l := &w.larges
	if !l.ready(w.cfg.MaxBegun) {
		return nil, 0
	}
	x = l.turn.first
	l.turn.remove(x)
	x.encoding.Lock() // never waits long: Withdraw holds it only for a moment
	now := time.Now()
	s := &x.large
	if !s.begun {
		size, ok := x.item.Admit(now)
		if !ok {
			return x, 0
		}
		s.begun = true
		l.left += size - s.left // the message may have become shorter
		s.left = size
	}
	if n = l.window.piece(); s.left <= min(n+minPiece, maxPiece) { // no small rest, which would wait for the window
		n = s.left
	}
	s.left -= n
	l.left -= n
	l.window.send(n, now)
	return x, n
}

// encodePiece appends a piece to q as a frame of its own, and puts the message back in line if it
// has more to send.
func (w *Writer) encodePiece(q *queue, x *Waiter, n int) {
	if x == nil {
		return
	}
	item := x.item
	if n > 0 {
		q.attach(item.AppendPiece(bytepool.Get(headroom + n + pieceOverhead)[:headroom], n))
	}
	over, err := true, error(nil)
	w.mu.Lock()
	switch s := &x.large; {
	case s.ended != goesOn:
		over, err = s.ended == canceled, ErrCanceled
		w.larges.forget(x)
	case n == 0 || s.left == 0:
		w.larges.forget(x)
	case w.closed && (!w.drain || item.Opens()):
		err = ErrClosed
		w.abandon(x)
		w.larges.forget(x)
	default:
		over = false
		w.larges.turn.push(x)
	}
	w.mu.Unlock()
	x.encoding.Unlock() // and x may be in use again
	if over {
		item.Done(err)
	}
}
