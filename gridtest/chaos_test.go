package gridtest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// Calls of all kinds keep the promises of the library whatever Chaos does.
func TestCallsKeepTheirPromises(t *testing.T) {
	var w *workload.Workload
	names := make([]string, 4)
	for i := range names {
		names[i] = newHost(i).name
	}
	setup := Setup(func(n *Node) error { return w.Register(n.Index, n.Manager) })
	for seed := range uint64(4) {
		synctest.Test(t, func(t *testing.T) {
			c := workload.Config{Names: names, Violated: func(text string) { t.Error(text) }, Surroundings: trouble{}}
			for i := range c.Windows {
				c.Windows[i] = workload.Window{In: 2, Out: 2}
			}
			w = workload.New(c)
			world := New(t, Nodes(len(names)), Seed(seed+1), setup, AllowPanics(), Managers(func(_ int, o *grid.ManagerOptions) {
				o.Limits.MaxMessageSize = workload.MaxMessage
			}))
			d := workload.NewDrawer(seed, 1)
			var calls sync.WaitGroup
			for id := range uint64(300) {
				r := w.Add(d.Call(id+1, len(names), 0, &workload.Wild))
				at := d.Between(0, 2*time.Minute)
				calls.Go(func() {
					time.Sleep(at)
					r.Run(world.Node(r.From).Manager, new(workload.Races))
				})
			}
			world.Chaos(3 * time.Minute)
			calls.Wait()
			time.Sleep(5 * time.Minute)
			for id := range uint64(300) {
				w.Check(w.Record(id + 1))
			}
		})
	}
}

// trouble is where everything may happen to connections, at any time.
type trouble struct{}

func (trouble) MayLose(int, int, time.Duration, time.Duration) bool { return true }
func (trouble) Stopped(int, int, time.Duration, time.Duration) bool { return true }
func (trouble) Removed(int, int, time.Duration, time.Duration) bool { return false }
func (trouble) Tampered(int, int) bool                              { return false }
func (trouble) Slowed(int, int) time.Duration                       { return 10 * time.Minute }
func (trouble) Loss(*workload.Call, *workload.Notes) string         { return "" }

// inflicted are the lines of what was done to a World.
func (w *World) inflicted() (lines []string) {
	for line := range strings.SplitSeq(w.history.text(true), "\n") {
		if !strings.Contains(line, ": grid: ") {
			lines = append(lines, line)
		}
	}
	return lines
}

// Each kind happens, and is undone in the end.
func TestChaosOfEachKind(t *testing.T) {
	words := map[Kind]string{
		Partitions: "partition of [", Isolations: "isolation of ", Blocks: "block from", Cuts: "cut between", Delays: "delay of",
		Losses: "loss of", Slowness: "bandwidth of", Crashes: "crashes", Stops: "stops",
	}
	for k := range kinds {
		synctest.Test(t, func(t *testing.T) {
			w := New(t)
			began := time.Now()
			w.Chaos(5*time.Minute, k)
			if d := time.Since(began); d < 5*time.Minute || d > 7*time.Minute {
				t.Errorf("five minutes of %s took %v", words[k], d)
			}
			if len(w.faults) > 0 {
				t.Errorf("%s: %d faults are left", words[k], len(w.faults))
			}
			for _, h := range w.hosts {
				if !h.isUp() {
					t.Errorf("%s: %s is not up", words[k], h.short)
				}
			}
			happened := make(map[string]int)
			for _, line := range w.inflicted() {
				for _, word := range words {
					if strings.Contains(line, word) {
						happened[word]++
					}
				}
			}
			if len(happened) != 1 || happened[words[k]] < 5 {
				t.Errorf("of %s there was %v", words[k], happened)
			}
		})
	}
}

func TestChaosOfOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(t, Nodes(1))
		w.Chaos(time.Minute, Partitions, Cuts)
		w.Chaos(time.Minute)
	})
}

// The same seed draws the same faults, at the same times, and another one others.
func TestASeedDeterminesFaults(t *testing.T) {
	run := func(seed uint64) (lines []string) {
		synctest.Test(t, func(t *testing.T) {
			w := New(t, Seed(seed), Nodes(5))
			w.Chaos(5*time.Minute, Partitions, Isolations, Blocks, Cuts, Delays, Losses, Slowness)
			lines = w.inflicted()
		})
		slices.Sort(lines) // of those at the same time each may be the first
		return lines
	}
	first := run(7)
	if again := run(7); !slices.Equal(first, again) {
		t.Errorf("not the same:\n%s\n\n%s", first, again)
	}
	if slices.Equal(first, run(8)) {
		t.Error("two seeds are the same")
	}
	if len(first) < 100 {
		t.Errorf("%d faults and ends of faults in five minutes", len(first))
	}
}

// While there is a World there is one processor, and afterwards as many as before.
func TestProcessors(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			New(t, Nodes(1))
			if n := runtime.GOMAXPROCS(0); n != 1 {
				t.Errorf("%d processors", n)
			}
			release := oneProcessor()
			release()
			if n := runtime.GOMAXPROCS(0); n != 1 {
				t.Errorf("%d processors", n)
			}
		})
		if n := runtime.GOMAXPROCS(0); n != 2 {
			t.Errorf("%d processors are left", n)
		}
	}
}

// A history forgets its beginning, and shows what was around the first failure.
func TestHistory(t *testing.T) {
	h := newHistory()
	const lines, failure = 3 * kept, 2*kept + 3*kept/4
	for i := range lines {
		if i == failure {
			h.fail("first")
		}
		h.add(fmt.Sprint("line ", i))
	}
	h.fail("second")
	some := h.text(false)
	for _, want := range []string{"FAILED: first\n", fmt.Sprint("line ", failure-shownBefore, "\n"), fmt.Sprint("line ", failure+shownAfter-1, "\n")} {
		if !strings.Contains(some, want) {
			t.Errorf("%q is not in\n%s", want, some)
		}
	}
	if n := strings.Count(some, "\n"); n > shownBefore+shownAfter+3 {
		t.Errorf("%d lines are shown", n)
	}
	if all := h.text(true); !strings.HasSuffix(all, "FAILED: second") || strings.Count(all, "\n") < kept/2 {
		t.Errorf("of all lines there are %d", strings.Count(all, "\n"))
	}
}
