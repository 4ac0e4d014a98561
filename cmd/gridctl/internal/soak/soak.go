// Package soak puts random load on nodes in one process, with real sockets between them, cuts their
// connections, restarts them, and checks what is promised.
package soak

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// Config is what is done, and how much of it.
type Config struct {
	Duration     time.Duration
	Seed         uint64 // from which calls and troubles are drawn
	Nodes        int
	Callers      int           // all nodes together
	Rest         time.Duration // of a caller after a call, on the average
	CutEvery     time.Duration // on the average
	RestartEvery time.Duration // on the average
	Allowance    time.Duration // that a call may be late, for a busy machine
	Times        grid.Limits   // PingInterval and PeerTimeout
	Log          *slog.Logger

	interceptors []grid.Interceptor // of all nodes
}

// window is the capacities of all streaming handlers.
var window = workload.Window{In: 4, Out: 8}

// Soak is a grid under random load and random cuts.
type Soak struct {
	*workload.Workload
	config  Config
	began   time.Time
	hosts   []string
	nodes   []*node
	pairs   []*pair
	callers []*caller

	tally    tally
	busy     Busy
	troubles sync.WaitGroup
}

// New returns a Soak without nodes.
func New(c Config) *Soak {
	s := &Soak{config: c, began: time.Now()}
	s.tally.cuts, s.tally.restarts, s.tally.errors = make(map[string]uint64), make(map[string]uint64), make(map[string]uint64)
	for i := range c.Nodes {
		s.hosts = append(s.hosts, hostOf(i))
	}
	for range c.Callers {
		s.callers = append(s.callers, &caller{soak: s})
	}
	s.Workload = workload.New(workload.Config{
		Names:        s.hosts,
		Windows:      [workload.Routes]workload.Window{window, window, window},
		Allowance:    c.Allowance,
		Violated:     func(text string) { s.tally.violated("%s", text) },
		Redraw:       s.draw,
		Surroundings: s,
	})
	return s
}

// draw returns the call of a number.
func (s *Soak) draw(id uint64) *workload.Call {
	return workload.NewDrawer(s.config.Seed, id).Call(id, s.config.Nodes, 0, &workload.Brisk)
}

// Start starts all nodes and waits until they are connected.
func (s *Soak) Start() error {
	err := s.startAll()
	if err != nil {
		s.Stop()
	}
	return err
}

// Play is the soak itself: load and trouble, until the time is over or ctx ends; then rest, and the
// end of the nodes. tick is called every second.
func (s *Soak) Play(ctx context.Context, tick func()) {
	s.tally.idle.Before = settledFootprint()
	start := time.Now()
	limit, cancel := context.WithTimeout(ctx, s.config.Duration)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range s.callers {
		all.Go(func() { c.run(limit) })
	}
	all.Go(func() { s.trouble(limit) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		all.Wait()
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-ticker.C:
			s.watch()
			s.tally.sample()
			tick()
		}
	}
	s.tally.elapsed = time.Since(start)
	s.settle()
	s.Stop()
	s.compare("after the end", &s.tally.stopped)
}

// settle checks that nothing is left of what has run, while the nodes are up.
func (s *Soak) settle() {
	left := func() string {
		if n := s.Running(); n != 0 {
			return fmt.Sprintf("%d handlers run", n)
		}
		for _, n := range s.nodes {
			if open := n.now.Load().Open(); len(open) > 0 {
				return fmt.Sprintf("node %d has %d open calls, such as %+v", n.number, len(open), open[0])
			}
			if held := n.now.Load().holds(); held != "" {
				return fmt.Sprintf("node %d: %s", n.number, held)
			}
		}
		return ""
	}
	if !within(s.config.Allowance, func() bool { return left() == "" }) {
		s.tally.violated("%v after the last call: %s", s.config.Allowance, left())
	}
	s.compare("when the nodes are idle again", &s.tally.idle)
}

// compare checks that goroutines and memory are back to what they were.
func (s *Soak) compare(when string, u *Use) {
	within(s.config.Allowance, func() bool {
		u.After = settledFootprint()
		return u.After.Goroutines <= u.Before.Goroutines
	})
	if u.After.Goroutines > u.Before.Goroutines {
		s.tally.violated("%s there are %d goroutines, before there were %d:\n%s", when, u.After.Goroutines, u.Before.Goroutines, stacks())
	}
	if u.After.Heap > u.Before.Heap+HeapBound {
		s.tally.violated("%s the heap has %d bytes, before it had %d, and may have %d more", when, u.After.Heap, u.Before.Heap, HeapBound)
	}
}

// MayLose is part of workload.Surroundings.
func (s *Soak) MayLose(a, b int, since, until time.Duration) bool {
	return s.pair(a, b).trouble.touches(s.began.Add(since)) || s.Stopped(a, b, since, until)
}

// Stopped is part of workload.Surroundings.
func (s *Soak) Stopped(a, b int, since, _ time.Duration) bool {
	from := s.began.Add(since)
	return s.nodes[a].stops.touches(from) || s.nodes[b].stops.touches(from)
}

// Removed is part of workload.Surroundings.
func (s *Soak) Removed(int, int, time.Duration, time.Duration) bool { return false }

// Tampered is part of workload.Surroundings.
func (s *Soak) Tampered(int, int) bool { return false }

// Slowed is part of workload.Surroundings.
func (s *Soak) Slowed(int, int) time.Duration { return s.config.longest() }

// Loss is part of workload.Surroundings.
func (s *Soak) Loss(*workload.Call, *workload.Notes) string { return "" }
