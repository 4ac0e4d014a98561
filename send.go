package grid

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// sequence numbers the counted messages of one direction of a mux. The batch's lock guards it.
type sequence struct {
	next   uint32
	closed bool // the final message is queued
	lane   batch.Lane
}

// errMuxDone is returned for a message sent on a stream after its final one.
var errMuxDone = errors.New("mux already ended")

// errCanceled ends a wait for room that its owner has given up.
var errCanceled = errors.New("canceled while waiting for room in the send queue")

// errPast ends the wait of a message whose deadline has passed.
var errPast = errors.New("deadline passed while waiting for room in the send queue")

// berth is the place where a message waits for room in the send queue. It is embedded in the
// batch.Item that sends it.
type berth struct {
	batch.Waiter
	m      message
	pieces pieces      // of m, if it is a large message
	since  time.Time   // when the wait began; zero if m has no deadline to shorten
	late   atomic.Bool // the deadline has passed meanwhile: the message is skipped
}

// begin locks the queue for m, as batch.Writer.Begin does. If there is no room, or m is to go in
// pieces, it waits in the berth, as a message of item, and begin returns batch.ErrQueued. Otherwise
// the berth stays empty. ready, which may be nil, is called before the wait.
func (b *berth) begin(s *sender, item batch.Item, m *message, ready func()) (slot batch.Slot, err error) {
	large := s.inPieces(m)
	if !large {
		if slot, err = s.batch.Begin(m.lane); err != batch.ErrNoRoom {
			return slot, err
		}
	}
	if ready != nil {
		ready()
	}
	b.m, b.pieces = *m, pieces{} // complete before the message is in line
	b.since = time.Time{}
	if m.opens() && m.DeadlineMS > 0 {
		b.since = time.Now()
	}
	if large {
		err = b.beginPieces(s, item)
	} else {
		slot, err = s.batch.BeginOrWait(m.lane, &b.Waiter, item, m.size())
	}
	if err != batch.ErrQueued {
		b.m = message{} // there is room after all, or never will be
	}
	return slot, err
}

// wear takes the time the message has waited off its deadline, so that the peer's handler gets what
// is left for its caller. It returns false if nothing is left. The wait is rounded down, and so the
// deadline up: a handler that ended before its caller would leave it with ErrDisconnected.
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

// withdraw takes the message out of the line. It reports whether it was still there, and so will
// not be sent. The peer drops what it has of it.
func (b *berth) withdraw(s *sender) bool {
	return s.batch.Withdraw(&b.Waiter)
}

// sender is the sending half of a session: all that its calls and streams know of it.
type sender struct {
	*link
	agreement
	batch      *batch.Writer
	dialed     bool  // this node opened the connection
	checksum   Flags // FlagCRCxxh3, or 0 under TLS
	endSession func(error)
	roundTrip  atomic.Int64 // nanoseconds, the shortest of late; 0 if unknown
}

// outbox sends the messages of one direction of a stream, one at a time: each after the one before
// is encoded. A message without room waits in it. It belongs to one goroutine.
type outbox struct {
	berth
	s   *sender
	q   *sequence
	end interface{ uncount() } // told before the end of the stream can be seen; may be nil
	err error                  // of the message that waited; Run's, until out gets the outcome
	out chan error             // receives the outcome of a wait; made for the first
}

// send sends m, waiting for room until cancel, or over or also is closed; then it fails with errCanceled
// or errMuxDone. It also fails with ErrClosed of the batch, with errMuxDone after the final message of
// the stream, with errPast once the deadline has passed, and with ErrMessageTooLarge. The caller
// owns the payload again on return.
func (o *outbox) send(cancel, over, also <-chan struct{}, m message) error {
	if err := o.s.fits(&m); err != nil {
		return err
	}
	m.lane = o.q.lane
	slot, err := o.begin(o.s, o, &m, o.ready)
	switch err {
	case nil:
		o.ending(&m)
		return o.s.append(slot, &m, o.q)
	case batch.ErrQueued:
		return o.wait(cancel, over, also)
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

// ending uncounts the stream just before its last message is encoded. A message that still waits
// for room keeps it counted.
func (o *outbox) ending(m *message) {
	if o.end != nil && m.final() {
		o.end.uncount()
	}
}

// wait waits until the message is encoded.
func (o *outbox) wait(cancel, over, also <-chan struct{}) error {
	err := errCanceled
	select {
	case err := <-o.out:
		return err
	case <-cancel:
	case <-over:
		err = errMuxDone
	case <-also:
		err = errMuxDone
	}
	if o.withdraw(o.s) {
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
	return o.measure(o.s), true
}

// AppendTo is part of batch.Item.
func (o *outbox) AppendTo(b []byte) []byte {
	o.ending(&o.m)
	return o.m.appendTo(b)
}

// AppendPiece is part of batch.Item.
func (o *outbox) AppendPiece(b []byte, n int) []byte {
	if o.pieces.last(n) {
		o.ending(&o.m)
	}
	return o.berth.AppendPiece(b, n)
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

// tooLarge returns the error for a payload of n bytes. It names the limits of both nodes if the
// peer has told its own.
func (s *sender) tooLarge(n int) error {
	if s.peerMaxMessage == 0 {
		return fmt.Errorf("%w: payload of %d bytes", ErrMessageTooLarge, n)
	}
	return fmt.Errorf("%w: payload of %d bytes; MaxMessageSize is %d at %s and %d at %s", ErrMessageTooLarge, n,
		s.limits.MaxMessageSize, s.local, s.peerMaxMessage, s.remote)
}

// reply queues what answers the peer, including credits for its messages, without waiting. A peer
// that causes answers without end and does not read them loses its session.
func (s *sender) reply(m message, q *sequence) {
	if q != nil {
		m.lane = q.lane
	}
	slot, err := s.batch.BeginNow(m.lane)
	s.queueReply(slot, err, &m, q)
}

// queueReply ends reply with what BeginNow has returned.
func (s *sender) queueReply(slot batch.Slot, err error, m *message, q *sequence) {
	if err == nil {
		_ = s.append(slot, m, q) // nothing may follow the end of a stream
		return
	}
	if errors.Is(err, batch.ErrFull) {
		s.endSession(err)
	}
}

// replyBehind is reply for what answers messages of a stream that is gone. It must not pass the end
// of the stream, whose lane nobody knows anymore.
func (s *sender) replyBehind(m message) {
	slot, err := s.batch.BeginNow(batch.Normal)
	if err == nil {
		slot.Behind()
	}
	s.queueReply(slot, err, &m, nil)
}

// advise queues, without waiting, what this node tells the peer of its own accord: pings, and that
// something has ended. The calls and streams it is about bound how much there is.
func (s *sender) advise(m message, q *sequence) {
	if q != nil {
		m.lane = q.lane
	}
	if slot, err := s.batch.BeginAdvice(m.lane); err == nil {
		_ = s.append(slot, &m, q) // nothing may follow the end of a stream
	}
}

// stamp prepares m for encoding as a whole.
func (s *sender) stamp(m *message) {
	if m.Op.checked(m.MuxID) {
		m.Flags |= s.checksum
	}
}

// number gives m its number as the next message of its stream. The batch is locked.
func (s *sender) number(m *message, q *sequence) error {
	if q == nil {
		return nil
	}
	if q.closed {
		return errMuxDone
	}
	if m.Op.counted() {
		if m.Op != OpConnectMux { // its number is always 0, and its Seq may carry a grant
			m.Seq = q.next
		}
		q.next++
	}
	q.closed = m.final()
	return nil
}

// append encodes m into the batch that Begin has locked.
func (s *sender) append(slot batch.Slot, m *message, q *sequence) error {
	if err := s.number(m, q); err != nil {
		slot.Abort()
		return err
	}
	s.stamp(m)
	switch m.Op {
	case OpPing, OpPong:
		slot.Hurry() // if it waits, the peer takes a busy node for a dead one
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

// sendError returns what to tell a caller whose message could not be queued.
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

// nextMuxID chooses the ID of a new call or stream. Two nodes of this project use odd and even IDs,
// so no ID means two things between them. A node of the original counts from 1; IDs from 2^31 stay
// clear of its own.
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
