package sim

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
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
	if open := w.net.Open(); len(open) > 0 {
		w.violate("sockets that nobody has closed: %v", open)
	}
	if n := w.Running(); n != 0 {
		w.violate("%d handlers run for ever", n)
	}
	if left := bubbleGoroutines(); len(left) > 1 {
		w.violate("%d goroutines are left:\n%s", len(left)-1, strings.Join(left[1:], "\n\n"))
	}
}

// left says what is open on the connections of the nodes that are up: in tables, queues and quotas.
func (w *world) left() (left []string) {
	for _, n := range w.up() {
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
	return all
}

// bubbleGoroutines returns the stacks of the bubble's goroutines, the caller's first.
func bubbleGoroutines() (stacks []string) {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	first, _, _ := bytes.Cut(buf, []byte("\n"))
	_, bubble, ok := strings.Cut(string(first), "synctest bubble ")
	if !ok {
		return nil
	}
	bubble, _, _ = strings.Cut(bubble, "]")
	bubble, _, _ = strings.Cut(bubble, ",")
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		head, frames, _ := strings.Cut(stack, "\n")
		if strings.HasPrefix(frames, "internal/synctest.Run(") || strings.HasPrefix(frames, "testing/synctest.testingSynctestTest(") {
			continue // the bubble's own
		}
		if strings.Contains(head, "synctest bubble "+bubble+"]") || strings.Contains(head, "synctest bubble "+bubble+",") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// waiting says which calls have not returned.
func (w *world) waiting() string {
	var b strings.Builder
	for _, p := range w.calls {
		if open := w.Record(p.ID).Open(); open != "" {
			fmt.Fprintf(&b, "\n%s", open)
		}
	}
	for _, stack := range bubbleGoroutines() {
		b.WriteString("\n\n" + stack)
	}
	return b.String()
}

// MayLose is part of workload.Surroundings. What has happened once may show at any time afterwards.
func (w *world) MayLose(a, b int, _, until time.Duration) bool {
	return w.disturbedBy(a, b, until) || w.stopped(a, until) || w.stopped(b, until)
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
	inTime := n.HandlerEnded-n.HandlerBegan < time.Minute && !n.Cut // nothing is sent after the caller's deadline
	if n.Runs == 0 || !inTime || w.disturbedBy(c.From, c.To, n.Ended) {
		return ""
	}
	for _, i := range []int{c.From, c.To} {
		if l := w.nodes[i].left; l.ended > 0 && n.HandlerBegan < l.began {
			return fmt.Sprintf("the shutdown from %v should have waited for a handler that began at %v and ended at %v", l, n.HandlerBegan, n.HandlerEnded)
		}
	}
	return ""
}
