package grid

import (
	"slices"
	"sync"
	"sync/atomic"
)

// watchers are those who want to know when the hosts of a node, or the state of a connection, change.
// They are told that there is something new, and look for themselves: so one that is slow has missed
// nothing that still counts, and nothing waits for it. The zero value is ready.
type watchers struct {
	list atomic.Pointer[[]chan struct{}] // never changed: another one takes its place
	mu   sync.Mutex                      // one change of the list at a time
}

// add returns a channel that gets a signal after each change, until stop is called.
func (w *watchers) add() (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	w.edit(func(list []chan struct{}) []chan struct{} { return append(list, c) })
	return c, func() {
		w.edit(func(list []chan struct{}) []chan struct{} {
			return slices.DeleteFunc(list, func(other chan struct{}) bool { return other == c })
		})
	}
}

// edit replaces the list by what change makes of a copy of it.
func (w *watchers) edit(change func(list []chan struct{}) []chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []chan struct{}
	if old := w.list.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = change(list)
	w.list.Store(&list)
}

// tell signals a change. It takes no lock and never waits.
func (w *watchers) tell() {
	if list := w.list.Load(); list != nil {
		for _, c := range *list {
			signal(c)
		}
	}
}
