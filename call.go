package grid

import (
	"context"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// defaultDeadline bounds a request whose context has no deadline. The janitor
// sees to it, so that such a call costs no timer and no look at the clock.
const defaultDeadline = time.Minute

// deadlineTicks is the default deadline in rounds of the janitor, the current round included, and never 0.
func (s *session) deadlineTicks() uint32 { return uint32(defaultDeadline/s.tick) + 2 }

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

	s *session
	berth

	// For those who list what is open, while the call is in the table.
	tick     uint32 // of the janitor, when the call began
	handler  HandlerID
	subroute string
}

// newCall returns a call from the session's pool. Pools are not shared between
// sessions, as channels cannot be between testing/synctest bubbles.
func (s *session) newCall() *call {
	if c, ok := s.callPool.Get().(*call); ok {
		return c
	}
	return &call{answered: make(chan struct{}, 1), s: s}
}

// complete hands the outcome to the waiting caller. Only who took the call out of the table may do so.
func (c *call) complete(payload []byte, err error) {
	c.payload, c.err = payload, err
	c.answered <- struct{}{}
}

// outcome waits for complete and gives the call back.
func (s *session) outcome(c *call) ([]byte, error) {
	<-c.answered
	return s.release(c)
}

// release gives the call back and returns what it was completed with.
func (s *session) release(c *call) ([]byte, error) {
	payload, err := c.payload, c.err
	c.payload, c.err = nil, nil
	s.callPool.Put(c)
	return payload, err
}

// request sends one request and waits for its answer. route is nil where there is no subroute.
func (s *session) request(ctx context.Context, h HandlerID, subroute string, route *routeID, payload []byte) ([]byte, error) {
	c := s.newCall()
	c.sweepAt, c.tick, c.handler, c.subroute = 0, s.ticks.Load(), h, subroute
	deadline, err := s.deadlineMS(ctx)
	if err != nil {
		s.callPool.Put(c)
		return nil, err
	}
	metadata, err := s.outgoing(ctx)
	if err != nil {
		s.callPool.Put(c)
		return nil, err
	}
	done := ctx.Done()
	switch {
	case deadline == 0:
		deadline = uint32(defaultDeadline / time.Millisecond)
		c.sweepAt = c.tick + s.deadlineTicks()
	case done == nil: // a context that does not say when its deadline has passed
		s.callPool.Put(c)
		return s.requestInTime(ctx, h, subroute, route, payload)
	default: // in case it never does
		c.sweepAt = c.tick + uint32((time.Duration(deadline)*time.Millisecond+deadlineGrace)/s.tick) + 2
	}
	id := s.nextMuxID()
	if !s.calls.put(id, c) {
		s.callPool.Put(c)
		return nil, ErrDisconnected
	}
	m := message{
		MuxID:      id,
		DeadlineMS: deadline,
		Handler:    h,
		Op:         OpRequest,
		Flags:      FlagEOF,
		Payload:    payload,
		subroute:   route,
		rest:       metadata,
	}
	waits, err := c.send(m)
	if err != nil {
		if s.calls.take(id) == nil {
			return s.outcome(c)
		}
		s.release(c)
		return nil, sendError(ctx, err)
	}
	if done == nil && !waits {
		return s.outcome(c)
	}
	select {
	case <-c.answered:
		if waits { // for room: what ended the call was not an answer, perhaps
			c.withdraw()
		}
		return s.swept(ctx, c)
	case <-done:
	}
	unsent := waits && c.withdraw()
	if s.calls.take(id) == nil {
		return s.outcome(c) // the answer is on its way
	}
	s.release(c)
	if !unsent {
		s.giveUp(id)
	}
	return nil, contextCause(ctx)
}

// swept is release, with the cause of a context that has ended though the sweep was faster to find its deadline passed.
func (s *session) swept(ctx context.Context, c *call) ([]byte, error) {
	payload, err := s.release(c)
	if err == context.DeadlineExceeded && ctx.Err() != nil {
		err = contextCause(ctx)
	}
	return payload, err
}

// requestInTime is request for a context with a deadline whose Done is nil.
func (s *session) requestInTime(ctx context.Context, h HandlerID, subroute string, route *routeID, payload []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return s.request(ctx, h, subroute, route, payload)
}

// send queues the request, or lets it wait for room.
func (c *call) send(m message) (waits bool, err error) {
	if err := c.s.fits(&m); err != nil {
		return false, err
	}
	switch err := c.begin(c.s.out, c, &m, nil); err {
	case nil:
		return false, c.s.append(m, nil)
	case batch.ErrQueued:
		return true, nil
	default:
		return false, err
	}
}

// withdraw makes sure that nothing of the request is looked at any more. It reports whether it was not sent.
func (c *call) withdraw() bool {
	unsent := c.s.out.Withdraw(&c.Waiter)
	c.m = message{}
	return unsent
}

// Opens is part of batch.Item.
func (c *call) Opens() bool { return true }

// Admit is part of batch.Item.
func (c *call) Admit() (size int, ok bool) {
	c.s.number(&c.m, nil)
	return c.m.size(), true
}

// AppendTo is part of batch.Item.
func (c *call) AppendTo(b []byte) []byte { return c.m.appendTo(b) }

// Done is part of batch.Item. The caller waits for its answer, not for this, and may have got it.
func (c *call) Done(error) {}

// giveUp tells the peer's handler that nobody waits for its answer any more. The original does not, nor would it listen.
func (s *session) giveUp(id uint64) {
	if s.native {
		s.advise(message{MuxID: id, Op: OpDisconnectServerMux}, nil)
	}
}

// callTable holds the calls of a session that wait for an answer, by mux ID.
type callTable struct {
	shards [callShards]callShard
}

const callShards = 16

type callShard struct {
	mu     sync.Mutex // Protects following.
	calls  map[uint64]*call
	most   int // calls that were in the map at once
	closed bool
	_      [32]byte // keeps neighbors off this cache line
}

// keptCalls is the number of calls for which an empty table keeps its memory.
const keptCalls = 64

func (t *callTable) shard(id uint64) *callShard {
	return &t.shards[id>>1%callShards] // the lowest bit is the same for all calls of a side
}

// put adds a call. It returns false once the table is closed.
func (t *callTable) put(id uint64, c *call) bool {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return false
	}
	if sh.calls == nil {
		sh.calls = make(map[uint64]*call)
	}
	sh.calls[id] = c
	sh.most = max(sh.most, len(sh.calls))
	return true
}

// take removes a call. It returns nil where somebody else was faster.
func (t *callTable) take(id uint64) *call {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.calls[id]
	delete(sh.calls, id)
	sh.shrink()
	return c
}

// shrink lets go of the table of a burst that is over. sh.mu is held.
func (sh *callShard) shrink() {
	if len(sh.calls) == 0 && sh.most > keptCalls {
		sh.calls, sh.most = nil, 0
	}
}

// close fails all calls with err and takes no more.
func (t *callTable) close(err error) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		calls := sh.calls
		sh.calls, sh.closed = nil, true
		sh.mu.Unlock()
		for _, c := range calls {
			c.complete(nil, err)
		}
	}
}

// sweep fails the calls whose deadline has passed without their contexts' having ended, and returns their IDs.
func (t *callTable) sweep(tick uint32) (overdue []uint64) {
	for i := range t.shards {
		sh := &t.shards[i]
		var late []*call
		sh.mu.Lock()
		for id, c := range sh.calls {
			if tick >= c.sweepAt {
				delete(sh.calls, id)
				late = append(late, c)
				overdue = append(overdue, id)
			}
		}
		sh.shrink()
		sh.mu.Unlock()
		for _, c := range late {
			c.complete(nil, context.DeadlineExceeded)
		}
	}
	return overdue
}
