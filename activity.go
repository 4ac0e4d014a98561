package grid

import (
	"context"
	"sync/atomic"
)

// activity counts what runs on a connection, so that a shutdown can wait for it to finish.
type activity struct {
	running atomic.Int64
	refusal atomic.Pointer[RemoteErr] // why nobody is let in anymore; nil while that goes on
	idle    chan struct{}             // signaled when the last one leaves; room for one signal
}

func newActivity() activity {
	return activity{idle: make(chan struct{}, 1)}
}

// enter counts one more, unless stop was called.
func (a *activity) enter() bool {
	a.running.Add(1)
	if a.stopped() {
		a.leave()
		return false
	}
	return true
}

func (a *activity) leave() {
	if a.running.Add(-1) == 0 && a.stopped() {
		signal(a.idle)
	}
}

// stop makes every later enter fail because of why. The first reason counts.
func (a *activity) stop(why *RemoteErr) { a.refusal.CompareAndSwap(nil, why) }

// stopped reports whether stop was called.
func (a *activity) stopped() bool { return a.refusal.Load() != nil }

// why returns the reason given to stop, which must have been called.
func (a *activity) why() RemoteErr { return *a.refusal.Load() }

// wait returns once all have left after stop, or when ctx ends, with its cause.
func (a *activity) wait(ctx context.Context) error {
	for a.running.Load() > 0 {
		select {
		case <-a.idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	signal(a.idle) // for any other waiter
	return nil
}

// count returns how many are running.
func (a *activity) count() int { return int(a.running.Load()) }
