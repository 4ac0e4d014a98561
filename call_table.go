package grid

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gridmesh/grid/internal/batch"
)

// callTable holds the calls of a session waiting for an answer, by mux ID: each in the slot of its
// ID, without a lock, or in a shard where another call has that slot.
//
// The first calls have a few slots. Once two of them want the same, there are many for all that
// follow.
type callTable struct {
	few     atomic.Pointer[[fewSlots]callSlot]    // made for the first call
	slots   atomic.Pointer[[callSlots]callSlot]   // made once few are not enough
	shards  atomic.Pointer[[callShards]callShard] // made for the first call whose slot is taken
	closed  atomic.Bool                           // set before slots and shards are emptied for the last time
	crowded atomic.Int64                          // calls in shards
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
	id       atomic.Uint64         // while the call is in a slot, 0 otherwise
	amongFew bool                  // the slot is one of callTable.few; belongs to whoever has the call
	sweepAt  atomic.Uint32         // tick of the janitor by which the deadline has certainly passed
	began    atomic.Uint32         // time of the callClock when the call began
	handler  atomic.Uint32         // HandlerID
	to       atomic.Pointer[route] // nil for none
}

const (
	// callSlots is enough for several hundred calls at once, which usually end in the order in
	// which they began. They take 4 KiB.
	callSlots = 512
	// fewSlots is enough for calls one after the other.
	fewSlots   = 32
	callShards = 16
)

type callShard struct {
	mu    sync.Mutex // Protects following.
	calls map[uint64]*call
	most  int      // largest size of the map
	_     [40]byte // keeps neighbors off this cache line
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
func (e *entry) open(ages callAges) OpenCall {
	to := e.to.Load().target(HandlerID(e.handler.Load()))
	return openCall(RoleClient, to, ages.of(e.began.Load()))
}

// slotOf returns the number of the slot of an ID. IDs that follow each other are on different cache
// lines. All calls of one side share the lowest bit.
func slotOf(id uint64) int { return int((id>>1*9 ^ id&1*(callSlots/2)) % callSlots) }

// fewSlotOf returns the number of the slot of an ID among the few.
func fewSlotOf(id uint64) int { return int(id>>1) % fewSlots }

// made returns what a pointer leads to, which is made the first time.
func made[T any](p *atomic.Pointer[T]) *T {
	if v := p.Load(); v != nil {
		return v
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

// shard returns the shard of an ID.
func (t *callTable) shard(id uint64) *callShard { return &made(&t.shards)[id>>1%callShards] }

// put adds a call. It returns false once the table is closed.
func (t *callTable) put(id uint64, c *call) bool {
	slots := t.slots.Load()
	if slots == nil {
		if made(&t.few)[fewSlotOf(id)].CompareAndSwap(nil, c) {
			return t.arrive(id, c, true)
		}
		slots = made(&t.slots)
	}
	if !slots[slotOf(id)].CompareAndSwap(nil, c) {
		return t.putCrowded(id, c)
	}
	return t.arrive(id, c, false)
}

// arrive gives the call in a slot its ID. It returns false if the table is closed, and nobody has
// taken the call.
func (t *callTable) arrive(id uint64, c *call, few bool) bool {
	c.amongFew = few
	c.id.Store(id)
	return !t.closed.Load() || !t.vacate(c, id) // else close has taken it
}

// putCrowded adds a call to its shard.
func (t *callTable) putCrowded(id uint64, c *call) bool {
	sh := t.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t.closed.Load() {
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

// vacate takes c out of its slot if it has that ID. Where c was seen says nothing of where it is: it
// may have been another call there.
func (t *callTable) vacate(c *call, id uint64) bool {
	if !c.id.CompareAndSwap(id, 0) {
		return false
	}
	if c.amongFew {
		t.few.Load()[fewSlotOf(id)].Store(nil)
	} else {
		t.slots.Load()[slotOf(id)].Store(nil)
	}
	return true
}

// inSlot returns the call with an ID, unless it is in a shard. The call may end meanwhile.
func (t *callTable) inSlot(id uint64) *call {
	if slots := t.slots.Load(); slots != nil {
		if c := slots[slotOf(id)].Load(); c != nil && c.id.Load() == id {
			return c
		}
	}
	if few := t.few.Load(); few != nil {
		if c := few[fewSlotOf(id)].Load(); c != nil && c.id.Load() == id {
			return c
		}
	}
	return nil
}

// take removes a call. It returns nil if another goroutine was faster.
func (t *callTable) take(id uint64) *call {
	if id == 0 {
		return nil
	}
	if c := t.inSlot(id); c != nil && t.vacate(c, id) {
		return c
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
	if id == 0 {
		return false
	}
	if t.inSlot(id) != nil {
		return true
	}
	if t.crowded.Load() == 0 {
		return false
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
	look := func(slots []callSlot, slotOf func(id uint64) int) {
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
	if few := t.few.Load(); few != nil {
		look(few[:], fewSlotOf)
	}
	if slots := t.slots.Load(); slots != nil {
		look(slots[:], slotOf)
	}
}

// eachShard calls f for every shard, under its lock.
func (t *callTable) eachShard(f func(sh *callShard)) {
	shards := t.shards.Load()
	if shards == nil {
		return
	}
	for i := range shards {
		sh := &shards[i]
		sh.mu.Lock()
		f(sh)
		sh.mu.Unlock()
	}
}

// close fails all calls with err and accepts no more.
func (t *callTable) close(err error) {
	t.closed.Store(true)
	t.each(func(slot *callSlot, c *call, id uint64) {
		if t.vacate(c, id) {
			c.complete(nil, err)
		}
	})
	var left []*call
	t.eachShard(func(sh *callShard) {
		left = slices.AppendSeq(left, maps.Values(sh.calls))
		t.crowded.Add(int64(-len(sh.calls)))
		sh.calls = nil
	})
	for _, c := range left {
		c.complete(nil, err)
	}
}

// overdueCall is what is left of a call whose deadline has passed.
type overdueCall struct {
	id   uint64
	lane batch.Lane
}

// sweep fails the calls whose deadlines have passed although their contexts have not ended. It
// returns those that were sent: the peer never heard of the others.
func (t *callTable) sweep(tick uint32) (overdue []overdueCall) {
	end := func(c *call, id uint64) {
		if !c.unsent() { // before it is the caller's again
			overdue = append(overdue, overdueCall{id, c.lane})
		}
		c.complete(nil, context.DeadlineExceeded)
	}
	t.each(func(slot *callSlot, c *call, id uint64) {
		if c.overdue(tick) && t.vacate(c, id) {
			end(c, id)
		}
	})
	var late []*call
	var ids []uint64
	t.eachShard(func(sh *callShard) {
		for id, c := range sh.calls {
			if c.overdue(tick) {
				t.remove(sh, id)
				late = append(late, c)
				ids = append(ids, id)
			}
		}
		sh.shrink()
	})
	for i, c := range late {
		end(c, ids[i])
	}
	return overdue
}

// overdue reports whether the deadline has passed by a tick of the janitor.
func (e *entry) overdue(tick uint32) bool { return tick >= e.sweepAt.Load() }

// appendOpen appends the calls waiting for an answer.
func (t *callTable) appendOpen(open []OpenCall, ages callAges) []OpenCall {
	t.each(func(slot *callSlot, c *call, id uint64) {
		o := c.open(ages)
		if slot.Load() == c && c.id.Load() == id { // it was this call all the time
			open = append(open, o)
		}
	})
	t.eachShard(func(sh *callShard) {
		for _, c := range sh.calls {
			open = append(open, c.open(ages))
		}
	})
	return open
}

// len returns the number of calls waiting for an answer.
func (t *callTable) len() int {
	n := int(t.crowded.Load())
	t.each(func(*callSlot, *call, uint64) { n++ })
	return n
}
