package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// heapBound is how much the heap may have grown in the end, in bytes: pools of the runtime, and
// tables that keep their size. It does not depend on how long the soak was.
const heapBound = 16 << 20

// soakTally counts what happened.
type soakTally struct {
	elapsed time.Duration
	calls   [soakKinds]atomic.Uint64
	idle    soakUse // of the nodes without load
	stopped soakUse // without nodes
	peak    footprint
	busy    soakBusy

	mu                     sync.Mutex // Protects following.
	errors, cuts, restarts map[string]uint64
}

// footprint is what the process uses.
type footprint struct {
	goroutines int
	heap       uint64 // bytes of objects
}

// soakUse is what the process used before and after something.
type soakUse struct{ before, after footprint }

// settledFootprint is what is used once the garbage is collected: pools keep it for two rounds.
func settledFootprint() footprint {
	for range 3 {
		runtime.GC()
	}
	return footprintNow()
}

func footprintNow() footprint {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	return footprint{runtime.NumGoroutine(), heap[0].Value.Uint64()}
}

// sample looks for peaks.
func (t *soakTally) sample() {
	now := footprintNow()
	t.peak.goroutines = max(t.peak.goroutines, now.goroutines)
	t.peak.heap = max(t.peak.heap, now.heap)
}

func (t *soakTally) allCalls() (sum uint64) {
	for i := range t.calls {
		sum += t.calls[i].Load()
	}
	return sum
}

// count adds one to what is counted under a name.
func (t *soakTally) count(m map[string]uint64, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m[name]++
}

func (t *soakTally) sum(m map[string]uint64) (sum uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range m {
		sum += n
	}
	return sum
}

// print prints the table, and the promises that were broken.
func (s *soak) print(w io.Writer) {
	t := &s.tally
	var counts table
	counts.add("calls", thousands(t.allCalls()))
	for k := range t.calls {
		counts.add("  "+soakKind(k).String(), thousands(t.calls[k].Load()))
	}
	for _, group := range []struct {
		name   string
		counts map[string]uint64
	}{{"errors", t.errors}, {"cuts", t.cuts}, {"restarts", t.restarts}} {
		counts.add(group.name, thousands(t.sum(group.counts)))
		for _, name := range slices.Sorted(maps.Keys(group.counts)) {
			counts.add("  "+name, thousands(group.counts[name]))
		}
	}
	counts.writeTo(w, "")
	fmt.Fprintln(w)
	var use table
	use.add("", "before", "after", "peak")
	use.add("goroutines, nodes idle", fmt.Sprint(t.idle.before.goroutines), fmt.Sprint(t.idle.after.goroutines), fmt.Sprint(t.peak.goroutines))
	use.add("goroutines, nodes stopped", fmt.Sprint(t.stopped.before.goroutines), fmt.Sprint(t.stopped.after.goroutines), "")
	use.add("heap, nodes idle", mib(t.idle.before.heap), mib(t.idle.after.heap), mib(t.peak.heap))
	use.add("heap, nodes stopped", mib(t.stopped.before.heap), mib(t.stopped.after.heap), "")
	use.writeTo(w, "")
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	fmt.Fprintf(w, "\n%s of load. %d garbage collections, with pauses of %s in all. After the last call the heap may have grown by %s.\n",
		t.elapsed.Round(time.Second), mem.NumGC, short(time.Duration(mem.PauseTotalNs)), mib(heapBound))
	t.busy.print(w)
	count, first := s.broken.all()
	if count == 0 {
		fmt.Fprintf(w, "No promise was broken.\n")
		return
	}
	fmt.Fprintf(w, "\n%s promises were broken:\n", thousands(count))
	for _, text := range first {
		fmt.Fprintf(w, "  %s\n", text)
	}
	if more := count - uint64(len(first)); more > 0 {
		fmt.Fprintf(w, "  and %s more\n", thousands(more))
	}
	fmt.Fprintf(w, "To draw the same calls and troubles again: -seed %d\n", s.config.seed)
}

// mib is a number of bytes in MiB.
func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// stacks are the goroutines of the process.
func stacks() string {
	var b strings.Builder
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	return b.String()
}

// within waits until a condition holds, and says whether it did in time.
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
