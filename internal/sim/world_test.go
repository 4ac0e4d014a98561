package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/simnet"
	"github.com/gridmesh/grid/internal/workload"
	"github.com/gridmesh/grid/pubsub"
)

// world is a scenario while it happens.
type world struct {
	*scenario
	*workload.Workload
	t     *testing.T
	net   *simnet.Network
	nodes []*simNode

	callers  sync.WaitGroup
	stopping sync.WaitGroup
	traced   chan struct{} // ends the subscribers to traces
	tampers  tampers

	mu         sync.Mutex // Protects following.
	log        []string
	violations []string
	disturbed  map[twoNodes]time.Duration // since when a pair of nodes may lose its connection
	managers   []*grid.Manager            // all there ever were
	removals   []removal
	removed    []*grid.Connection // to hosts that were removed
}

// twoNodes is two nodes, the lower first.
type twoNodes struct{ a, b int }

func nodesOf(a, b int) twoNodes { return twoNodes{min(a, b), max(a, b)} }

// simNode is a node with its server, over all its lives.
type simNode struct {
	host    string // in the network
	name    string // in the grid
	manager atomic.Pointer[grid.Manager]
	races   workload.Races

	hostsMu sync.Mutex     // Protects following.
	absent  map[string]int // names that are to be none of its hosts, and by how many plans

	mu      sync.Mutex // Protects following.
	server  *http.Server
	served  chan struct{} // closed when the server has ended
	stopped bool
	since   time.Duration // when the first stop began
	left    leave

	twinStops time.Duration // when a twin began to stop; 0 for never
}

// leave is a Shutdown that took the time it needed.
type leave struct{ began, ended time.Duration }

const simPort = "9000"

// Times, all virtual.
const (
	simConnects = 2 * time.Minute // for all connections to be there again
	simSettles  = 2 * time.Minute // for everything to end
	simEnds     = 5 * time.Minute // for all calls to return, on a healthy network
)

func newWorld(t *testing.T, s *scenario) *world {
	w := &world{
		scenario:  s,
		t:         t,
		net:       simnet.New(s.seed),
		tampers:   newTampers(s.seed),
		traced:    make(chan struct{}),
		disturbed: make(map[twoNodes]time.Duration),
	}
	for _, host := range s.hosts {
		w.nodes = append(w.nodes, &simNode{
			host:   host,
			name:   "http://" + net.JoinHostPort(host, simPort),
			absent: make(map[string]int),
		})
	}
	if s.guest >= 0 {
		w.nodes[s.guest].name = s.hosts[s.guest]
	}
	for _, l := range s.links {
		w.setLink(l.from, l.to)
	}
	w.Workload = workload.New(workload.Config{
		Names:        w.names(),
		Windows:      s.windows,
		Encodes:      s.encodes,
		MaxMessage:   s.largest,
		Violated:     func(text string) { w.violate("%s", text) },
		Surroundings: w,
	})
	for _, c := range s.calls {
		w.Add(c)
	}
	return w
}

// run lets the scenario happen, repairs everything, and checks what came of it.
func (w *world) run() {
	w.startAll()
	w.play()
	if !w.wait("the calls", simEnds, w.callers.Wait) {
		return
	}
	w.heal()
	if !w.wait("the restarts", simEnds, w.stopping.Wait) {
		return
	}
	w.recover()
	w.checkConnections()
	w.closeAll()
	w.check()
}

// startAll starts the nodes that are not late. They dial when all of them are there.
func (w *world) startAll() {
	ready := make(chan struct{})
	for i := range w.nodes {
		if w.late[i] > 0 || !w.settled {
			w.disturbNode(i)
		}
		if w.late[i] > 0 {
			continue
		}
		if err := w.start(i, ready); err != nil {
			w.t.Fatal(err)
		}
	}
	close(ready)
	if w.settled {
		w.waitConnected()
	}
}

// play makes everything happen at its time.
func (w *world) play() {
	type event struct {
		at  time.Duration
		run func()
	}
	var events []event
	for i, at := range w.late {
		if at > 0 {
			events = append(events, event{at, func() {
				if err := w.start(i, nil); err != nil {
					w.violate("%v", err)
				}
			}})
		}
	}
	for _, p := range w.calls {
		events = append(events, event{p.At, func() {
			w.callers.Go(func() { w.call(w.Record(p.ID)) })
		}})
	}
	for _, f := range w.faults {
		events = append(events, event{f.at, func() { w.harm(f) }})
	}
	for _, p := range w.twins {
		events = append(events, event{p.at, func() {
			w.stopping.Go(func() { w.twin(p) })
		}})
	}
	for _, p := range w.changes {
		events = append(events, event{p.at, func() {
			w.stopping.Go(func() { w.change(p) })
		}})
	}
	for _, p := range w.stops {
		events = append(events, event{p.at, func() {
			w.stopping.Go(func() { w.stop(p) })
		}})
	}
	var length time.Duration
	for _, e := range events {
		length = max(length, e.at)
	}
	for n, at := range w.sayingsAt(length) {
		for i := range w.nodes {
			events = append(events, event{at + time.Duration(i)*time.Millisecond, func() { w.saying(i, n+i) }})
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	start := w.Now()
	for _, e := range events {
		time.Sleep(e.at - (w.Now() - start))
		e.run()
	}
}

// wait returns true once f has returned, and false, with a violation, when that takes too long.
func (w *world) wait(what string, limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-done:
		return true
	case <-timeout.C:
		w.violate("waited %v in vain for %s: %s", limit, what, w.waiting())
		return false
	}
}

// start starts a node. It dials when ready is closed; nil is at once.
func (w *world) start(i int, ready chan struct{}) error {
	n := w.nodes[i]
	registered := make(chan struct{})
	if ready == nil {
		ready = registered
	}
	m, err := w.newManager(i, n.host, ready)
	if err != nil {
		return err
	}
	l, err := w.net.Listen(net.JoinHostPort(n.host, simPort))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:     simRouter(i, m),
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ReadTimeout: simRequestTime, WriteTimeout: simRequestTime, IdleTimeout: simRequestTime, // end with the upgrade
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(tamperedListener{l, &w.tampers, n.host, n.races.Incoming})
	}()
	n.mu.Lock()
	n.server, n.served = server, served
	n.mu.Unlock()
	n.manager.Store(m)
	close(registered)
	return nil
}

// newManager makes a process of a node, on a host of the network. It dials when ready is closed.
func (w *world) newManager(i int, host string, ready chan struct{}) (*grid.Manager, error) {
	n := w.nodes[i]
	m, err := w.newNode(i, grid.ManagerOptions{
		Local:        n.name,
		AuthRequest:  simAuth,
		AddAuth:      func(string) string { return "simulation" },
		Dialer:       w.tampers.dialer(w.net, host, n.races.Incoming),
		BlockConnect: ready,
		TraceTo:      w.subscriber(i),
		Logger:       slog.New(simLog{w, host}),
		RemovalGrace: time.Duration(w.grace) * time.Second,
		Limits:       grid.Limits{MaxMessageSize: w.largest, MaxQueuedBytes: w.queued},
		Version:      fmt.Sprint("at ", w.Now()),
	})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.managers = append(w.managers, m)
	w.mu.Unlock()
	return m, w.Register(i, m)
}

// simRequestTime is what a server grants a request. Connections between nodes live longer.
const simRequestTime = 5 * time.Second

func simAuth(r *http.Request) error {
	if r.Header.Get("Authorization") != "Bearer simulation" {
		return errors.New("not one of us")
	}
	return nil
}

// simRouter serves a node's Manager, in one of the ways that there are.
func simRouter(i int, m *grid.Manager) http.Handler {
	switch i % 3 {
	case 0: // behind a middleware
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.Handler()(unwrapping{w}, r) })
	case 1:
		router := mux.NewRouter()
		m.AddToMux(router)
		return router
	}
	router := http.NewServeMux()
	router.Handle(grid.RoutePath, m.Handler())
	return router
}

// unwrapping has no Hijack, but Unwrap.
type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// subscriber makes every second node publish its traces, to somebody who never reads them.
func (w *world) subscriber(i int) *pubsub.PubSub[grid.TraceInfo, grid.TraceType] {
	if i%2 == 0 {
		return nil
	}
	ps := pubsub.New[grid.TraceInfo, grid.TraceType](1)
	if err := ps.Subscribe(grid.TraceInternode, make(chan grid.TraceInfo), w.traced, nil); err != nil {
		w.violate("Subscribe: %v", err)
	}
	return ps
}

func (w *world) names() (names []string) {
	for _, n := range w.nodes {
		names = append(names, n.name)
	}
	return names
}

// unserve ends a node's server.
func (n *simNode) unserve() {
	n.mu.Lock()
	server, served := n.server, n.served
	n.server = nil
	n.mu.Unlock()
	if server == nil {
		return
	}
	server.Close()
	<-served
}

// stopping takes note that a node begins to stop.
func (n *simNode) stopping(now time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.stopped {
		n.stopped, n.since = true, now
	}
}

// waitConnected returns when all nodes that are up are connected.
func (w *world) waitConnected() {
	ctx, cancel := contextFor(simConnects)
	defer cancel()
	for _, from := range w.up() {
		for _, to := range w.up() {
			if from == to {
				continue
			}
			w.awaitGuest(ctx, from, to)
			c := from.manager.Load().Connection(to.name)
			if err := c.WaitForConnect(ctx); err != nil {
				w.violate("%v to %s is not connected after %v: %v, %v", c, to.name, simConnects, err, c.State())
			}
		}
	}
}

// up returns the nodes that are up.
func (w *world) up() (up []*simNode) {
	for _, n := range w.nodes {
		n.mu.Lock()
		if n.server != nil {
			up = append(up, n)
		}
		n.mu.Unlock()
	}
	return up
}

// recover checks that all is well again: everybody is connected, nothing is left, and calls
// succeed.
func (w *world) recover() {
	w.setAllHosts()
	time.Sleep(workload.Notices)
	w.waitConnected()
	w.waitIdle()
	var calls sync.WaitGroup
	for i, from := range w.nodes {
		for j, to := range w.nodes {
			up := w.up()
			if i != j && slices.Contains(up, from) && slices.Contains(up, to) {
				calls.Go(func() { w.greet(i, j) })
			}
		}
	}
	w.wait("the last calls", simEnds, calls.Wait)
	w.checkSayings()
	w.waitIdle()
}

// waitIdle waits until nothing is open on any connection.
func (w *world) waitIdle() {
	var left []string
	for end := w.Now() + simSettles; w.Now() < end; time.Sleep(time.Second) {
		if left = w.left(); len(left) == 0 {
			return
		}
	}
	w.violate("left over after %v: %q", simSettles, left)
}

// closeAll ends all nodes, every second one in good order.
func (w *world) closeAll() {
	w.logf("close")
	var ends sync.WaitGroup
	for i, n := range w.nodes {
		ends.Go(func() {
			m := n.manager.Load()
			if m == nil {
				return
			}
			if i%2 == 0 {
				m.Close()
			} else if err := m.Shutdown(context.Background()); err != nil {
				w.violate("Shutdown of %s: %v", n.host, err)
			}
			n.unserve()
		})
	}
	w.wait("the end of the nodes", simEnds, ends.Wait)
	close(w.traced)
}

// call makes a planned call.
func (w *world) call(r *workload.Record) {
	n := w.nodes[r.From]
	if m := n.manager.Load(); m != nil { // it has started
		r.Run(m, &n.races)
	}
}

// greet makes a request and a stream that have to succeed.
func (w *world) greet(from, to int) {
	for _, kind := range []workload.Kind{workload.Context, workload.TwoWay} {
		r := w.extraCall(&workload.Call{
			From: from, To: to, Kind: kind, Size: 100,
			Deadline: simSettles,
			Work:     workload.Work{Size: 100, Read: workload.ReadEcho},
			Use:      workload.Use{Send: 10, Size: 100, Close: true},
		})
		w.call(r)
		if err := r.Snapshot().Err; err != nil {
			w.violate("a call after everything was repaired, from %s to %s: %v", w.nodes[from].host, w.nodes[to].host, err)
		}
	}
}

// extraCall adds a call beyond the scenario's.
func (w *world) extraCall(c *workload.Call) *workload.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.ID = uint64(len(w.calls)) + 1
	w.calls = append(w.calls, c)
	return w.Add(c)
}

// disturb takes note that a pair may lose its connection from now on.
func (w *world) disturb(a, b int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.disturbed[nodesOf(a, b)]; !ok {
		w.disturbed[nodesOf(a, b)] = w.Now()
	}
}

func (w *world) disturbNode(i int) {
	for j := range w.nodes {
		if i != j {
			w.disturb(i, j)
		}
	}
}

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// violate takes note of a broken promise.
func (w *world) violate(format string, args ...any) {
	text := fmt.Sprintf("%v: "+format, append([]any{w.Now()}, args...)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, text)
	w.log = append(w.log, "VIOLATION "+text)
}

func (w *world) logf(format string, args ...any) {
	text := fmt.Sprintf("%v: "+format, append([]any{w.Now()}, args...)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, text)
}

// simReported is how many violations of a seed are printed: the first ones cause the others.
const simReported = 10

// report fails the test for what is broken.
func (w *world) report(verbose bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if verbose {
		for _, line := range w.log {
			w.t.Log(line)
		}
	}
	for i, v := range w.violations {
		if i == simReported {
			w.t.Errorf("and %d more", len(w.violations)-i)
			break
		}
		w.t.Error(v)
	}
}

// simLog is a slog.Handler that writes to the world's log.
type simLog struct {
	w    *world
	host string
}

func (l simLog) Enabled(context.Context, slog.Level) bool { return true }

func (l simLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "stack" {
			text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	l.w.logf("%s: %s", l.host, text)
	return nil
}

func (l simLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l simLog) WithGroup(string) slog.Handler      { return l }
