package discovery

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"
)

var (
	errEmpty = errors.New("the answer has no hosts")
	errEnded = errors.New("the source has ended without an error")
)

// event is an answer of a source, or why there is none.
type event struct {
	hosts []string
	err   error
	panic any
	stack []byte
}

// watcher runs a source, again and again.
type watcher struct {
	source Source
	events chan event
}

func (w *watcher) run(ctx context.Context) {
	pause := minPause
	for {
		e, found := w.watch(ctx)
		if found {
			pause = minPause
		}
		if !w.send(ctx, e) || !sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// watch runs the source once. found reports whether it has found anything.
func (w *watcher) watch(ctx context.Context) (e event, found bool) {
	var answered atomic.Bool
	defer func() {
		if v := recover(); v != nil {
			e, found = event{panic: v, stack: debug.Stack()}, answered.Load()
		}
	}()
	err := w.source.Watch(ctx, func(hosts []string) {
		answered.Store(true)
		w.send(ctx, event{hosts: slices.Clone(hosts)})
	})
	if err == nil {
		err = errEnded
	}
	return event{err: err}, answered.Load()
}

// send reports whether the event was taken.
func (w *watcher) send(ctx context.Context, e event) bool {
	if ctx.Err() != nil {
		return false // so that the end of a source with its ctx is no failure
	}
	select {
	case w.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// sleep waits for about d, so that many nodes do not ask at once. It reports whether ctx lasts.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d*9/10 + rand.N(d/5+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
