package grid

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// callServer is the handler's side of a session's single requests.
type callServer struct {
	*sender
	registry *atomic.Pointer[registry]
	began    time.Time // of the session; request times count from here
	workers  workers
	running  runningCalls // requests whose handlers have a context
	pool     requestPool
}

func (cs *callServer) init(s *sender, handlers *atomic.Pointer[registry], began time.Time) {
	cs.sender, cs.registry, cs.began = s, handlers, began
	cs.workers.init()
}

// request is a request of the peer while its handler runs. Requests are reused.
type request struct {
	next *request // in the queue of workers

	listed
	cs       *callServer
	payload  []byte
	id       uint64
	seq      uint32
	deadline time.Time // after it the answer is useless; zero for none
	size     int       // bytes counted for it; 0 once uncounted
	over     limit     // the limit for which it is refused, found on decoding

	berth        // of the answer
	out   []byte // the handler's result, while the answer waits
	cut   error  // what had ended ctx when the handler returned; nil for nothing

	// Set only if the handler takes a context.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// handle starts the handler of a request that arrived now, on a goroutine of its own.
func (cs *callServer) handle(m *message, now time.Time) {
	h := cs.registry.Load().single(m.Handler, m.subroute)
	if h == nil {
		cs.refuseUnknown(m)
		return
	}
	if !cs.active.enter() {
		cs.refuseLeaving(m)
		return
	}
	size, over := cs.admitted(m, &cs.requestQuota)
	if over != limitNone {
		cs.active.leave()
		cs.overloaded(m, over)
		return
	}
	in := cs.pool.get(cs, h, now.Sub(cs.began))
	in.size = size
	in.payload = m.ownPayload()
	in.id, in.seq, in.deadline = m.MuxID, m.Seq, m.deadline(now)
	if h.handleContext != nil {
		in.ctx, in.cancel = cs.handlerContext(in.deadline, h.subroute, m, in)
		if !cs.running.add(in) {
			in.cancel(nil)
			in.release()
			cs.refuse(m, fmt.Sprintf("mux %d is in use", m.MuxID))
			return
		}
	}
	cs.workers.add(in)
}

// refuseLeaving refuses a request because this node is shutting down.
func (cs *callServer) refuseLeaving(m *message) {
	cs.reply(cs.marked(cs.errorResponse(m.MuxID, m.Seq, &errShutdown), ErrShutdown), nil)
}

// serve runs the handler and sends its answer.
func (in *request) serve() {
	out, failure := []byte(nil), &errExited
	defer func() { in.respond(out, failure) }() // also after runtime.Goexit
	out, failure = in.call()
}

// respond sends the answer unless nobody waits for it anymore: the deadline has passed, or the
// caller or the connection is gone, which had ended the context before the handler returned.
func (in *request) respond(out []byte, failure *RemoteErr) {
	cs, now := in.cs, time.Since(in.cs.began)
	if in.over != limitNone {
		in.refuse()
		PutByteBuffer(out)
		in.release()
		return
	}
	inTime := in.deadline.IsZero() || now < in.deadline.Sub(cs.began)
	cs.requestServed(in.handler.Load().registration, now-time.Duration(in.began.Load()), failure, inTime, in.cut)
	if inTime && in.cut == nil {
		answer := message{MuxID: in.id, Seq: in.seq, Op: OpResponse, Flags: FlagEOF, Payload: out}
		if failure != nil || cs.fits(&answer) != nil {
			in.fail(&answer, failure)
		}
		in.out = out
		if in.send(&answer) {
			return // Done releases the request
		}
	}
	PutByteBuffer(out)
	in.release()
}

// refuse answers that the request is over a limit. It is apart from respond, as fail is, because a
// goroutine that runs requests needs a larger stack for what respond might ever do.
func (in *request) refuse() {
	in.uncount()
	in.cs.overloaded(&message{MuxID: in.id, Handler: in.handler.Load().id, Flags: FlagEOF}, in.over)
}

// fail makes the answer the handler's failure, or if that is nil, an error that says why the answer
// does not fit.
func (in *request) fail(answer *message, failure *RemoteErr) {
	cs := in.cs
	if failure != nil {
		*answer = cs.errorResponse(in.id, in.seq, failure)
		return
	}
	err := cs.fits(answer)
	*answer = cs.marked(cs.errorResponse(in.id, in.seq, NewRemoteErr(err)), err)
}

// send queues the answer or puts it in line. Only the end of the session ends the wait; the
// caller's open requests bound how many wait. It reports whether the answer waits.
func (in *request) send(answer *message) (waits bool) {
	slot, err := in.begin(in.cs.sender, in, answer, nil)
	switch err {
	case nil:
		in.uncount()
		_ = in.cs.append(slot, answer, nil) // fails for streams alone
	case batch.ErrQueued:
		return true
	}
	return false
}

// Opens is part of batch.Item.
func (in *request) Opens() bool { return false }

// Admit is part of batch.Item.
func (in *request) Admit(time.Time) (size int, ok bool) {
	return in.measure(in.cs.sender), true
}

// AppendTo is part of batch.Item. It uncounts the request before its answer can be seen, so that a
// peer that keeps within the limit is never refused.
func (in *request) AppendTo(b []byte) []byte {
	in.uncount()
	return in.m.appendTo(b)
}

// AppendPiece is part of batch.Item.
func (in *request) AppendPiece(b []byte, n int) []byte {
	if in.pieces.last(n) {
		in.uncount()
	}
	return in.berth.AppendPiece(b, n)
}

// Done is part of batch.Item.
func (in *request) Done(error) {
	PutByteBuffer(in.out)
	in.release()
}

// reserve counts more bytes for the request before its payload is decoded. If requests hold too
// much, this one is refused.
func (in *request) reserve(bytes int) error {
	cs := in.cs
	if err := cs.requestQuota.reserve(bytes); err != nil {
		if err == errOverQuota {
			in.over = limitRequestBytes
		}
		return err
	}
	in.size += bytes
	return nil
}

// uncount stops counting the request.
func (in *request) uncount() {
	if cs := in.cs; in.size > 0 {
		cs.requestQuota.leave(in.size)
		in.size = 0
	}
}

// release returns the request to the pool.
func (in *request) release() {
	in.uncount()
	cs := in.cs
	in.payload, in.ctx, in.cancel, in.cut, in.over = nil, nil, nil, nil, limitNone
	in.out, in.m, in.pieces = nil, message{}, pieces{}
	cs.pool.put(in)
	cs.active.leave()
}

// call runs the handler.
func (in *request) call() (out []byte, err *RemoteErr) {
	h := in.handler.Load()
	defer in.cs.recovered(h.id, &err)
	switch {
	case h.handle != nil:
		return h.handle(in.payload)
	case h.handleTyped != nil:
		return h.handleTyped(in, in.payload)
	}
	cs := in.cs
	defer cs.running.done(in)
	out, err = h.handleContext(in.ctx, in.payload)
	if in.ctx.Err() != nil { // then it may have returned for that reason alone
		in.cut = context.Cause(in.ctx)
	}
	return out, err
}

// close cancels the handlers that have a context: the caller is gone.
func (cs *callServer) close() { cs.running.close() }

// cancel tells the handler of a request that its caller has given up, and stops sending an answer
// in pieces.
func (cs *callServer) cancel(id uint64) {
	cs.running.cancel(id)
	cs.batch.Cancel(id)
}

// count returns the number of requests being handled.
func (cs *callServer) count() int { return cs.pool.running() }

// appendOpen appends the requests being handled; now is a time of the session.
func (cs *callServer) appendOpen(open []OpenCall, now time.Duration) []OpenCall {
	return cs.pool.appendOpen(open, now)
}

// withContext returns the number of requests whose handlers have a context.
func (cs *callServer) withContext() int { return cs.running.len() }
