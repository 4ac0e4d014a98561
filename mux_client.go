package grid

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// muxClient is the caller's side of a stream.
//
// It is open until finish, abort or cancel ends it; the first call decides the error. The reader
// puts incoming messages into the queue, which the stream's credits bound; the consumer
// (Stream.Results) takes them out; a pump carries requests the other way if the handler takes any.
type muxClient struct {
	*sender
	muxes    *muxes
	id       uint64
	handler  *streamHandler
	began    time.Duration   // when it was opened, since the session began
	ctx      context.Context // the caller's, guarded
	guard    guardedContext  // usually what ctx is
	deadline time.Time       // of ctx; zero for none

	outbox   outbox   // for the opener, then for the pump
	sent     sequence // guarded by the batch
	received uint32   // number of the next counted message; the reader's alone
	late     bool     // an end arrived too late to be believed; the reader's alone

	needsPing  bool          // no deadline, or a distant one
	inCapacity int           // of the handler; 0 if it takes no messages
	arrived    chan struct{} // tells the consumer to look again; room for one signal
	credited   chan struct{} // tells the pump of new credit; room for one signal
	done       chan struct{} // closed once the handler has returned or the stream has ended: nothing more can be sent
	heard      atomic.Int64  // arrival of the last message, in nanoseconds since the session began

	stopWatch func() bool  // stops watching ctx
	observed  *observation // nil without observers

	mu      sync.Mutex // Protects following.
	queue   payloadQueue
	inflow  inflow
	credits int  // what the pump may send, in messages or bytes; in bytes, a message may exceed it
	idle    int  // consumers that wait for arrived, or have just been told
	ended   bool // finish, abort or cancel was called
	over    bool // done is closed, or about to be: the stream has ended, or the handler has returned with result
	result  error
	err     error
	pinged  time.Time // zero until the stream's opening is sent
}

// open opens a stream to handler h with the capacities of the handler registered here under the
// same ID and route. The caller has entered the connection's activity; the end of the stream leaves
// it.
func (x *muxes) open(ctx context.Context, h *streamHandler, payload []byte, observed *observation) (*muxClient, error) {
	m := &muxClient{
		sender:     x.sender,
		muxes:      x,
		handler:    h,
		inCapacity: h.inCapacity,
		inflow:     x.newInflow(h.outCapacity),
		arrived:    make(chan struct{}, 1),
		done:       make(chan struct{}),
	}
	m.ctx = m.guard.guard(ctx)
	ctx = m.ctx
	deadline, err := deadlineMS(ctx)
	if err != nil {
		return x.unopened(ctx, h, err)
	}
	metadata, err := x.encodedMetadata(ctx)
	if err != nil {
		return x.unopened(ctx, h, err)
	}
	now := time.Now()
	m.id = x.nextMuxID()
	m.began = now.Sub(x.began)
	m.needsPing = deadline == 0 || time.Duration(deadline)*time.Millisecond > muxPingInterval
	m.deadline, _ = ctx.Deadline()
	m.outbox.s, m.outbox.q = x.sender, &m.sent
	m.heard.Store(int64(m.began))
	open := message{
		MuxID:      m.id,
		DeadlineMS: deadline,
		Seq:        x.grantHere(&m.inflow),
		Handler:    h.id,
		Op:         OpConnectMux,
		Payload:    payload,
		subroute:   h.route,
		metadata:   metadata,
	}
	if h.inCapacity == 0 {
		open.Flags = FlagEOF
	} else {
		m.credited = make(chan struct{}, 1)
	}
	if !x.clients.put(m.id, m) {
		return x.unopened(ctx, h, ErrDisconnected)
	}
	if err := m.outbox.send(ctx.Done(), m.done, open); err != nil {
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
func (x *muxes) unopened(ctx context.Context, h *streamHandler, err error) (*muxClient, error) {
	x.notSent(ctx, h.id, err)
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
	err = m.named(err, true, m.handler.id, m.handler.subroute)
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return false
	}
	m.ended, m.err = true, err
	m.inflow.close(m.sender)
	counted := m.queue.bytes // unread messages no longer count: the peer cannot add any
	tellPump := !m.over
	m.over = true
	var undelivered payloadQueue
	if !deliver {
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
	m.streamEnded(m.ctx, m.handler.id, time.Since(m.muxes.began)-m.began, err)
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
		if err := m.checkAck(m.handler, msg); err != nil {
			m.cancel(err)
		} else {
			m.moreCredit(m.granted(msg.DeadlineMS, m.inCapacity))
		}
	case OpUnblockClMux:
		if msg.Flags&FlagEOF != 0 && m.has(featureStreams) {
			m.handlerReturned(msg)
		} else {
			m.moreCredit(msg.credits())
		}
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
		result = m.saidError(msg)
	}
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

// deliver queues a message of the handler for the consumer.
func (m *muxClient) deliver(msg *message, now time.Time) {
	if msg.Flags&FlagPayloadIsErr != 0 {
		m.finish(m.saidError(msg))
		return
	}
	last := msg.Flags&FlagEOF != 0
	if !last || msg.Payload != nil {
		if !m.muxes.holdMessage(m, msg) {
			return
		}
		fits, queued := m.enqueue(msg)
		if !queued {
			m.streamQuota.free(msg.counted)
		}
		msg.counted = 0
		if !fits {
			m.cancel(errCredit)
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

// enqueue leaves a message to the consumer. It does not fit if the peer sent more than was granted.
func (m *muxClient) enqueue(msg *message) (fits, queued bool) {
	b := msg.ownPayload() // before the lock, for which the consumer may be waiting
	m.mu.Lock()
	switch {
	case m.ended: // nobody wants it
		fits = true
	case m.inflow.arrived(m.cost(len(b))):
		m.queue.push(b)
		fits, queued = true, true
	}
	waits := m.idle > 0
	m.mu.Unlock()
	if !queued {
		PutByteBuffer(b)
	} else if waits {
		signal(m.arrived)
	}
	return fits, queued
}

// overload ends a stream whose messages pile up.
func (m *muxClient) overload() {
	m.countRefusal(RoleClient, m.handler.id, limitStreamBytes)
	m.cancel(ErrOverloaded)
}

// waiting returns the bytes of the messages waiting for the consumer.
func (m *muxClient) waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.queue.bytes
}

// next waits for the next message. more is false once the stream has ended.
func (m *muxClient) next() (b []byte, more bool, err error) {
	waited := false
	for {
		m.mu.Lock()
		if waited {
			m.idle--
		}
		if m.queue.len() > 0 {
			b := m.queue.pop()
			if !m.ended {
				m.streamQuota.free(held(b))
			}
			grant := 0
			if !m.ended {
				grant = m.inflow.consumed(m.cost(len(b)), m.sender)
			}
			m.mu.Unlock()
			m.grant(OpUnblockSrvMux, m.id, grant, &m.sent)
			m.observed.received(len(b))
			return b, true, nil
		}
		if m.ended {
			err := m.err
			m.mu.Unlock()
			return nil, false, err
		}
		grant := m.inflow.waits(m.sender)
		m.idle++
		waited = true
		m.mu.Unlock()
		m.grant(OpUnblockSrvMux, m.id, grant, &m.sent)
		<-m.arrived
	}
}

// moreCredit lets the pump send more: n messages, or bytes.
func (m *muxClient) moreCredit(n int) {
	if m.credited == nil {
		return // takes no requests
	}
	m.mu.Lock()
	m.credits = m.addCredit(m.credits, n, m.inCapacity)
	m.mu.Unlock()
	signal(m.credited)
}

// spend waits for credit and takes what a message of n bytes costs. It returns false once nothing
// more can be sent.
func (m *muxClient) spend(n int) bool {
	for {
		m.mu.Lock()
		ok := m.credits > 0
		if ok {
			m.credits -= m.cost(n)
		}
		m.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-m.credited:
		case <-m.done:
			return false
		}
	}
}

// endRequests tells the handler that no more requests follow, unless the stream is to be cut short:
// a caller whose context has ended closes its Requests for that reason, and the handler must not
// take that for the end of the input.
func (m *muxClient) endRequests() {
	if cause := cutShort(m.ctx); cause != nil {
		m.cancel(cmp.Or(contextCause(m.ctx), cause))
		return
	}
	if _, over := m.outcome(); !over { // else the peer knows, or learns of it another way
		m.sendRequest(nil, FlagEOF)
	}
}

// sendRequest sends one message to the handler and recycles its buffer.
func (m *muxClient) sendRequest(b []byte, flags Flags) bool {
	err := m.outbox.send(m.done, nil, message{MuxID: m.id, Op: OpMuxClientMsg, Flags: flags, Payload: b})
	if err == nil && flags&FlagEOF == 0 {
		m.observed.sent(len(b))
	}
	PutByteBuffer(b)
	if errors.Is(err, ErrMessageTooLarge) {
		m.cancel(err)
	}
	return err == nil
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
