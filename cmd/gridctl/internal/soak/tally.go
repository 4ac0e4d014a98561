package soak

import (
	"fmt"
	"maps"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/workload"
)

// HeapBound is how much the heap may have grown in the end, in bytes: pools of the runtime, and
// tables that keep their size. It does not depend on how long the soak was.
const HeapBound = 16 << 20

// shownBroken is how many broken promises are kept with their text.
const shownBroken = 20

// tally counts what happens.
type tally struct {
	elapsed time.Duration
	calls   [workload.Kinds]atomic.Uint64
	idle    Use
	stopped Use
	peak    Footprint

	mu                     sync.Mutex // Protects following.
	errors, cuts, restarts map[string]uint64
	broken                 uint64
	first                  []string // of what was broken
}

// Report is what came of a soak until now.
type Report struct {
	Elapsed  time.Duration
	Calls    [workload.Kinds]uint64 // that have ended
	Errors   map[string]uint64      // of calls, each for a reason that was found
	Cuts     map[string]uint64
	Restarts map[string]uint64
	Broken   uint64   // promises
	First    []string // of these
	Idle     Use      // of the nodes without load
	Stopped  Use      // without nodes
	Peak     Footprint
	Busy     *Busy // nil where that part was not done
}

// Footprint is what the process uses.
type Footprint struct {
	Goroutines int
	Heap       uint64 // bytes of objects
}

// Use is what the process used before and after something.
type Use struct{ Before, After Footprint }

// Report returns what came of the soak until now.
func (s *Soak) Report() *Report {
	t := &s.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &Report{
		Elapsed: t.elapsed, Errors: maps.Clone(t.errors), Cuts: maps.Clone(t.cuts), Restarts: maps.Clone(t.restarts),
		Broken: t.broken, First: t.first, Idle: t.idle, Stopped: t.stopped, Peak: t.peak,
	}
	for i := range t.calls {
		r.Calls[i] = t.calls[i].Load()
	}
	if s.busy.done {
		r.Busy = &s.busy
	}
	return r
}

// violated takes note of a promise that was not kept.
func (t *tally) violated(format string, a ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken++
	if len(t.first) < shownBroken {
		t.first = append(t.first, fmt.Sprintf(format, a...))
	}
}

// count adds one to what is counted under a name.
func (t *tally) count(m map[string]uint64, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m[name]++
}

// sample looks for peaks.
func (t *tally) sample() {
	now := footprintNow()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peak.Goroutines = max(t.peak.Goroutines, now.Goroutines)
	t.peak.Heap = max(t.peak.Heap, now.Heap)
}

// settledFootprint is what is used once the garbage is collected: pools keep it for two rounds.
func settledFootprint() Footprint {
	for range 3 {
		runtime.GC()
	}
	return footprintNow()
}

func footprintNow() Footprint {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	return Footprint{runtime.NumGoroutine(), heap[0].Value.Uint64()}
}

// stacks are the goroutines of the process.
func stacks() string {
	var b strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1) // to memory
	return b.String()
}

// within waits until a condition holds, and reports whether it did in time.
func within(limit time.Duration, condition func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if condition() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
