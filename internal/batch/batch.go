// Package batch collects the messages of many goroutines and writes them to one connection as few
// WebSocket frames, in few system calls.
//
// A sender appends its message to a shared buffer under a short lock; one flusher takes the whole
// buffer and writes it. Before taking it, the flusher yields until the buffer no longer grows, so
// that every goroutine ready to send gets in: nearly all of the throughput comes from that.
// Messages that share a frame are laid out with a length in front of each, and room is left before
// the first one for the frame's headers, so a frame is sent from where it was built.
//
//	w := batch.New(conn, batch.Config{Limit: 256 << 10, MergedHeader: …})
//	go w.Run()
//	if slot, err := w.Begin(); err == nil { // where there is room
//		b := slot.Open(len(msg))
//		slot.Commit(append(b, msg...))
//	}
//
// If there is none, BeginOrWait puts the message in line, and Run encodes it when its turn comes:
// see Item. A large message goes in pieces, between which others are sent: see AddLarge.
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
	// maxShared bounds a frame that holds several messages. A reader takes that much with one
	// system call; a larger message has a frame to itself.
	maxShared = 64 << 10
	// headroom is left in front of each frame: the longest WebSocket header (14) and the header of
	// a merged message.
	headroom = 14 + mergedRoom
	// mergedRoom bounds what Config.MergedHeader appends.
	mergedRoom = 18
	// firstBuffer is the least size of a new buffer.
	firstBuffer = 4 << 10
	// patience is how long WaitReserve waits for a write that does not end; it is fullPatience once
	// no reserve is left.
	patience     = 250 * time.Millisecond
	fullPatience = 10 * time.Second
)

var (
	// ErrClosed is returned by Begin, BeginOrWait, BeginNow, BeginAdvice and AddLarge once the writer
	// is closed.
	ErrClosed = errors.New("writer closed")
	// ErrNoRoom is returned by Begin if the queue is full, or others already wait.
	ErrNoRoom = errors.New("no room in the send queue")
	// ErrFull is returned by BeginNow when even the reserve for control messages is used up.
	ErrFull = errors.New("send queue full: the peer does not read")
)

// Config says how a Writer batches. Limit, Reserve, Large, Timeout and MergedHeader are required.
type Config struct {
	// Masked is set if this end dialed: RFC 6455 has clients mask what they send.
	Masked bool
	// Limit is the number of queued bytes from which messages wait in line.
	Limit int
	// Reserve is the number of bytes that BeginNow may queue, whatever else is queued.
	Reserve int
	// OneShot says that a write that ran into its deadline cannot be continued, as under TLS.
	// Writes are then of at most 64 KiB instead of 1 MiB.
	OneShot bool
	// MaxShared bounds a frame that holds several messages, in bytes: 64 KiB at most, and by
	// default.
	MaxShared int
	// Large is the size in bytes from which Detach takes a message. Smaller ones do not hold the
	// lock for long, and one buffer for all is faster.
	Large int
	// MaxBegun bounds the sum of the sizes of the messages in pieces that are begun and not
	// finished, in bytes. It must be at least twice the size of the largest.
	MaxBegun int
	// Timeout is how long the connection may neither take a byte that is to be written nor pass one
	// on. Run then fails, at most a quarter of the timeout late.
	Timeout time.Duration
	// Unacknowledged returns how many of the bytes that the connection has taken its other end has
	// not acknowledged, or false if that is unknown. It is called when writes take long. May be
	// nil.
	Unacknowledged func() (n int, ok bool)
	// MergedHeader appends the header of n messages that share a frame, at most 18 bytes.
	MergedHeader func(dst []byte, n int) []byte
	// OnWrite is called with the bytes of each finished write. May be nil.
	OnWrite func(n int)
	// OnFrame is called with the number of messages of each frame written. May be nil.
	OnFrame func(messages int)
}

// Writer is the sending half of a connection. Run belongs to one goroutine, and WaitReserve to one;
// any may call everything else.
type Writer struct {
	conn net.Conn
	cfg  Config

	wake chan struct{} // has room for the one signal that Run waits for
	done chan struct{} // closed by Close

	mu sync.Mutex // Protects following.
	queue
	asleep  bool          // Run waits for wake
	writing bool          // Run has taken the queue, and is not through with it
	flushes uint64        // how often the queue was taken
	closed  bool          // nothing more is taken
	drain   bool          // Run writes what is queued, then ends
	waiting line          // items waiting for room
	larges  larges        // messages that go in pieces
	taken   chan struct{} // closed when the queue is taken; nil while WaitReserve does not wait
	temper  temper        // of WaitReserve, since the queue was taken
	apart   int           // bytes of messages between Detach and Attach
	control []byte        // a finished frame to be written before the queue
	last    []byte        // a finished frame to be written after all else
	usual   int           // bytes that the queue probably holds when next taken

	restraint restraint

	answers atomic.Int64 // reserved, readable without the lock

	// Run's own.
	progress progress
	merged   [mergedRoom]byte
	encoded  []Item // items whose Done is still to be called
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

// Begin locks the queue for one message if it has room and nobody waits. After a nil error the
// caller must end the Slot with Commit or Abort, without blocking in between. Without room it
// returns ErrNoRoom; once the writer is closed, ErrClosed.
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

// BeginOrWait is Begin, but without room it puts item in line, at x, and returns ErrQueued. The
// message counts as size bytes while it waits; Admit has the last word.
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

// BeginNow is Begin for answers to the peer: it never waits. Beyond the reserve it fails with
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

// BeginAdvice is Begin for messages that this end sends of its own accord and that never wait, such
// as that a call is canceled. It has no limit: whatever they are about found room before.
func (w *Writer) BeginAdvice() (Slot, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return Slot{}, ErrClosed
	}
	return Slot{w: w}, nil
}

// WaitReserve waits while more than half of the reserve is used, for as long as Run makes progress
// with writing. A reader that answers faster than answers can be written calls it between messages,
// so a peer that reads keeps its connection, however much it asks for.
//
// While a write takes long, because the peer does not read or is itself waiting, WaitReserve does
// not wait until the whole reserve is used; then, once, it waits for the write to end within the
// timeout of a write. If the write does not end, the next answer finds the reserve full.
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
		if late && w.taken == taken { // else Run made progress at the last moment
			w.temper = then
		}
	}
	w.mu.Unlock()
}

// temper says how much of the reserve must be used for WaitReserve to wait, until the queue is
// taken.
type temper uint8

const (
	patient   temper = iota
	impatient        // only with the whole used
	hopeless         // never
)

// waitFor waits for the queue to be taken or the writer to be closed. It returns false if that
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

// signalAndUnlock wakes Run if it sleeps.
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

// Queued returns the bytes in the queue, which Limit and Reserve bound.
func (w *Writer) Queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued()
}

// Backlog returns the bytes waiting to be written: those in the queue, and those of messages in
// line for room in it or for their turn, which nothing here bounds. What Run is writing no longer
// waits.
func (w *Writer) Backlog() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queued() + w.waiting.bytes + w.larges.left
}

// queued is Queued with the lock held.
func (w *Writer) queued() int { return len(w.buf) + w.attached + w.apart }

// Flushes returns how many times Run has begun to write, and whether it is writing. During a long
// write, two calls return the same number.
func (w *Writer) Flushes() (n uint64, writing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flushes, w.writing
}

// Close drops what is queued and makes Run return once its write in progress has ended. To end that
// write, the caller must close the connection.
func (w *Writer) Close() { w.close(false, nil) }

// CloseAfterFlush accepts no more messages and makes Run return once everything queued or in line
// is written, followed by last, finished frames. Messages in line that open something get ErrClosed
// at once instead, also if some pieces of them are written. A failed write, or Close, cuts the
// flush short.
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

// Run writes what is appended until the writer is closed, or a write fails, whose error it returns.
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

// end writes the last frame if the queue was to be flushed, and drops the queue if not.
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

// sleep waits until there is something to write. It returns false once Run must end.
func (w *Writer) sleep() bool {
	w.mu.Lock()
	w.writing = false
	for {
		pending := len(w.frames) > 0 || len(w.control) > 0 || w.waiting.first != nil || w.larges.ready(w.cfg.MaxBegun)
		if pending || w.closed && !(w.drain && (w.apart > 0 || w.larges.left > 0)) {
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

// take empties the queue, and fills up what it returns with the messages in line whose turn it is,
// and one piece of a large one. The next queue uses frames.
func (w *Writer) take(frames []frame) (control []byte, q queue) {
	w.mu.Lock()
	w.flushes++
	w.writing = true
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
	large, n := w.nextPiece()
	w.mu.Unlock()
	w.encode(&q, turn, shared)
	w.encodePiece(&q, large, n)
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

// finish writes the headers in front of a frame, and masks it if necessary.
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
