package grid

import (
	"context"
	"sync"
)

// runningCalls tracks the requests whose handlers have a context, to cancel them. The zero value is
// ready.
type runningCalls struct {
	mu     sync.Mutex // Protects following.
	calls  map[uint64]*request
	most   int // largest size of the map
	closed bool
}

// add records a request before its handler starts. It returns false if the session is over or the
// peer reuses a number that is taken.
func (r *runningCalls) add(in *request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.calls[in.id]; taken || r.closed {
		return false
	}
	if r.calls == nil {
		r.calls = make(map[uint64]*request)
	}
	r.calls[in.id] = in
	r.most = max(r.most, len(r.calls))
	return true
}

// done forgets a request whose handler has returned, and frees its context.
func (r *runningCalls) done(in *request) {
	r.mu.Lock()
	delete(r.calls, in.id)
	if len(r.calls) == 0 && r.most > keptCalls {
		r.calls, r.most = nil, 0
	}
	r.mu.Unlock()
	in.cancel(nil)
}

// cancel tells a handler that its caller has given up.
func (r *runningCalls) cancel(id uint64) {
	var cancel context.CancelCauseFunc
	r.mu.Lock()
	if in := r.calls[id]; in != nil {
		cancel = in.cancel
	}
	r.mu.Unlock()
	if cancel != nil {
		cancel(context.Canceled)
	}
}

// close cancels all handlers: the caller is gone.
func (r *runningCalls) close() {
	r.mu.Lock()
	r.closed = true
	cancels := make([]context.CancelCauseFunc, 0, len(r.calls))
	for _, in := range r.calls {
		cancels = append(cancels, in.cancel)
	}
	r.mu.Unlock()
	for _, cancel := range cancels {
		cancel(ErrDisconnected)
	}
}

// len returns the number of requests.
func (r *runningCalls) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}
