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
	left int // bytes of all messages that are still to be encoded
	keys map[uint64]*Waiter

	window window
}

// largeState is what a Waiter knows of a large message.
type largeState struct {
	key     uint64 // 0 for none
	total   int    // bytes of the message; 0 for one that is not large
	left    int    // of them, still to be encoded
	counted bool   // in lane.begun
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
func (w *Writer) AddLarge(in Lane, x *Waiter, item Item, size int, key uint64) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	x.item, x.size, x.lane = item, size, in
	x.large = largeState{key: key, total: size, left: size}
	w.addLarge(x)
	w.signalAndUnlock(in)
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
	w.signalAndUnlock(x.lane)
	if gone && waits { // else Run calls Done, once it is through with the piece
		item.Done(ErrCanceled)
	}
}

// Acknowledge records that the other end has read n more bytes of large messages. It returns false
// if so many were not sent.
func (w *Writer) Acknowledge(n int) bool {
	w.mu.Lock()
	ok := w.larges.window.acknowledge(n, w.larges.left > 0, time.Now())
	w.signalWindowAndUnlock()
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
	return w.larges.left + w.begun(0) + w.begun(1)
}

// LiftWindow sends what is left of large messages without waiting for acknowledgments, which nobody
// reads anymore.
func (w *Writer) LiftWindow() {
	w.mu.Lock()
	w.larges.window.lifted = true
	w.signalWindowAndUnlock()
}

// signalWindowAndUnlock wakes Run if it sleeps, as the window may have opened.
func (w *Writer) signalWindowAndUnlock() {
	in := Normal
	if w.lanes[High].turn.first != nil {
		in = High
	}
	w.signalAndUnlock(in)
}

// abandon tells the other end that the rest of a message does not come, if some of it was sent.
// w.mu is held.
func (w *Writer) abandon(x *Waiter) {
	if !x.large.begun || w.closed && !w.drain {
		return
	}
	var room [pieceOverhead]byte
	b, l := x.item.AppendAbandoned(room[:0]), &w.lanes[x.lane]
	l.commit(append(l.open(len(b), w.cfg.MaxShared), b...))
}

// addLarge puts a message in line to begin.
func (w *Writer) addLarge(x *Waiter) {
	l, s := &w.larges, &x.large
	l.left += s.left
	if s.key != 0 {
		if l.keys == nil {
			l.keys = make(map[uint64]*Waiter)
		}
		l.keys[s.key] = x
	}
	w.lanes[x.lane].next[class(s.total)].push(x)
}

// forget stops counting a message that is finished or given up, and is in no line anymore. If some
// of it was sent, its end is in q, and it counts as begun until that is written: a message of the
// other lane, which may pass q, begins only then. So the other end never has more begun than this
// one. w.mu is held.
func (w *Writer) forget(x *Waiter, q *queue) {
	l, s := &w.larges, &x.large
	if s.total == 0 {
		return // not a large one
	}
	l.left -= s.left
	switch {
	case s.begun:
		q.over[class(s.total)] += s.total
	case s.counted:
		w.lanes[x.lane].begun[class(s.total)] -= s.total
	}
	if l.keys[s.key] == x {
		delete(l.keys, s.key)
	}
	if len(l.keys) == 0 {
		l.keys = nil // an idle session keeps no table
	}
	x.large = largeState{}
}

// ready reports whether a piece of a lane's messages may be sent now. w.mu is held.
func (w *Writer) ready(in Lane) bool {
	if w.larges.left == 0 { // mostly
		return false
	}
	w.beginLarge()
	return w.lanes[in].turn.first != nil && w.larges.window.open()
}

// beginLarge lets messages take turns, as many as MaxBegun allows for both lanes: a quarter of it is
// for those that are not huge.
func (w *Writer) beginLarge() {
	most := w.cfg.MaxBegun
	for class, bound := range [2]int{most / 4, most - most/4} {
		for x := w.nextToBegin(class); x != nil; x = w.nextToBegin(class) {
			l, total, begun := &w.lanes[x.lane], x.large.total, w.begun(class)
			if begun+w.begun(1-class)+total > most || begun > 0 && begun+total > bound {
				break
			}
			l.begun[class] += total
			x.large.counted = true
			l.next[class].remove(x)
			l.turn.push(x)
		}
	}
}

// nextToBegin returns the message that is the next of its class to take turns; nil for none. High
// passes Normal, but for one message: Normal always has one that takes turns, or that gets the next
// room.
func (w *Writer) nextToBegin(class int) *Waiter {
	high, normal := w.lanes[High].next[class].first, w.lanes[Normal].next[class].first
	if high == nil || normal != nil && w.lanes[Normal].begun[class] == 0 {
		return normal
	}
	return high
}

// begun returns the bytes of the messages of a class that are begun, in both lanes.
func (w *Writer) begun(class int) int {
	return w.lanes[Normal].begun[class] + w.lanes[High].begun[class]
}

// nextPiece takes the message of a lane whose turn it is out of its line. n is how many bytes of it
// to send: none if it is not to be sent at all. x is nil if there is nothing to send. w.mu is held;
// x stays locked for encoding.
func (w *Writer) nextPiece(in Lane) (x *Waiter, n int) {
	if !w.ready(in) || in == Normal && w.lead < maxLead && w.ready(High) { // the window is for High
		return nil, 0
	}
	l := &w.larges
	x = w.lanes[in].turn.first
	w.lanes[in].turn.remove(x)
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
	if n = l.window.piece(); s.left <= l.window.most() {
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
		w.forget(x, &w.lanes[x.lane].queue) // where withdraw has put its end
	case n == 0 || s.left == 0:
		w.forget(x, q)
	case w.closed && (!w.drain || item.Opens()):
		err = ErrClosed
		w.abandon(x)
		w.forget(x, &w.lanes[x.lane].queue)
	default:
		over = false
		w.lanes[x.lane].turn.push(x)
	}
	w.look() // x was in no line while take looked, and may have made room for others
	w.mu.Unlock()
	x.encoding.Unlock() // and x may be in use again
	if over {
		item.Done(err)
	}
}
