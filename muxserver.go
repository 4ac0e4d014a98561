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
	s      *session
	id     uint64
	ctx    context.Context // the handler's
	stop   context.CancelCauseFunc
	inputs int // messages the caller may send ahead of the handler; 0: none at all
	window int // messages the handler may send ahead of the caller's consumer

	sent     sequence // guarded by the batch
	received uint32   // number of the next counted message; the reader's alone

	needsPing bool          // no deadline, or one that is far away
	wake      chan struct{} // tells the pump to look again; room for one signal

	mu       sync.Mutex // Protects following.
	queue    payloadQueue
	held     int  // requests that the pump has taken out of the queue and the handler has not got
	inputEnd bool // the caller sends no more
	returned bool // the handler takes no more
	credits  int  // messages the caller lets the pump send
	ended    bool // cancel was called, or all is sent
	pinged   time.Time
}

// acceptMux starts the handler of a stream that the peer opens.
func (s *session) acceptMux(msg *message) {
	if msg.Flags&FlagStateless != 0 {
		s.refuse(msg, "Stateless streams not supported")
		return
	}
	h := s.conn.handlers().stream(msg.Handler, msg.subroute)
	if h == nil {
		s.refuse(msg, unknownHandlerText)
		return
	}
	if !s.conn.active.enter() {
		s.refuse(msg, string(ErrShutdown))
		return
	}
	m := &muxServer{
		s:         s,
		id:        msg.MuxID,
		inputs:    h.inCapacity,
		window:    h.outCapacity,
		wake:      make(chan struct{}, 1),
		received:  1, // ConnectMux was 0
		inputEnd:  msg.Flags&FlagEOF != 0,
		needsPing: msg.DeadlineMS == 0 || time.Duration(msg.DeadlineMS)*time.Millisecond > muxCallerTimeout,
		credits:   h.outCapacity,
		pinged:    time.Now(),
	}
	if !s.servers.put(m.id, m) {
		s.conn.active.leave()
		s.refuse(msg, fmt.Sprintf("mux %d is in use", m.id))
		return
	}
	m.ctx, m.stop = s.conn.handlerContext(msg.deadline(s.arrived), h.subroute)
	s.sendNow(message{MuxID: m.id, Op: OpAckMux}, &m.sent)
	go h.serve(m, msg.ownPayload())
}

// receive takes a message of the reader.
func (m *muxServer) receive(msg *message) {
	if msg.Op.counted() {
		if msg.Seq != m.received {
			m.fail(fmt.Sprintf("receive sequence number mismatch. want %d, got %d", m.received, msg.Seq))
			return
		}
		m.received++
	}
	switch msg.Op {
	case OpMuxClientMsg:
		if text := m.take(msg); text != "" {
			m.fail(text)
		}
	case OpUnblockSrvMux:
		m.mu.Lock()
		m.credits++
		m.mu.Unlock()
		signal(m.wake)
	case OpPing:
		m.mu.Lock()
		m.pinged = m.s.arrived
		m.mu.Unlock()
		payload, _ := (&pongMsg{}).MarshalMsg(nil)
		m.s.sendNow(message{MuxID: m.id, Seq: msg.Seq, Op: OpPong, Payload: payload}, nil)
	case OpDisconnectServerMux:
		m.cancel(context.Canceled)
	}
}

// take queues a request for the handler. It returns what the peer did wrong.
func (m *muxServer) take(msg *message) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := msg.Flags&FlagEOF != 0
	switch {
	case m.ended || m.returned:
		return ""
	case m.inputs == 0 && !last, m.inputEnd:
		return "did not expect inbound message"
	}
	if !last || msg.Payload != nil {
		if m.queue.len()+m.held >= m.inputs {
			return "handler blocked"
		}
		m.queue.push(msg.ownPayload())
	}
	m.inputEnd = last
	signal(m.wake)
	return ""
}

// fail ends the stream with an error for the caller.
func (m *muxServer) fail(text string) {
	m.s.sendNow(message{MuxID: m.id, Op: OpMuxServerMsg, Flags: FlagEOF | FlagPayloadIsErr, Payload: m.s.errorText(text)}, &m.sent)
	m.cancel(NewRemoteErrString(text))
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
	unread := m.queue
	m.queue = payloadQueue{}
	m.mu.Unlock()
	unread.drop()
	m.s.servers.remove(m.id)
	signal(m.wake)
}

// checkAlive cancels the handler of a caller that has gone silent. The janitor calls it.
func (m *muxServer) checkAlive(now time.Time) {
	m.mu.Lock()
	silent := m.needsPing && now.Sub(m.pinged) > muxCallerTimeout
	m.mu.Unlock()
	if silent {
		m.cancel(ErrDisconnected)
	}
}

// serveStream runs a handler whose channels carry In and Out, and the pump between it and the session.
func serveStream[In, Out any](m *muxServer, c codec[In, Out], handle func(in <-chan In, out chan<- Out) *RemoteErr) {
	p := streamPump[In, Out]{
		m:        m,
		codec:    c,
		out:      make(chan Out, min(m.window, maxOutBuffer)),
		returned: make(chan *RemoteErr, 1),
	}
	if m.inputs > 0 {
		p.in = make(chan In)
	}
	in, out := p.in, p.out
	go func() {
		result := &errExited // by runtime.Goexit
		defer func() { p.returned <- result }()
		result = handle(in, out)
	}()
	p.run()
	if m.ctx.Err() != context.DeadlineExceeded { // else the caller ends it by itself, with the better error
		m.s.sendNow(message{MuxID: m.id, Op: OpDisconnectClientMux}, nil)
	}
	m.s.conn.active.leave()
}

// maxOutBuffer bounds the messages that a handler may be ahead of the pump.
const maxOutBuffer = 64

// streamPump stands between a handler and the session.
type streamPump[In, Out any] struct {
	m     *muxServer
	codec codec[In, Out]

	in    chan In // nil once closed, and where the handler takes no input
	head  In      // the next request, where ready
	ready bool

	out      chan Out
	returned chan *RemoteErr // the handler's result
	result   *RemoteErr
	over     bool // the handler has returned
}

// run pumps until the handler has returned and the stream has ended.
func (p *streamPump[In, Out]) run() {
	defer p.closeInput()
	for p.step() {
	}
	p.m.cancel(context.Cause(p.m.ctx))
	for !p.over {
		p.drain()
	}
}

// drain takes what the handler of an ended stream still sends.
func (p *streamPump[In, Out]) drain() {
	p.closeInput()
	select {
	case _, ok := <-p.out:
		if !ok {
			p.out = nil
		}
	case p.result = <-p.returned:
		p.over = true
	}
}

// step moves one message. It returns false when the stream has ended.
func (p *streamPump[In, Out]) step() bool {
	credit, ok := p.prepare()
	if !ok {
		return false
	}
	out := p.out
	if !credit {
		out = nil
	}
	if p.over && credit {
		select {
		case v, ok := <-out:
			if ok {
				return p.send(v)
			}
		default:
		}
		p.finish()
		return false
	}
	var in chan In
	if p.ready {
		in = p.in
	}
	select {
	case in <- p.head:
		p.taken()
	case v, ok := <-out:
		if !ok {
			p.out = nil // the handler has closed it, which is not its to do
			return true
		}
		return p.send(v)
	case p.result = <-p.returned:
		p.over = true
		p.refuseInput()
	case <-p.m.wake:
	case <-p.m.ctx.Done():
		return false
	}
	return true
}

// prepare fetches the next request and says whether the caller lets the handler send.
func (p *streamPump[In, Out]) prepare() (credit, ok bool) {
	m := p.m
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return false, false
	}
	credit = m.credits > 0
	var b []byte
	fetch := p.in != nil && !p.ready && m.queue.len() > 0
	if fetch {
		b = m.queue.pop()
		m.held = 1
	}
	inputEnd := !fetch && m.inputEnd && m.queue.len() == 0
	m.mu.Unlock()
	if inputEnd && !p.ready {
		p.closeInput()
	}
	if !fetch {
		return credit, true
	}
	head, err := safely(p.codec.decode, b)
	if err != nil {
		m.fail(fmt.Sprintf("stream request: %v", err))
		return false, false
	}
	p.head, p.ready = head, true
	return credit, true
}

// taken gives the caller credit for the request that the handler has got.
func (p *streamPump[In, Out]) taken() {
	var none In
	p.head, p.ready = none, false
	p.m.mu.Lock()
	p.m.held = 0
	p.m.mu.Unlock()
	p.m.s.sendNow(message{MuxID: p.m.id, Op: OpUnblockClMux}, &p.m.sent)
}

// closeInput tells the handler that no more requests come.
func (p *streamPump[In, Out]) closeInput() {
	if p.in != nil {
		close(p.in)
		p.in, p.ready = nil, false
	}
}

// refuseInput drops requests that nobody will take.
func (p *streamPump[In, Out]) refuseInput() {
	p.closeInput()
	p.m.mu.Lock()
	p.m.returned = true
	unread := p.m.queue
	p.m.queue = payloadQueue{}
	p.m.mu.Unlock()
	unread.drop()
}

// send sends one answer of the handler, for one credit.
func (p *streamPump[In, Out]) send(v Out) bool {
	b, err := safely(p.codec.encode, v)
	if err != nil {
		p.m.fail(fmt.Sprintf("stream response: %v", err))
		return false
	}
	err = p.transmit(message{Payload: b})
	PutByteBuffer(b)
	return err == nil
}

// finish sends the end of the stream, for one credit.
func (p *streamPump[In, Out]) finish() {
	last := message{Flags: FlagEOF}
	if p.result != nil {
		last.Flags |= FlagPayloadIsErr
		last.Payload = p.m.s.errorText(string(*p.result))
	}
	p.transmit(last)
}

func (p *streamPump[In, Out]) transmit(msg message) error {
	msg.MuxID = p.m.id
	msg.Op = OpMuxServerMsg
	p.m.mu.Lock()
	p.m.credits--
	p.m.mu.Unlock()
	err := p.m.s.send(p.m.ctx.Done(), nil, msg, &p.m.sent)
	if errors.Is(err, ErrMessageTooLarge) {
		p.m.fail(err.Error())
	}
	return err
}
