package grid

import "sync"

// workers run the handlers of the peer's requests on as few goroutines as possible, without making
// a request wait for another's handler.
//
// Whenever requests are queued, one goroutine stands by: it has been started and takes the next
// request as soon as it runs. Before it runs the handler, it starts another standby if more
// requests wait; afterwards it returns for what is left. So requests that arrive together and are
// answered at once share two or three goroutines, and each handler that blocks costs one more, as
// it would with a goroutine for each.
type workers struct {
	run func() // work, bound once: starting it allocates nothing

	mu      sync.Mutex // Protects following.
	first   *request   // the queue, linked by next
	last    *request
	standby bool // a started goroutine has not looked at the queue yet
}

func (w *workers) init() { w.run = w.work }

// add queues a request. It never waits.
func (w *workers) add(in *request) {
	w.mu.Lock()
	if w.first == nil {
		w.first = in
	} else {
		w.last.next = in
	}
	w.last = in
	start := w.needStandby()
	w.mu.Unlock()
	if start {
		go w.run()
	}
}

// work runs requests until none is left.
func (w *workers) work() {
	w.mu.Lock()
	w.standby = false
	w.mu.Unlock()
	for in := w.pop(); in != nil; in = w.pop() {
		in.serve() // if the handler ends the goroutine, the standby takes the rest
	}
}

// pop takes the next request and makes sure that a goroutine stands by for those behind it.
func (w *workers) pop() *request {
	w.mu.Lock()
	in := w.first
	start := false
	if in != nil {
		w.first, in.next = in.next, nil
		start = w.first != nil && w.needStandby()
	}
	w.mu.Unlock()
	if start {
		go w.run()
	}
	return in
}

// needStandby reports whether the caller must start a standby goroutine. w.mu is held.
func (w *workers) needStandby() bool {
	need := !w.standby
	w.standby = true
	return need
}
