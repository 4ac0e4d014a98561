// Package election elects a leader among the nodes of a grid, by leases that a majority grants. It
// shows how a program is tested with package gridtest: see the test.
package election

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// Elector is what a node needs to elect, and to be elected. Create one with New for each life of
// the node.
type Elector struct {
	m     *grid.Manager
	lease time.Duration
	rng   *rand.Rand // for Run
	buggy bool       // does what the test finds

	mu      sync.Mutex // Protects following.
	granted string     // whom this node has granted a lease
	until   time.Time  // nobody else gets one before
	leads   time.Time  // this node leads until then
}

type ask struct{ Candidate string }

type answer struct{ Granted bool }

var grant = grid.NewMethodCodec[ask, answer]("election.Grant", grid.JSONCodec)

// New returns the elector of a node. It grants nothing at first: what it has granted before it was
// started, it no longer knows.
func New(m *grid.Manager, lease time.Duration, rng *rand.Rand) *Elector {
	return &Elector{m: m, lease: lease, rng: rng, until: time.Now().Add(lease)}
}

// Register registers the handler, which has to happen before the node can be called.
func (e *Elector) Register() error {
	return grant.Handle(e.m, func(_ context.Context, req *ask) (*answer, error) {
		return &answer{Granted: e.grant(req.Candidate)}, nil
	})
}

// Leads reports whether this node leads. At most one does at any time.
func (e *Elector) Leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Now().Before(e.leads)
}

// Run stands for election, again and again until ctx ends: while it leads to go on leading, and
// otherwise when nobody else has a lease of this node.
func (e *Elector) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if e.grant(e.m.HostName()) {
			e.stand(ctx)
		}
		pause := e.lease / 4
		if !e.Leads() {
			pause += time.Duration(e.rng.Int64N(int64(e.lease))) // those that stand at once may all fail
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// grant grants a lease, unless another node may have one.
func (e *Elector) grant(to string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.granted != to && time.Now().Before(e.until) {
		return false
	}
	e.granted, e.until = to, time.Now().Add(e.lease)
	return true
}

// stand asks all other nodes for a lease. With more than half, this node leads for as long as each
// of them lasts at least: they begin after they are asked for, and it is not known when.
func (e *Elector) stand(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.lease)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	asked := time.Now()
	hosts := e.m.Targets()
	answers := make(chan bool, len(hosts))
	for _, host := range hosts {
		calls.Go(func() {
			a, err := grant.Call(ctx, e.m.Connection(host), &ask{Candidate: e.m.HostName()})
			answers <- err == nil && a.Granted
		})
	}
	leases := 1 // its own
	for range hosts {
		if <-answers {
			leases++
		}
		if 2*leases > len(hosts)+1 {
			e.lead(asked)
			return
		}
	}
}

func (e *Elector) lead(asked time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.buggy {
		asked = time.Now() // the answers may have taken long
	}
	e.leads = asked.Add(e.lease)
}
