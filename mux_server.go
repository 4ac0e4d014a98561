package grid

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// muxServer is the handler's side of a stream.
//
// The reader puts requests into a queue that the stream's credits bound. The
// handler runs on a goroutine of its own; a pump between the two hands it the
// requests and sends what it answers. The stream is over when the handler has
// returned and all it sent has gone out, or when abort has ended it first;
// the pump stays until the handler has returned, so that a handler that goes
// on sending is never stuck.
type muxServer struct {
	*sender
	muxes     *muxes
	id        uint64
	handler   *streamHandler
	began     time.Duration   // when it was opened, since the session began
	ctx       context.Context // the handler's
	stop      context.CancelCauseFunc
	inWindow  int // messages the caller may send ahead of the handler; 0: none at all
	outWindow int // messages the handler may send ahead of the caller's consumer

	outbox   outbox   // the pump's alone
	sent     sequence // guarded by the batch
	received uint32   // number of the next counted message; the reader's alone

	observed *observation // nil where nobody watches; set before the handler is called, seen by who has heard of it

	needsPing bool          // no deadline, or one that is far away
	wake      chan struct{} // tells the pump to look again; room for one signal

	mu       sync.Mutex // Protects following.
	queue    payloadQueue
	opening  int  // bytes that count until the stream ends: its payload, decoded; 0 once it does not count any more
	pumped   int  // bytes of the request that the pump has taken out of the queue and the handler has not got; 0 for none
	handled  int  // bytes of the last request that the handler got
	inputEnd bool // the caller sends no more
	returned bool // the handler has returned, with result
	result   *RemoteErr
	cut      error     // what had ended ctx when the handler returned; nil where it was done by itself
	credits  int       // messages the caller lets the pump send
	ended    bool      // abort was called, or all is sent
	heard    time.Time // when the caller last sent anything
}

// accept starts the handler of a stream that the peer opens now.
func (x *muxes) accept(msg *message, now time.Time) {
	if msg.Flags&FlagStateless != 0 {
		x.refuse(msg, "Stateless streams not supported")
		return
	}
	h := x.registry.Load().stream(msg.Handler, msg.subroute)
	if h == nil {
		x.refuseUnknown(msg)
		return
	}
	if err := x.checkOpening(h, msg); err != nil {
		x.recent.add(x.remote, RoleServer, h.id, err.Error())
		x.refuse(msg, err.Error())
		return
	}
	if !x.active.enter() {
		x.refuse(msg, string(ErrShutdown))
		return
	}
	size := msg.footprint()
	if over := x.streamQuota.enter(size); over != limitNone {
		x.active.leave()
		x.overloaded(msg, over)
		return
	}
	m := &muxServer{
		sender:    x.sender,
		muxes:     x,
		opening:   size,
		id:        msg.MuxID,
		handler:   h,
		began:     now.Sub(x.began),
		inWindow:  h.inCapacity,
		outWindow: h.outCapacity,
		wake:      make(chan struct{}, 1),
		received:  1, // ConnectMux was 0
		inputEnd:  msg.Flags&FlagEOF != 0,
		needsPing: msg.DeadlineMS == 0 || time.Duration(msg.DeadlineMS)*time.Millisecond > muxCallerTimeout,
		credits:   h.outCapacity,
		heard:     time.Now(),
	}
	m.outbox.s, m.outbox.q, m.outbox.end = x.sender, &m.sent, m
	m.ctx, m.stop = x.handlerContext(msg.deadline(now), h.subroute, msg, m)
	if !x.servers.put(m.id, m) {
		m.stop(nil)
		m.uncount()
		x.active.leave()
		x.refuse(msg, fmt.Sprintf("mux %d is in use", m.id))
		return
	}
	x.reply(message{MuxID: m.id, DeadlineMS: x.ackGrant(h), Op: OpAckMux}, &m.sent)
	h.serve(m, msg.ownPayload())
}

// receive takes a message that the reader got now.
func (m *muxServer) receive(msg *message, now time.Time) {
	if msg.Op.counted() {
		if msg.Seq != m.received {
			m.fail(&libraryError{
				ErrIncorrectSequence,
				fmt.Sprintf("receive sequence number mismatch. want %d, got %d", m.received, msg.Seq),
			})
			return
		}
		m.received++
	}
	switch msg.Op {
	case OpMuxClientMsg:
		if text := m.accept(msg, now); text != "" {
			m.fail(libraryText(text))
		}
	case OpUnblockSrvMux:
		m.mu.Lock()
		m.heard = now
		m.credits = min(m.credits+msg.credits(), m.outWindow)
		m.mu.Unlock()
		signal(m.wake)
	case OpPing:
		m.mu.Lock()
		m.heard = now
		m.mu.Unlock()
		payload, _ := (&pongMsg{}).MarshalMsg(nil)
		m.reply(message{MuxID: m.id, Seq: msg.Seq, Op: OpPong, Payload: payload}, nil)
	case OpDisconnectServerMux:
		m.abort(context.Canceled)
	}
}

// accept queues a request for the handler. It returns what the peer did wrong.
func (m *muxServer) accept(msg *message, now time.Time) string {
	size := 0
	if msg.Flags&FlagEOF == 0 || msg.Payload != nil {
		size = msg.footprint()
		if !m.muxes.hold(m, size) {
			m.countRefusal(RoleServer, m.handler.id, limitStreamBytes)
			return string(ErrOverloaded)
		}
	}
	text, queued := m.enqueue(msg, size > 0, now)
	if !queued {
		m.streamQuota.free(size)
	}
	return text
}

// enqueue queues a request, or the end of the input with a payload or without.
func (m *muxServer) enqueue(msg *message, payload bool, now time.Time) (text string, queued bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = now
	last := msg.Flags&FlagEOF != 0
	switch {
	case m.ended || m.returned:
		return "", false
	case m.inWindow == 0 && !last, m.inputEnd:
		return "did not expect inbound message", false
	}
	if payload {
		waiting := m.queue.len()
		if m.pumped > 0 {
			waiting++ // the pump holds one
		}
		if waiting >= m.inWindow {
			return "handler blocked", false
		}
		m.queue.push(msg.ownPayload())
	}
	m.inputEnd = last
	signal(m.wake)
	return "", true
}

// fail ends the stream with an error for the caller.
func (m *muxServer) fail(err *libraryError) {
	m.advise(m.marked(message{
		MuxID:   m.id,
		Op:      OpMuxServerMsg,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: m.errorText(err.text),
	}, err), &m.sent)
	m.abort(err)
}

// abort ends the stream: the handler's context is canceled and its input closed. The peer is not
// told.
func (m *muxServer) abort(cause error) {
	m.stop(cause) // before the pump can close the input: a handler must not take that for the caller's end of it
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return
	}
	m.ended = true
	unread := m.unread()
	m.mu.Unlock()
	unread.drop()
	m.muxes.forgetServer(m.id)
	signal(m.wake)
}

// finished takes note that the handler has returned. Requests that it has not taken are dropped.
// Once its context has ended a handler may return for that reason only, so that its result counts
// no more: nil would make a whole stream of one that was cut short.
func (m *muxServer) finished(result *RemoteErr) {
	cut := cutShort(m.ctx)
	m.mu.Lock()
	m.returned, m.result, m.cut = true, result, cut
	unread := m.unread()
	m.mu.Unlock()
	unread.drop()
	signal(m.wake)
}

// depart tells the caller that the stream has ended, and leaves the connection's activity. cause is
// what cut the stream short; nil for nothing.
func (m *muxServer) depart(cause error) {
	m.uncount()
	if cause != context.DeadlineExceeded { // else the caller ends it by itself, with the better error
		m.advise(message{MuxID: m.id, Op: OpDisconnectClientMux}, nil)
	}
	m.active.leave()
}

// unread takes the requests that nobody will take any more. m.mu is held.
func (m *muxServer) unread() payloadQueue {
	q := m.queue
	m.queue = payloadQueue{}
	m.streamQuota.free(q.bytes)
	return q
}

// waiting returns the bytes of requests that wait for the handler.
func (m *muxServer) waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.queue.bytes
}

// overload ends a stream whose requests pile up.
func (m *muxServer) overload() {
	m.countRefusal(RoleServer, m.handler.id, limitStreamBytes)
	m.fail(libraryText(string(ErrOverloaded)))
}

// reserve makes the payload of the stream count for more bytes, once it is decoded.
func (m *muxServer) reserve(bytes int) error { return m.reserveFor(bytes, false) }

// requestRoom is where a request counts that the pump decodes: until the handler is through with
// it.
type requestRoom muxServer

func (r *requestRoom) reserve(bytes int) error { return (*muxServer)(r).reserveFor(bytes, true) }

// reserveFor makes the stream count for more bytes, for a request or else until it ends. Where
// streams hold too much, it is this one that ends.
func (m *muxServer) reserveFor(bytes int, request bool) error {
	l := m.link
	if most := l.limits.MaxStreamBytes; bytes > most {
		return tooLarge(bytes, limitStreamBytes, most)
	}
	if !l.streamQuota.reserve(bytes) {
		m.overload()
		return errOverQuota
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if request {
		m.pumped += bytes
	} else {
		m.opening += bytes
	}
	return nil
}

// uncount makes the stream count no longer, before its end can be seen: a peer that keeps within
// the limit is never refused. Its handler has returned.
func (m *muxServer) uncount() {
	m.mu.Lock()
	opening, counted := m.opening, m.opening+m.pumped+m.handled+m.queue.bytes
	m.opening, m.pumped, m.handled = 0, 0, 0
	m.mu.Unlock()
	if opening > 0 {
		m.streamQuota.leave(counted)
	}
}

// checkAlive cancels the handler of a caller that has gone silent, unless the connection was busy.
// The janitor calls it.
func (m *muxServer) checkAlive(l *look) {
	m.mu.Lock()
	m.heard = m.heard.Add(l.missed)
	if l.busy {
		m.heard = l.now
	}
	silent := m.needsPing && l.silence(l.now.Sub(m.heard)) > muxCallerTimeout
	m.mu.Unlock()
	if silent {
		m.abort(ErrDisconnected)
	}
}

// observe lets observers watch the stream, from before its handler is called.
func (m *muxServer) observe(observers []StreamObserver) {
	m.observed = newObservation(m.link, m.handler.id, observers)
}
