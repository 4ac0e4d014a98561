package gridtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/simnet"
	"github.com/gridmesh/grid/internal/testkit"
)

// World is a grid of nodes on a network of its own, in virtual time. All methods may be called by
// any goroutine of the bubble, during the test. Nodes are named by their numbers, from 0 on.
type World struct {
	t       *testing.T
	config  config
	net     *simnet.Network
	hosts   []*host
	history *history
	before  map[string]bool // goroutines that are not the world's

	limit    *time.Timer
	reported atomic.Bool
	watches  sync.WaitGroup  // of Always
	watched  context.Context // ends them
	unwatch  context.CancelFunc

	mu      sync.Mutex // Protects following.
	lives   []*Node    // all that there ever were
	over    bool       // no node starts anymore
	faults  []*fault
	effects map[way]effect // of all faults
	harmed  map[way]bool   // where something may be lost
	sources uint64         // of random numbers, so far
}

// way leads from one node to another.
type way struct{ from, to int }

// patience bounds waits for what the library promises, in virtual time.
const patience = 2 * time.Minute

// New returns a World whose nodes are connected to each other. It must be called in a bubble of
// testing/synctest, in which there is no other World; Run does both. When the test ends, the World
// heals, ends its nodes and checks them, as the package says. That is a Cleanup of t: goroutines
// that the test has started should have ended before.
func New(t *testing.T, options ...Option) *World {
	t.Helper()
	return newWorld(t, newConfig(options))
}

func newWorld(t *testing.T, c config) *World {
	t.Helper()
	if len(testkit.BubbleGoroutines()) == 0 {
		t.Fatal("gridtest.New needs a bubble: call it in the function of synctest.Test, or use gridtest.Run")
	}
	if c.nodes < 1 {
		t.Fatalf("gridtest: a world of %d nodes", c.nodes)
	}
	t.Cleanup(oneProcessor())
	w := &World{
		t:       t,
		config:  c,
		net:     simnet.New(c.seed),
		before:  make(map[string]bool),
		effects: make(map[way]effect),
		harmed:  make(map[way]bool),
	}
	for _, stack := range testkit.BubbleGoroutines() {
		w.before[goroutine(stack)] = true
	}
	for i := range c.nodes {
		w.hosts = append(w.hosts, newHost(i))
	}
	w.watched, w.unwatch = context.WithCancel(context.Background())
	w.history = newHistory()
	w.limit = time.AfterFunc(c.limit, w.giveUp)
	t.Cleanup(w.end)
	w.mu.Lock()
	w.apply()
	w.mu.Unlock()
	time.Sleep(time.Duration(w.Rand().Int64N(int64(time.Second)))) // the library's own pauses follow from the clock
	ready := make(chan struct{})
	for _, h := range w.hosts {
		if err := w.start(h, ready); err != nil {
			close(ready)
			t.Fatal(err)
		}
	}
	close(ready)
	w.WaitConnected()
	// The test begins at the same time, however long that has taken.
	time.Sleep(time.Until(w.history.began.Add(time.Since(w.history.began).Truncate(time.Second) + time.Second)))
	return w
}

// Rand returns a source of random numbers, which follow from the seed and from the number of calls
// before.
func (w *World) Rand() *rand.Rand {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources++
	return newRand(w.config.seed, w.sources)
}

func newRand(seed, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, purpose))
}

// Node returns a node in its present life, or in the last one while it is down.
func (w *World) Node(i int) *Node { return w.hosts[i].present() }

// Name returns the name of a node in the grid, which it keeps.
func (w *World) Name(i int) string { return w.hosts[i].name }

// Logf adds a line, with the time since the start, to what is printed if the test fails.
func (w *World) Logf(format string, args ...any) { w.history.add(fmt.Sprintf(format, args...)) }

// WaitConnected waits until all nodes that run are connected to each other, except for those that a
// Partition, an Isolate or a Block keeps apart. After two minutes it fails the test.
func (w *World) WaitConnected() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, from := range w.hosts {
		for _, to := range w.hosts {
			if from == to || !from.isUp() || !to.isUp() || w.apart(from.index, to.index) {
				continue
			}
			c := from.present().Manager.Connection(to.name)
			if c == nil {
				continue // none of its hosts
			}
			if err := c.WaitForConnect(ctx); err != nil && from.isUp() && to.isUp() {
				w.failf("%s is not connected to %s after %v: %v, the connection is %v", from.short, to.short, patience, err, c.State())
			}
		}
	}
}

// Eventually waits until ok returns true, which it is asked every 10 ms. If it has not within the
// given time, the test fails at once, so Eventually must be called by the test's own goroutine.
func (w *World) Eventually(within time.Duration, what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(10 * time.Millisecond) {
		if !time.Now().Before(end) {
			w.failf("not within %v: %s", within, what)
			w.t.FailNow()
		}
	}
}

// Always calls check again and again until the test ends, for what must hold all the time. The
// first error fails the test, and ends that. It returns at once.
func (w *World) Always(every time.Duration, what string, check func() error) {
	w.watches.Go(func() {
		for w.watched.Err() == nil {
			if err := check(); err != nil {
				w.failf("%s: %v", what, err)
				return
			}
			sleep(w.watched, every)
		}
	})
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// failf fails the test.
func (w *World) failf(format string, args ...any) {
	w.t.Helper()
	text := fmt.Sprintf(format, args...)
	w.history.fail(text)
	w.t.Error(text)
}

// giveUp fails a test that takes too long. Without nodes nothing happens by itself anymore, so that
// either the test goes on or synctest finds that it does not.
func (w *World) giveUp() {
	w.failf("the test has taken %v of virtual time: see gridtest.Limit. What is open: %q", w.config.limit, w.open())
	w.unwatch()
	w.mu.Lock()
	w.over = true
	lives := w.lives
	w.mu.Unlock()
	for _, n := range lives {
		n.cancel()
		n.Manager.Close()
		n.server.Close()
	}
	w.report() // in case the end is never reached
}

// end ends the World, and checks it unless something has failed before, which may be the cause of
// whatever is found.
func (w *World) end() {
	w.limit.Stop()
	w.unwatch()
	w.watches.Wait()
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.Heal()
	check := !w.t.Failed()
	for _, h := range w.hosts {
		if n := h.present(); n != nil && !n.endWork(patience) {
			w.failf("what Go has started for %s does not end:\n%s", h.short, strings.Join(w.goroutines(), "\n\n"))
			check = false
		}
	}
	if check {
		w.WaitConnected()
		w.checkIdle()
	}
	for _, h := range w.hosts {
		w.finish(h, check)
	}
	if check {
		time.Sleep(time.Minute) // for the last timers
		synctest.Wait()
		w.checkNothingIsLeft()
	}
	w.report()
}

// report prints what has happened, once, where somebody wants to know.
func (w *World) report() {
	w.t.Helper()
	failed, verbose := w.t.Failed(), testing.Verbose()
	if !failed && !(verbose && *seedFlag != 0) || w.reported.Swap(true) {
		return
	}
	w.t.Logf("seed %d:\n%s", w.config.seed, w.history.text(verbose))
	if failed && !w.config.ofRun {
		w.t.Logf("to repeat: %s", repeatCommand(w.t.Name(), w.config.seed))
	}
}

// goroutine returns the number of a goroutine.
func goroutine(stack string) string {
	number, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
	return number
}

// goroutines are the stacks of those that were not there before the World.
func (w *World) goroutines() (stacks []string) {
	for _, stack := range testkit.BubbleGoroutines()[1:] {
		if !w.before[goroutine(stack)] {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
