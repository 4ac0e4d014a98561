package grid

import (
	"context"
	"sync"
	"time"
)

// callTable holds the calls of a session waiting for an answer, by mux ID.
type callTable struct {
	shards [callShards]callShard
}

const callShards = 16

type callShard struct {
	mu     sync.Mutex // Protects following.
	calls  map[uint64]*call
	most   int // largest size of the map
	closed bool
	_      [32]byte // keeps neighbors off this cache line
}

// keptCalls is the most calls for which an emptied table keeps its memory.
const keptCalls = 64

func (t *callTable) shard(id uint64) *callShard {
	return &t.shards[id>>1%callShards] // one side's calls all share the lowest bit
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

// take removes a call. It returns nil if another goroutine was faster.
func (t *callTable) take(id uint64) *call {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.calls[id]
	delete(sh.calls, id)
	sh.shrink()
	return c
}

// has reports whether there is a call.
func (t *callTable) has(id uint64) bool {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.calls[id] != nil
}

// shrink frees the table of a past burst. sh.mu is held.
func (sh *callShard) shrink() {
	if len(sh.calls) == 0 && sh.most > keptCalls {
		sh.calls, sh.most = nil, 0
	}
}

// close fails all calls with err and accepts no more.
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

// sweep fails the calls whose deadlines have passed although their contexts have not ended. It
// returns the IDs of those that were sent: the peer never heard of the others.
func (t *callTable) sweep(tick uint32) (overdue []uint64) {
	for i := range t.shards {
		sh := &t.shards[i]
		var late []*call
		var ids []uint64
		sh.mu.Lock()
		for id, c := range sh.calls {
			if tick >= c.sweepAt {
				delete(sh.calls, id)
				late = append(late, c)
				ids = append(ids, id)
			}
		}
		sh.shrink()
		sh.mu.Unlock()
		for i, c := range late {
			if !c.unsent() { // before it is the caller's again
				overdue = append(overdue, ids[i])
			}
			c.complete(nil, context.DeadlineExceeded)
		}
	}
	return overdue
}

// appendOpen appends the calls waiting for an answer. Their age is measured in rounds of the
// janitor, one per tick.
func (t *callTable) appendOpen(open []OpenCall, now uint32, tick time.Duration) []OpenCall {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, c := range sh.calls {
			open = append(open, OpenCall{
				Role: RoleClient, Handler: c.handler, Subroute: c.subroute, Age: time.Duration(now-c.tick) * tick,
			})
		}
		sh.mu.Unlock()
	}
	return open
}

// len returns the number of calls waiting for an answer.
func (t *callTable) len() (n int) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += len(sh.calls)
		sh.mu.Unlock()
	}
	return n
}
