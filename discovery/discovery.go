// Package discovery keeps the set of hosts of a grid node in step with a [Source] that knows the
// nodes of the grid: DNS, a file, or a function. Modules under contrib have more: etcd, memberlist,
// Kubernetes and Consul.
//
//	m, err := grid.NewManager(ctx, grid.ManagerOptions{
//		Local:       "http://" + os.Getenv("POD_IP") + ":9000",
//		AuthRequest: auth.AuthRequest,
//	})
//	if err != nil {
//		return err
//	}
//	go discovery.Run(ctx, m, discovery.DNS("http://grid.app.svc.cluster.local.:9000"))
//
// # Names
//
// A node is known by its name, which is compared as text, so its ManagerOptions.Local must be what
// the source says of it on all other nodes: its address where DNS has addresses, its name in DNS
// where SRV records have names. A node need not find itself, as long as the others do. But one that
// does not after half a minute most likely has another name than the others think, so that is
// logged.
//
// # What is found is not always true
//
// Gossip, health checks and expired leases take living nodes for dead, and a registry that starts
// has no nodes at all. A node that is taken out of the set gets no more calls, and its connection
// is closed; one that stays in it for too long only costs a dial every 2 seconds. So Run adds nodes
// soon, and removes them only when all answers of half a minute have agreed ([Runner.Hold]). An
// error is no answer, and neither is one without a single name: they change nothing.
//
// # Trust
//
// A source decides whom this node dials, and shows its token to, and which names may connect to it.
// It proves nobody's identity: ManagerOptions.AuthRequest and VerifyPeer do, and the certificates
// behind https names. Where tokens go over plain http, whoever can add a name to the source is sent
// one.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/visible"
)

const (
	defaultSettle = time.Second
	defaultHold   = 30 * time.Second

	maxHosts   = 4096             // of an answer, each of which costs a goroutine and a socket
	maxReason  = 512              // bytes of an error's text
	maxLogged  = 10               // names in a log line
	sameEvery  = time.Minute      // between two lines about the same failure
	otherEvery = 10 * time.Second // and about another
	minPause   = time.Second      // before a source that failed is asked again
	maxPause   = 30 * time.Second // if it fails again and again
)

// Source finds the nodes of a grid.
type Source interface {
	// Watch calls found with the names of all nodes, as in ManagerOptions.Hosts: once it knows them,
	// and again whenever they may have changed, until ctx ends. Order and repetitions do not matter,
	// nor whether this node is among them.
	//
	// If Watch cannot go on, it returns the reason, which is logged. It is called again after a
	// pause of a second, which grows to half a minute while no call of it finds anything. A Source
	// that has found something wrong need do no more than that.
	//
	// Watch is called by one goroutine at a time. So is found, which may wait until a change has
	// been made, and does nothing once ctx has ended. It keeps nothing of hosts.
	Watch(ctx context.Context, found func(hosts []string)) error
}

// Run sets the hosts of m to what s finds, until ctx or m ends. Nobody else should set them
// meanwhile. Until s has found something, they are those of ManagerOptions.Hosts.
//
// It is Runner.Run with the defaults.
func Run(ctx context.Context, m *grid.Manager, s Source) { new(Runner).Run(ctx, m, s) }

// Runner has the options of Run. Its zero value has the defaults. The fields must not change once
// it runs.
type Runner struct {
	// Settle is how long changes are collected, so that many of them at once are made together. The
	// first answer does not wait. Zero means a second; below zero, nothing waits.
	Settle time.Duration
	// Hold is how long a host must be missing in all answers before it is removed. If the source
	// fails, or answers without any name, the time begins anew with its next answer. Zero means 30
	// seconds; below zero, hosts are removed at once. Where nodes register themselves, less may be
	// too short: after an outage of the registry they try again within half a minute.
	Hold time.Duration
	// Logger logs failures. nil uses slog.Default. Its handler may be slow: that delays nothing but
	// the next change. The Manager logs changes.
	Logger *slog.Logger

	mu    sync.Mutex // Protects following.
	stats Stats
}

// Stats is what a Runner has done so far.
type Stats struct {
	// Hosts is the number of hosts in the set, with this node. Held is how many of them the last
	// answer lacks.
	Hosts, Held int
	// Listed reports whether the last answer has this node.
	Listed bool
	// Answers counts answers of the source, Failures its errors, answers without a name, and sets
	// that the Manager has refused. Changes counts the sets that it has taken.
	Answers, Failures, Changes int64
	// LastAnswer and LastChange are when the last of them came; zero if there was none.
	LastAnswer, LastChange time.Time
	// LastError is the last failure, LastErrorTime when it came; zero if there was none.
	LastError     string
	LastErrorTime time.Time
}

// Stats returns what the Runner has done so far. It may be called at any time.
func (r *Runner) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Run sets the hosts of m to what s finds, until ctx or m ends. Nobody else should set them
// meanwhile. Until s has found something, they are those of ManagerOptions.Hosts. Run returns when
// s.Watch has returned; the hosts stay as they are. A Runner runs once.
func (r *Runner) Run(ctx context.Context, m *grid.Manager, s Source) {
	var living sync.WaitGroup
	defer living.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	living.Go(func() {
		for range m.Events(ctx) { // until m ends
		}
		cancel()
	})
	r.run(ctx, m, s)
}

// node is what a Runner needs of a Manager.
type node interface {
	HostName() string
	Targets() []string
	SetHosts(hosts []string) error
}

func (r *Runner) run(ctx context.Context, n node, s Source) {
	l := loop{
		Runner: r,
		node:   n,
		source: fmt.Sprintf("%T", s),
		log:    r.Logger,
		plan:   newPlan(n.Targets(), orDefault(r.Settle, defaultSettle), orDefault(r.Hold, defaultHold)),
	}
	if named, ok := s.(fmt.Stringer); ok {
		l.source = named.String()
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	l.count(func(*Stats) {})
	w := watcher{source: s, events: make(chan event)}
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching.Go(func() { w.run(ctx) })
	l.run(ctx, w.events)
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return max(d, 0)
}

// loop is a Runner that runs. All of it belongs to one goroutine.
type loop struct {
	*Runner
	node   node
	source string // its name
	log    *slog.Logger
	plan   plan

	failing bool      // a failure was logged, and no answer has come since
	logged  time.Time // when the last failure was
	reason  string    // of that
	more    int       // failures since then
}

// run takes what the source says, and makes the changes that are due.
func (l *loop) run(ctx context.Context, events <-chan event) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case e := <-events:
			l.take(e)
		}
		now := time.Now()
		if hosts, ok := l.plan.due(now); ok && !l.change(now, hosts) {
			return
		}
		if l.plan.lost(now) {
			l.log.Warn("grid: discovery does not find this node", "source", l.source, "local", l.node.HostName(), "found", someOf(l.plan.found()))
		}
		timer.Stop()
		if at := l.plan.next(now); !at.IsZero() {
			timer.Reset(time.Until(at))
		}
	}
}

func (l *loop) take(e event) {
	now := time.Now()
	switch {
	case e.panic != nil:
		l.log.Error("grid: discovery panicked", "source", l.source, "local", l.node.HostName(),
			"panic", visible.Text(fmt.Sprint(e.panic)), "stack", string(e.stack))
		l.fail(now, fmt.Errorf("panicked: %v", e.panic))
	case e.err != nil:
		l.fail(now, e.err)
	case len(e.hosts) == 0:
		l.fail(now, errEmpty)
	case len(e.hosts) > maxHosts:
		l.fail(now, fmt.Errorf("%d hosts are more than %d", len(e.hosts), maxHosts))
	default:
		l.plan.answer(e.hosts, l.node.HostName(), now)
		l.count(func(s *Stats) {
			s.Answers++
			s.LastAnswer = now
		})
		if l.failing {
			l.failing = false
			l.log.Info("grid: discovery answers again", "source", l.source, "local", l.node.HostName())
		}
	}
}

// fail keeps the set as it is, until the next answer.
func (l *loop) fail(now time.Time, err error) {
	l.plan.fail()
	l.failing = l.report(now, err) || l.failing
}

// report counts a failure, and reports whether it was also logged.
func (l *loop) report(now time.Time, err error) bool {
	reason, _ := visible.Cut(err.Error(), maxReason)
	l.count(func(s *Stats) {
		s.Failures++
		s.LastError, s.LastErrorTime = reason, now
	})
	every := sameEvery
	if reason != l.reason {
		every = otherEvery
	}
	if !l.logged.IsZero() && now.Sub(l.logged) < every {
		l.more++
		return false
	}
	l.log.Warn("grid: discovery failed", "source", l.source, "local", l.node.HostName(), "reason", reason, "more", l.more)
	l.logged, l.reason, l.more = now, reason, 0
	return true
}

// change gives a set to the node, which logs what has changed. It reports whether the node lives.
func (l *loop) change(now time.Time, hosts []string) bool {
	err := l.node.SetHosts(append([]string{l.node.HostName()}, hosts...))
	if errors.Is(err, grid.ErrShutdown) {
		return false
	}
	l.plan.tried(hosts, err == nil)
	if err != nil {
		l.report(now, err)
		return true
	}
	l.count(func(s *Stats) {
		s.Changes++
		s.LastChange = now
	})
	return true
}

// count changes the statistics.
func (l *loop) count(edit func(s *Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	edit(&l.stats)
	l.stats.Hosts, l.stats.Held, l.stats.Listed = len(l.plan.set)+1, l.plan.held(), l.plan.listed
}

// someOf lists names for a log line, only the first ones if there are many.
func someOf(names []string) string {
	if more := len(names) - maxLogged; more > 0 {
		return visible.Text(fmt.Sprintf("%s and %d more", names[:maxLogged], more))
	}
	return visible.Text(fmt.Sprint(names))
}
