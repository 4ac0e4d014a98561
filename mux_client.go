package grid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// muxClient is the caller's side of a stream.
//
// It is open until finish, abort or cancel ends it; the first call decides the error. The reader
// puts incoming messages into the inbox, which the stream's credits bound; the consumer
// (Stream.Results or Recv) takes them out; a pump carries requests the other way if the handler
// takes any.
type muxClient struct {
	*sender
	inbox
	muxes    *muxes
	id       uint64
	handler  *streamHandler
	to       target          // as it is called from here
	answer   AnswerMetadata  // of the handler
	wanted   *AnswerMetadata // of the caller's context, for the same; nil for none
	began    time.Duration   // when it was opened, since the session began
	ctx      context.Context // the caller's, guarded
	guard    guardedContext  // usually what ctx is
	deadline time.Time       // of ctx; zero for none

	out      outlet      // for the opener, then for those who send
	sent     sequence    // guarded by the batch
	received uint32      // number of the next counted message; the reader's alone
	noInput  atomic.Bool // the peer has said that the handler takes no messages, which was not known here
	late     bool        // an end arrived too late to be believed; the reader's alone

	needsPing  bool          // no deadline, or a distant one
	inCapacity int           // of the handler; 0 if it takes no messages
	done       chan struct{} // closed once the handler has returned or the stream has ended: nothing more can be sent
	heard      atomic.Int64  // arrival of the last message, in nanoseconds since the session began

	stopWatch func() bool  // stops watching ctx
	observed  *observation // nil without observers

	// The mutex of the inbox protects following.
	over    bool // done is closed, or about to be: the stream has ended, or the handler has returned with result
	result  error
	err     error
	pinged  time.Time // zero until the stream's opening is sent
	heading headerWait
}

// open opens a stream to handler h with the capacities of the handler registered here under the
// same ID and route. The caller has entered the connection's activity; the end of the stream leaves
// it.
func (x *muxes) open(ctx context.Context, h *streamHandler, to target, payload []byte, observed *observation) (*muxClient, error) {
	m := &muxClient{
		sender:     x.sender,
		muxes:      x,
		handler:    h,
		to:         to,
		inCapacity: h.inCapacity,
		done:       make(chan struct{}),
	}
	m.arrived, m.inflow = make(chan struct{}, 1), x.newInflow(h.outCapacity)
	m.ctx = m.guard.guard(ctx)
	ctx = m.ctx
	deadline, err := deadlineMS(ctx)
	if err != nil {
		return x.unopened(ctx, to, err)
	}
	out := outgoingOf(ctx)
	m.wanted = out.answers()
	metadata, err := x.encodedMetadata(out)
	if err != nil {
		return x.unopened(ctx, to, err)
	}
	if x.facts.Load().lacks(true, h.id, h.onWire) {
		return x.unopened(ctx, to, errPeerLacks)
	}
	now := time.Now()
	m.id = x.nextMuxID()
	m.began = now.Sub(x.began)
	m.needsPing = deadline == 0 || time.Duration(deadline)*time.Millisecond > muxPingInterval
	m.deadline, _ = ctx.Deadline()
	m.sent.lane = x.handlers().lane(out, h.id, h.onWire)
	m.out.s, m.out.q, m.out.owner = x.sender, &m.sent, m
	m.heard.Store(int64(m.began))
	open := message{
		MuxID:      m.id,
		DeadlineMS: deadline,
		Seq:        x.grantHere(&m.inflow),
		Handler:    h.id,
		Op:         OpConnectMux,
		Flags:      x.priorityFlag(m.sent.lane),
		Payload:    payload,
		subroute:   h.onWire,
		metadata:   metadata,
	}
	if h.inCapacity == 0 {
		open.Flags |= FlagEOF
	} else {
		m.out.credited = make(chan struct{}, 1)
	}
	if !x.clients.put(m.id, m) {
		return x.unopened(ctx, to, ErrDisconnected)
	}
	if err := m.out.send(ctx.Done(), m.done, nil, open); err != nil {
		m.abort(sendError(ctx, err))
		m.mu.Lock()
		defer m.mu.Unlock()
		return nil, cmp.Or(m.err, error(ErrDisconnected)) // what ended it as it waited for room
	}
	m.opened()
	m.attach(observed)
	m.watch()
	return m, nil
}

// unopened records that a stream could not be opened.
func (x *muxes) unopened(ctx context.Context, to target, err error) (*muxClient, error) {
	x.notSent(ctx, to, err)
	x.active.leave()
	return nil, err
}

// opened records that the opening message, which may have waited for room, is on its way: from now
// on the peer must show signs of life.
func (m *muxClient) opened() {
	now := time.Now()
	m.heard.Store(int64(now.Sub(m.muxes.began)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinged = now
}

// watch cancels the stream when its context ends.
func (m *muxClient) watch() {
	stop := context.AfterFunc(m.ctx, func() { m.expire(contextCause(m.ctx)) })
	if m.ctx.Done() == nil && !m.deadline.IsZero() { // such a context never reports its deadline
		stop = time.AfterFunc(time.Until(m.deadline), func() { m.expire(context.DeadlineExceeded) }).Stop
	}
	m.mu.Lock()
	over := m.ended && !m.expectsReader()
	m.stopWatch = stop
	m.mu.Unlock()
	if over {
		stop()
	}
}

// expire ends a stream whose context has ended.
func (m *muxClient) expire(cause error) {
	m.cancel(cause)
	m.giveUpReader()
}

// finish ends a stream that the handler's side has ended; the consumer still receives what is
// queued.
func (m *muxClient) finish(err error) { m.end(err, true) }

// abort ends a stream at once.
func (m *muxClient) abort(err error) { m.end(err, false) }

// cancel ends a stream at once and tells the peer.
func (m *muxClient) cancel(err error) {
	if m.end(err, false) {
		m.advise(message{MuxID: m.id, Op: OpDisconnectServerMux}, &m.sent)
	}
}

// end returns false if the stream had already ended.
func (m *muxClient) end(err error, deliver bool) bool {
	err = m.named(err, true, m.to)
	m.out.shut() // before anybody can see the end
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return false
	}
	m.ended, m.err = true, err
	m.heading.end()
	m.inflow.close(m.sender)
	counted := m.queue.bytes + m.lent // unread messages no longer count: the peer cannot add any
	m.lent = 0
	tellPump := !m.over
	m.over = true
	var undelivered payloadQueue
	if !deliver {
		m.shut.Store(true)
		undelivered, m.queue = m.queue, undelivered
	}
	stop := m.stopWatch
	if m.expectsReader() {
		stop = nil
	}
	tell := m.claimUnread()
	m.mu.Unlock()
	m.streamQuota.free(counted)
	undelivered.drop()
	m.muxes.forgetClient(m.id)
	m.streamEnded(m.ctx, m.to, time.Since(m.muxes.began)-m.began, err)
	m.active.leave()
	if stop != nil {
		stop()
	}
	if tellPump {
		close(m.done)
	}
	signal(m.arrived)
	if tell {
		go m.observed.tellEnd(err) // the caller of end has others to serve
	}
	return true
}

// receive handles a message that the reader got now.
func (m *muxClient) receive(msg *message, now time.Time) {
	if m.late {
		return
	}
	if !m.inOrder(msg) {
		return
	}
	m.heard.Store(int64(now.Sub(m.muxes.began)))
	switch msg.Op {
	case OpMuxServerMsg:
		m.deliver(msg, now)
	case OpAckMux:
		m.accepted(msg)
	case OpUnblockClMux:
		if msg.Flags&FlagEOF != 0 && m.has(featureStreams) {
			m.handlerReturned(msg)
		} else {
			m.moreCredit(msg.credits())
		}
	case OpMuxServerHeader:
		m.headerCame(msg)
	case OpMuxServerEnd:
		m.messagesEnded()
	case OpPong:
		m.pong(msg, now)
	case OpDisconnectClientMux:
		if msg.Flags&FlagPayloadIsErr != 0 {
			m.abort(m.gaveUp(msg))
		} else {
			m.lose(now)
		}
	}
}

// accepted handles the word that the peer accepts the stream.
func (m *muxClient) accepted(msg *message) {
	if err := m.checkAck(m.handler, msg); err != nil {
		m.cancel(err)
		return
	}
	if m.handler.foreign && m.has(featureWindows) && msg.DeadlineMS == 0 {
		m.noInput.Store(true)
		m.out.shut()
		return
	}
	m.moreCredit(m.granted(msg.DeadlineMS, m.inCapacity))
}

// takesNone reports whether the handler takes no messages, although that was not known here.
func (m *muxClient) takesNone() bool { return m.noInput.Load() }

// messagesEnded records that the handler sends no more messages, although it has not returned.
func (m *muxClient) messagesEnded() {
	m.mu.Lock()
	again := m.inputEnd
	m.inputEnd = true
	waits := m.idle
	m.mu.Unlock()
	if again {
		m.cancel(errBehindEnd)
	} else if waits {
		signal(m.arrived)
	}
}

// errBehindEnd ends a stream whose handler's side has sent something after the end of its messages.
var errBehindEnd = errors.New("grid: a message of the stream's handler came after the end of its messages")

// inOrder checks the number of a message, unless that was done when its first piece came. A wrong
// one ends the stream.
func (m *muxClient) inOrder(msg *message) bool {
	if msg.checked || !msg.Op.counted() {
		return true
	}
	if msg.Seq != m.received {
		m.cancel(fmt.Errorf("%w: want %d, got %d", ErrIncorrectSequence, m.received, msg.Seq))
		return false
	}
	m.received++
	return true
}

// receiveFirst handles the first piece of a message that the reader got now. It reports whether the
// message is wanted.
func (m *muxClient) receiveFirst(msg *message, now time.Time) bool {
	if m.late || !m.inOrder(msg) {
		return false
	}
	m.heard.Store(int64(now.Sub(m.muxes.began)))
	return msg.Flags&FlagPayloadIsErr != 0 || m.muxes.holdMessage(m, msg)
}

// handlerReturned records that the handler has returned while some of its messages still wait for
// credit. The stream has not ended, but nothing sent reaches the handler anymore.
func (m *muxClient) handlerReturned(msg *message) {
	var result error
	if msg.Flags&FlagPayloadIsErr != 0 {
		result = m.named(m.saidError(msg), true, m.to)
	}
	m.out.shut()
	m.mu.Lock()
	tellPump := !m.over
	if tellPump {
		m.over, m.result = true, result
	}
	m.mu.Unlock()
	if tellPump {
		close(m.done)
	}
}

// outcome returns why nothing more can be sent: the error of the handler or of the stream, nil for
// a handler that returned without one. over is false if there is no outcome yet.
func (m *muxClient) outcome() (err error, over bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return m.err, true
	}
	return m.result, m.over
}

// endedBy returns the error with which the stream has ended. ended is false while it has not.
func (m *muxClient) endedBy() (err error, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err, m.ended
}

// headerCame keeps the header that the handler has sent ahead of its messages.
func (m *muxClient) headerCame(msg *message) {
	m.mu.Lock()
	late := m.heading.known || m.inputEnd
	m.mu.Unlock()
	if late {
		m.cancel(errLateHeader)
		return
	}
	p := m.answerOf(msg)
	m.take(p.header, nil)
	m.mu.Lock()
	m.heading.end()
	m.mu.Unlock()
}

// errLateHeader ends a stream whose handler's side has sent a header that does not come first.
var errLateHeader = errors.New("grid: the header of the stream's handler came twice, or after its messages")

// header and trailer return what has come with the handler's messages.
func (m *muxClient) header() Metadata  { return m.answer.Header() }
func (m *muxClient) trailer() Metadata { return m.answer.Trailer() }

// take keeps metadata of the handler, each of which may be nil. Once the stream has ended, the caller may
// have made another call, whose answer is wanted in the same place.
func (m *muxClient) take(header, trailer []byte) {
	m.answer.take(header, trailer)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ended {
		m.wanted.take(header, trailer)
	}
}

// waitForHeader waits until the header is known. It returns false if giveUp is closed before that.
func (m *muxClient) waitForHeader(giveUp <-chan struct{}) bool {
	m.mu.Lock()
	known := m.heading.begin()
	m.mu.Unlock()
	select {
	case <-known:
		return true
	default:
	}
	select {
	case <-known:
		return true
	case <-giveUp:
		return false
	}
}

// deliver queues a message of the handler for the consumer.
func (m *muxClient) deliver(msg *message, now time.Time) {
	if msg.metadata != nil {
		p := m.answerOf(msg)
		m.take(p.header, p.trailer)
	}
	if msg.Flags&FlagPayloadIsErr != 0 {
		m.finish(m.saidError(msg))
		return
	}
	last := msg.Flags&FlagEOF != 0
	if !last || msg.Payload != nil {
		if !m.muxes.holdMessage(m, msg) {
			return
		}
		one, counted := [...][]byte{msg.ownPayload()}, msg.counted
		msg.counted = 0
		if !m.enqueue(one[:], counted) {
			return
		}
	}
	if last {
		m.finishWhole(now)
	}
}

// finishWhole ends a stream whose handler, as the peer says, returned without an error. A node of
// the original also sends a clean end when its handler was cut short. Its deadline is later than
// ours, so a clean end is believed only before our deadline.
func (m *muxClient) finishWhole(now time.Time) {
	if m.has(featureStreams) || !m.overdue(now) {
		m.finish(nil)
	}
}

// lose ends a stream that the peer no longer has. The peer ends streams silently at their deadline.
func (m *muxClient) lose(now time.Time) {
	if !m.overdue(now) {
		m.abort(ErrDisconnected)
	}
}

// overdue reports whether a message arrived after the caller's deadline. Then the stream ends with
// its context, which may lag a moment behind, and later messages are ignored.
func (m *muxClient) overdue(now time.Time) bool {
	if m.deadline.IsZero() || now.Before(m.deadline) {
		return false
	}
	m.late = true
	go func() { m.cancel(pastDeadline(m.ctx)) }()
	return true
}

// deliverAll queues messages of the handler that follow each other, and hold so many bytes. It takes
// the payloads.
func (m *muxClient) deliverAll(payloads [][]byte, bytes int) {
	if m.muxes.hold(m, bytes) {
		m.enqueue(payloads, bytes)
		return
	}
	m.overload()
	putAll(payloads)
}

// enqueue leaves messages to the consumer, for whose payloads a quota has counted so many bytes. It
// returns false if the peer sent more than was granted, which ends the stream.
func (m *muxClient) enqueue(payloads [][]byte, counted int) bool {
	n, wrong := 0, errCredit
	m.mu.Lock()
	m.heading.end()
	unwanted := m.ended
	if m.inputEnd {
		wrong = errBehindEnd
	}
	for ; n < len(payloads) && !unwanted && !m.inputEnd && m.inflow.arrived(m.cost(len(payloads[n]))); n++ {
		m.queue.push(payloads[n])
		counted -= held(payloads[n])
	}
	waits := m.idle
	m.mu.Unlock()
	if n > 0 && waits {
		signal(m.arrived)
	}
	if n == len(payloads) {
		return true
	}
	m.streamQuota.free(counted)
	putAll(payloads[n:])
	if !unwanted {
		m.cancel(wrong)
	}
	return unwanted
}

// overload ends a stream whose messages pile up.
func (m *muxClient) overload() {
	m.countRefusal(RoleClient, m.to, limitStreamBytes)
	m.cancel(ErrOverloaded)
}

// next waits for the next message. more is false once the stream has ended or, unless toEnd is set,
// once the handler has ended its messages. gaveUp is set if giveUp was closed before that.
func (m *muxClient) next(toEnd bool, giveUp <-chan struct{}) (b []byte, more, gaveUp bool) {
	b, more = m.quick()
	for !more {
		var grant int
		var v verdict
		b, grant, v = m.look(m.sender, toEnd)
		if grant > 0 {
			m.grant(OpUnblockSrvMux, m.id, grant, &m.sent)
		}
		switch v {
		case noneYet:
			select {
			case <-m.arrived:
			case <-giveUp:
				return nil, false, true
			}
			continue
		case noMore:
			return nil, false, false
		}
		more = true
	}
	m.observed.received(len(b))
	return b, true, false
}

// moreCredit lets more be sent: n messages, or bytes.
func (m *muxClient) moreCredit(n int) {
	if m.out.credited != nil { // else the handler takes no messages
		m.out.addCredit(n, m.mostCredit(m.inCapacity))
	}
}

// send sends one message to the handler. The buffer belongs to the caller again on return. It may be
// called by several goroutines. It fails with errCanceled once giveUp is closed.
func (m *muxClient) send(b []byte, giveUp <-chan struct{}) error {
	msg := message{MuxID: m.id, Op: OpMuxClientMsg, Payload: b}
	if err := m.fits(&msg); err != nil {
		return err
	}
	cost := m.cost(len(b))
	if err := m.out.enter(cost, m.done, nil, giveUp); err != nil {
		return err
	}
	if err := m.out.send(giveUp, m.done, nil, msg); err != nil {
		if err == errCanceled {
			m.out.refund(cost)
		} else {
			err = errSendOver // the session or the stream has ended, or is about to
		}
		m.out.leave()
		return err
	}
	if m.observed == nil {
		m.out.leave()
		return nil
	}
	defer m.out.leave() // an observer may end the goroutine
	m.observed.sent(len(b))
	return nil
}

// closeSend ends the messages of the caller.
func (m *muxClient) closeSend() { m.out.close() }

// sendEnd is part of endSender. A stream that is to be cut short ends: a caller whose context has
// ended ends its messages for that reason, and the handler must not take that for the end of the
// input.
func (m *muxClient) sendEnd() {
	if cutShort(m.ctx) != nil {
		m.cancel(contextCause(m.ctx))
		return
	}
	if _, over := m.outcome(); !over { // else the peer knows, or learns of it another way
		m.advise(message{MuxID: m.id, Op: OpMuxClientMsg, Flags: FlagEOF}, &m.sent)
	}
}

// pong handles the answer to a ping of the stream.
func (m *muxClient) pong(msg *message, now time.Time) {
	var pong pongMsg
	if err := unmarshal(&pong, msg.Payload); err != nil {
		m.cancel(fmt.Errorf("grid: malformed pong: %w", err))
		return
	}
	switch {
	case pong.Err != nil:
		m.cancel(&libraryError{text: *pong.Err})
	case pong.NotFound:
		m.lose(now)
	}
}

// checkAlive pings the handler's side and gives the stream up if that is silent while the
// connection was not busy. It also ends a stream whose deadline passed without its context
// noticing. The janitor calls it.
func (m *muxClient) checkAlive(l *look) {
	now := l.now
	if !m.deadline.IsZero() && now.Sub(m.deadline) > deadlineGrace {
		m.cancel(context.DeadlineExceeded)
		go m.giveUpReader() // which may call observers
		return
	}
	if !m.needsPing {
		return
	}
	if l.busy {
		m.heard.Store(int64(now.Sub(m.muxes.began)))
	} else {
		m.heard.Add(int64(l.missed))
	}
	m.mu.Lock()
	opened := !m.pinged.IsZero() // else a ping would take the number of the opening, which still waits
	silent := opened && l.silence(now.Sub(m.muxes.began)-time.Duration(m.heard.Load())) > muxPeerTimeout
	ping := opened && now.Sub(m.pinged) >= muxPingInterval-m.muxes.tick/2
	if ping {
		m.pinged = now
	}
	m.mu.Unlock()
	switch {
	case silent:
		m.cancel(ErrDisconnected)
	case ping:
		m.advise(message{MuxID: m.id, Op: OpPing}, &m.sent)
	}
}
