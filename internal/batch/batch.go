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
//	if slot, err := w.Begin(batch.Normal); err == nil { // where there is room
//		b := slot.Open(len(msg))
//		slot.Commit(append(b, msg...))
//	}
//
// If there is none, BeginOrWait puts the message in line, and Run encodes it when its turn comes:
// see Item. A large message goes in pieces, between which others are sent: see AddLarge. Messages of
// the lane High pass those of Normal: see Lane.
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
	// Limit is the number of queued bytes from which messages wait in line; those of the lane High
	// wait from 64 KiB, if that is less.
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

	mu      sync.Mutex // Protects following.
	lanes   [2]lane
	asleep  bool          // Run waits for wake
	writing bool          // Run has taken the queue, and is not through with it
	flushes uint64        // how often the queue was taken
	closed  bool          // nothing more is taken
	drain   bool          // Run writes what is queued, then ends
	larges  larges        // messages that go in pieces
	taken   chan struct{} // closed when the queue is taken; nil while WaitReserve does not wait
	temper  temper        // of WaitReserve, since the queue was taken
	control []byte        // a finished frame to be written before the queue
	last    []byte        // a finished frame to be written after all else

	restraint restraint

	answers atomic.Int64 // from BeginNow and queued, in bytes: readable without the lock
	urgent  atomic.Bool  // the lane High may have something that Run has not seen

	// Run's own.
	spare    [2][]frame // of the last flush, to be filled again
	lead     int        // bytes by which High is ahead of its share
	progress progress
	merged   [mergedRoom]byte
	encoded  []Item // items whose Done is still to be called
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

// Begin locks the queue of a lane for one message if it has room and nobody waits. After a nil error
// the caller must end the Slot with Commit or Abort, without blocking in between. Without room it
// returns ErrNoRoom; once the writer is closed, ErrClosed.
func (w *Writer) Begin(in Lane) (Slot, error) {
	w.mu.Lock()
	if err := w.begin(in); err != nil {
		w.mu.Unlock()
		return Slot{}, err
	}
	return Slot{w: w, in: in}, nil
}

// begin is Begin with the lock held, and kept.
func (w *Writer) begin(in Lane) error {
	l := &w.lanes[in]
	switch {
	case w.closed:
		return ErrClosed
	case l.waiting.first != nil || l.queued() >= w.limit(in):
		return ErrNoRoom
	}
	return nil
}

// BeginOrWait is Begin, but without room it puts item in line, at x, and returns ErrQueued. The
// message counts as size bytes while it waits; Admit has the last word.
func (w *Writer) BeginOrWait(in Lane, x *Waiter, item Item, size int) (Slot, error) {
	w.mu.Lock()
	err := w.begin(in)
	switch err {
	case nil:
		return Slot{w: w, in: in}, nil
	case ErrNoRoom:
		err = ErrQueued
		x.item, x.size, x.lane = item, size, in
		w.lanes[in].waiting.push(x)
	}
	w.signalAndUnlock(in)
	return Slot{}, err
}

// BeginNow is Begin for answers to the peer: it never waits. Beyond the reserve it fails with
// ErrFull.
func (w *Writer) BeginNow(in Lane) (Slot, error) {
	w.mu.Lock()
	switch {
	case w.closed:
		w.mu.Unlock()
		return Slot{}, ErrClosed
	case w.reserved() >= w.cfg.Reserve:
		w.mu.Unlock()
		return Slot{}, ErrFull
	}
	return Slot{w: w, in: in, reserved: true}, nil
}

// BeginAdvice is Begin for messages that this end sends of its own accord and that never wait, such
// as that a call is canceled. It has no limit: whatever they are about found room before.
func (w *Writer) BeginAdvice(in Lane) (Slot, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return Slot{}, ErrClosed
	}
	return Slot{w: w, in: in}, nil
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
	for !w.closed && w.reserved() > w.cfg.Reserve/2 {
		wait, then := patience, impatient
		if w.reserved() >= w.cfg.Reserve {
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

// signalAndUnlock wakes Run if it sleeps. Something may have been added to a lane.
func (w *Writer) signalAndUnlock(in Lane) {
	if in == High && !w.urgent.Load() {
		w.urgent.Store(true)
	}
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
	w.signalAndUnlock(Normal)
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
	return w.queued() + w.lanes[Normal].waiting.bytes + w.lanes[High].waiting.bytes + w.larges.left
}

// queued is Queued with the lock held.
func (w *Writer) queued() int { return w.lanes[Normal].queued() + w.lanes[High].queued() }

// reserved returns the bytes that are queued of messages from BeginNow. w.mu is held.
func (w *Writer) reserved() int { return w.lanes[Normal].reserved + w.lanes[High].reserved }

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
	w.signalAndUnlock(Normal)
	for x := gone; x != nil; {
		next, item := x.next, x.item
		x.prev, x.next, x.item = nil, nil, nil
		item.Done(ErrClosed)
		x = next
	}
}

// Run writes what is appended until the writer is closed, or a write fails, whose error it returns.
func (w *Writer) Run() error {
	for w.sleep() {
		w.gather()
		if err := w.flush(); err != nil {
			w.Close()
			return err
		}
	}
	return w.end()
}

// end writes the last frame if the queue was to be flushed, and drops the queue if not.
func (w *Writer) end() error {
	for in := range w.lanes {
		_, q := w.take(Lane(in))
		w.recycle(Lane(in), q)
	}
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
		pending := w.pending(Normal) || w.pending(High)
		if pending || w.closed && !(w.drain && (w.lanes[Normal].apart > 0 || w.lanes[High].apart > 0 || w.larges.left > 0)) {
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

// take empties the queue of a lane, and fills up what it returns with the messages in line whose turn
// it is, and one piece of a large one. Normal also has the control frame.
func (w *Writer) take(in Lane) (control []byte, q queue) {
	w.mu.Lock()
	l := &w.lanes[in]
	w.flushes++
	w.writing = true
	if in == Normal {
		control, w.control = w.control, nil
	}
	q = l.queue
	l.usual = max(len(q.buf), l.usual-l.usual/8)
	l.queue = queue{frames: w.spare[in]}
	w.spare[in] = nil
	w.answers.Store(int64(w.reserved()))
	if w.taken != nil {
		close(w.taken)
		w.taken = nil
	}
	w.temper = patient
	turn, shared := w.admit(in)
	large, n := w.nextPiece(in)
	w.look()
	w.mu.Unlock()
	w.encode(&q, turn, shared)
	w.encodePiece(&q, large, n)
	return control, q
}

// flush writes the control frame, what Normal has, and before each frame of that, what High has by
// then.
func (w *Writer) flush() error {
	control, q := w.take(Normal)
	if len(control) > 0 {
		if err := w.write(control); err != nil {
			return err
		}
	}
	if q.behind {
		if err := w.flushHigh(); err != nil {
			return err
		}
	}
	for i := range q.frames {
		if err := w.overtake(true); err != nil {
			return err
		}
		n, err := w.writeFrame(&q, i)
		if err != nil {
			return err
		}
		w.lead = max(w.lead-leadPerByte*n, 0)
	}
	w.recycle(Normal, q)
	return w.overtake(false)
}

// writeFrame writes a frame of q. It returns its size.
func (w *Writer) writeFrame(q *queue, i int) (n int, err error) {
	f := &q.frames[i]
	buf := q.buf
	if f.own != nil {
		buf = f.own
	}
	b := w.finish(buf, *f)
	if err := w.write(b); err != nil {
		return 0, err
	}
	if f.own != nil {
		bytepool.Put(f.own)
	}
	if w.cfg.OnFrame != nil {
		w.cfg.OnFrame(f.n)
	}
	return len(b), nil
}

// recycle gives back the memory of what was taken from a lane and is written, and the room of the
// large messages that end in it.
func (w *Writer) recycle(in Lane, q queue) {
	bytepool.Put(q.buf)
	clear(q.frames)
	w.spare[in] = q.frames[:0]
	if q.over == [2]int{} {
		return
	}
	w.mu.Lock()
	for class, n := range q.over {
		w.lanes[in].begun[class] -= n
	}
	w.look() // High may have waited for the room
	w.mu.Unlock()
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
