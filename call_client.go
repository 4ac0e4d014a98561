package grid

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// defaultDeadline bounds a request whose context has no deadline. The janitor
// sees to it, so that such a call costs no timer and no look at the clock.
const defaultDeadline = time.Minute

// callClient is the caller's side of a session's single requests.
type callClient struct {
	*sender
	table callTable
	pool  sync.Pool
	tick  time.Duration // between the rounds of the janitor
	ticks atomic.Uint32 // rounds so far
}

func (cc *callClient) init(s *sender, tick time.Duration) { cc.sender, cc.tick = s, tick }

// call is a single request that waits for its answer.
//
// Whoever takes it out of the session's callTable completes it, exactly once:
// the reader with an answer, the caller who gives up, the sweep of overdue
// calls or the end of the session. Everybody else lets go of it. That is what
// makes it safe to use calls again.
type call struct {
	answered chan struct{} // has room for the one signal
	payload  []byte
	err      error
	sweepAt  uint32 // tick of the janitor at which the deadline has passed for certain

	cc *callClient
	berth

	// For those who list what is open, while the call is in the table.
	tick     uint32 // of the janitor, when the call began
	handler  HandlerID
	subroute string
}

// rounds is a time in rounds of the janitor, the current one included, and never 0.
func (cc *callClient) rounds(d time.Duration) uint32 { return uint32(d/cc.tick) + 2 }

// newCall returns a call from the session's pool. Pools are not shared between
// sessions, as channels cannot be between testing/synctest bubbles.
func (cc *callClient) newCall() *call {
	if c, ok := cc.pool.Get().(*call); ok {
		return c
	}
	return &call{answered: make(chan struct{}, 1), cc: cc}
}

// complete hands the outcome to the waiting caller. Only who took the call out of the table may do
// so.
func (c *call) complete(payload []byte, err error) {
	c.payload, c.err = payload, err
	c.answered <- struct{}{}
}

// outcome waits for complete and gives the call back.
func (cc *callClient) outcome(c *call) ([]byte, error) {
	<-c.answered
	return cc.release(c)
}

// release gives the call back and returns what it was completed with.
func (cc *callClient) release(c *call) ([]byte, error) {
	payload, err := c.payload, c.err
	cc.recycle(c)
	return payload, err
}

// recycle gives the call back.
func (cc *callClient) recycle(c *call) {
	c.payload, c.err = nil, nil
	cc.pool.Put(c)
}

// request sends one request and waits for its answer. route is nil where there is no subroute.
func (cc *callClient) request(ctx context.Context, h HandlerID, subroute string, route *routeID, payload []byte) ([]byte, error) {
	deadline, err := deadlineMS(ctx)
	if err != nil {
		return nil, err
	}
	metadata, err := cc.encodedMetadata(ctx)
	if err != nil {
		return nil, err
	}
	sweepAfter := time.Duration(deadline)*time.Millisecond + deadlineGrace // in case the context never says that it has ended
	switch {
	case deadline == 0:
		deadline = uint32(defaultDeadline / time.Millisecond)
		sweepAfter = defaultDeadline
	case ctx.Done() == nil: // a context that does not say when its deadline has passed
		return cc.requestInTime(ctx, h, subroute, route, payload)
	}
	c := cc.newCall()
	c.tick, c.handler, c.subroute = cc.ticks.Load(), h, subroute
	c.sweepAt = c.tick + cc.rounds(sweepAfter)
	id := cc.nextMuxID()
	if !cc.table.put(id, c) {
		cc.pool.Put(c)
		return nil, ErrDisconnected
	}
	waits, err := c.send(message{
		MuxID:      id,
		DeadlineMS: deadline,
		Handler:    h,
		Op:         OpRequest,
		Flags:      FlagEOF,
		Payload:    payload,
		subroute:   route,
		metadata:   metadata,
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
		if waits { // what ended the call was not an answer, perhaps
			c.giveUpRoom()
		}
		return cc.swept(ctx, c)
	case <-done:
	}
	unsent := waits && c.giveUpRoom()
	if cc.table.take(id) == nil {
		return cc.outcome(c) // the answer is on its way
	}
	cc.recycle(c)
	if !unsent {
		cc.giveUp(id)
	}
	return nil, contextCause(ctx)
}

// swept is release, with the cause of a context that has ended though the sweep was faster to find
// its deadline passed.
func (cc *callClient) swept(ctx context.Context, c *call) ([]byte, error) {
	payload, err := cc.release(c)
	if err == context.DeadlineExceeded && ctx.Err() != nil {
		err = contextCause(ctx)
	}
	return payload, err
}

// requestInTime is request for a context with a deadline whose Done is nil.
func (cc *callClient) requestInTime(ctx context.Context, h HandlerID, subroute string, route *routeID, payload []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return cc.request(ctx, h, subroute, route, payload)
}

// send queues the request, or lets it wait for room.
func (c *call) send(m message) (waits bool, err error) {
	if err := c.cc.fits(&m); err != nil {
		return false, err
	}
	slot, err := c.begin(c.cc.batch, c, &m, nil)
	switch err {
	case nil:
		return false, c.cc.append(slot, m, nil)
	case batch.ErrQueued:
		return true, nil
	default:
		return false, err
	}
}

// giveUpRoom makes sure that nothing of the request is looked at any more. It reports whether it
// was not sent.
func (c *call) giveUpRoom() bool {
	unsent := c.unsent()
	c.m = message{}
	c.late.Store(false)
	return unsent
}

// unsent takes a request out of the line where it waits, and reports whether it was not sent.
func (c *call) unsent() bool { return c.withdraw(c.cc.batch) || c.late.Load() }

// Opens is part of batch.Item.
func (c *call) Opens() bool { return true }

// Admit is part of batch.Item.
func (c *call) Admit(now time.Time) (size int, ok bool) {
	if !c.wear(now) {
		return 0, false // its context ends the call, or the sweep does
	}
	c.cc.stamp(&c.m)
	return c.m.size(), true
}

// AppendTo is part of batch.Item.
func (c *call) AppendTo(b []byte) []byte { return c.m.appendTo(b) }

// Done is part of batch.Item. The caller waits for its answer, not for this, and may have got it.
func (c *call) Done(error) {}

// giveUp tells the peer's handler that nobody waits for its answer any more. The original does not,
// nor would it listen.
func (cc *callClient) giveUp(id uint64) {
	if cc.has(featureNative) {
		cc.advise(message{MuxID: id, Op: OpDisconnectServerMux}, nil)
	}
}

// answer takes the answer to a request, and the error that it may hold.
func (cc *callClient) answer(m *message) {
	if c := cc.table.take(m.MuxID); c != nil {
		c.complete(cc.said(m))
	}
}

// refused ends a request that the peer did not take. It returns false where there is none of that
// number.
func (cc *callClient) refused(id uint64, err error) bool {
	c := cc.table.take(id)
	if c != nil {
		c.complete(nil, err)
	}
	return c != nil
}

// checkAlive ends the calls whose deadline has passed without their contexts' having ended. The
// janitor calls it.
func (cc *callClient) checkAlive(l *look) {
	for _, id := range cc.table.sweep(cc.ticks.Add(l.rounds())) {
		cc.giveUp(id)
	}
}

// close fails all calls, as the connection is lost, and takes no more.
func (cc *callClient) close() { cc.table.close(ErrDisconnected) }

// count returns the number of calls that wait for an answer.
func (cc *callClient) count() int { return cc.table.len() }

// appendOpen appends the calls that wait for an answer.
func (cc *callClient) appendOpen(open []OpenCall) []OpenCall {
	return cc.table.appendOpen(open, cc.ticks.Load(), cc.tick)
}
