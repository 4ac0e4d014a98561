package soak

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/workload"
)

// retryPause is how long is waited after a call that found no connection.
const retryPause = 10 * time.Millisecond

// caller makes one call after another.
type caller struct {
	soak     *Soak
	open     atomic.Pointer[workload.Record] // the call that runs; nil for none
	reported *workload.Record                // as overdue
}

// run calls until ctx ends. A call that runs then is finished.
func (c *caller) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.call()
		if rest := c.soak.config.Rest; rest > 0 {
			workload.Sleep(ctx, time.Duration(rand.Int64N(2*int64(rest)+1)))
		}
	}
}

// call makes one call and judges how it ended.
func (c *caller) call() {
	s := c.soak
	r := s.Add(s.draw(s.NextID()))
	from := s.nodes[r.From]
	c.open.Store(r)
	r.Run(from.now.Load().Manager, &from.races)
	c.open.Store(nil)
	s.Check(r)
	s.tally.calls[r.Kind].Add(1)
	if reason := r.Reason(); reason != "" {
		s.tally.count(s.tally.errors, reason)
	}
	if workload.Classify(r.Snapshot().Err) == workload.OfLoss {
		time.Sleep(retryPause) // a caller that is told so at once would only count such errors
	}
}

// watch reports calls that should have returned, once each.
func (s *Soak) watch() {
	for _, c := range s.callers {
		r := c.open.Load()
		if r == nil || r == c.reported {
			continue
		}
		if over := r.Overdue(); over > 0 {
			c.reported = r
			s.tally.violated("%v has not returned %v after it should have", r, over)
		}
	}
}
