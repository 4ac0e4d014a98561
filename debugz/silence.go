package debugz

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

const (
	// silentAfter is how long a ping must have waited for its answer for a peer to be called
	// silent. With a look each second, a peer that hangs is, within three.
	silentAfter = 900 * time.Millisecond
	// pingPatience is how long the pings of a look wait for their answers. A peer that has not
	// answered by then is not pinged again until it does.
	pingPatience = 500 * time.Millisecond
)

// pinger pings all peers when somebody looks, so that the next look shows which of them hang.
type pinger struct{ busy atomic.Bool }

// ping does not wait for answers.
func (p *pinger) ping(m *grid.Manager) {
	if !p.busy.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer p.busy.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), pingPatience)
		defer cancel()
		m.Health(ctx)
	}()
}

// silence returns how long a connected peer has been silent, 0 if it is not.
func silence(p *grid.ConnectionStats) time.Duration {
	if p.State == grid.StateConnected && p.Unanswered >= silentAfter {
		return p.Unanswered
	}
	return 0
}
