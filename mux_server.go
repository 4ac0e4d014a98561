package grid

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// muxServer is the handler's side of a stream.
//
// The reader puts requests into the inbox, which the stream's credits bound. The handler runs on a
// goroutine of its own. One that gets a RawStream takes the requests and sends its answers by itself
// (mux_direct.go). For one that gets channels, a pump between the two does (mux_pump.go); it stays
// until the handler has returned, so a handler that keeps sending never gets stuck. The stream is
// over when the handler has returned and everything it sent has gone out, or when abort ends it
// first.
type muxServer struct {
	*sender
	inbox
	muxes   *muxes
	id      uint64
	handler *streamHandler
	began   time.Duration   // when it was opened, since the session began
	ctx     context.Context // the handler's
	stop    context.CancelCauseFunc
	answer  *answerState // what the handler sets to go with its messages

	out      outlet   // of the handler, or the pump's alone
	sent     sequence // guarded by the batch
	budget   int      // what the pump may send, in messages or bytes; in bytes, a message may exceed it; the pump's alone
	received uint32   // number of the next counted message; the reader's alone

	observed *observation // nil without observers; set before the handler is called

	needsPing bool          // no deadline, or a distant one
	wake      chan struct{} // tells the pump to look again; room for one signal; nil without one

	// The mutex of the inbox protects following.
	opening   int  // bytes counted until the stream ends: its payload, decoded; 0 once uncounted
	uncounted bool // nothing of the stream counts anymore
	pumped    int  // bytes of the request that has left the queue but not reached the handler; 0 for none
	handled   int  // bytes of the last request the handler received
	returned  bool // the handler has returned, with result
	result    error
	cut       error     // what had ended ctx when the handler returned; nil if it returned by itself
	credits   int       // what the caller lets the pump send beyond its budget, in messages or bytes
	heard     time.Time // when the caller last sent anything
}

var errHandlerReturned = errors.New("grid: the stream's handler has returned")

// accept starts the handler of a stream that the peer is opening.
func (x *muxes) accept(msg *message, now time.Time) {
	if msg.Flags&FlagStateless != 0 {
		x.refuse(msg, "Stateless streams not supported")
		return
	}
	handlers := x.handlers()
	h := handlers.stream(msg.Handler, msg.subroute)
	if h == nil {
		x.refuseUnknown(msg)
		return
	}
	if err := x.checkOpening(h, msg); err != nil {
		x.recent.add(x.remote, RoleServer, h.target, err.Error())
		x.refuse(msg, err.Error())
		return
	}
	if !x.active.enter() {
		x.refuse(msg, string(x.active.why()))
		return
	}
	size, over := x.admitted(msg, x.streamQuota)
	if over != limitNone {
		x.active.leave()
		x.overloaded(msg, h.target, over)
		return
	}
	m := &muxServer{
		sender:    x.sender,
		muxes:     x,
		opening:   size,
		id:        msg.MuxID,
		handler:   h,
		began:     now.Sub(x.began),
		received:  1, // ConnectMux was 0
		needsPing: msg.DeadlineMS == 0 || time.Duration(msg.DeadlineMS)*time.Millisecond > muxCallerTimeout,
		heard:     time.Now(),
	}
	m.takeIn(msg)
	m.sent.lane = max(msg.lane, handlers.priority(msg.Handler, msg.subroute).lane())
	m.out.s, m.out.q, m.out.end = x.sender, &m.sent, m
	grant := x.grantHere(&m.inflow) // others may end the stream once it is in the table
	m.ctx, m.stop, m.answer = x.handlerContext(h.labels, msg.deadline(now), h.subroute(), msg, m, &x.agreement)
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

// takeIn prepares the stream for what is to come in, and for the credit that its opening gives.
func (m *muxServer) takeIn(open *message) {
	credits := m.granted(open.Seq, m.handler.outCapacity)
	m.inputEnd = open.Flags&FlagEOF != 0
	in := m.handler.inCapacity
	if !m.handler.direct {
		m.wake = make(chan struct{}, 1)
		m.credits = credits
	} else {
		m.arrived, m.out.credited = make(chan struct{}, 1), make(chan struct{}, 1)
		m.out.credits = credits
		if m.inputEnd { // the caller believes that there is none
			in = 0
		}
	}
	m.inflow = m.newInflow(in)
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
		if !m.handler.direct {
			m.credits = m.addCredit(m.credits, msg.credits(), m.handler.outCapacity)
		}
		m.mu.Unlock()
		if m.handler.direct {
			m.out.addCredit(msg.credits(), m.mostCredit(m.handler.outCapacity))
		}
		signal(m.wake)
	case OpPing:
		m.mu.Lock()
		m.heard = now
		m.mu.Unlock()
		payload, _ := (&pongMsg{}).MarshalMsg(nil)
		m.reply(message{MuxID: m.id, Seq: msg.Seq, Op: OpPong, Payload: payload, lane: m.sent.lane}, nil)
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
	if m.idle {
		signal(m.arrived)
	}
	return "", true
}

// fail ends the stream with an error for the caller.
func (m *muxServer) fail(err *libraryError) {
	m.advise(m.marked(message{
		MuxID:   m.id,
		Op:      OpMuxServerMsg,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: m.errorText(err.text, maxMark),
	}, err), &m.sent)
	m.abort(err)
}

// abort ends the stream: it cancels the handler's context and has the pump close its input. It does
// not tell the peer.
func (m *muxServer) abort(cause error) {
	m.stop(cause) // before the pump can close the input, which a handler must not take for the caller's own end
	m.out.shut()
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
	m.tellHandler()
}

// finished records that the handler has returned and drops the requests it did not take. Once its
// context has ended, a handler may return for that reason alone, so its result no longer counts:
// nil would make a stream that was cut short look complete.
func (m *muxServer) finished(result error) {
	cut := cutShort(m.ctx)
	m.mu.Lock()
	m.returned, m.result, m.cut = true, result, cut
	unread := m.unread()
	m.mu.Unlock()
	unread.drop()
	m.tellHandler()
}

// tellHandler has the pump, or whoever waits in Recv, look at what has changed.
func (m *muxServer) tellHandler() {
	signal(m.wake)
	signal(m.arrived)
}

// last returns the message that the handler has returned, with its error and metadata if any.
func (m *muxServer) last(header, trailer []byte) message {
	last := message{Flags: FlagEOF}
	m.detailed(&last, m.result, header, trailer) // set before returned is
	return last
}

// transmit sends a message of the handler, without a look at credit. If it fails, the stream or the
// session ends, or also is closed; but for errCanceled once giveUp is.
func (m *muxServer) transmit(msg message, also, giveUp <-chan struct{}) error {
	msg.MuxID, msg.Op = m.id, OpMuxServerMsg
	err := m.out.send(giveUp, m.ctx.Done(), also, msg)
	if errors.Is(err, ErrMessageTooLarge) {
		m.fail(&libraryError{ErrMessageTooLarge, err.Error()})
	}
	return err
}

// outcome returns why the stream ended, for observers.
func (m *muxServer) outcome(cause error) error {
	if cause != nil {
		return cause
	}
	return m.result
}

// depart tells the caller that the stream has ended, and leaves the connection's activity. cause is
// what cut the stream short; nil if nothing did.
func (m *muxServer) depart(cause error) {
	m.uncount()
	if cause != context.DeadlineExceeded { // else the caller ends it itself, with a better error
		m.advise(message{MuxID: m.id, Op: OpDisconnectClientMux, lane: m.sent.lane}, nil)
	}
	m.active.leave()
}

// unread removes the requests that nobody will take anymore. m.mu is held.
func (m *muxServer) unread() payloadQueue {
	m.inflow.close(m.sender)
	m.shut.Store(true)
	q := m.queue
	m.queue = payloadQueue{}
	m.streamQuota.free(q.bytes)
	return q
}

// overload ends a stream whose requests pile up.
func (m *muxServer) overload() {
	m.countRefusal(RoleServer, m.handler.target, limitStreamBytes)
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
	switch {
	case m.uncounted: // a goroutine that the handler has left behind
		m.streamQuota.free(bytes)
		return errHandlerReturned
	case !request:
		m.opening += bytes
	case m.handler.direct:
		m.handled += bytes
	default:
		m.pumped += bytes
	}
	return nil
}

// finishedWith stops counting what the last request of a handler without a pump was decoded to.
func (m *muxServer) finishedWith() {
	m.mu.Lock()
	bytes := m.handled
	m.handled = 0
	m.mu.Unlock()
	m.streamQuota.free(bytes)
}

// uncount stops counting the stream before its end can be seen, so that a peer that keeps within
// the limit is never refused. The handler has returned.
func (m *muxServer) uncount() {
	m.mu.Lock()
	m.uncounted = true
	opening, counted := m.opening, m.opening+m.pumped+m.handled+m.lent
	m.opening, m.pumped, m.handled, m.lent = 0, 0, 0, 0
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
	switch {
	case silent:
		m.abort(ErrDisconnected)
	case m.handler.direct && m.ctx.Err() != nil: // no pump sees that its deadline has passed
		m.abort(context.Cause(m.ctx))
	}
}

// observe attaches observers before the handler is called.
func (m *muxServer) observe(observers []StreamObserver) {
	m.observed = newObservation(m.link, m.handler.target, observers)
}
