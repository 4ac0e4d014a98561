package gridtest

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// panicFinder fails the test when a handler panics. The grid gets the panic all the same.
func (w *World) panicFinder(node string) grid.Interceptor {
	find := func(info *grid.CallInfo, returned *bool) {
		if *returned {
			return
		}
		if r := recover(); r != nil {
			w.failf("the handler of %s at %s has panicked: %v\n%s", info.Method, node, r, debug.Stack())
			panic(r)
		}
	}
	return grid.Interceptor{
		ServerRequest: func(ctx context.Context, info *grid.CallInfo, payload []byte, next grid.ServeRequestFunc) ([]byte, error) {
			returned := false
			defer find(info, &returned)
			out, err := next(ctx, payload)
			returned = true
			return out, err
		},
		ServerStream: func(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.ServeStreamFunc) error {
			returned := false
			defer find(&info.CallInfo, &returned)
			err := next(ctx, payload)
			returned = true
			return err
		},
	}
}

// checkIdle checks that everything that was begun comes to its end.
func (w *World) checkIdle() {
	w.t.Helper()
	var left []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if left = append(w.open(), w.unbalanced()...); len(left) == 0 {
			return
		}
	}
	w.failf("after the end of the test:\n%s", strings.Join(left, "\n"))
}

// open says what has not ended.
func (w *World) open() (left []string) {
	for _, h := range w.hosts {
		if !h.isUp() {
			continue
		}
		m := h.present().Manager
		add := func(format string, args ...any) {
			left = append(left, h.short+": "+fmt.Sprintf(format, args...))
		}
		for _, o := range m.Open() {
			what, way := "request", "to"
			if o.Stream {
				what = "stream"
			}
			if o.Role == grid.RoleServer {
				way = "from"
			}
			name := o.Name
			if o.Subroute != "" {
				name += " on " + o.Subroute
			}
			add("a %s of %s %s %s is open for %v", what, name, way, o.Peer, o.Age)
		}
		stats := m.Stats()
		for _, p := range stats.Peers {
			if p.BytesQueued > 0 {
				add("%d bytes wait to be sent to %s", p.BytesQueued, p.Remote)
			}
		}
		if leaving := stats.Removed.Leaving + stats.Guests.Leaving; leaving > 0 {
			add("%d hosts and guests that were removed are not gone", leaving)
		}
	}
	return left
}

// unbalanced says where one node has sent something that another has not received, of those that
// nothing has happened to.
func (w *World) unbalanced() (wrong []string) {
	for _, p := range w.ways() {
		w.mu.Lock()
		harmed := w.harmed[p] || w.harmed[way{p.to, p.from}]
		w.mu.Unlock()
		from, to := w.hosts[p.from], w.hosts[p.to]
		if harmed || !from.isUp() || !to.isUp() {
			continue
		}
		there, here := from.present().Manager.Connection(to.name), to.present().Manager.Connection(from.name)
		if there == nil || here == nil {
			continue // one is none of the other's hosts
		}
		if sent, got := there.Stats().Out, here.Stats().In; sent != got {
			wrong = append(wrong, fmt.Sprintf("%s has sent %s %+v, which has received %+v", from.short, to.short, sent, got))
		}
	}
	return wrong
}

// checkNothingIsLeft checks that all that belonged to the nodes is gone.
func (w *World) checkNothingIsLeft() {
	w.t.Helper()
	w.checkCalls()
	if open := w.net.Open(); len(open) > 0 {
		w.failf("connections that nobody has closed: %v", open)
	}
	if left := w.goroutines(); len(left) > 0 {
		w.failf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}

// checkCalls checks that no handler has run more often than it was called.
func (w *World) checkCalls() {
	w.t.Helper()
	called, served := make(map[string]int64), make(map[string]int64)
	w.mu.Lock()
	lives := w.lives
	w.mu.Unlock()
	for _, n := range lives {
		for _, h := range n.Manager.Stats().Handlers {
			if h.Role == grid.RoleClient {
				called[h.Name] += h.Calls
			} else {
				served[h.Name] += h.Calls
			}
		}
	}
	for name, runs := range served {
		if calls, counted := called[name]; runs > calls && (counted || called[otherMethods] == 0) {
			w.failf("%s was handled %d times, and called %d times", name, runs, calls)
		}
	}
}

// otherMethods is what those methods count together as that have no statistics of their own.
const otherMethods = "other methods"
