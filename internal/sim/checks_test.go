package sim

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/workload"
)

// check checks the promises once everything has ended.
func (w *world) check() {
	time.Sleep(time.Minute) // for the last handlers, timers and resets
	synctest.Wait()
	w.checkNothingIsLeft()
	for _, p := range w.calls {
		w.Check(w.Record(p.ID))
	}
}

// checkConnections checks that connections were lost where something happened to them only.
func (w *world) checkConnections() {
	for i, a := range w.nodes {
		for j, b := range w.nodes[:i] {
			if w.MayLose(i, j, 0, w.Now()) {
				continue
			}
			if n := w.net.Dials(a.host, b.host) + w.net.Dials(b.host, a.host); n != 1 {
				w.violate("%s and %s have dialed each other %d times on a healthy network", a.host, b.host, n)
			}
		}
	}
}

// checkNothingIsLeft checks that managers, sockets and goroutines are gone.
func (w *world) checkNothingIsLeft() {
	for _, m := range w.managers {
		for _, c := range connections(m) {
			if held := door.Look(c); held != (door.Held{}) {
				w.violate("after the end %v holds %+v", c, held)
			}
			if state := c.State(); state != grid.StateShutdown {
				w.violate("after the end %v is %v", c, state)
			}
		}
	}
	w.checkRemoved()
	if open := w.net.Open(); len(open) > 0 {
		w.violate("sockets that nobody has closed: %v", open)
	}
	if n := w.Running(); n != 0 {
		w.violate("%d handlers run for ever", n)
	}
	if left := testkit.BubbleGoroutines(); len(left) > 1 {
		w.violate("%d goroutines are left:\n%s", len(left)-1, strings.Join(left[1:], "\n\n"))
	}
}

// left says what is open on the connections of the nodes that are up: in tables, queues and quotas.
func (w *world) left() (left []string) {
	for _, n := range w.up() {
		stats := n.manager.Load().Stats()
		if leaving := stats.Removed.Leaving + stats.Guests.Leaving; leaving > 0 {
			left = append(left, fmt.Sprintf("%s: %d removed hosts and guests", n.host, leaving))
		}
		for _, c := range connections(n.manager.Load()) {
			if held := door.Look(c); !held.Empty() {
				left = append(left, fmt.Sprintf("%v: %+v", c, held))
			}
		}
	}
	return left
}

// connections returns those of a node.
func connections(m *grid.Manager) (all []*grid.Connection) {
	for _, host := range m.Targets() {
		all = append(all, m.Connection(host))
	}
	return append(all, m.Guests()...)
}

// waiting says which calls have not returned.
func (w *world) waiting() string {
	var b strings.Builder
	for _, p := range w.calls {
		if open := w.Record(p.ID).Open(); open != "" {
			fmt.Fprintf(&b, "\n%s", open)
		}
	}
	for _, stack := range testkit.BubbleGoroutines() {
		b.WriteString("\n\n" + stack)
	}
	return b.String()
}

// MayLose is part of workload.Surroundings. What has happened once may show at any time afterwards.
func (w *world) MayLose(a, b int, _, until time.Duration) bool {
	return w.disturbedBy(a, b, until) || w.removedBy(a, b, 0, until) || w.stopped(a, until) || w.stopped(b, until)
}

func (w *world) disturbedBy(a, b int, then time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, ok := w.disturbed[nodesOf(a, b)]
	return ok && since <= then
}

// Stopped is part of workload.Surroundings.
func (w *world) Stopped(a, b int, _, until time.Duration) bool {
	if w.stopped(a, until) || w.stopped(b, until) {
		return true
	}
	// A twin may have taken the place of a node whose connection was lost.
	return (w.twinStopped(a, until) || w.twinStopped(b, until)) && w.disturbedBy(a, b, until)
}

// twinStopped reports whether a twin of a node had begun to stop.
func (w *world) twinStopped(i int, then time.Duration) bool {
	n := w.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.twinStops > 0 && n.twinStops <= then
}

// stopped reports whether a node had begun to stop.
func (w *world) stopped(i int, then time.Duration) bool {
	n := w.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopped && n.since <= then
}

// Tampered is part of workload.Surroundings.
func (w *world) Tampered(a, b int) bool { return w.tampers.with(a, b) }

// simBacklog is how long a starved node may take for what has come together meanwhile.
const simBacklog = 20 * time.Second

// Slowed is part of workload.Surroundings. A node that stands still has little of any bandwidth.
func (w *world) Slowed(a, b int) (d time.Duration) {
	for _, f := range w.faults {
		switch {
		case f.kind == faultSlow && nodesOf(f.a, f.b) == nodesOf(a, b):
			d += f.lasts
		case f.kind == faultStarve && (f.a == a || f.a == b):
			d += f.lasts + simBacklog
		}
	}
	return d
}

// Loss is part of workload.Surroundings. A shutdown waits for what handlers have begun.
func (w *world) Loss(c *workload.Call, n *workload.Notes) string {
	if n.Runs == 0 || w.disturbedBy(c.From, c.To, n.Ended) || w.removedBy(c.From, c.To, w.graceOf(), n.Ended) {
		return ""
	}
	// Nothing is sent after the caller's deadline.
	inTime := n.HandlerEnded-n.HandlerBegan < time.Minute
	if overdue := c.Deadline > 0 && n.Ended >= n.Began+c.Deadline; inTime && !overdue && !w.stopped(c.From, n.Ended) && !w.stopped(c.To, n.Ended) {
		return "its handler ran, and the grace of the removal was not over"
	}
	if !inTime || n.Cut || c.Deadline > 0 && cmp.Or(n.HandlerEnded, n.Ended) >= n.Began+c.Deadline {
		return "" // also if the handler did not notice that: its context may end behind its deadline
	}
	for _, i := range []int{c.From, c.To} {
		if l := w.nodes[i].left; l.ended > 0 && n.HandlerBegan < l.began {
			return fmt.Sprintf("the shutdown from %v should have waited for a handler that began at %v and ended at %v", l, n.HandlerBegan, n.HandlerEnded)
		}
	}
	return ""
}

// A shutdown has to wait for a handler, but not until a caller whose deadline has passed is told.
func TestAShutdownOwesNothingAfterTheDeadline(t *testing.T) {
	const ms = time.Millisecond
	w := &world{scenario: new(scenario), nodes: []*simNode{{}, {left: leave{began: 50 * ms, ended: 60 * ms}}}}
	c := &workload.Call{Kind: workload.OneWay, To: 1, Deadline: 14 * ms, Late: 200 * ms}
	for ended, owed := range map[time.Duration]bool{13 * ms: true, 14 * ms: false, 40 * ms: false} {
		n := &workload.Notes{Runs: 1, HandlerBegan: ended, HandlerEnded: ended, Returned: true, Ended: 60 * ms}
		if got := w.Loss(c, n); (got != "") != owed {
			t.Errorf("of a handler that ended after %v the judge says %q", ended, got)
		}
	}
}
