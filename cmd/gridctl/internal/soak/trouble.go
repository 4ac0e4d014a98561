package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gridmesh/grid/internal/workload"
)

// fault is something that happens to the wire between two nodes.
type fault struct {
	name string
	// play lets it happen and returns when it is over. lasts is how long it goes on, unless ctx
	// ends.
	play func(ctx context.Context, w *wire, lasts time.Duration)
}

var faults = []fault{
	{"closed without a word", func(_ context.Context, w *wire, _ time.Duration) {
		for _, l := range w.take() {
			l.close()
		}
	}},
	{"reset", func(_ context.Context, w *wire, _ time.Duration) {
		for _, l := range w.take() {
			l.reset()
		}
	}},
	{"half open", func(ctx context.Context, w *wire, lasts time.Duration) {
		links := w.take()
		for _, l := range links {
			l.near.Close() // the other end hears of nothing
		}
		workload.Sleep(ctx, lasts)
		for _, l := range links {
			l.far.Close()
		}
	}},
	{"silent", func(ctx context.Context, w *wire, lasts time.Duration) {
		w.add(&w.silent, 1)
		workload.Sleep(ctx, lasts)
		w.add(&w.silent, -1)
	}},
	{"slow", func(ctx context.Context, w *wire, lasts time.Duration) {
		w.add(&w.slow, 1)
		workload.Sleep(ctx, lasts)
		w.add(&w.slow, -1)
	}},
	{"refusing", func(ctx context.Context, w *wire, lasts time.Duration) {
		w.add(&w.refuse, 1)
		for _, l := range w.take() {
			l.reset()
		}
		workload.Sleep(ctx, lasts)
		w.add(&w.refuse, -1)
	}},
}

// ComeBack bounds how long two nodes may take to be connected again when nothing is in their way.
const ComeBack = time.Minute

// trouble cuts wires and restarts nodes until ctx ends, and returns when all has healed.
func (s *Soak) trouble(ctx context.Context) {
	r := rand.New(rand.NewPCG(s.config.Seed, 0))
	restart := time.Now().Add(drawTime(r, s.config.RestartEvery))
	for workload.Sleep(ctx, drawTime(r, s.config.CutEvery)) {
		if time.Now().After(restart) {
			restart = time.Now().Add(drawTime(r, s.config.RestartEvery))
			node, hard, down := s.nodes[r.IntN(len(s.nodes))], r.IntN(2) == 0, drawTime(r, time.Second)
			s.troubles.Go(func() { s.restart(ctx, node, hard, down) })
			continue
		}
		p := s.pairs[r.IntN(len(s.pairs))]
		f, lasts := faults[r.IntN(len(faults))], drawTime(r, s.config.longest()/2)
		s.troubles.Go(func() { s.cut(ctx, p, f, lasts) })
	}
	s.troubles.Wait()
}

// drawTime draws a time of up to twice the mean.
func drawTime(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(r.Int64N(2*int64(mean) + 1))
}

// longest is how long a fault may last: long enough for a node to drop its peer, or not.
func (c *Config) longest() time.Duration { return 2 * c.Times.PeerTimeout }

// cut plays a fault and waits until the two nodes call each other again.
func (s *Soak) cut(ctx context.Context, p *pair, f fault, lasts time.Duration) {
	p.trouble.begin()
	defer p.trouble.end()
	s.tally.count(s.tally.cuts, f.name)
	f.play(ctx, p.wire, lasts)
	s.untilBack(p, f.name)
}

// untilBack waits until both nodes of a pair reach each other.
func (s *Soak) untilBack(p *pair, after string) {
	limit, cancel := context.WithTimeout(context.Background(), ComeBack)
	defer cancel()
	for _, ends := range [][2]*node{{p.a, p.b}, {p.b, p.a}} {
		if err := s.untilReached(limit, ends[0], ends[1]); err != nil {
			s.tally.violated("nodes %d and %d are not connected %v after %s: %v", ends[0].number, ends[1].number, ComeBack, after, err)
		}
	}
}

// untilReached calls until a call gets through. It asks for the node each time: it may be started
// again meanwhile.
func (s *Soak) untilReached(ctx context.Context, from, to *node) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		c := from.now.Load().Connection(to.host)
		err := c.WaitForConnect(attempt)
		if err == nil {
			_, err = c.Request(attempt, handlerReached, nil)
		}
		cancel()
		if err == nil {
			return nil
		}
		if !workload.Sleep(ctx, retryPause) {
			return fmt.Errorf("%v is %v: %w", c, c.State(), err)
		}
	}
}

// restart stops a node, in good order or at once, and starts it again.
func (s *Soak) restart(ctx context.Context, n *node, hard bool, down time.Duration) {
	if !n.restarting.TryLock() {
		return
	}
	defer n.restarting.Unlock()
	n.stops.begin()
	defer n.stops.end()
	m := n.now.Load()
	if hard {
		s.tally.count(s.tally.restarts, "close")
		s.within("Close", n, s.config.Allowance, func() { m.Close(); m.server.Close() })
	} else {
		s.tally.count(s.tally.restarts, "shutdown")
		s.within("Shutdown", n, s.config.Allowance+shutdownTime, func() { _ = m.stop() })
	}
	workload.Sleep(ctx, down)
	if err := s.start(n); err != nil {
		s.tally.violated("node %d does not start again: %v", n.number, err)
		return
	}
	for _, p := range s.pairs {
		if p.a == n || p.b == n {
			s.untilBack(p, "a restart")
		}
	}
}

// within runs what has to be over in a time.
func (s *Soak) within(name string, n *node, limit time.Duration, f func()) {
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		s.tally.violated("%s of node %d took %v, want at most %v", name, n.number, took, limit)
	}
}
