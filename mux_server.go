package grid

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// muxServer is the handler's side of a stream.
//
// The reader puts requests into a queue that the stream's credits bound. The handler runs on a
// goroutine of its own; a pump between the two hands it the requests and sends its answers. The
// stream is over when the handler has returned and everything it sent has gone out, or when abort
// ends it first. The pump stays until the handler has returned, so a handler that keeps sending
// never gets stuck.
type muxServer struct {
	*sender
	muxes   *muxes
	id      uint64
	handler *streamHandler
	began   time.Duration   // when it was opened, since the session began
	ctx     context.Context // the handler's
	stop    context.CancelCauseFunc

	outbox   outbox   // the pump's alone
	sent     sequence // guarded by the batch
	received uint32   // number of the next counted message; the reader's alone

	observed *observation // nil without observers; set before the handler is called

	needsPing bool          // no deadline, or a distant one
	wake      chan struct{} // tells the pump to look again; room for one signal

	mu       sync.Mutex // Protects following.
	queue    payloadQueue
	opening  int // bytes counted until the stream ends: its payload, decoded; 0 once uncounted
	inflow   inflow
	pumped   int  // bytes of the request that has left the queue but not reached the handler; 0 for none
	handled  int  // bytes of the last request the handler received
	inputEnd bool // the caller sends nothing more
	returned bool // the handler has returned, with result
	result   *RemoteErr
	cut      error     // what had ended ctx when the handler returned; nil if it returned by itself
	credits  int       // what the caller lets the pump send, in messages or bytes; in bytes, a message may exceed it
	ended    bool      // abort was called, or all is sent
	heard    time.Time // when the caller last sent anything
}

// accept starts the handler of a stream that the peer is opening.
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
	size, over := x.admitted(msg, &x.streamQuota)
	if over != limitNone {
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
		inflow:    x.newInflow(h.inCapacity),
		wake:      make(chan struct{}, 1),
		received:  1, // ConnectMux was 0
		inputEnd:  msg.Flags&FlagEOF != 0,
		needsPing: msg.DeadlineMS == 0 || time.Duration(msg.DeadlineMS)*time.Millisecond > muxCallerTimeout,
		credits:   x.granted(msg.Seq, h.outCapacity),
		heard:     time.Now(),
	}
	m.outbox.s, m.outbox.q, m.outbox.end = x.sender, &m.sent, m
	grant := x.grantHere(&m.inflow) // others may end the stream once it is in the table
	m.ctx, m.stop = x.handlerContext(msg.deadline(now), h.subroute, msg, m)
	if !x.servers.put(m.id, m) {
		m.stop(nil)
		m.uncount()
		x.active.leave()
		x.refuse(msg, fmt.Sprintf("mux %d is in use", m.id))
		return
	}
	x.reply(message{MuxID: m.id, DeadlineMS: grant, Op: OpAckMux}, &m.sent)
	h.serve(m, msg.ownPayload())
}

// receive handles a message that the reader got now.
func (m *muxServer) receive(msg *message, now time.Time) {
	if !m.inOrder(msg) {
		return
	}
	switch msg.Op {
	case OpMuxClientMsg:
		if text := m.accept(msg, now); text != "" {
			m.fail(libraryText(text))
		}
	case OpUnblockSrvMux:
		m.mu.Lock()
		m.heard = now
		m.credits = m.addCredit(m.credits, msg.credits(), m.handler.outCapacity)
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

// inOrder checks the number of a message, unless that was done when its first piece came. A wrong
// one ends the stream.
func (m *muxServer) inOrder(msg *message) bool {
	if msg.checked || !msg.Op.counted() {
		return true
	}
	if msg.Seq != m.received {
		m.fail(&libraryError{
			ErrIncorrectSequence,
			fmt.Sprintf("receive sequence number mismatch. want %d, got %d", m.received, msg.Seq),
		})
		return false
	}
	m.received++
	return true
}

// receiveFirst handles the first piece of a message that the reader got now. It reports whether the
// message is wanted.
func (m *muxServer) receiveFirst(msg *message, now time.Time) bool {
	if !m.inOrder(msg) {
		return false
	}
	m.mu.Lock()
	m.heard = now
	m.mu.Unlock()
	return m.muxes.holdMessage(m, msg)
}

// accept queues a request for the handler. It returns what the peer did wrong, if that is to end
// the stream.
func (m *muxServer) accept(msg *message, now time.Time) string {
	payload := msg.Flags&FlagEOF == 0 || msg.Payload != nil
	if payload && !m.muxes.holdMessage(m, msg) {
		return ""
	}
	text, queued := m.enqueue(msg, payload, now)
	if !queued {
		m.streamQuota.free(msg.counted)
	}
	msg.counted = 0
	return text
}

// enqueue queues a request, or the end of the input with or without a payload.
func (m *muxServer) enqueue(msg *message, payload bool, now time.Time) (text string, queued bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = now
	last := msg.Flags&FlagEOF != 0
	switch {
	case m.ended || m.returned:
		return "", false
	case m.handler.inCapacity == 0 && !last, m.inputEnd:
		return "did not expect inbound message", false
	}
	if payload {
		if !m.inflow.arrived(m.cost(len(msg.Payload))) {
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

// abort ends the stream: it cancels the handler's context and has the pump close its input. It does
// not tell the peer.
func (m *muxServer) abort(cause error) {
	m.stop(cause) // before the pump can close the input, which a handler must not take for the caller's own end
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

// finished records that the handler has returned and drops the requests it did not take. Once its
// context has ended, a handler may return for that reason alone, so its result no longer counts:
// nil would make a stream that was cut short look complete.
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
// what cut the stream short; nil if nothing did.
func (m *muxServer) depart(cause error) {
	m.uncount()
	if cause != context.DeadlineExceeded { // else the caller ends it itself, with a better error
		m.advise(message{MuxID: m.id, Op: OpDisconnectClientMux}, nil)
	}
	m.active.leave()
}

// unread removes the requests that nobody will take anymore. m.mu is held.
func (m *muxServer) unread() payloadQueue {
	m.inflow.close(m.sender)
	q := m.queue
	m.queue = payloadQueue{}
	m.streamQuota.free(q.bytes)
	return q
}

// waiting returns the bytes of the requests waiting for the handler.
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

// reserve counts more bytes for the stream's payload before that is decoded.
func (m *muxServer) reserve(bytes int) error { return m.reserveFor(bytes, false) }

// requestRoom is the room for a request that the pump decodes. Its bytes count until the handler
// has finished with it.
type requestRoom muxServer

func (r *requestRoom) reserve(bytes int) error { return (*muxServer)(r).reserveFor(bytes, true) }

// reserveFor counts more bytes, for a request or else until the stream ends. If streams hold too
// much, this one ends.
func (m *muxServer) reserveFor(bytes int, request bool) error {
	if err := m.streamQuota.reserve(bytes); err != nil {
		if err == errOverQuota {
			m.overload()
		}
		return err
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

// uncount stops counting the stream before its end can be seen, so that a peer that keeps within
// the limit is never refused. The handler has returned.
func (m *muxServer) uncount() {
	m.mu.Lock()
	opening, counted := m.opening, m.opening+m.pumped+m.handled
	m.opening, m.pumped, m.handled = 0, 0, 0
	m.mu.Unlock()
	if opening > 0 {
		m.streamQuota.leave(counted)
	}
}

// checkAlive cancels the handler if its caller is silent while the connection was not busy. The
// janitor calls it.
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

// observe attaches observers before the handler is called.
func (m *muxServer) observe(observers []StreamObserver) {
	m.observed = newObservation(m.link, m.handler.id, observers)
}
