package testkit

import (
	"context"
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
)

// Seeds runs a test for one seed after the other, each in a bubble of testing/synctest.
type Seeds struct {
	First uint64
	Count int
	// Hangs is after how much real time a seed is taken for hung: by somebody who holds a lock
	// while waiting for something in virtual time, or who spins.
	Hangs time.Duration
	// Label names the seed in stacks, which have it with GODEBUG=tracebacklabels=1, whichever
	// goroutine has panicked.
	Label string
	// Repeat returns the command that repeats a seed.
	Repeat func(seed uint64) string
}

// All runs f for each seed, as a test of its own, and for as many at once as there are processors.
// It ends with the first that fails.
func (s *Seeds) All(t *testing.T, f func(t *testing.T, seed uint64)) {
	t.Helper()
	var next atomic.Int64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), s.Count) {
		workers.Go(func() {
			for !failed.Load() {
				n := next.Add(1) - 1
				if n >= int64(s.Count) {
					return
				}
				seed := s.First + uint64(n)
				if !t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { s.One(t, seed, f) }) {
					failed.Store(true)
				}
			}
		})
	}
	workers.Wait()
}

// One runs f for one seed.
func (s *Seeds) One(t *testing.T, seed uint64, f func(t *testing.T, seed uint64)) {
	t.Helper()
	debug.SetTraceback("all")
	hung := time.AfterFunc(s.Hangs, func() {
		panic(fmt.Sprintf("seed %d hangs; %s", seed, s.Repeat(seed)))
	})
	defer hung.Stop()
	ended := false
	defer func() {
		if t.Failed() || !ended {
			t.Logf("to repeat: %s", s.Repeat(seed))
		}
	}()
	pprof.Do(context.Background(), pprof.Labels(s.Label, strconv.FormatUint(seed, 10)), func(context.Context) {
		synctest.Test(t, func(t *testing.T) { f(t, seed) })
	})
	ended = true
}
