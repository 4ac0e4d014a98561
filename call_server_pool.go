package grid

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// requestPool makes the requests of a session and uses them again. It knows those that there are
// without keeping them, so that a request which is being handled can be listed and yet costs no
// table, no lock and no allocation: who handles it notes when it began, in the request itself. Its
// zero value is ready.
type requestPool struct {
	pool sync.Pool

	mu    sync.Mutex // Protects following.
	made  []weak.Pointer[request]
	sweep int // length of made at which those that are gone are swept out
}

// listed is what a request shows of itself to others.
type listed struct {
	handler atomic.Pointer[singleHandler]
	began   atomic.Int64 // nanoseconds since the session began; 0 while it is not used
}

// get returns a request that began at a time of the session.
func (p *requestPool) get(cs *callServer, h *singleHandler, began time.Duration) *request {
	in, ok := p.pool.Get().(*request)
	if !ok {
		in = p.make(cs)
	}
	if in.handler.Load() != h {
		in.handler.Store(h)
	}
	in.began.Store(int64(max(began, 1)))
	return in
}

// put takes back a request that nobody uses any more.
func (p *requestPool) put(in *request) {
	in.began.Store(0)
	p.pool.Put(in)
}

func (p *requestPool) make(cs *callServer) *request {
	in := &request{cs: cs}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.made) >= p.sweep {
		p.made = slices.DeleteFunc(p.made, func(w weak.Pointer[request]) bool { return w.Value() == nil })
		p.sweep = max(64, 2*len(p.made))
	}
	p.made = append(p.made, weak.Make(in))
	return in
}

// each calls f with the requests that are being handled.
func (p *requestPool) each(f func(h *singleHandler, began time.Duration)) {
	p.mu.Lock()
	made := slices.Clone(p.made)
	p.mu.Unlock()
	for _, w := range made {
		in := w.Value()
		if in == nil {
			continue
		}
		if began := in.began.Load(); began != 0 {
			f(in.handler.Load(), time.Duration(began))
		}
	}
}

// running returns the number of requests that are being handled.
func (p *requestPool) running() (n int) {
	p.each(func(*singleHandler, time.Duration) { n++ })
	return n
}

// appendOpen appends the requests that are being handled at a time of the session.
func (p *requestPool) appendOpen(open []OpenCall, now time.Duration) []OpenCall {
	p.each(func(h *singleHandler, began time.Duration) {
		open = append(open, OpenCall{
			Role: RoleServer, Handler: h.id, Subroute: h.subroute, Age: now - began, number: h.number,
		})
	})
	return open
}
