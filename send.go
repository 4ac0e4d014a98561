package grid

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// sequence numbers the counted messages of one direction of a mux. It is guarded by the lock of the
// batch.
type sequence struct {
	next   uint32
	closed bool // the final message is queued
}

// errMuxDone is told who sends on a stream after its final message.
var errMuxDone = errors.New("mux already ended")

// errCanceled is the end of a wait for room that its owner has given up.
var errCanceled = errors.New("canceled while waiting for room in the send queue")

// errPast is the end of the wait of a message whose deadline has passed.
var errPast = errors.New("deadline passed while waiting for room in the send queue")

// berth is where a message waits for room in the send queue. It is part of the batch.Item that
// sends it.
type berth struct {
	batch.Waiter
	m     message
	since time.Time   // when the wait began; zero where nothing is to be taken off a deadline in m
	late  atomic.Bool // the deadline has passed meanwhile: the message is left out
}

// begin locks the queue for m, as batch.Writer.Begin does. Where there is no room it has m wait in
// the berth, as a message of item, and returns batch.ErrQueued. Otherwise the berth stays empty.
// ready is called before the wait, and may be nil.
func (b *berth) begin(out *batch.Writer, item batch.Item, m *message, ready func()) (batch.Slot, error) {
	slot, err := out.Begin()
	if err != batch.ErrNoRoom {
		return slot, err
	}
	if ready != nil {
		ready()
	}
	b.m = *m // all of it before the message is in line
	b.since = time.Time{}
	if m.opens() && m.DeadlineMS > 0 {
		b.since = time.Now()
	}
	if slot, err = out.BeginOrWait(&b.Waiter, item, m.size()); err != batch.ErrQueued {
		b.m = message{} // there is room after all, or will be none
	}
	return slot, err
}

// wear takes the time that the message has waited off its deadline, so that the peer's handler has
// what is left for its caller. It returns false where that is nothing. The wait is rounded down,
// and with it the deadline up: a handler that ended before its caller would leave that with
// ErrDisconnected.
func (b *berth) wear(now time.Time) bool {
	if b.since.IsZero() {
		return true
	}
	waited := max(now.Sub(b.since)/time.Millisecond, 0)
	if waited >= time.Duration(b.m.DeadlineMS) {
		b.late.Store(true)
		return false
	}
	b.m.DeadlineMS -= uint32(waited)
	return true
}

// opens reports whether a message starts a call, and DeadlineMS is the time for it.
func (m *message) opens() bool { return m.Op == OpRequest || m.Op == OpConnectMux }

// withdraw takes the message out of the line. It reports whether it was still there, and will not
// be sent.
func (b *berth) withdraw(from *batch.Writer) bool { return from.Withdraw(&b.Waiter) }

// sender is the sending half of a session, and all that the calls and streams on it know of it.
type sender struct {
	*link
	agreement
	batch      *batch.Writer
	dialed     bool  // this node opened the connection
	checksum   Flags // FlagCRCxxh3, or 0 under TLS
	endSession func(error)
}

// outbox sends the messages of one direction of a stream, one at a time: the next when the one
// before is encoded. Where there is no room a message waits in it. It belongs to one goroutine.
type outbox struct {
	berth
	s   *sender
	q   *sequence
	end interface{ uncount() } // is told before the end of the stream can be seen; may be nil
	err error                  // of the message that waited; Run's, until out is told
	out chan error             // tells of the end of a wait; made for the first
}

// send sends m, waiting for room until cancel or over is closed. It fails with errCanceled or
// errMuxDone then, with ErrClosed of the batch, with errMuxDone after the final message of the
// stream, and with ErrMessageTooLarge. The payload is the caller's again on return.
func (o *outbox) send(cancel, over <-chan struct{}, m message) error {
	if err := o.s.fits(&m); err != nil {
		return err
	}
	slot, err := o.begin(o.s.batch, o, &m, o.ready)
	switch err {
	case nil:
		o.ending(&m)
		return o.s.append(slot, m, o.q)
	case batch.ErrQueued:
		return o.wait(cancel, over)
	default:
		return err
	}
}

// ready is called before a message waits.
func (o *outbox) ready() {
	if o.out == nil {
		o.out = make(chan error, 1)
	}
	o.err = nil
}

// ending tells of the end of the stream, which is about to be encoded. Not any earlier: what waits
// for room still counts.
func (o *outbox) ending(m *message) {
	if o.end != nil && m.final() {
		o.end.uncount()
	}
}

// wait waits until the message is encoded.
func (o *outbox) wait(cancel, over <-chan struct{}) error {
	err := errCanceled
	select {
	case err := <-o.out:
		return err
	case <-cancel:
	case <-over:
		err = errMuxDone
	}
	if o.withdraw(o.s.batch) {
		o.m = message{}
		return err
	}
	return <-o.out
}

// Opens is part of batch.Item.
func (o *outbox) Opens() bool { return o.m.opens() }

// Admit is part of batch.Item.
func (o *outbox) Admit(now time.Time) (size int, ok bool) {
	if !o.wear(now) {
		o.err = errPast
		return 0, false
	}
	if o.err = o.s.number(&o.m, o.q); o.err != nil {
		return 0, false
	}
	return o.m.size(), true
}

// AppendTo is part of batch.Item.
func (o *outbox) AppendTo(b []byte) []byte {
	o.ending(&o.m)
	return o.m.appendTo(b)
}

// Done is part of batch.Item.
func (o *outbox) Done(err error) {
	if err == nil {
		err = o.err
	}
	o.m = message{}
	o.out <- err
}

// fits checks the size of a message.
func (s *sender) fits(m *message) error {
	if len(m.Payload)+len(m.metadata) > s.maxMessage-maxOverhead {
		return s.tooLarge(len(m.Payload))
	}
	return nil
}

// tooLarge is the error of a payload of n bytes. It names the limits of both nodes, where the peer
// has told its own.
func (s *sender) tooLarge(n int) error {
	if s.peerMaxMessage == 0 {
		return fmt.Errorf("%w: payload of %d bytes", ErrMessageTooLarge, n)
	}
	return fmt.Errorf("%w: payload of %d bytes; MaxMessageSize is %d at %s and %d at %s", ErrMessageTooLarge, n,
		s.limits.MaxMessageSize, s.local, s.peerMaxMessage, s.remote)
}

// reply queues what answers the peer, credits for its messages among it, without waiting. A peer
// that makes this node queue answers without end and does not read them loses its session.
func (s *sender) reply(m message, q *sequence) {
	slot, err := s.batch.BeginNow()
	if err == nil {
		_ = s.append(slot, m, q) // nothing may follow the end of a stream
		return
	}
	if errors.Is(err, batch.ErrFull) {
		s.endSession(err)
	}
}

// advise queues what this node tells the peer of its own accord, without waiting: pings, and that
// something has ended. There is no more of it than what it is about.
func (s *sender) advise(m message, q *sequence) {
	if slot, err := s.batch.BeginAdvice(); err == nil {
		_ = s.append(slot, m, q) // nothing may follow the end of a stream
	}
}

// goodbye is the last message to a peer of this project: that this node leaves. From then on the
// peer waits for the close frame alone, and not for long. So it goes behind all that waits for
// room.
type goodbye struct {
	berth
	s *sender
}

// sendGoodbye queues it, or lets it wait.
func (s *sender) sendGoodbye() {
	p := &goodbye{s: s}
	m := message{Op: OpDisconnect}
	if slot, err := p.begin(s.batch, p, &m, nil); err == nil {
		_ = s.append(slot, m, nil) // fails for streams alone
	}
}

// Opens is part of batch.Item.
func (p *goodbye) Opens() bool { return false }

// Admit is part of batch.Item.
func (p *goodbye) Admit(time.Time) (size int, ok bool) { return p.m.size(), true }

// AppendTo is part of batch.Item.
func (p *goodbye) AppendTo(b []byte) []byte { return p.m.appendTo(b) }

// Done is part of batch.Item.
func (p *goodbye) Done(error) {}

// stamp makes m ready to be encoded.
func (s *sender) stamp(m *message) {
	if m.MuxID != 0 {
		m.Flags |= s.checksum
	}
}

// number makes m ready to be encoded as the next of its stream. The batch is locked.
func (s *sender) number(m *message, q *sequence) error {
	s.stamp(m)
	if q == nil {
		return nil
	}
	if q.closed {
		return errMuxDone
	}
	if m.Op.counted() {
		if m.Op != OpConnectMux { // whose number is 0 in any case, and whose Seq may grant
			m.Seq = q.next
		}
		q.next++
	}
	q.closed = m.final()
	return nil
}

// append encodes m into the batch that Begin has locked.
func (s *sender) append(slot batch.Slot, m message, q *sequence) error {
	if err := s.number(&m, q); err != nil {
		slot.Abort()
		return err
	}
	switch m.Op {
	case OpPing, OpPong, OpDisconnect:
		slot.Hurry() // where it waits the peer takes a busy node for a dead one
	}
	size := m.size()
	if q == nil {
		if buf, ok := slot.Detach(size); ok {
			slot.Attach(m.appendTo(buf))
			return nil
		}
	}
	slot.Commit(m.appendTo(slot.Open(size)))
	return nil
}

// sendError is what a caller is told when its message could not be queued.
func sendError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errCanceled):
		return contextCause(ctx)
	case errors.Is(err, errPast):
		return pastDeadline(ctx)
	case errors.Is(err, batch.ErrClosed):
		return ErrDisconnected
	}
	return err
}

// nextMuxID chooses the number of a new call or stream. Two nodes of this
// project use odd and even numbers, so that no number means two things between
// them. A node of the original counts from 1: numbers from 2^31 stay clear of its own.
func (s *sender) nextMuxID() uint64 {
	n := s.newMuxID()
	switch {
	case !s.has(featureNative):
		return 1<<31 + n
	case s.dialed:
		return 2*n - 1
	default:
		return 2 * n
	}
}
