package grid

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

const (
	// defaultDeadline bounds a request whose context has no deadline, unless WithoutDeadline was
	// called. The janitor enforces it, so such a call needs no timer and never reads the clock.
	defaultDeadline = time.Minute
	// neverSwept is a tick of the janitor that does not come.
	neverSwept = math.MaxUint32
)

// callClient is the caller's side of a session's single requests.
type callClient struct {
	*sender
	registry *atomic.Pointer[registry]
	table    callTable
	pool     sync.Pool
	tick     time.Duration // between rounds of the janitor
	ticks    atomic.Uint32 // rounds so far
	clock    callClock
}

func (cc *callClient) init(s *sender, handlers *atomic.Pointer[registry], began time.Time, tick time.Duration) {
	cc.sender, cc.registry, cc.tick = s, handlers, tick
	cc.clock.began = began
}

// call is a single request that waits for its answer.
//
// Whatever takes it out of the session's callTable completes it, exactly once: the reader with an
// answer, the caller that gives up, the sweep of overdue calls or the end of the session.
// Everything else leaves it alone. That makes it safe to reuse calls.
type call struct {
	entry
	answered chan struct{} // has room for the one signal
	payload  []byte
	err      error
	lane     batch.Lane
	metadata *AnswerMetadata // of the answer goes there; nil for nowhere

	cc *callClient
	berth
}

// rounds converts d to rounds of the janitor, counting the current one. It never returns 0.
func (cc *callClient) rounds(d time.Duration) uint32 { return uint32(d/cc.tick) + 2 }

// newCall returns a call from the session's pool. Sessions do not share pools, because
// testing/synctest bubbles cannot share channels.
func (cc *callClient) newCall() *call {
	if c, ok := cc.pool.Get().(*call); ok {
		return c
	}
	return &call{answered: make(chan struct{}, 1), cc: cc}
}

// complete hands the outcome to the waiting caller. Only the goroutine that took the call out of
// the table may call it.
func (c *call) complete(payload []byte, err error) {
	c.payload, c.err = payload, err
	c.answered <- struct{}{}
}

// outcome waits for complete, then releases the call.
func (cc *callClient) outcome(c *call) ([]byte, error) {
	<-c.answered
	return cc.release(c)
}

// release returns the call to the pool and reports its outcome.
func (cc *callClient) release(c *call) ([]byte, error) {
	payload, err := c.payload, c.err
	cc.recycle(c)
	return payload, err
}

// recycle returns the call to the pool.
func (cc *callClient) recycle(c *call) {
	c.payload, c.err, c.metadata = nil, nil, nil
	cc.pool.Put(c)
}

// request sends one request and waits for its answer. to is nil without a subroute.
func (cc *callClient) request(ctx context.Context, h HandlerID, to *route, payload []byte) ([]byte, error) {
	deadline, err := deadlineMS(ctx)
	if err != nil {
		return nil, err
	}
	out := outgoingOf(ctx)
	metadata, err := cc.encodedMetadata(out)
	if err != nil {
		return nil, err
	}
	if cc.facts.Load().lacks(false, h, to.wire()) {
		return nil, errPeerLacks
	}
	tick := cc.ticks.Load()
	sweepAt := uint32(neverSwept)
	switch {
	case deadline == 0 && out != nil && out.endless && cc.has(featureNative):
	case deadline == 0:
		deadline = uint32(defaultDeadline / time.Millisecond)
		sweepAt = tick + cc.rounds(defaultDeadline)
	case ctx.Done() == nil: // a context that never reports that its deadline has passed
		return cc.requestInTime(ctx, h, to, payload)
	default: // in case the context never reports its end
		sweepAt = tick + cc.rounds(time.Duration(deadline)*time.Millisecond+deadlineGrace)
	}
	c := cc.newCall()
	c.metadata = out.answers()
	c.lane = cc.registry.Load().lane(out, h, to.wire())
	c.describe(h, to, cc.clock.read(), sweepAt)
	id := cc.nextMuxID()
	if !cc.table.put(id, c) {
		cc.recycle(c)
		return nil, ErrDisconnected
	}
	waits, err := c.send(&message{
		MuxID:      id,
		DeadlineMS: deadline,
		Handler:    h,
		Op:         OpRequest,
		Flags:      FlagEOF | cc.priorityFlag(c.lane),
		Payload:    payload,
		subroute:   to.wire(),
		metadata:   metadata,
		lane:       c.lane,
	})
	if err != nil {
		if cc.table.take(id) == nil {
			return cc.outcome(c)
		}
		cc.recycle(c)
		return nil, sendError(ctx, err)
	}
	return cc.await(ctx, id, c, waits)
}

// await waits for the answer to a request, or the end of ctx. waits reports whether the request
// waits for room in the send queue.
func (cc *callClient) await(ctx context.Context, id uint64, c *call, waits bool) ([]byte, error) {
	done := ctx.Done()
	if done == nil && !waits {
		return cc.outcome(c)
	}
	select {
	case <-c.answered:
		if waits { // something other than an answer may have ended the call
			c.giveUpRoom()
		}
		return cc.swept(ctx, c)
	case <-done:
	}
	unsent, lane := waits && c.giveUpRoom(), c.lane
	if cc.table.take(id) == nil {
		return cc.outcome(c) // the answer is on its way
	}
	cc.recycle(c)
	if !unsent {
		cc.giveUp(id, lane)
	}
	return nil, contextCause(ctx)
}

// swept releases c. If the sweep saw the deadline before the context did, it returns the context's
// cause.
func (cc *callClient) swept(ctx context.Context, c *call) ([]byte, error) {
	payload, err := cc.release(c)
	if err == context.DeadlineExceeded && ctx.Err() != nil {
		err = contextCause(ctx)
	}
	return payload, err
}

// requestInTime is request for a context that has a deadline but a nil Done channel.
func (cc *callClient) requestInTime(ctx context.Context, h HandlerID, to *route, payload []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return cc.request(ctx, h, to, payload)
}

// send queues the request, or puts it in line for room.
func (c *call) send(m *message) (waits bool, err error) {
	if err := c.cc.fits(m); err != nil {
		return false, err
	}
	slot, err := c.begin(c.cc.sender, c, m, nil)
	switch err {
	case nil:
		return false, c.cc.append(slot, m, nil)
	case batch.ErrQueued:
		return true, nil
	default:
		return false, err
	}
}

// giveUpRoom takes the request out of the line and clears it. It reports whether the request was
// never sent.
func (c *call) giveUpRoom() bool {
	unsent := c.unsent()
	c.m, c.pieces = message{}, pieces{}
	c.late.Store(false)
	return unsent
}

// unsent takes a waiting request out of the line. It reports whether the request was never sent.
func (c *call) unsent() bool { return c.withdraw(c.cc.sender) || c.late.Load() }

// Opens is part of batch.Item.
func (c *call) Opens() bool { return true }

// Admit is part of batch.Item.
func (c *call) Admit(now time.Time) (size int, ok bool) {
	if !c.wear(now) {
		return 0, false // its context ends the call, or the sweep does
	}
	return c.measure(c.cc.sender), true
}

// AppendTo is part of batch.Item.
func (c *call) AppendTo(b []byte) []byte { return c.m.appendTo(b) }

// Done is part of batch.Item. The caller waits for its answer instead, and may already have it.
func (c *call) Done(error) {}

// giveUp tells the peer's handler that nobody waits for its answer anymore, in the lane of the
// request, so that it comes behind that. The original neither sends that nor listens for it.
func (cc *callClient) giveUp(id uint64, lane batch.Lane) {
	if cc.has(featureNative) {
		cc.advise(message{MuxID: id, Op: OpDisconnectServerMux, lane: lane}, nil)
	}
}

// answer completes a call with the peer's answer, which may be an error.
func (cc *callClient) answer(m *message) {
	if c := cc.table.take(m.MuxID); c != nil {
		if m.metadata != nil && c.metadata != nil {
			p := cc.answerOf(m)
			c.metadata.take(p.header, p.trailer)
		}
		c.complete(cc.said(m))
	}
}

// waits reports whether a call waits for the answer with an ID.
func (cc *callClient) waits(id uint64) bool { return cc.table.has(id) }

// refused ends a request that the peer did not accept. It reports whether there was one with that
// ID.
func (cc *callClient) refused(id uint64, err error) bool {
	c := cc.table.take(id)
	if c != nil {
		c.complete(nil, err)
	}
	return c != nil
}

// checkAlive ends the calls whose deadlines have passed although their contexts have not ended. The
// janitor calls it.
func (cc *callClient) checkAlive(l *look) {
	cc.clock.move()
	for _, late := range cc.table.sweep(cc.ticks.Add(l.rounds())) {
		cc.giveUp(late.id, late.lane)
	}
}

// close fails all calls, because the connection is lost, and accepts no more.
func (cc *callClient) close() { cc.table.close(ErrDisconnected) }

// count returns the number of calls waiting for an answer.
func (cc *callClient) count() int { return cc.table.len() }

// appendOpen appends the calls waiting for an answer.
func (cc *callClient) appendOpen(open []OpenCall) []OpenCall {
	open = cc.table.appendOpen(open, cc.clock.ages())
	cc.clock.move() // so that the next look knows more of those that begin from now on
	return open
}
