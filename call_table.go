package grid

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// callTable holds the calls of a session waiting for an answer, by mux ID: each in the slot of its
// ID, without a lock, or in a shard where another call has that slot.
type callTable struct {
	slots   atomic.Pointer[[callSlots]callSlot] // made for the first call
	closed  atomic.Bool                         // set before the slots are emptied for the last time
	crowded atomic.Int64                        // calls in shards
	shards  [callShards]callShard
}

// callSlot is the place of one call at a time.
//
// The call is in it from the time it has its ID in entry.id until that is 0 again, and whoever
// makes it 0 has taken the call: it clears the slot, and then decides the outcome. IDs are not
// used twice in a session, so nobody takes a call for an earlier one that was in the same slot.
type callSlot = atomic.Pointer[call]

// entry is what a callTable knows of a call. Those who look through the table read it while the
// call may already be another's.
type entry struct {
	id      atomic.Uint64         // while the call is in a slot, 0 otherwise
	sweepAt atomic.Uint32         // tick of the janitor by which the deadline has certainly passed
	began   atomic.Uint32         // tick of the janitor when the call began
	handler atomic.Uint32         // HandlerID
	to      atomic.Pointer[route] // nil for none
}

const (
	// callSlots is enough for several hundred calls at once, which usually end in the order in
	// which they began. They take 4 KiB.
	callSlots  = 512
	callShards = 16
)

type callShard struct {
	mu     sync.Mutex // Protects following.
	calls  map[uint64]*call
	most   int // largest size of the map
	closed bool
	_      [32]byte // keeps neighbors off this cache line
}

// keptCalls is the most calls for which an emptied table keeps its memory.
const keptCalls = 64

// describe says what the call is, before it is put into the table.
func (e *entry) describe(h HandlerID, to *route, began, sweepAt uint32) {
	if e.to.Load() != to {
		e.to.Store(to)
	}
	update(&e.handler, uint32(h))
	update(&e.began, began)
	update(&e.sweepAt, sweepAt)
}

// update stores v, where it is not there already: storing is dearer than looking.
func update(field *atomic.Uint32, v uint32) {
	if field.Load() != v {
		field.Store(v)
	}
}

// open returns what is listed of the call.
func (e *entry) open(now uint32, tick time.Duration) OpenCall {
	return OpenCall{
		Role:     RoleClient,
		Handler:  HandlerID(e.handler.Load()),
		Subroute: e.to.Load().text(),
		Age:      time.Duration(now-e.began.Load()) * tick,
	}
}

// slotOf returns the number of the slot of an ID. IDs that follow each other are on different cache
// lines. All calls of one side share the lowest bit.
func slotOf(id uint64) int { return int((id>>1*9 ^ id&1*(callSlots/2)) % callSlots) }

func (t *callTable) shard(id uint64) *callShard {
	return &t.shards[id>>1%callShards]
}

// put adds a call. It returns false once the table is closed.
func (t *callTable) put(id uint64, c *call) bool {
	slots := t.slots.Load()
	if slots == nil {
		t.slots.CompareAndSwap(nil, new([callSlots]callSlot))
		slots = t.slots.Load()
	}
	slot := &slots[slotOf(id)]
	if !slot.CompareAndSwap(nil, c) {
		return t.putCrowded(id, c)
	}
	c.id.Store(id)
	return !t.closed.Load() || !vacate(slot, c, id) // else close has taken it
}

// putCrowded adds a call to its shard.
func (t *callTable) putCrowded(id uint64, c *call) bool {
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
	t.crowded.Add(1)
	return true
}

// vacate takes c out of its slot if it is there with that ID.
func vacate(slot *callSlot, c *call, id uint64) bool {
	if !c.id.CompareAndSwap(id, 0) {
		return false
	}
	slot.Store(nil)
	return true
}

// take removes a call. It returns nil if another goroutine was faster.
func (t *callTable) take(id uint64) *call {
	if id == 0 {
		return nil
	}
	if slots := t.slots.Load(); slots != nil {
		slot := &slots[slotOf(id)]
		if c := slot.Load(); c != nil && vacate(slot, c, id) {
			return c
		}
	}
	if t.crowded.Load() == 0 {
		return nil
	}
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c := sh.calls[id]
	if c != nil {
		t.remove(sh, id)
		sh.shrink()
	}
	return c
}

// has reports whether there is a call.
func (t *callTable) has(id uint64) bool {
	if slots := t.slots.Load(); slots != nil {
		if c := slots[slotOf(id)].Load(); c != nil && id != 0 && c.id.Load() == id {
			return true
		}
	}
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.calls[id] != nil
}

// remove takes a call out of its shard. sh.mu is held.
func (t *callTable) remove(sh *callShard, id uint64) {
	delete(sh.calls, id)
	t.crowded.Add(-1)
}

// shrink frees the table of a past burst. sh.mu is held.
func (sh *callShard) shrink() {
	if len(sh.calls) == 0 && sh.most > keptCalls {
		sh.calls, sh.most = nil, 0
	}
}

// each calls f with the ID of every call in a slot. The call may end meanwhile.
func (t *callTable) each(f func(slot *callSlot, c *call, id uint64)) {
	slots := t.slots.Load()
	if slots == nil {
		return
	}
	for i := range slots {
		slot := &slots[i]
		c := slot.Load()
		if c == nil {
			continue
		}
		if id := c.id.Load(); id != 0 && slotOf(id) == i {
			f(slot, c, id)
		}
	}
}

// close fails all calls with err and accepts no more.
func (t *callTable) close(err error) {
	t.closed.Store(true)
	t.each(func(slot *callSlot, c *call, id uint64) {
		if vacate(slot, c, id) {
			c.complete(nil, err)
		}
	})
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		calls := sh.calls
		sh.calls, sh.closed = nil, true
		t.crowded.Add(int64(-len(calls)))
		sh.mu.Unlock()
		for _, c := range calls {
			c.complete(nil, err)
		}
	}
}

// sweep fails the calls whose deadlines have passed although their contexts have not ended. It
// returns the IDs of those that were sent: the peer never heard of the others.
func (t *callTable) sweep(tick uint32) (overdue []uint64) {
	end := func(c *call, id uint64) {
		if !c.unsent() { // before it is the caller's again
			overdue = append(overdue, id)
		}
		c.complete(nil, context.DeadlineExceeded)
	}
	t.each(func(slot *callSlot, c *call, id uint64) {
		if c.overdue(tick) && vacate(slot, c, id) {
			end(c, id)
		}
	})
	for i := range t.shards {
		sh := &t.shards[i]
		var late []*call
		var ids []uint64
		sh.mu.Lock()
		for id, c := range sh.calls {
			if c.overdue(tick) {
				t.remove(sh, id)
				late = append(late, c)
				ids = append(ids, id)
			}
		}
		sh.shrink()
		sh.mu.Unlock()
		for i, c := range late {
			end(c, ids[i])
		}
	}
	return overdue
}

// overdue reports whether the deadline has passed by a tick of the janitor.
func (e *entry) overdue(tick uint32) bool { return tick >= e.sweepAt.Load() }

// appendOpen appends the calls waiting for an answer. Their age is measured in rounds of the
// janitor, one per tick.
func (t *callTable) appendOpen(open []OpenCall, now uint32, tick time.Duration) []OpenCall {
	t.each(func(slot *callSlot, c *call, id uint64) {
		o := c.open(now, tick)
		if slot.Load() == c && c.id.Load() == id { // it was this call all the time
			open = append(open, o)
		}
	})
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, c := range sh.calls {
			open = append(open, c.open(now, tick))
		}
		sh.mu.Unlock()
	}
	return open
}

// len returns the number of calls waiting for an answer.
func (t *callTable) len() int {
	n := int(t.crowded.Load())
	t.each(func(*callSlot, *call, uint64) { n++ })
	return n
}
