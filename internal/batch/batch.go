// Package batch collects the messages of many goroutines and writes them to one
// connection as few WebSocket frames, in few system calls.
//
// A sender appends its message to a shared buffer under a short lock; one
// flusher takes the whole buffer and writes it. Before it takes the buffer the
// flusher yields until it no longer grows, so that everybody who is ready to
// send gets in: that is where nearly all of the throughput comes from. Messages that share a frame
// are laid out with a length in front of each, and room is left before the
// first one for the frame's headers, so a frame is sent from where it was built.
//
//	w := batch.New(conn, batch.Config{Limit: 256 << 10, MergedHeader: …})
//	go w.Run()
//	if slot, err := w.Begin(); err == nil { // where there is room
//		b := slot.Open(len(msg))
//		slot.Commit(append(b, msg...))
//	}
//
// Where there is none, BeginOrWait has the message wait in line, and Run encodes it when its turn
// comes: see Item.
package batch

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
	"github.com/gridmesh/grid/internal/wsframe"
)

// Sizes in bytes.
const (
	// maxShared bounds a frame that holds several messages. It is what a
	// reader takes in with one system call; a larger message has a frame to itself.
	maxShared = 64 << 10
	// headroom is left in front of each frame: the longest WebSocket header
	// (14) and the header of a merged message.
	headroom = 14 + mergedRoom
	// mergedRoom bounds what Config.MergedHeader appends.
	mergedRoom = 18
	// firstBuffer is what an idle writer starts with.
	firstBuffer = 4 << 10
	// patience is how long WaitReserve waits for a write that does not end, and fullPatience where
	// there is no reserve left.
	patience     = 250 * time.Millisecond
	fullPatience = 10 * time.Second
)

var (
	// ErrClosed is returned by Begin, BeginOrWait, BeginNow and BeginAdvice once the writer is
	// closed.
	ErrClosed = errors.New("writer closed")
	// ErrNoRoom is returned by Begin where the queue is full, or others wait already.
	ErrNoRoom = errors.New("no room in the send queue")
	// ErrFull is returned by BeginNow when even the reserve for control messages is used up.
	ErrFull = errors.New("send queue full: the peer does not read")
)

// Config says how a Writer batches. Limit, Reserve, Large, Timeout and MergedHeader are required.
type Config struct {
	// Masked is set where this end dialed: RFC 6455 has clients mask what they send.
	Masked bool
	// Limit is the number of queued bytes from which messages wait in line.
	Limit int
	// Reserve is the number of bytes that BeginNow may queue, whatever else is queued.
	Reserve int
	// OneShot says that a write which ran into its deadline cannot be continued, as under TLS.
	// Writes are of 64 KiB at the most then, in place of 1 MiB.
	OneShot bool
	// MaxShared bounds a frame that holds several messages, in bytes: 64 KiB at most, and by
	// default.
	MaxShared int
	// Large is the size in bytes from which Detach takes a message. Below, the lock is not held for
	// long, and one buffer for all is faster.
	Large int
	// Timeout is how long the connection may take no byte that is to be written, and pass none on.
	// Where it does neither for so long, Run fails, a quarter later at the latest.
	Timeout time.Duration
	// Unacknowledged returns how many of the bytes that the connection has taken its other end has
	// not acknowledged, or false where that is not known. It is asked where writes take long. May
	// be nil.
	Unacknowledged func() (n int, ok bool)
	// MergedHeader appends what stands in front of n messages that share a frame, 18 bytes at most.
	MergedHeader func(dst []byte, n int) []byte
	// OnWrite is told the bytes of each finished write. May be nil.
	OnWrite func(n int)
	// OnFrame is told the number of messages of each frame that was written. May be nil.
	OnFrame func(messages int)
}

// Writer is the sending half of a connection. Run belongs to one goroutine, and WaitReserve to one;
// all else may be called by any.
type Writer struct {
	conn net.Conn
	cfg  Config

	wake chan struct{} // has room for the one signal that Run waits for
	done chan struct{} // closed by Close

	mu sync.Mutex // Protects following.
	queue
	asleep  bool          // Run waits for wake
	flushes uint64        // how often the queue was taken
	closed  bool          // nothing more is taken
	drain   bool          // Run writes what is queued, then ends
	waiting line          // items that wait for room
	taken   chan struct{} // closed when the queue is taken; nil while nobody waits for that
	temper  temper        // of WaitReserve, since the queue was taken
	apart   int           // bytes of messages that are between Detach and Attach
	control []byte        // a finished frame to be written before the queue
	last    []byte        // a finished frame to be written after all else
	usual   int           // bytes that the queue may be expected to hold when it is taken next

	restraint restraint

	answers atomic.Int64 // reserved, for who does not hold the lock

	// Run's own.
	progress progress
	merged   [mergedRoom]byte
	encoded  []Item // whose Done is to be called
}

// queue is what has been appended since the last flush.
type queue struct {
	buf      []byte
	frames   []frame
	reserved int  // bytes of messages from BeginNow
	attached int  // bytes of messages from Attach
	hurry    bool // a message cannot wait for others
}

// frame is a run of messages in a queue's buffer, each with its length in front.
type frame struct {
	start int // of the first message's length
	body  int // of the first message itself
	end   int
	n     int    // messages
	own   []byte // the buffer of a message from Attach, in place of the queue's
}

// New returns a writer to conn. It sends nothing until Run is called.
func New(conn net.Conn, cfg Config) *Writer {
	if cfg.MaxShared <= 0 || cfg.MaxShared > maxShared {
		cfg.MaxShared = maxShared
	}
	return &Writer{
		conn: conn,
		cfg:  cfg,
		wake: make(chan struct{}, 1),
		done: make(chan struct{}),

		progress: progress{acked: math.MinInt64},
	}
}

// Begin locks the queue for one message where it has room and nobody waits. After a nil error the
// caller has to end what it got with Commit or Abort, without blocking in between. Where there is
// no room it returns ErrNoRoom; where the writer is closed, ErrClosed.
func (w *Writer) Begin() (Slot, error) {
	w.mu.Lock()
	if err := w.begin(); err != nil {
		w.mu.Unlock()
		return Slot{}, err
	}
	return Slot{w: w}, nil
}

// begin is Begin with the lock held, and kept.
func (w *Writer) begin() error {
	switch {
	case w.closed:
		return ErrClosed
	case w.waiting.first != nil || w.queued() >= w.cfg.Limit:
		return ErrNoRoom
	}
	return nil
}

// BeginOrWait is Begin, but where there is no room it puts item into line, at x, and returns
// ErrQueued. Its message counts as one of size bytes while it waits; Admit has the last word.
func (w *Writer) BeginOrWait(x *Waiter, item Item, size int) (Slot, error) {
	w.mu.Lock()
	err := w.begin()
	switch err {
	case nil:
		return Slot{w: w}, nil
	case ErrNoRoom:
		err = ErrQueued
		x.item, x.size = item, size
		w.waiting.push(x)
	}
	w.signalAndUnlock()
	return Slot{}, err
}

// BeginNow is Begin for what answers the peer: it never waits. Beyond the reserve it fails with
// ErrFull.
func (w *Writer) BeginNow() (Slot, error) {
	w.mu.Lock()
	switch {
	case w.closed:
		w.mu.Unlock()
		return Slot{}, ErrClosed
	case w.reserved >= w.cfg.Reserve:
		w.mu.Unlock()
		return Slot{}, ErrFull
	}
	return Slot{w: w, reserved: true}, nil
}

// BeginAdvice is Begin for what this end tells the peer of its own accord and what waits for
// nothing, such as that a call is canceled. It has no limit: there is no more of it than what it is
// about, which found room before.
func (w *Writer) BeginAdvice() (Slot, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return Slot{}, ErrClosed
	}
	return Slot{w: w}, nil
}

// WaitReserve waits while more than half of the reserve is used, for as long as Run gets on with
// writing. A reader that answers faster than the answers can be written calls it between messages:
// a peer that reads then keeps its connection, however much it asks for.
//
// While a write takes long, because the peer does not read, or waits itself, nobody waits until the
// whole reserve is used; then, once, for the write to end within the timeout of a write. Where it
// does not, the next answer finds the reserve full.
func (w *Writer) WaitReserve() {
	if w.answers.Load() <= int64(w.cfg.Reserve/2) {
		return
	}
	w.mu.Lock()
	for !w.closed && w.reserved > w.cfg.Reserve/2 {
		wait, then := patience, impatient
		if w.reserved >= w.cfg.Reserve {
			wait, then = min(w.cfg.Timeout, fullPatience), hopeless
		}
		if w.temper >= then {
			break
		}
		if w.taken == nil {
			w.taken = make(chan struct{})
		}
		taken := w.taken
		w.mu.Unlock()
		late := !w.waitFor(taken, wait)
		w.mu.Lock()
		if late && w.taken == taken { // else Run got on with it at the last moment
			w.temper = then
		}
	}
	w.mu.Unlock()
}

// temper says for how much of the reserve WaitReserve waits no more, until the queue is taken.
type temper uint8

const (
	patient   temper = iota
	impatient        // with less than the whole used
	hopeless         // at all
)

// waitFor waits for the queue to be taken, or the writer to be closed. It returns false where that
// takes too long.
func (w *Writer) waitFor(taken <-chan struct{}, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-taken:
	case <-w.done:
	case <-timer.C:
		return false
	}
	return true
}

// open starts a message of size bytes, in the last frame where that has room.
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

// signalAndUnlock wakes Run where it sleeps.
func (w *Writer) signalAndUnlock() {
	wake := w.asleep
	w.asleep = false
	w.mu.Unlock()
	if wake {
		w.wake <- struct{}{} // never blocks: asleep is set once per signal taken
	}
}

// Control queues a finished control frame, such as a pong, to go out before the
// messages. Only the newest is kept: RFC 6455, section 5.5.3, asks for no more.
func (w *Writer) Control(frame []byte) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return
	}
	w.control = frame
	w.signalAndUnlock()
}

// Queued returns the bytes that are in the queue, which Limit and Reserve bound.
func (w *Writer) Queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued()
}

// Backlog returns the bytes that wait to be written: those in the queue, and those of messages that
// wait in line for room in it, which nothing here bounds. What Run is writing does not wait any
// more.
func (w *Writer) Backlog() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued() + w.waiting.bytes
}

// queued is Queued with the lock held.
func (w *Writer) queued() int { return len(w.buf) + w.attached + w.apart }

// Flushes returns how often Run has begun to write, and whether it is writing.
// A write that takes long shows in the same number at two looks.
func (w *Writer) Flushes() (n uint64, writing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flushes, w.flushes > 0 && !w.asleep
}

// Close drops what is queued and makes Run return once its write in progress
// has ended. The connection has to be closed by the caller to end that write.
func (w *Writer) Close() { w.close(false, nil) }

// CloseAfterFlush takes no more messages and makes Run return once all that is queued or waits in
// line is written, and last, a finished frame, behind it. What opens something does not go on
// waiting, but gets ErrClosed at once. A failed write, or Close, cuts the flush short.
func (w *Writer) CloseAfterFlush(last []byte) { w.close(true, last) }

func (w *Writer) close(drain bool, last []byte) {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		w.last = last
		close(w.done)
	}
	w.drain = drain
	gone := w.dismiss(drain)
	w.signalAndUnlock()
	for x := gone; x != nil; {
		next, item := x.next, x.item
		x.prev, x.next, x.item = nil, nil, nil
		item.Done(ErrClosed)
		x = next
	}
}

// Run writes what is appended until the writer is closed, or a write fails with the error it
// returns.
func (w *Writer) Run() error {
	var spare []frame // of the last flush, to be filled again
	for w.sleep() {
		w.gather()
		control, q := w.take(spare)
		err := w.flush(control, q)
		bytepool.Put(q.buf)
		clear(q.frames)
		spare = q.frames[:0]
		if err != nil {
			w.Close()
			return err
		}
	}
	return w.end()
}

// end writes the last frame where the queue was to be flushed, and drops the queue where not.
func (w *Writer) end() error {
	_, q := w.take(nil)
	bytepool.Put(q.buf)
	w.mu.Lock()
	last := w.last
	if !w.drain {
		last = nil
	}
	w.mu.Unlock()
	return w.write(last)
}

// sleep waits until there is something to write. It returns false when Run has to end.
func (w *Writer) sleep() bool {
	w.mu.Lock()
	for {
		pending := len(w.frames) > 0 || len(w.control) > 0 || w.waiting.first != nil
		if pending || w.closed && !(w.drain && w.apart > 0) {
			flush := pending && (w.drain || !w.closed)
			w.mu.Unlock()
			return flush
		}
		w.asleep = true
		w.mu.Unlock()
		<-w.wake
		w.mu.Lock()
	}
}

// take empties the queue, and fills up what it returns with the messages of those whose turn it is
// in line. frames is used for the next one.
func (w *Writer) take(frames []frame) (control []byte, q queue) {
	w.mu.Lock()
	w.flushes++
	control, w.control = w.control, nil
	q = w.queue
	w.usual = max(len(q.buf), w.usual-w.usual/8)
	w.queue = queue{frames: frames}
	w.answers.Store(0)
	if w.taken != nil {
		close(w.taken)
		w.taken = nil
	}
	w.temper = patient
	turn, shared := w.admit()
	w.mu.Unlock()
	w.encode(&q, turn, shared)
	return control, q
}

// flush writes control frames and then each frame of q.
func (w *Writer) flush(control []byte, q queue) error {
	if len(control) > 0 {
		if err := w.write(control); err != nil {
			return err
		}
	}
	for _, f := range q.frames {
		buf := q.buf
		if f.own != nil {
			buf = f.own
		}
		if err := w.write(w.finish(buf, f)); err != nil {
			return err
		}
		if f.own != nil {
			bytepool.Put(f.own)
		}
		if w.cfg.OnFrame != nil {
			w.cfg.OnFrame(f.n)
		}
	}
	return nil
}

// finish lays the headers in front of a frame and masks it where it has to be.
func (w *Writer) finish(buf []byte, f frame) []byte {
	start := f.body // a message alone needs neither length nor merged header
	if f.n > 1 {
		merged := w.cfg.MergedHeader(w.merged[:0], f.n)
		start = f.start - len(merged)
		copy(buf[start:], merged)
	}
	var key [4]byte
	if w.cfg.Masked {
		binary.NativeEndian.PutUint32(key[:], rand.Uint32())
		wsframe.Mask(buf[start:f.end], key)
	}
	length := f.end - start
	head := start - wsframe.HeaderSize(length, w.cfg.Masked)
	wsframe.PutHeader(buf[head:], ws.OpBinary, length, w.cfg.Masked, key)
	return buf[head:f.end]
}

// grow makes room for n more bytes, and for least from the beginning.
func (q *queue) grow(n, least int) {
	if cap(q.buf)-len(q.buf) >= n {
		return
	}
	bigger := bytepool.Get(max(firstBuffer, least, 2*len(q.buf), len(q.buf)+n))
	bigger = append(bigger, q.buf...)
	bytepool.Put(q.buf)
	q.buf = bigger
}
