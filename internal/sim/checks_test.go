package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
)

// How late something may be, in virtual time: nothing takes any unless it waits.
const (
	simDefaultDeadline = time.Minute + 8*time.Second // promised to within a few seconds
	simPrompt          = 15 * time.Second            // a request on a healthy connection, with all that is in front of it
	simCanceled        = 3 * time.Second             // until a handler on a healthy connection knows
)

// check checks the promises once everything has ended.
func (w *world) check() {
	time.Sleep(time.Minute) // for the last handlers, timers and resets
	synctest.Wait()
	w.checkNothingIsLeft()
	for _, p := range w.calls {
		w.record(p.id).check()
	}
}

// checkConnections checks that connections were lost where something happened to them only.
func (w *world) checkConnections() {
	for i, a := range w.nodes {
		for j, b := range w.nodes[:i] {
			if w.mayLose(i, j, w.now()) {
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
	if n := w.pilots.Load(); n != 0 {
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
		r := w.record(p.id)
		r.mu.Lock()
		if r.began > 0 && r.outcomes == 0 {
			fmt.Fprintf(&b, "\ncall %d (%v) since %v, got %d, sent %d, handler running %v, %d runs, received %d, answered %d: %+v",
				r.plan.id, r.plan.kind, r.began, r.got, r.sent, r.running, r.runs, r.received, r.answered, *r.plan)
		}
		r.mu.Unlock()
	}
	for _, stack := range bubbleGoroutines() {
		b.WriteString("\n\n" + stack)
	}
	return b.String()
}

// check checks the promises for one call.
func (r *record) check() {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.plan
	if r.runs > 1 {
		r.violate("the handler ran %d times", r.runs)
	}
	if r.running {
		r.violate("the handler still runs")
	}
	if r.outcomes == 0 {
		if r.runs > 0 {
			r.violate("was handled and has no outcome")
		}
		return
	}
	if r.outcomes > 1 {
		r.violate("has %d outcomes", r.outcomes)
	}
	if r.got > r.answering || r.received > r.offered {
		r.violate("%d of %d answers and %d of %d requests arrived", r.got, r.answering, r.received, r.offered)
	}
	r.checkTimes()
	if problem := r.judge(); problem != "" {
		r.violate("ended after %v with %v: %s: %+v", r.ended-r.began, r.err, problem, *p)
	}
}

// checkTimes checks that nobody waited for too long.
func (r *record) checkTimes() {
	p := r.plan
	took := r.ended - r.began
	if r.until > 0 && r.ended > r.until {
		r.violate("ended %v after its context: %v", r.ended-r.until, r.err)
	}
	if !p.kind.stream() && !p.waits && took > simDefaultDeadline {
		r.violate("a request took %v: %v", took, r.err)
	}
	notices := simCanceled
	if r.w.mayLose(p.from, p.to, r.handlerEnded) {
		notices += simNotices + r.w.slowed(p.from, p.to)
	}
	hears := p.kind != callRequest && !(p.kind.stream() && p.work.plain) // of the end of the call
	if hears && r.runs > 0 && r.handlerEnded > r.ended+notices {
		r.violate("the handler ended %v after the call: %v", r.handlerEnded-r.ended, r.err)
	}
	// What tells Send may be on its way when the connection is lost: then it is told of the loss.
	if r.w.mayLose(p.from, p.to, r.handlerEnded+simCanceled) {
		notices = max(notices, simCanceled+simNotices+r.w.slowed(p.from, p.to))
	}
	if !p.use.byChannel && r.runs > 0 && r.fed > r.handlerEnded+notices {
		r.violate("Send waited for %v after the handler had returned", r.fed-r.handlerEnded)
	}
	if r.w.mayLose(p.from, p.to, r.ended) {
		return
	}
	if !p.kind.stream() && p.work.pause == 0 && p.work.end != endWithCall && took > simPrompt {
		r.violate("took %v on a healthy connection: %v", took, r.err)
	}
}

// judge says what is wrong with the outcome; empty for nothing.
func (r *record) judge() string {
	p, err := r.plan, r.err
	var remote *grid.RemoteErr
	switch {
	case err == nil:
		return r.judgeSuccess()
	case errors.Is(err, grid.ErrUnknownHandler):
		if p.kind != callUnknown && p.kind != callUnknownStream {
			return "the handler is there"
		}
	case errors.Is(err, grid.ErrMessageTooLarge):
		if p.kind != callTooLarge {
			return "it was not"
		}
	case errors.Is(err, errSimLeft):
		if !p.kind.stream() || p.use.leave == stay {
			return "nobody left"
		}
	case errors.Is(err, errSimCanceled):
		if !p.races && (p.cancel == 0 || r.ended < r.began+p.cancel) {
			return "nobody canceled it"
		}
	case err == context.DeadlineExceeded:
		return r.judgeDeadline()
	case errors.Is(err, grid.ErrShutdown):
		if !r.w.stopped(p.from, r.ended) && !r.w.stopped(p.to, r.ended) {
			return "nobody shuts down"
		}
	case errors.Is(err, grid.ErrDisconnected):
		return r.judgeLoss()
	case errors.As(err, &remote):
		return r.judgeRemote(*remote)
	case errors.Is(err, grid.ErrIncorrectSequence), strings.Contains(err.Error(), "more stream messages than granted"):
		if !r.w.tampers.with(p.from, p.to) {
			return "nobody has tampered with the messages"
		}
	default:
		return "nothing is known of such an error"
	}
	return ""
}

func (r *record) judgeSuccess() string {
	p := r.plan
	switch {
	case p.kind == callUnknown || p.kind == callUnknownStream || p.kind == callTooLarge:
		return "it could not succeed"
	case r.runs != 1:
		return fmt.Sprintf("the handler ran %d times", r.runs)
	case r.cut:
		return "the handler was cut short"
	case !r.returned || r.handlerErr != nil:
		return fmt.Sprintf("the handler has returned: %v, with %v", r.returned, r.handlerErr)
	case r.got != r.answered:
		return fmt.Sprintf("%d of %d messages arrived", r.got, r.answered)
	}
	return ""
}

func (r *record) judgeDeadline() string {
	p := r.plan
	switch {
	case p.deadline > 0 && r.ended >= r.began+p.deadline:
		return ""
	case r.ended-r.began >= time.Minute && (!p.kind.stream() || p.waits):
		return "" // of the default deadline, or that of waiting for a connection
	}
	return "too early"
}

// judgeLoss judges ErrDisconnected.
func (r *record) judgeLoss() string {
	p := r.plan
	if r.until > 0 && r.ended == r.until && p.kind.stream() {
		return "" // the handler's side has ended it at the same moment
	}
	if !r.w.mayLose(p.from, p.to, r.ended) {
		return "nothing had happened to the connection"
	}
	for _, i := range []int{p.from, p.to} {
		l := r.w.nodes[i].left
		inTime := r.handlerEnded-r.handlerBegan < time.Minute && !r.cut // nothing is sent after the caller's deadline
		if l.ended > 0 && r.runs > 0 && inTime && r.handlerBegan < l.began && !r.w.disturbedBy(p.from, p.to, r.ended) {
			return fmt.Sprintf("the shutdown from %v should have waited for a handler that began at %v and ended at %v", l, r.handlerBegan, r.handlerEnded)
		}
	}
	return ""
}

// judgeRemote judges an error of the callee.
func (r *record) judgeRemote(err grid.RemoteErr) string {
	p := r.plan
	if !r.returned || r.handlerErr == nil {
		if p.kind.stream() && r.w.tampers.with(p.from, p.to) {
			return "" // found by the callee
		}
		return "the handler has not failed"
	}
	text := string(*r.handlerErr)
	if p.work.end == endPanicking && r.got == r.answered && strings.Contains(string(err), "panicked: "+text) {
		return ""
	}
	switch {
	case string(err) != text && !(p.kind.stream() && r.w.tampers.with(p.from, p.to)):
		return fmt.Sprintf("the handler has failed with %q", text)
	case string(err) == text && r.got != r.answered:
		return fmt.Sprintf("%d of %d messages arrived", r.got, r.answered)
	}
	return ""
}

// mayLose says whether something has happened to the connection of two nodes until then, or one of them has left.
func (w *world) mayLose(a, b int, then time.Duration) bool {
	if w.disturbedBy(a, b, then) {
		return true
	}
	return w.stopped(a, then) || w.stopped(b, then)
}

func (w *world) disturbedBy(a, b int, then time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	since, ok := w.disturbed[nodesOf(a, b)]
	return ok && since <= then
}

// slowed is how long there is little bandwidth between two nodes: what is sent then, or waits in front of it, comes late.
func (w *world) slowed(a, b int) time.Duration {
	var d time.Duration
	for _, f := range w.faults {
		if f.kind == faultSlow && nodesOf(f.a, f.b) == nodesOf(a, b) {
			d += f.lasts
		}
	}
	return d
}

// stopped says whether a node had begun to stop.
func (w *world) stopped(i int, then time.Duration) bool {
	n := w.nodes[i]
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopped && n.since <= then
}
