package sim

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/race"
)

// The simulation: see docs/testing.md.
var (
	simSeeds = flag.Int("sim.seeds", 0, "how many `seeds` TestSimulation runs; 0 for a number that suits the kind of build")
	simFirst = flag.Uint64("sim.first", 1, "the first `seed` that TestSimulation runs")
	// In real time. A seed that hangs has somebody who holds a lock while it waits for something in
	// virtual time, or who spins.
	simHangs = flag.Duration("sim.hangs", 2*time.Minute, "the `time` after which a seed is taken for hung")
	simSeed  = flag.Uint64("sim.seed", 0, "the only `seed` that TestSimulation runs, with the log of its nodes")
)

// Seeds of a plain `go test`.
const (
	simDefaultSeeds = 300
	simRaceSeeds    = 60
)

// Nodes that call each other in every way over a network that does its worst keep the promises of
// the design. What happens is drawn from a seed.
func TestSimulation(t *testing.T) {
	poisonBuffers(t)
	if *simSeed != 0 {
		simulate(t, *simSeed, true)
		return
	}
	seeds := *simSeeds
	switch {
	case seeds > 0:
	case race.Enabled:
		seeds = simRaceSeeds
	default:
		seeds = simDefaultSeeds
	}
	var next atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !failed.Load() {
				n := next.Add(1) - 1
				if n >= uint64(seeds) {
					return
				}
				seed := *simFirst + n
				ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { simulate(t, seed, false) })
				if !ok {
					failed.Store(true)
				}
			}
		})
	}
	workers.Wait()
}

// simulate runs the scenario of a seed and checks it.
func simulate(t *testing.T, seed uint64, verbose bool) {
	t.Helper()
	debug.SetTraceback("all")
	hung := time.AfterFunc(*simHangs, func() {
		panic(fmt.Sprintf("seed %d hangs; %s", seed, repeatCommand(seed)))
	})
	defer hung.Stop()
	ended := false
	defer func() {
		if t.Failed() || !ended {
			t.Logf("to repeat: %s", repeatCommand(seed))
		}
	}()
	// With GODEBUG=tracebacklabels=1 the stack of a panic names the seed, whichever goroutine it is
	// on.
	pprof.Do(context.Background(), pprof.Labels("sim.seed", strconv.FormatUint(seed, 10)), func(context.Context) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, newScenario(seed))
			defer w.report(verbose)
			w.run()
		})
	})
	ended = true
}

func repeatCommand(seed uint64) string {
	return fmt.Sprintf("make sim SEED=%d", seed)
}

// poison reports whether a buffer that is given back is overwritten, so that somebody who still
// uses it is found out.
var poison atomic.Bool

func init() { // before anybody uses the function
	grid.PutByteBuffer = func(b []byte) {
		if poison.Load() {
			b = b[:cap(b)]
			for i := range b {
				b[i] = 0xdb
			}
		}
		bytepool.Put(b)
	}
}

func poisonBuffers(t *testing.T) {
	poison.Store(true)
	t.Cleanup(func() { poison.Store(false) })
}
