package grid

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// incoming is a request of the peer while its handler runs. Incomings are used again.
type incoming struct {
	run func() // serve, bound once: starting it allocates nothing

	s        *session
	handler  *singleHandler
	payload  []byte
	id       uint64
	seq      uint32
	deadline time.Time // the answer is of no use after it; zero for none

	// Where the handler has a context.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

var incomingPool sync.Pool

func newIncoming() *incoming {
	if in, ok := incomingPool.Get().(*incoming); ok {
		return in
	}
	in := new(incoming)
	in.run = in.serve
	return in
}

// handleRequest starts the handler of a request on a goroutine of its own.
func (s *session) handleRequest(m *message) {
	h := s.conn.handlers().single(m.Handler, m.subroute)
	if h == nil {
		s.refuse(m, unknownHandlerText)
		return
	}
	if !s.conn.active.enter() {
		s.sendNow(s.errorResponse(m.MuxID, m.Seq, &errShutdown), nil)
		return
	}
	in := newIncoming()
	in.s, in.handler, in.payload = s, h, m.ownPayload()
	in.id, in.seq, in.deadline = m.MuxID, m.Seq, m.deadline(s.arrived)
	if h.handleContext != nil {
		in.ctx, in.cancel = s.conn.handlerContext(in.deadline, h.subroute)
		if !s.running.add(in) {
			in.cancel(nil)
			in.release()
			s.refuse(m, fmt.Sprintf("mux %d is in use", m.MuxID))
			return
		}
	}
	go in.run()
}

// errShutdown is ErrShutdown where a pointer is needed.
var errShutdown = ErrShutdown

// serve runs the handler and sends its answer.
func (in *incoming) serve() {
	out, failure := []byte(nil), &errExited
	defer func() { in.respond(out, failure) }() // also after runtime.Goexit
	out, failure = in.call()
}

// errExited is the error of a handler that ended its goroutine.
var errExited = RemoteErr("handler exited without a result")

// respond sends the answer, unless nobody waits for it any more.
func (in *incoming) respond(out []byte, failure *RemoteErr) {
	s := in.s
	if in.deadline.IsZero() || time.Now().Before(in.deadline) {
		answer := message{MuxID: in.id, Seq: in.seq, Op: OpResponse, Flags: FlagEOF, Payload: out}
		if failure != nil {
			answer = s.errorResponse(in.id, in.seq, failure)
		}
		// Only the end of the session ends the wait for room: the number of
		// requests that can wait here is bounded by what the caller has open.
		if err := s.send(nil, nil, answer, nil); err != nil && failure == nil {
			s.sendNow(s.errorResponse(in.id, in.seq, NewRemoteErr(err)), nil)
		}
	}
	PutByteBuffer(out)
	in.release()
}

// release gives the request back.
func (in *incoming) release() {
	active := &in.s.conn.active
	in.s, in.handler, in.payload, in.ctx, in.cancel = nil, nil, nil, nil, nil
	incomingPool.Put(in)
	active.leave()
}

// call runs the handler.
func (in *incoming) call() (out []byte, err *RemoteErr) {
	defer in.s.conn.recovered(in.handler.id, &err)
	if in.handler.handle != nil {
		return in.handler.handle(in.payload)
	}
	defer in.s.running.done(in)
	return in.handler.handleContext(in.ctx, in.payload)
}

// errorResponse is the answer of a handler that failed.
func (s *session) errorResponse(id uint64, seq uint32, err *RemoteErr) message {
	return message{
		MuxID:   id,
		Seq:     seq,
		Op:      OpResponse,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: s.errorText(string(*err)),
	}
}

// runningCalls knows the requests whose handlers have a context, to cancel them. Its zero value is ready.
type runningCalls struct {
	mu     sync.Mutex // Protects following.
	calls  map[uint64]*incoming
	closed bool
}

// add takes note of a request before its handler starts. It returns false
// where the session is over or the peer uses the number twice.
func (r *runningCalls) add(in *incoming) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.calls[in.id]; taken || r.closed {
		return false
	}
	if r.calls == nil {
		r.calls = make(map[uint64]*incoming)
	}
	r.calls[in.id] = in
	return true
}

// done forgets a request whose handler has returned, and frees its context.
func (r *runningCalls) done(in *incoming) {
	r.mu.Lock()
	delete(r.calls, in.id)
	r.mu.Unlock()
	in.cancel(nil)
}

// cancel tells a handler that its caller has given up.
func (r *runningCalls) cancel(id uint64) {
	var cancel context.CancelCauseFunc
	r.mu.Lock()
	if in := r.calls[id]; in != nil {
		cancel = in.cancel
	}
	r.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
}

// close cancels all handlers: the caller has gone away.
func (r *runningCalls) close() {
	r.mu.Lock()
	r.closed = true
	cancels := make([]context.CancelCauseFunc, 0, len(r.calls))
	for _, in := range r.calls {
		cancels = append(cancels, in.cancel)
	}
	r.mu.Unlock()
	for _, cancel := range cancels {
		cancel(ErrDisconnected)
	}
}
