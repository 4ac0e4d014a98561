package batch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Who computes between two messages takes long for a turn. The flusher lets one go by, and then
// none for a while.
func TestAFlusherAmongGoroutinesThatComputeGivesWayOnce(t *testing.T) {
	const busy = 60
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	w := New(nil, Config{Limit: 1 << 30, Reserve: 1 << 30, MaxShared: 1 << 20, Large: 1 << 20})
	var ready atomic.Int64
	var done atomic.Bool
	var all sync.WaitGroup
	for range busy {
		all.Go(func() {
			for ready.Add(1); !done.Load(); runtime.Gosched() {
				for start := time.Now(); time.Since(start) < 5*time.Millisecond; {
				}
				slot, err := w.BeginNow(Normal)
				if err != nil {
					t.Error(err)
					return
				}
				slot.Commit(append(slot.Open(1), 0))
			}
		})
	}
	for ready.Load() < busy {
		runtime.Gosched()
	}
	gave := []int{w.gather(), w.gather(), w.gather()}
	w.restraint.until = time.Time{}
	w.Late(slowYield + 1)
	told := w.gather()
	done.Store(true)
	all.Wait()
	if gave[0]+gave[1]+gave[2] > 2 { // the first turn may be a short one
		t.Errorf("three flushes waited for %v turns, want one", gave)
	}
	if told > 0 {
		t.Errorf("a flusher that was told how late it is waited for %d turns", told)
	}
}
