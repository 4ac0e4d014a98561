package gridtest

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gridmesh/grid/internal/simnet"
)

// All stands for all nodes where Block, Delay, Loss, Slow and Cut take one: w.Cut(2, gridtest.All)
// cuts all connections of node 2.
const All = -1

// fault is something that is wrong with some ways until it is healed.
type fault struct {
	hits  func(way) bool
	block bool // nothing arrives
	link  Link // what it adds to that of the World; its Bandwidth replaces a larger one
}

// effect is what all faults together do to a way.
type effect struct {
	block bool
	link  Link
}

// Partition keeps some nodes apart from all others, both ways: neither side hears of the other,
// while the nodes of each side do. Nobody is told: what is sent waits, connections are lost when a
// node has not heard of the other for Limits.PeerTimeout, and dials take until they are given up.
//
// It lasts until heal is called, or Heal. Faults add up: two Partitions make three sides or more.
func (w *World) Partition(nodes ...int) (heal func()) {
	side := setOf(nodes)
	return w.inflict(fmt.Sprintf("partition of %v from all others", nodes), fault{
		hits:  func(p way) bool { return side[p.from] != side[p.to] },
		block: true,
	})
}

// Isolate is a Partition of each of the nodes from all others.
func (w *World) Isolate(nodes ...int) (heal func()) {
	alone := setOf(nodes)
	return w.inflict(fmt.Sprintf("isolation of each of %v", nodes), fault{
		hits:  func(p way) bool { return alone[p.from] || alone[p.to] },
		block: true,
	})
}

// Block lets nothing arrive that one node sends to another, while the other way is open. It is
// like a Partition otherwise.
func (w *World) Block(from, to int) (heal func()) {
	return w.inflict(fmt.Sprintf("block from %s to %s", called(from), called(to)), fault{
		hits:  func(p way) bool { return is(p.from, from) && is(p.to, to) },
		block: true,
	})
}

// Delay lets all that two nodes send each other travel longer by d, until heal is called, or Heal.
func (w *World) Delay(a, b int, d time.Duration) (heal func()) {
	return w.inflict(fmt.Sprintf("delay of %v between %s and %s", d, called(a), called(b)), fault{hits: between(a, b), link: Link{Delay: d}})
}

// Loss lets all that two nodes send each other be lost with a likelihood p, from 0 to 1, until heal
// is called, or Heal. TCP sends it again, so this makes a connection stall and break, but no
// message is missing: see Link.
func (w *World) Loss(a, b int, p float64) (heal func()) {
	return w.inflict(fmt.Sprintf("loss of %.3g between %s and %s", p, called(a), called(b)), fault{hits: between(a, b), link: Link{Loss: p}})
}

// Slow leaves each connection between two nodes a bandwidth, in bytes per second, until heal is
// called, or Heal.
func (w *World) Slow(a, b int, bandwidth int) (heal func()) {
	return w.inflict(fmt.Sprintf("bandwidth of %d B/s between %s and %s", bandwidth, called(a), called(b)), fault{hits: between(a, b), link: Link{Bandwidth: bandwidth}})
}

// Cut resets the connections between two nodes, at once and with all that is on its way. Both
// notice, and connect again.
func (w *World) Cut(a, b int) {
	w.Logf("cut between %s and %s", called(a), called(b))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.harm(between(a, b))
	for _, p := range w.ways() {
		if between(a, b)(p) {
			w.net.Cut(w.hosts[p.from].short, w.hosts[p.to].short)
		}
	}
}

// Heal ends all faults that last. Nodes that are down stay down.
func (w *World) Heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.faults) > 0 {
		w.Logf("all faults healed")
	}
	w.faults = nil
	w.apply()
}

// inflict lets a fault last until heal is called.
func (w *World) inflict(what string, f fault) (heal func()) {
	w.Logf("%s", what)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, &f)
	w.harm(f.hits)
	w.apply()
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if i := slices.Index(w.faults, &f); i >= 0 {
			w.faults = slices.Delete(w.faults, i, i+1)
			w.Logf("healed: %s", what)
			w.apply()
		}
	})
}

// harm takes note of where something may be lost. w.mu is held.
func (w *World) harm(hits func(way) bool) {
	for _, p := range w.ways() {
		if hits(p) {
			w.harmed[p] = true
		}
	}
}

func (w *World) harmNode(i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.harm(func(p way) bool { return p.from == i || p.to == i })
}

// apply makes the network what the faults of the moment make of it. w.mu is held.
func (w *World) apply() {
	for _, p := range w.ways() {
		now := effect{link: w.config.link}
		for _, f := range w.faults {
			if f.hits(p) {
				now.add(f)
			}
		}
		was, known := w.effects[p]
		w.effects[p] = now
		from, to := w.hosts[p.from].short, w.hosts[p.to].short
		if now.link != was.link || !known {
			w.net.SetLink(from, to, simnet.Link{Delay: now.link.Delay, Jitter: now.link.Jitter, Bandwidth: now.link.Bandwidth, Loss: now.link.Loss})
		}
		switch {
		case now.block && !was.block:
			w.net.Block(from, to)
		case was.block && !now.block:
			w.net.Unblock(from, to)
		}
	}
}

// add adds a fault.
func (e *effect) add(f *fault) {
	e.block = e.block || f.block
	e.link.Delay += f.link.Delay
	e.link.Jitter += f.link.Jitter
	e.link.Loss = 1 - (1-e.link.Loss)*(1-f.link.Loss)
	if b := f.link.Bandwidth; b > 0 && (e.link.Bandwidth == 0 || b < e.link.Bandwidth) {
		e.link.Bandwidth = b
	}
}

// apart reports whether a fault keeps two nodes apart.
func (w *World) apart(a, b int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.effects[way{a, b}].block || w.effects[way{b, a}].block
}

// ways are all there are, in order.
func (w *World) ways() (all []way) {
	for from := range w.hosts {
		for to := range w.hosts {
			if from != to {
				all = append(all, way{from, to})
			}
		}
	}
	return all
}

func between(a, b int) func(way) bool {
	return func(p way) bool { return is(p.from, a) && is(p.to, b) || is(p.from, b) && is(p.to, a) }
}

func is(node, meant int) bool { return meant == All || node == meant }

// called is what a node is called in the history.
func called(node int) string {
	if node == All {
		return "all"
	}
	return strconv.Itoa(node)
}

func setOf(nodes []int) map[int]bool {
	set := make(map[int]bool, len(nodes))
	for _, i := range nodes {
		set[i] = true
	}
	return set
}
