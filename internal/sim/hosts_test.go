package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/workload"
)

// hostPlan is a node that removes another one from its hosts, and adds it again, some times in a
// row. The other one does not know.
type hostPlan struct {
	at          time.Duration
	node, other int
	times       int
	out, in     time.Duration // how long the other one is removed, and until it is removed again
}

// drawHosts lets nodes remove each other, while calls are under way. It has numbers of its own, so
// that all else stays as it was.
func (s *scenario) drawHosts(d workload.Drawer) {
	s.grace = d.Pick(0, 1, 5) // before anything else, whether it matters or not
	if !d.Chance(25) {
		return
	}
	for range 1 + d.IntN(3) {
		p := hostPlan{at: d.Between(0, s.length), times: d.Pick(1, 1, 2, 5), out: d.Short(20 * time.Second), in: d.Short(5 * time.Second)}
		p.node, p.other = d.Pair(len(s.hosts))
		s.changes = append(s.changes, p)
		if d.Chance(30) { // at about the same time
			p.node, p.other, p.at = p.other, p.node, p.at+d.Short(time.Second)
			s.changes = append(s.changes, p)
		}
		for range 20 {
			c := s.drawCall(d, max(0, p.at-d.Short(2*time.Second)))
			if c.Kind < workload.Unknown {
				c.From, c.To = p.node, p.other
				if d.Chance(50) {
					c.From, c.To = c.To, c.From
				}
			}
		}
	}
	for _, f := range s.faults {
		if f.kind == faultTamper {
			s.boundStreams(f.a, f.b)
		}
	}
}

// removal is a time during which one of two nodes did not have the other among its hosts.
type removal struct {
	nodes twoNodes
	began time.Duration
	ended time.Duration // 0 if it has not
}

// graceOf is how long the calls with a removed host may go on.
func (s *scenario) graceOf() time.Duration {
	if s.grace == 0 {
		return 30 * time.Second // the default
	}
	return time.Duration(s.grace) * time.Second
}

// change lets a node remove another one, and add it again.
func (w *world) change(p hostPlan) {
	n, other := w.nodes[p.node], w.nodes[p.other]
	for range p.times {
		w.logf("%s removes %s for %v", n.host, other.host, p.out)
		at := w.remove(p.node, p.other)
		time.Sleep(p.out)
		w.logf("%s adds %s", n.host, other.host)
		w.setHosts(n, func() { n.absent[other.name]-- })
		w.mu.Lock()
		w.removals[at].ended = w.Now()
		w.mu.Unlock()
		time.Sleep(p.in)
	}
}

// remove lets a node remove another one. It returns the number of the removal.
func (w *world) remove(node, other int) (number int) {
	n, name := w.nodes[node], w.nodes[other].name
	w.mu.Lock()
	number = len(w.removals)
	w.removals = append(w.removals, removal{nodes: nodesOf(node, other), began: w.Now()})
	w.mu.Unlock()
	if m := n.manager.Load(); m != nil {
		if c := m.Connection(name); c != nil {
			w.mu.Lock()
			w.removed = append(w.removed, c)
			w.mu.Unlock()
		}
	}
	w.setHosts(n, func() { n.absent[name]++ })
	return number
}

// setHosts tells a node of its hosts, after a change of those that are absent.
func (w *world) setHosts(n *simNode, change func()) {
	n.hostsMu.Lock()
	defer n.hostsMu.Unlock()
	change()
	m := n.manager.Load()
	if m == nil {
		return // it starts with all of them
	}
	hosts := slices.DeleteFunc(w.hostNames(), func(name string) bool { return n.absent[name] > 0 })
	w.removeGuest(n, m)
	if err := m.SetHosts(hosts); err != nil && !errors.Is(err, grid.ErrShutdown) {
		w.violate("SetHosts of %s: %v", n.host, err)
	}
}

// setAllHosts tells all nodes of all hosts: one that was started anew may have missed a change.
func (w *world) setAllHosts() {
	for _, n := range w.nodes {
		w.setHosts(n, func() {})
	}
}

// Removed is part of workload.Surroundings. The calls of a removed host may go on for a grace, during
// which new ones are refused even if the host is back, and it takes a moment to say goodbye.
func (w *world) Removed(a, b int, since, until time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if since, ok := w.disturbed[nodesOf(a, b)]; ok && since <= until && (a == w.guest || b == w.guest) {
		return true // a guest that is lost is gone
	}
	return slices.ContainsFunc(w.removals, func(r removal) bool {
		return r.nodes == nodesOf(a, b) && r.began <= until && (r.ended == 0 || since <= r.ended+w.graceOf()+workload.Notices)
	})
}

// removedBy reports whether one of two nodes has removed the other, and the grace for its calls was
// over, by a time.
func (w *world) removedBy(a, b int, grace, then time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.removals, func(r removal) bool {
		return r.nodes == nodesOf(a, b) && r.began+grace <= then
	})
}

// checkRemoved checks that nothing of connections to removed hosts is left.
func (w *world) checkRemoved() {
	for _, c := range w.removed {
		if held := door.Look(c); !held.Empty() || c.State() != grid.StateShutdown {
			w.violate("after it was removed %v is %v and holds %+v", c, c.State(), held)
		}
	}
}
