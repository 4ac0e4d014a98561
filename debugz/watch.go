package debugz

import (
	"slices"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

// watchPatience is how long requests are traced after the last request for that.
const watchPatience = 30 * time.Second

// watch traces requests while somebody looks.
type watch struct {
	m *grid.Manager

	mu     sync.Mutex // Protects following.
	expire *time.Timer
	done   chan struct{} // closed when nobody looks any more; nil while nothing is traced
	ring   []grid.TraceInfo
}

// prolong traces requests for another while. The first time starts it.
func (w *watch) prolong() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done != nil || w.start() {
		w.expire.Reset(watchPatience)
	}
}

// traces returns the last traces, the newest first, and whether there are to be any.
func (w *watch) traces() (newest []grid.TraceInfo, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	newest = slices.Clone(w.ring)
	slices.Reverse(newest)
	return newest, w.done != nil
}

// start subscribes. w.mu is held.
func (w *watch) start() bool {
	done := make(chan struct{})
	ch := make(chan grid.TraceInfo, maxTraces)
	if err := w.m.Traces().Subscribe(grid.TraceInternode, ch, done, nil); err != nil {
		return false
	}
	w.done, w.ring = done, nil
	w.expire = time.AfterFunc(watchPatience, func() { w.stop(done) })
	go w.collect(ch, done)
	return true
}

func (w *watch) stop(done chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done != done {
		return
	}
	close(done)
	w.done, w.ring = nil, nil
}

// collect keeps the last traces until done is closed.
func (w *watch) collect(ch <-chan grid.TraceInfo, done <-chan struct{}) {
	for {
		select {
		case t := <-ch:
			w.mu.Lock()
			if len(w.ring) >= maxTraces {
				w.ring = slices.Delete(w.ring, 0, len(w.ring)-maxTraces+1)
			}
			w.ring = append(w.ring, t)
			w.mu.Unlock()
		case <-done:
			return
		}
	}
}
