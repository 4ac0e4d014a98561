package sim

import (
	"flag"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/race"
	"github.com/gridmesh/grid/internal/testkit"
)

// The simulation: see docs/testing.md.
var (
	simSeeds = flag.Int("sim.seeds", 0, "how many `seeds` TestSimulation runs; 0 for a number that suits the kind of build")
	simFirst = flag.Uint64("sim.first", 1, "the first `seed` that TestSimulation runs")
	simHangs = flag.Duration("sim.hangs", 2*time.Minute, "the real `time` after which a seed is taken for hung")
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
	seeds := testkit.Seeds{
		First:  *simFirst,
		Count:  simDefaultSeeds,
		Hangs:  *simHangs,
		Label:  "sim.seed",
		Repeat: func(seed uint64) string { return fmt.Sprintf("make sim SEED=%d", seed) },
	}
	switch {
	case *simSeed != 0:
		seeds.One(t, *simSeed, simulate)
		return
	case *simSeeds > 0:
		seeds.Count = *simSeeds
	case race.Enabled:
		seeds.Count = simRaceSeeds
	}
	seeds.All(t, simulate)
}

// simulate runs the scenario of a seed and checks it.
func simulate(t *testing.T, seed uint64) {
	w := newWorld(t, newScenario(seed))
	defer w.report(*simSeed != 0)
	w.run()
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
