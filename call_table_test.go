package grid

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// newTableCall returns a call as the table needs it.
func newTableCall(handler HandlerID, sweepAt uint32) *call {
	cc := &callClient{sender: &sender{batch: batch.New(nil, batch.Config{})}}
	c := &call{answered: make(chan struct{}, 1), cc: cc}
	c.describe(handler, nil, 0, sweepAt)
	return c
}

// An answer may come after its caller has given up, when another call has the slot, and maybe the
// same memory.
func TestALateAnswerFindsNoOtherCall(t *testing.T) {
	for name, slots := range map[string]*[callSlots]callSlot{"few slots": nil, "many slots": new([callSlots]callSlot)} {
		t.Run(name, func(t *testing.T) {
			var table callTable
			table.slots.Store(slots)
			aLateAnswer(t, &table)
		})
	}
}

func aLateAnswer(t *testing.T, table *callTable) {
	const first, next = 3, 3 + 2*callSlots
	if slotOf(first) != slotOf(next) || fewSlotOf(first) != fewSlotOf(next) {
		t.Fatal("the calls have different slots")
	}
	c := newTableCall(testSingle, 0)
	if !table.put(first, c) || table.take(first) != c || !table.put(next, c) {
		t.Fatal("the table did not take a call")
	}
	if table.has(first) || !table.has(next) || table.has(0) {
		t.Error("the first call is there, or the next one is not")
	}
	if got := table.take(first); got != nil {
		t.Error("the answer to the first call was given to the next one")
	}
	if n := table.crowded.Load(); n != 0 {
		t.Error("the slot of the first call was not free for the next one")
	}
	if table.take(next) != c || table.take(next) != nil || table.len() != 0 {
		t.Error("the next call could not be taken once")
	}
}

// A call that has its slot and not yet its ID is still its caller's. One that was taken may be in
// another slot before the old one is clear.
func TestACallBetweenSlotsIsLeftAlone(t *testing.T) {
	var table callTable
	table.slots.Store(new([callSlots]callSlot))
	const id = 2 * callSlots
	c := newTableCall(testSingle, 0)
	table.slots.Load()[slotOf(id)].Store(c)
	table.sweep(1)
	table.close(ErrDisconnected)
	if table.take(id) != nil || table.take(0) != nil {
		t.Error("the call was taken")
	}
	if open := table.appendOpen(nil, callAges{}); len(open) != 0 || table.len() != 0 {
		t.Errorf("%d calls are in the table: %v", table.len(), open)
	}
	if len(c.answered) != 0 {
		t.Errorf("the call ended with %v", c.err)
	}

	var another callTable
	if !another.put(id, c) {
		t.Fatal("the table did not take a call")
	}
	another.few.Load()[fewSlotOf(id+2)].Store(c)
	if open := another.appendOpen(nil, callAges{}); len(open) != 1 || another.len() != 1 {
		t.Errorf("%d calls are in the table, want 1: %v", another.len(), open)
	}
	if another.take(id+2) != nil || another.take(id) != c {
		t.Error("the call was not where it was put")
	}
}

// Calls whose slot is taken are as good as others.
func TestCallsThatShareASlot(t *testing.T) {
	for name, low := range map[string]uint64{"this side dialed": 1, "the peer dialed": 0} {
		t.Run(name, func(t *testing.T) {
			var table callTable
			calls := make(map[uint64]*call)
			for i := range uint64(3 * callSlots) {
				id := 2*(i+1) + low
				calls[id] = newTableCall(HandlerID(id%100+1), uint32(id%3))
				if !table.put(id, calls[id]) {
					t.Fatalf("call %d was not taken", id)
				}
			}
			inShards := table.crowded.Load()
			if want := int64(2*callSlots - fewSlots); inShards != want {
				t.Errorf("%d calls are in shards, want %d", inShards, want)
			}
			check := func() {
				t.Helper()
				if got := table.len(); got != len(calls) {
					t.Errorf("%d calls are in the table, want %d", got, len(calls))
				}
				want, got := make(map[HandlerID]int), make(map[HandlerID]int)
				for id := range calls {
					want[HandlerID(id%100+1)]++
				}
				for _, o := range table.appendOpen(nil, callAges{now: 7000, moved: 5000, before: 2500}) {
					got[o.Handler]++
					if o.Age != 7*time.Second || o.Role != RoleClient || o.Subroute != "" {
						t.Errorf("%+v", o)
					}
				}
				for h := range want {
					if want[h] != got[h] {
						t.Errorf("%d calls of handler %d are listed, want %d", got[h], h, want[h])
					}
				}
			}
			check()
			table.sweep(1)
			for id, c := range calls {
				if overdue := id%3 <= 1; overdue != (len(c.answered) == 1) {
					t.Errorf("call %d has %d outcomes after a sweep", id, len(c.answered))
				} else if overdue {
					delete(calls, id)
				}
			}
			check()
			for id, c := range calls {
				if !table.has(id) {
					t.Errorf("call %d is not there", id)
				}
				if table.take(id) != c || table.take(id) != nil {
					t.Errorf("call %d could not be taken once", id)
				}
				delete(calls, id)
			}
			check()
			table.eachShard(func(sh *callShard) {
				if sh.calls != nil && sh.most > keptCalls {
					t.Errorf("a shard keeps a table that held %d calls", sh.most)
				}
			})
		})
	}
}

// Calls one after the other need few slots, and two that want the same one of those need no shard.
func TestFewCallsNeedFewSlots(t *testing.T) {
	var table callTable
	var id uint64
	next := func() *call {
		id += 2
		c := newTableCall(testSingle, 0)
		if !table.put(id, c) {
			t.Fatal("the table did not take a call")
		}
		return c
	}
	for range 3 * callSlots {
		if c := next(); table.take(id) != c {
			t.Fatal("the call was not where it was put")
		}
	}
	if table.slots.Load() != nil || table.shards.Load() != nil {
		t.Error("calls one after the other have made many slots, or shards")
	}
	long, longID := next(), id
	for range fewSlots - 1 {
		next()
		table.take(id)
	}
	c := next()
	if table.slots.Load() == nil || table.shards.Load() != nil {
		t.Error("a call whose slot is taken has made no other, or shards")
	}
	if table.len() != 2 || table.take(id) != c || table.take(longID) != long || table.len() != 0 {
		t.Error("the two calls were not where they were put")
	}
	for i := range table.few.Load() {
		if table.few.Load()[i].Load() != nil {
			t.Errorf("slot %d is not free", i)
		}
	}
}

// All that may end a call comes at once, while calls are put into the same few slots again and
// again.
func TestEachCallIsTakenOnce(t *testing.T) {
	var table callTable
	const callers, rounds = 4, 1000
	answers := make(chan uint64)
	var answering, calling, looking sync.WaitGroup
	for range 2 {
		answering.Go(func() {
			for id := range answers {
				if c := table.take(id); c != nil {
					c.complete(strconv.AppendUint(nil, id, 10), nil)
				}
			}
		})
	}
	done := make(chan struct{})
	looking.Go(func() {
		for !isClosed(done) {
			table.sweep(1)
			for _, o := range table.appendOpen(nil, callAges{}) {
				if o.Subroute != o.Handler.String() {
					t.Errorf("a call of %s on the subroute of %s is listed", o.Handler, o.Subroute)
				}
			}
			runtime.Gosched()
		}
	})
	var last atomic.Uint64
	var routes []*route
	for h := range HandlerID(10) {
		routes = append(routes, newRoute(h, h.String(), nil))
	}
	for caller := range callers {
		calling.Go(func() {
			c := newTableCall(testSingle, 0)
			for n := range rounds {
				if caller == 0 && n == rounds/2 {
					table.close(ErrDisconnected)
				}
				id := last.Add(1) * callSlots / 2 // four slots for all
				c.describe(HandlerID(n%10), routes[n%10], 0, uint32(n%4))
				if !table.put(id, c) {
					continue
				}
				for range n % 3 { // a caller who gives up may get no answer, or two that come late
					answers <- id
				}
				if n%3 != 1 && table.take(id) != nil {
					continue
				}
				<-c.answered
				if c.err == nil && string(c.payload) != strconv.FormatUint(id, 10) {
					t.Errorf("call %d got the answer to %s", id, c.payload)
				}
				if c.err != nil && c.err != context.DeadlineExceeded && c.err != ErrDisconnected {
					t.Errorf("call %d got %v", id, c.err)
				}
			}
			if len(c.answered) > 0 {
				t.Error("a call has two outcomes")
			}
		})
	}
	calling.Wait()
	close(answers)
	close(done)
	answering.Wait()
	looking.Wait()
	if n := table.len(); n != 0 {
		t.Errorf("%d calls are left", n)
	}
}
