package grid

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// node is what the parts of a Manager share: its identity, its options, the goroutines it must end,
// and where to log.
type node struct {
	ManagerOptions // with defaults filled in

	id      uuid.UUID
	started time.Time
	log     *slog.Logger // leaves lines in lines
	lines   logQueue
	says    *bulletin   // of itself, to its peers
	toldIn  *byteTeller // for Incoming
	toldOut *byteTeller // for Outgoing

	watchers watchers     // of hosts and connections
	absent   atomic.Int64 // peers that are dialed in vain
	recent   errorRing    // of peers
	rejected errorRing    // of connections not let in

	guestErrors    errorRing
	guestComings   logLimit // of any guest, as those of a Connection
	guestOverloads logLimit
	guestIgnored   logLimit
	guestTwins     logLimit

	panics         logLimit // of handlers and observers, which peers can cause
	callbackPanics logLimit // of callbacks that decide about requests, which strangers can cause

	ctx    context.Context // ends with the Manager
	cancel context.CancelFunc
	work   sync.WaitGroup // what goWork has started

	mu      sync.Mutex  // Protects following.
	closing bool        // no more goroutines are started
	unwatch func() bool // cancels the function given to afterEnd
}

func newNode(ctx context.Context, o ManagerOptions) *node {
	n := &node{
		ManagerOptions: o.withDefaults(),
		id:             uuid.New(),
		started:        time.Now(),
		panics:         newBurst(),
		callbackPanics: newBurst(),
		guestComings:   newBurst(),
		guestOverloads: newBurst(),
		guestIgnored:   newBurst(),
		guestTwins:     newBurst(),
	}
	n.says = newBulletin(n.Version, n.Labels, n.Limits.WriteTimeout)
	n.log = n.lines.logger(slog.New(visibleLog{n.Logger.Handler()}))
	n.toldIn = newByteTeller(n.Incoming, n.panicked("Incoming", ""))
	n.toldOut = newByteTeller(n.Outgoing, n.panicked("Outgoing", ""))
	n.ctx, n.cancel = context.WithCancel(ctx)
	return n
}

// features returns what the node tells others that it can do.
func (n *node) features() uint32 { return nativeFeatures &^ n.lacks }

// panicked returns a function that logs the panics of a callback. remote is the address that caused
// them, or empty.
func (n *node) panicked(callback, remote string) func(value any, stack []byte) {
	log := n.log
	if remote != "" {
		log = log.With("remote", remote)
	}
	return func(value any, stack []byte) {
		if more, ok := n.callbackPanics.allow(""); ok {
			log.Error("grid: callback panicked", "callback", callback, "local", n.Local,
				"panic", fmt.Sprint(value), "stack", string(stack), "more", more)
		}
	}
}

// afterEnd runs f when the context of the Manager ends, unless the node has already ended.
func (n *node) afterEnd(f func()) {
	n.mu.Lock() // so that f, which ends the node, finds unwatch
	defer n.mu.Unlock()
	n.unwatch = context.AfterFunc(n.ctx, f)
}

// goWork starts a goroutine that end waits for. It returns false if the node is closing.
func (n *node) goWork(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.work.Go(f)
	return true
}

// goOn starts a goroutine that end waits for, on one that end waits for already.
func (n *node) goOn(f func()) { n.work.Go(f) }

// doWork runs f on the goroutine of the caller, and end waits for that. It does nothing if the node is
// closing.
func (n *node) doWork(f func()) {
	n.mu.Lock()
	if n.closing {
		n.mu.Unlock()
		return
	}
	n.work.Add(1)
	n.mu.Unlock()
	defer n.work.Done()
	f()
}

// close keeps further goroutines from starting.
func (n *node) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closing = true
}

// ended reports whether the node has stopped taking connections.
func (n *node) ended() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closing || n.ctx.Err() != nil
}

// changed tells those who watch that a host or the state of a connection has changed. It never waits.
func (n *node) changed() { n.watchers.tell() }

// over reports whether the Manager has ended, or is about to.
func (n *node) over() bool { return n.ctx.Err() != nil }

// logged returns how many lines were logged, by message.
func (n *node) logged() map[string]int64 { return n.lines.count() }

// recentErrors returns the last different errors, the newest first.
func (n *node) recentErrors() []RecentError {
	all := n.recent.list()
	for _, others := range [][]RecentError{n.rejected.list(), n.guestErrors.list()} {
		all = append(all, others[:min(len(others), recentRejected)]...)
	}
	slices.SortFunc(all, newestFirst)
	return all
}

// end ends the goroutines of the node and waits for them. It then waits a moment for callbacks and
// the log to receive what is left.
func (n *node) end() {
	n.mu.Lock()
	unwatch := n.unwatch
	n.mu.Unlock()
	unwatch()
	n.says.close()
	n.cancel()
	n.work.Wait()
	n.toldIn.flush(callbackGrace)
	n.toldOut.flush(callbackGrace)
	n.lines.flush(logGrace)
}
