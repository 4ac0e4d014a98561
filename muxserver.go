package grid

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// muxServer is the handler's side of a stream.
//
// The reader puts requests into a queue that the stream's credits bound. The
// handler runs on a goroutine of its own; a pump between the two hands it the
// requests and sends what it answers. The stream is over when the handler has
// returned and all it sent has gone out, or when cancel has ended it first;
// the pump stays until the handler has returned, so that a handler that goes
// on sending is never stuck.
type muxServer struct {
	s       *session
	id      uint64
	handler *streamHandler
	began   time.Duration   // when it was opened, since the session began
	ctx     context.Context // the handler's
	stop    context.CancelCauseFunc
	inputs  int // messages the caller may send ahead of the handler; 0: none at all
	window  int // messages the handler may send ahead of the caller's consumer

	out      outbox   // the pump's alone
	sent     sequence // guarded by the batch
	received uint32   // number of the next counted message; the reader's alone

	observed *observation // nil where nobody watches; set before the handler is called, seen by who has heard of it

	needsPing bool          // no deadline, or one that is far away
	wake      chan struct{} // tells the pump to look again; room for one signal

	mu       sync.Mutex // Protects following.
	queue    payloadQueue
	held     int  // requests that the pump has taken out of the queue and the handler has not got
	counted  int  // bytes that the stream holds; 0 once it does not count any more
	pumped   int  // bytes of the request that the pump holds
	handled  int  // bytes of the last request that the handler got
	inputEnd bool // the caller sends no more
	returned bool // the handler has returned, with result
	result   *RemoteErr
	cut      error     // what had ended ctx when the handler returned; nil where it was done by itself
	credits  int       // messages the caller lets the pump send
	ended    bool      // cancel was called, or all is sent
	pinged   time.Time // when the caller last sent anything
}

// acceptMux starts the handler of a stream that the peer opens.
func (s *session) acceptMux(msg *message) {
	if msg.Flags&FlagStateless != 0 {
		s.refuse(msg, "Stateless streams not supported")
		return
	}
	h := s.conn.handlers().stream(msg.Handler, msg.subroute)
	if h == nil {
		s.refuseUnknown(msg)
		return
	}
	if err := s.checkOpening(h, msg); err != nil {
		s.conn.manager.recent.add(s.conn.Remote, RoleServer, h.id, err.Error())
		s.refuse(msg, err.Error())
		return
	}
	if !s.conn.active.enter() {
		s.refuse(msg, string(ErrShutdown))
		return
	}
	size := msg.footprint()
	if over := s.conn.streams.enter(size); over != limitNone {
		s.conn.active.leave()
		s.overloaded(msg, over)
		return
	}
	m := &muxServer{
		s:         s,
		counted:   size,
		id:        msg.MuxID,
		handler:   h,
		began:     s.arrived.Sub(s.began),
		inputs:    h.inCapacity,
		window:    h.outCapacity,
		wake:      make(chan struct{}, 1),
		received:  1, // ConnectMux was 0
		inputEnd:  msg.Flags&FlagEOF != 0,
		needsPing: msg.DeadlineMS == 0 || time.Duration(msg.DeadlineMS)*time.Millisecond > muxCallerTimeout,
		credits:   h.outCapacity,
		pinged:    time.Now(),
	}
	m.out.s, m.out.q, m.out.end = s, &m.sent, m
	m.ctx, m.stop = s.conn.handlerContext(msg.deadline(s.arrived), h.subroute, msg, m)
	if !s.servers.put(m.id, m) {
		m.stop(nil)
		m.leave()
		s.conn.active.leave()
		s.refuse(msg, fmt.Sprintf("mux %d is in use", m.id))
		return
	}
	s.reply(message{MuxID: m.id, DeadlineMS: s.ackGrant(h), Op: OpAckMux}, &m.sent)
	h.serve(m, msg.ownPayload())
}

// receive takes a message of the reader.
func (m *muxServer) receive(msg *message) {
	if msg.Op.counted() {
		if msg.Seq != m.received {
			m.fail(&libraryError{ErrIncorrectSequence,
				fmt.Sprintf("receive sequence number mismatch. want %d, got %d", m.received, msg.Seq)})
			return
		}
		m.received++
	}
	switch msg.Op {
	case OpMuxClientMsg:
		if text := m.accept(msg); text != "" {
			m.fail(libraryText(text))
		}
	case OpUnblockSrvMux:
		m.mu.Lock()
		m.pinged = m.s.arrived
		m.credits = min(m.credits+msg.credits(), m.window)
		m.mu.Unlock()
		signal(m.wake)
	case OpPing:
		m.mu.Lock()
		m.pinged = m.s.arrived
		m.mu.Unlock()
		payload, _ := (&pongMsg{}).MarshalMsg(nil)
		m.s.reply(message{MuxID: m.id, Seq: msg.Seq, Op: OpPong, Payload: payload}, nil)
	case OpDisconnectServerMux:
		m.cancel(context.Canceled)
	}
}

// accept queues a request for the handler. It returns what the peer did wrong.
func (m *muxServer) accept(msg *message) string {
	size := 0
	if msg.Flags&FlagEOF == 0 || msg.Payload != nil {
		size = msg.footprint()
		if !m.s.hold(m, size) {
			m.s.conn.refuses(RoleServer, m.handler.id, limitStreamBytes)
			return string(ErrOverloaded)
		}
	}
	text, queued := m.enqueue(msg, size)
	if !queued {
		m.s.conn.streams.free(size)
	}
	return text
}

// enqueue queues a request that takes size bytes, 0 for an end of the input without one.
func (m *muxServer) enqueue(msg *message, size int) (text string, queued bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pinged = m.s.arrived
	last := msg.Flags&FlagEOF != 0
	switch {
	case m.ended || m.returned:
		return "", false
	case m.inputs == 0 && !last, m.inputEnd:
		return "did not expect inbound message", false
	}
	if size > 0 {
		if m.queue.len()+m.held >= m.inputs {
			return "handler blocked", false
		}
		m.queue.push(msg.ownPayload())
		m.counted += size
	}
	m.inputEnd = last
	signal(m.wake)
	return "", true
}

// fail ends the stream with an error for the caller.
func (m *muxServer) fail(err *libraryError) {
	m.s.advise(m.s.marked(message{
		MuxID:   m.id,
		Op:      OpMuxServerMsg,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: m.s.errorText(err.text),
	}, err), &m.sent)
	m.cancel(err)
}

// cancel ends the stream: the handler's context is canceled and its input closed. The peer is not told.
func (m *muxServer) cancel(cause error) {
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
	m.s.servers.remove(m.id)
	signal(m.wake)
}

// finished takes note that the handler has returned. Requests that it has not taken are dropped. Once
// its context has ended a handler may return for that reason only, so that its result counts no more:
// nil would make a whole stream of one that was cut short.
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
	m.leave()
	if cause != context.DeadlineExceeded { // else the caller ends it by itself, with the better error
		m.s.advise(message{MuxID: m.id, Op: OpDisconnectClientMux}, nil)
	}
	m.s.conn.active.leave()
}

// unread takes the requests that nobody will take any more. m.mu is held.
func (m *muxServer) unread() payloadQueue {
	q := m.queue
	m.queue = payloadQueue{}
	m.counted -= q.bytes
	m.s.conn.streams.free(q.bytes)
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
	m.s.conn.refuses(RoleServer, m.handler.id, limitStreamBytes)
	m.fail(libraryText(string(ErrOverloaded)))
}

// take makes the payload of the stream count for more bytes, once it is decoded.
func (m *muxServer) take(bytes int) error { return m.takeMore(bytes, false) }

// requestRoom is where a request counts that the pump decodes: until the handler is through with it.
type requestRoom muxServer

func (r *requestRoom) take(bytes int) error { return (*muxServer)(r).takeMore(bytes, true) }

// takeMore makes the stream count for more bytes, for a request or else until it ends. Where streams hold too much, it is
// this one that ends.
func (m *muxServer) takeMore(bytes int, request bool) error {
	c := m.s.conn
	if most := c.limits.MaxStreamBytes; bytes > most {
		return tooLarge(bytes, limitStreamBytes, most)
	}
	if !c.streams.reserve(bytes) {
		m.overload()
		return errOverQuota
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counted += bytes
	if request {
		m.pumped += bytes
	}
	return nil
}

// leave makes the stream count no longer, before its end can be seen: a peer that keeps within the limit
// is never refused. Its handler has returned.
func (m *muxServer) leave() {
	m.mu.Lock()
	counted := m.counted
	m.counted = 0
	m.mu.Unlock()
	if counted > 0 {
		m.s.conn.streams.leave(counted)
	}
}

// checkAlive cancels the handler of a caller that has gone silent, unless the connection was busy. The janitor calls it.
func (m *muxServer) checkAlive(l *look) {
	m.mu.Lock()
	m.pinged = m.pinged.Add(l.missed)
	if l.busy {
		m.pinged = l.now
	}
	silent := m.needsPing && l.silence(l.now.Sub(m.pinged)) > muxCallerTimeout
	m.mu.Unlock()
	if silent {
		m.cancel(ErrDisconnected)
	}
}

// serveStream starts a handler and the pump between it and the session. What
// both need is made here, by the reader: a goroutine that allocates has
// twice the stack of one that waits, and idle streams are mostly stacks.
func serveStream[In, Out any](m *muxServer, h *streamHandlerOf[In, Out], payload []byte) {
	p := &streamPump[In, Out]{m: m, h: h, payload: payload, out: make(chan Out, min(m.window, maxOutBuffer))}
	if m.inputs > 0 {
		p.in = make(chan In)
	}
	go p.handle(p.in, p.out)
	go p.run()
}

// maxOutBuffer bounds the messages that a handler may be ahead of the pump.
const maxOutBuffer = 64

// streamPump stands between a handler and the session.
type streamPump[In, Out any] struct {
	m       *muxServer
	h       *streamHandlerOf[In, Out]
	payload []byte

	in    chan In // nil once closed, and where the handler takes no input
	head  In      // the next request, where ready
	size  int     // of head, in bytes
	ready bool
	owed  int // requests the handler has got for which the caller has no credit yet

	out      chan Out
	over     bool // the handler has returned
	told     bool // the caller has been told that the handler has returned, before the end of the stream
	finished bool // the end of the stream is sent

	coding bool // the codec is being called
	done   bool // run is through
}

// handle runs the handler. Its channels are passed in, as the pump changes its own.
func (p *streamPump[In, Out]) handle(in <-chan In, out chan<- Out) {
	result := &errExited // by runtime.Goexit
	defer func() { p.m.finished(result) }()
	result = p.h.call(p.m, p.payload, in, out)
}

// run pumps until the handler has returned and the stream has ended.
func (p *streamPump[In, Out]) run() {
	defer p.resume()
	for p.step() {
	}
	cause := p.cause()
	p.m.cancel(cause)
	for !p.over {
		p.drain()
	}
	p.closeInput()
	p.m.observed.end(p.outcome(cause))
	p.m.s.conn.streamServed(p.m, p.m.result, cause)
	p.m.depart(cause)
	p.done = true
}

// resume goes on where a codec or an observer has ended the pump's goroutine.
func (p *streamPump[In, Out]) resume() {
	if p.done {
		return
	}
	if p.coding {
		p.coding = false
		p.m.fail(&libraryError{text: "stream message: " + errExitedGoroutine.Error()})
	}
	go p.run()
}

// cause is what cut the stream short; nil where all that the handler sent has gone out, and the end behind it.
func (p *streamPump[In, Out]) cause() error {
	if p.finished {
		return nil
	}
	p.m.mu.Lock()
	cut := p.m.cut
	p.m.mu.Unlock()
	if cut != nil {
		return cut
	}
	<-p.m.ctx.Done() // what could not be sent is followed by the end of the stream or of the session
	return context.Cause(p.m.ctx)
}

// drain takes what the handler of an ended stream still sends.
func (p *streamPump[In, Out]) drain() {
	p.closeInput()
	p.m.mu.Lock()
	p.over = p.m.returned
	p.m.mu.Unlock()
	if p.over {
		return
	}
	select {
	case _, ok := <-p.out:
		if !ok {
			p.out = nil
		}
	case <-p.m.wake:
	}
}

// step moves one message. It returns false when the stream has ended.
func (p *streamPump[In, Out]) step() bool {
	credits, ok := p.prepare()
	if !ok {
		return false
	}
	out := p.out
	if credits == 0 {
		out = nil
	}
	if p.over {
		select {
		case v, ok := <-out:
			if ok {
				return p.send(v)
			}
		default:
		}
		if credits > 0 || p.m.s.has(featureStreams) && len(p.out) == 0 {
			p.finish()
			return false
		}
		p.tellReturned()
	}
	var in chan In
	if p.ready {
		in = p.in
	} else {
		p.settle()
	}
	select {
	case in <- p.head:
		p.taken()
	case v, ok := <-out:
		if !ok {
			p.out = nil // the handler has closed it, which is not its to do
			return true
		}
		return p.send(v) && p.sendMore(credits-1)
	case <-p.m.wake:
	case <-p.m.ctx.Done():
		return false
	}
	return true
}

// sendMore sends up to n further messages that the handler has ready. A
// receive alone is much faster than the select of step.
func (p *streamPump[In, Out]) sendMore(n int) bool {
	for range n {
		select {
		case v, ok := <-p.out:
			if !ok {
				p.out = nil
				return true
			}
			if !p.send(v) {
				return false
			}
		default:
			return true
		}
	}
	return true
}

// prepare fetches the next request and says how many messages the caller lets the handler send.
func (p *streamPump[In, Out]) prepare() (credits int, ok bool) {
	m := p.m
	m.mu.Lock()
	if m.ended || m.cut != nil {
		m.mu.Unlock()
		return 0, false
	}
	credits = m.credits
	over := m.returned
	var b []byte
	fetch := p.in != nil && !p.ready && m.queue.len() > 0 && !over
	if fetch {
		b = m.queue.pop()
		m.held, m.pumped = 1, held(b)
	}
	inputEnd := !fetch && m.inputEnd && m.queue.len() == 0
	m.mu.Unlock()
	p.over = over
	if over || inputEnd && !p.ready {
		p.closeInput()
	}
	if !fetch {
		return credits, true
	}
	p.size = len(b)
	p.coding = true
	head, err := safely(p.decode, b)
	p.coding = false
	if err != nil {
		if errors.Is(err, errOverQuota) { // the stream has ended for that
			return 0, false
		}
		m.fail(&libraryError{text: fmt.Sprintf("stream request: %v", err)})
		return 0, false
	}
	p.head, p.ready = head, true
	return credits, true
}

func (p *streamPump[In, Out]) decode(b []byte) (In, error) { return p.h.decode(b, (*requestRoom)(p.m)) }

// taken takes note that the handler has got a request, for which the caller gets credit.
func (p *streamPump[In, Out]) taken() {
	var none In
	p.head, p.ready = none, false
	p.m.mu.Lock()
	done := p.m.handled // the handler is through with the one before
	p.m.held, p.m.handled, p.m.pumped = 0, p.m.pumped, 0
	p.m.counted -= done
	p.m.mu.Unlock()
	p.m.s.conn.streams.free(done)
	p.owed++
	if p.owed >= creditBatch(p.m.inputs) {
		p.settle()
	}
	p.m.observed.received(p.size)
}

// settle grants the caller the credits that it is owed.
func (p *streamPump[In, Out]) settle() {
	p.m.s.grant(OpUnblockClMux, p.m.id, p.owed, &p.m.sent)
	p.owed = 0
}

// closeInput tells the handler that no more requests come.
func (p *streamPump[In, Out]) closeInput() {
	if p.in != nil {
		close(p.in)
		p.in, p.ready = nil, false
	}
}

// send sends one answer of the handler, for one credit.
func (p *streamPump[In, Out]) send(v Out) bool {
	p.coding = true
	b, err := safely(p.h.encode, v)
	p.coding = false
	if err != nil {
		p.m.fail(&libraryError{text: fmt.Sprintf("stream response: %v", err)})
		return false
	}
	if err = p.transmit(message{Payload: b}); err == nil {
		p.m.observed.sent(len(b))
	}
	PutByteBuffer(b)
	return err == nil
}

// finish sends the end of the stream, for one credit where the caller is of the original.
func (p *streamPump[In, Out]) finish() {
	p.finished = p.transmit(p.last()) == nil
}

// last says that the handler has returned, and with which error.
func (p *streamPump[In, Out]) last() message {
	last := message{Flags: FlagEOF}
	if err := p.m.result; err != nil { // set before the handler counts as returned
		last.Flags |= FlagPayloadIsErr
		last.Payload = p.m.s.errorText(string(*err))
	}
	return last
}

// tellReturned tells a caller who may be sending that the handler has returned, once. The end of the stream comes
// behind the messages for which the caller has given no credit: it may do so only when it has sent all it wants to.
func (p *streamPump[In, Out]) tellReturned() {
	if p.told || p.m.inputs == 0 || !p.m.s.has(featureStreams) {
		return
	}
	p.told = true
	msg := p.last()
	msg.MuxID, msg.Op = p.m.id, OpUnblockClMux
	p.m.out.send(p.m.ctx.Done(), nil, msg)
}

// outcome is why the stream ended, for observers.
func (p *streamPump[In, Out]) outcome(cause error) error {
	switch {
	case cause != nil:
		return cause
	case p.m.result != nil:
		return p.m.result
	}
	return nil
}

func (p *streamPump[In, Out]) transmit(msg message) error {
	msg.MuxID = p.m.id
	msg.Op = OpMuxServerMsg
	p.m.mu.Lock()
	p.m.credits--
	p.m.mu.Unlock()
	err := p.m.out.send(p.m.ctx.Done(), nil, msg)
	if errors.Is(err, ErrMessageTooLarge) {
		p.m.fail(&libraryError{ErrMessageTooLarge, err.Error()})
	}
	return err
}
