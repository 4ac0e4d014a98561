package grid

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// incoming is a request of the peer while its handler runs. Incomings are used again.
type incoming struct {
	next *incoming // in the queue of workers

	listed
	s        *session
	payload  []byte
	id       uint64
	seq      uint32
	deadline time.Time // the answer is of no use after it; zero for none
	size     int       // bytes that count for it; 0 once it does not count any more
	over     limit     // what it is refused for, which shows when it is decoded

	berth        // of the answer
	out   []byte // what the handler has returned, while the answer waits
	cut   error  // what had ended ctx when the handler returned; nil for nothing

	// Where the handler has a context.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// handleRequest starts the handler of a request on a goroutine of its own.
func (s *session) handleRequest(m *message) {
	h := s.conn.handlers().single(m.Handler, m.subroute)
	if h == nil {
		s.refuseUnknown(m)
		return
	}
	if !s.conn.active.enter() {
		s.reply(s.marked(s.errorResponse(m.MuxID, m.Seq, &errShutdown), ErrShutdown), nil)
		return
	}
	size := m.footprint()
	if over := s.conn.requests.enter(size); over != limitNone {
		s.conn.active.leave()
		s.overloaded(m, over)
		return
	}
	in := s.incoming.get(s, h, s.arrived.Sub(s.began))
	in.size = size
	in.payload = m.ownPayload()
	in.id, in.seq, in.deadline = m.MuxID, m.Seq, m.deadline(s.arrived)
	if h.handleContext != nil {
		in.ctx, in.cancel = s.conn.handlerContext(in.deadline, h.subroute, m, in)
		if !s.running.add(in) {
			in.cancel(nil)
			in.release()
			s.refuse(m, fmt.Sprintf("mux %d is in use", m.MuxID))
			return
		}
	}
	s.workers.add(in)
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

// respond sends the answer, unless nobody waits for it any more: the deadline has passed, or the
// context had ended when the handler returned, as the caller or the connection is gone.
func (in *incoming) respond(out []byte, failure *RemoteErr) {
	s, now := in.s, time.Since(in.s.began)
	if in.over != limitNone {
		in.leave()
		s.overloaded(&message{MuxID: in.id, Handler: in.handler.Load().id, Flags: FlagEOF}, in.over)
		PutByteBuffer(out)
		in.release()
		return
	}
	inTime := in.deadline.IsZero() || now < in.deadline.Sub(s.began)
	s.conn.requestServed(in.handler.Load(), now-time.Duration(in.began.Load()), failure, inTime, in.cut)
	if inTime && in.cut == nil {
		answer := message{MuxID: in.id, Seq: in.seq, Op: OpResponse, Flags: FlagEOF, Payload: out}
		if failure != nil {
			answer = s.errorResponse(in.id, in.seq, failure)
		}
		if err := s.fits(&answer); err != nil && failure == nil {
			answer = s.marked(s.errorResponse(in.id, in.seq, NewRemoteErr(err)), err)
		}
		in.out = out
		if in.send(answer) {
			return // Done releases the request
		}
	}
	PutByteBuffer(out)
	in.release()
}

// send queues the answer, or lets it wait for room: that of the session's end ends the wait, as the
// number of answers that can wait is bounded by what the caller has open. It reports whether it waits.
func (in *incoming) send(answer message) (waits bool) {
	switch in.begin(in.s.out, in, &answer, nil) {
	case nil:
		in.leave()
		in.s.append(answer, nil)
	case batch.ErrQueued:
		return true
	}
	return false
}

// Opens is part of batch.Item.
func (in *incoming) Opens() bool { return false }

// Admit is part of batch.Item.
func (in *incoming) Admit() (size int, ok bool) {
	in.s.number(&in.m, nil)
	return in.m.size(), true
}

// AppendTo is part of batch.Item. The request no longer counts when its answer can be seen: a peer that
// keeps within the limit is never refused.
func (in *incoming) AppendTo(b []byte) []byte {
	in.leave()
	return in.m.appendTo(b)
}

// Done is part of batch.Item.
func (in *incoming) Done(error) {
	PutByteBuffer(in.out)
	in.release()
}

// take makes the request count for more bytes, once its payload is decoded. Where requests hold too much it is refused.
func (in *incoming) take(bytes int) error {
	c := in.s.conn
	if most := c.limits.MaxRequestBytes; bytes > most {
		return tooLarge(bytes, limitRequestBytes, most)
	}
	if !c.requests.reserve(bytes) {
		in.over = limitRequestBytes
		return errOverQuota
	}
	in.size += bytes
	return nil
}

// leave makes the request count no longer.
func (in *incoming) leave() {
	if in.size > 0 {
		in.s.conn.requests.leave(in.size)
		in.size = 0
	}
}

// release gives the request back.
func (in *incoming) release() {
	in.leave()
	s := in.s
	in.payload, in.ctx, in.cancel, in.cut, in.over = nil, nil, nil, nil, limitNone
	in.out, in.m = nil, message{}
	s.incoming.put(in)
	s.conn.active.leave()
}

// call runs the handler.
func (in *incoming) call() (out []byte, err *RemoteErr) {
	h := in.handler.Load()
	defer in.s.conn.recovered(h.id, &err)
	switch {
	case h.handle != nil:
		return h.handle(in.payload)
	case h.handleTyped != nil:
		return h.handleTyped(in, in.payload)
	}
	defer in.s.running.done(in)
	out, err = h.handleContext(in.ctx, in.payload)
	if in.ctx.Err() != nil { // then what it returned may be for that reason only
		in.cut = context.Cause(in.ctx)
	}
	return out, err
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
	most   int // calls that were in the map at once
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
	r.most = max(r.most, len(r.calls))
	return true
}

// done forgets a request whose handler has returned, and frees its context.
func (r *runningCalls) done(in *incoming) {
	r.mu.Lock()
	delete(r.calls, in.id)
	if len(r.calls) == 0 && r.most > keptCalls {
		r.calls, r.most = nil, 0
	}
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
