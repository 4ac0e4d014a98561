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
	deadline time.Time  // after it the answer is useless; zero for none
	size     int        // bytes counted for it; 0 once uncounted
	lane     batch.Lane // of the answer
	over     limit      // the limit for which it is refused, found on decoding

	berth        // of the answer
	out   []byte // the handler's result, while the answer waits
	cut   error  // what had ended ctx when the handler returned; nil for nothing

	// Set only if the handler takes a context.
	ctx    context.Context
	cancel context.CancelCauseFunc
	answer *answerState
}

// handle starts the handler of a request that arrived now, on a goroutine of its own.
func (cs *callServer) handle(m *message, now time.Time) {
	handlers := cs.registry.Load()
	h := handlers.single(m.Handler, m.subroute)
	if h == nil {
		cs.refuseUnknown(m)
		return
	}
	if !cs.active.enter() {
		cs.refuseLeaving(m)
		return
	}
	size, over := cs.admitted(m, cs.requestQuota)
	if over != limitNone {
		cs.active.leave()
		cs.overloaded(m, h.target, over)
		return
	}
	in := cs.pool.get(cs, h, now.Sub(cs.began))
	in.size = size
	in.payload = m.ownPayload()
	in.id, in.seq, in.deadline = m.MuxID, m.Seq, m.deadline(now)
	in.lane = max(m.lane, handlers.priority(m.Handler, m.subroute).lane())
	if h.handleContext != nil {
		in.ctx, in.cancel, in.answer = cs.handlerContext(h.labels, in.deadline, h.subroute(), m, in, &cs.agreement)
		if !cs.running.add(in) {
			in.cancel(nil)
			in.release()
			cs.refuse(m, fmt.Sprintf("mux %d is in use", m.MuxID))
			return
		}
	}
	cs.workers.add(in)
}

// refuseLeaving refuses a request because this node is shutting down, or has removed the peer.
func (cs *callServer) refuseLeaving(m *message) {
	why := cs.active.why()
	answer := cs.errorResponse(m.MuxID, m.Seq, why)
	answer.lane = m.lane
	cs.reply(answer, nil)
}

// serve runs the handler and sends its answer.
func (in *request) serve() {
	if in.cs.tracesServed() {
		in.serveTraced()
		return
	}
	out, failure := []byte(nil), error(errExited)
	defer func() { in.respond(out, failure) }() // also after runtime.Goexit
	out, failure = in.call()
}

// serveTraced is serve while somebody wants traces. They come last: a filter of a subscriber may end
// the goroutine.
func (in *request) serveTraced() {
	cs, h, began, payload := in.cs, in.handler.Load().target, time.Duration(in.began.Load()), len(in.payload)
	out, failure := []byte(nil), error(errExited)
	size, traced := 0, true
	defer func() {
		if traced {
			cs.traceServed(h, time.Since(cs.began)-began, payload, size, failure)
		}
	}()
	defer func() {
		answer, told := out, failure
		traced = in.over == limitNone
		if now := time.Since(cs.began); in.cut != nil {
			failure = in.cut
		} else if !in.inTime(now) {
			failure = errLate
		}
		if size = len(out); failure != nil {
			size = 0
		}
		in.respond(answer, told)
	}()
	out, failure = in.call()
}

// inTime reports whether somebody still waits for an answer; now is a time of the session.
func (in *request) inTime(now time.Duration) bool {
	return in.deadline.IsZero() || now < in.deadline.Sub(in.cs.began)
}

// respond sends the answer unless nobody waits for it anymore. It is in parts, because a goroutine that
// runs requests gets a larger stack, and copies what is on it, for all that respond might ever do at
// the same depth.
func (in *request) respond(out []byte, failure error) {
	if in.over != limitNone {
		in.refuse()
	} else if in.served(failure) && in.send(out, failure) {
		return // Done releases the request
	}
	PutByteBuffer(out)
	in.release()
}

// served counts what the handler did. It reports whether somebody waits for the answer: not when the
// deadline has passed, nor when the caller or the connection was gone, which has ended the context,
// before the handler returned.
func (in *request) served(failure error) bool {
	cs, now := in.cs, time.Since(in.cs.began)
	inTime := in.inTime(now)
	cs.requestServed(in.handler.Load().target, now-time.Duration(in.began.Load()), failure, inTime, in.cut)
	return inTime && in.cut == nil
}

// refuse answers that the request is over a limit.
func (in *request) refuse() {
	in.uncount()
	h := in.handler.Load().target
	in.cs.overloaded(&message{MuxID: in.id, Handler: h.id, Flags: FlagEOF, lane: in.lane}, h, in.over)
}

// detail adds the handler's metadata to the answer and makes it the handler's failure, unless that is
// nil. If it does not fit then, it becomes an error that says why.
func (in *request) detail(answer *message, failure error) {
	cs := in.cs
	var header, trailer []byte
	if in.answer != nil {
		header, trailer = in.answer.takeEnd()
	}
	if failure != nil {
		answer.Payload = nil
	}
	cs.detailed(answer, failure, header, trailer)
	if err := cs.fits(answer); err != nil {
		*answer = cs.errorResponse(in.id, in.seq, err)
	}
}

// send queues the answer or puts it in line. Only the end of the session ends the wait; the
// caller's open requests bound how many wait. It reports whether the answer waits.
func (in *request) send(out []byte, failure error) (waits bool) {
	cs := in.cs
	answer := message{MuxID: in.id, Seq: in.seq, Op: OpResponse, Flags: FlagEOF, lane: in.lane, Payload: out}
	if in.answer != nil || failure != nil || cs.fits(&answer) != nil {
		in.detail(&answer, failure)
		answer.lane = in.lane
	}
	in.out = out
	slot, err := in.begin(cs.sender, in, &answer, nil)
	if err == nil {
		in.uncount()
		_ = cs.append(slot, &answer, nil) // fails for streams alone
	}
	return err == batch.ErrQueued
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
	in.payload, in.ctx, in.cancel, in.answer, in.cut, in.over = nil, nil, nil, nil, nil, limitNone
	in.out, in.m, in.pieces = nil, message{}, pieces{}
	cs.pool.put(in)
	cs.active.leave()
}

// call runs the handler. Its error is what the caller is told.
func (in *request) call() (out []byte, err error) {
	h := in.handler.Load()
	defer in.cs.recovered(in.ctx, h.target, &err)
	if h.labels != nil {
		defer profiled(h.labels, h.target)()
	}
	switch {
	case h.handle != nil:
		out, err = h.handle(in.payload)
	case h.handleTyped != nil:
		out, err = h.handleTyped(in, in.payload)
	default:
		out, err = in.callContext(h)
	}
	return out, told(err)
}

// callContext runs a handler that takes a context.
func (in *request) callContext(h *singleHandler) (out []byte, err error) {
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
