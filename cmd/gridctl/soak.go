package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// soakConfig is the configuration of gridctl soak.
type soakConfig struct {
	duration     time.Duration
	seed         uint64
	nodes        int
	concurrency  int
	rest         time.Duration
	cutEvery     time.Duration
	restartEvery time.Duration
	allowance    time.Duration
	times        grid.Limits // PingInterval and PeerTimeout
	verbose      bool
}

func (c *soakConfig) flags() *flag.FlagSet {
	c.duration, c.nodes, c.concurrency = time.Minute, 4, 16
	c.rest, c.cutEvery, c.restartEvery, c.allowance = 5*time.Millisecond, time.Second, 10*time.Second, 10*time.Second
	c.times = grid.Limits{PingInterval: time.Second, PeerTimeout: 5 * time.Second}
	fs := newFlags("soak")
	fs.Var((*duration)(&c.duration), "duration", "how long to call, a `time` such as 1m or 8h")
	fs.Uint64Var(&c.seed, "seed", 0, "a `number` from which calls and troubles are drawn (default: another one each time)")
	fs.IntVar(&c.nodes, "nodes", c.nodes, "the `number` of nodes, 2 to 32")
	fs.IntVar(&c.concurrency, "callers", c.concurrency, "the `number` of callers, all nodes together")
	fs.Var((*duration)(&c.rest), "rest", "how long a caller rests after a call, a `time`, on the average")
	fs.Var((*duration)(&c.cutEvery), "cut-every", "the `time` between two cuts, on the average")
	fs.Var((*duration)(&c.restartEvery), "restart-every", "the `time` between two restarts of a node, on the average")
	fs.Var((*duration)(&c.allowance), "allowance", "the `time` that a call may be late, for a busy machine")
	fs.Var((*duration)(&c.times.PingInterval), "ping-interval", "the `time` between the pings that ask another node for a sign of life")
	fs.Var((*duration)(&c.times.PeerTimeout), "peer-timeout", "the `time` that another node may be silent before its connection is dropped, at least\ntwice -ping-interval")
	fs.BoolVar(&c.verbose, "v", false, "log to standard error what happens to the connections")
	return fs
}

func (c *soakConfig) check() error {
	switch {
	case c.duration <= 0:
		return cannotStart("-duration %v is too short; try 1m", c.duration)
	case c.nodes < 2 || c.nodes > 32:
		return cannotStart("-nodes %d is out of range; use 2 to 32", c.nodes)
	case c.concurrency < 1 || c.concurrency > maxSoakCallers:
		return cannotStart("-callers %d is out of range; use 1 to %d", c.concurrency, maxSoakCallers)
	case c.rest < 0 || c.rest > maxSoakTime:
		return cannotStart("-rest %v is out of range; use up to %v", c.rest, maxSoakTime)
	case c.cutEvery <= 0 || c.cutEvery > maxSoakTime:
		return cannotStart("-cut-every %v is out of range; use up to %v", c.cutEvery, maxSoakTime)
	case c.restartEvery <= 0 || c.restartEvery > maxSoakTime:
		return cannotStart("-restart-every %v is out of range; use up to %v", c.restartEvery, maxSoakTime)
	case c.allowance <= 0:
		return cannotStart("-allowance %v is too short; try 10s", c.allowance)
	case c.times.PeerTimeout > comeBack/4:
		return cannotStart("-peer-timeout %v is too long for a soak; use up to %v", c.times.PeerTimeout, comeBack/4)
	}
	for c.seed == 0 {
		c.seed = rand.Uint64()
	}
	return nil
}

const (
	maxSoakCallers = 10_000
	maxSoakTime    = 24 * time.Hour
)

// soak is a grid under random load and random cuts, in one process.
type soak struct {
	config  soakConfig
	log     *slog.Logger
	planner soakPlanner
	hosts   []string
	nodes   []*soakNode
	pairs   []*soakPair
	callers []*soakCaller

	ran      *ranWindow
	handlers atomic.Int64 // that run
	broken   broken
	tally    soakTally
	troubles sync.WaitGroup

	interceptors []grid.Interceptor // of all nodes
}

// runSoak puts load on a grid, cuts its connections, and checks what is promised.
func runSoak(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if peer := os.Getenv(busyEnv); peer != "" {
		return runBusyNode(peer, os.Stdin, stdout, stderr)
	}
	var c soakConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if c.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	s := newSoak(c, log)
	if err := s.startAll(); err != nil {
		s.stopAll()
		return refused(err)
	}
	if _, err := fmt.Fprintf(stdout, "%d nodes, %d callers, for %v; the seed is %d\n\n", c.nodes, c.concurrency, c.duration, c.seed); err != nil {
		s.stopAll() // the results would be lost
		return err
	}
	line := newStatusLine(stderr, c.verbose)
	s.play(ctx, line)
	line.set("a node whose handlers compute, for %v", (c.duration / busyShare).Round(time.Second))
	s.busy(ctx)
	line.clear()
	s.print(stdout)
	if count, _ := s.broken.all(); count > 0 {
		return fmt.Errorf("%s promises were broken", thousands(count))
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

func newSoak(c soakConfig, log *slog.Logger) *soak {
	s := &soak{config: c, log: log, planner: soakPlanner{c.seed, c.nodes}, ran: newRanWindow()}
	s.tally.cuts, s.tally.restarts, s.tally.errors = make(map[string]uint64), make(map[string]uint64), make(map[string]uint64)
	for range c.concurrency {
		s.callers = append(s.callers, &soakCaller{soak: s})
	}
	return s
}

// play is the soak itself: load and trouble, until the time is over or ctx ends; then rest, and the end.
func (s *soak) play(ctx context.Context, line *statusLine) {
	s.tally.idle.before = settledFootprint()
	start := time.Now()
	limit, cancel := context.WithTimeout(ctx, s.config.duration-s.config.duration/busyShare)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range s.callers {
		all.Go(func() { c.run(limit) })
	}
	all.Go(func() { s.trouble(limit) })
	report(&all, func() {
		s.watch(time.Now())
		s.tally.sample()
		elapsed := time.Since(start)
		calls := s.tally.allCalls()
		count, _ := s.broken.all()
		line.set("%s of %s: %s calls, %s cuts, %s restarts, %s promises broken", elapsed.Round(time.Second), s.config.duration,
			thousands(calls), thousands(s.tally.sum(s.tally.cuts)), thousands(s.tally.sum(s.tally.restarts)), thousands(count))
	})
	s.tally.elapsed = time.Since(start)
	s.settle()
	s.stopAll()
	s.compare("after the end", &s.tally.stopped)
}

// settle checks that nothing is left of what has run, while the nodes are up.
func (s *soak) settle() {
	left := func() string {
		if n := s.handlers.Load(); n != 0 {
			return fmt.Sprintf("%d handlers run", n)
		}
		for _, n := range s.nodes {
			if open := n.now.Load().Open(); len(open) > 0 {
				return fmt.Sprintf("node %d has %d open calls, such as %+v", n.number, len(open), open[0])
			}
		}
		return ""
	}
	if !within(s.config.allowance, func() bool { return left() == "" }) {
		s.broken.add("%v after the last call: %s", s.config.allowance, left())
	}
	s.compare("when the nodes are idle again", &s.tally.idle)
}

// compare checks that goroutines and memory are back to what they were.
func (s *soak) compare(when string, u *soakUse) {
	within(s.config.allowance, func() bool {
		u.after = settledFootprint()
		return u.after.goroutines <= u.before.goroutines
	})
	if u.after.goroutines > u.before.goroutines {
		s.broken.add("%s there are %d goroutines, before there were %d:\n%s", when, u.after.goroutines, u.before.goroutines, stacks())
	}
	if u.after.heap > u.before.heap+heapBound {
		s.broken.add("%s the heap has %s, before it had %s, and may have %s more", when, mib(u.after.heap), mib(u.before.heap), mib(heapBound))
	}
}
