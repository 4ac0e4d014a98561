package grid

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// requestPool makes the requests of a session and reuses them. It knows them all without keeping
// them alive. A running request can therefore be listed without a table, a lock or an allocation:
// it records its own start. The zero value is ready.
type requestPool struct {
	pool sync.Pool

	mu    sync.Mutex // Protects following.
	made  []weak.Pointer[request]
	sweep int // length of made at which dead entries are swept out
}

// listed is the part of a request that listings read.
type listed struct {
	handler atomic.Pointer[singleHandler]
	began   atomic.Int64 // nanoseconds since the session began; 0 while unused
}

// get returns a request for h; began is a time of the session.
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

// put takes back a request that is no longer in use.
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

// each calls f for every request being handled.
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

// running returns the number of requests being handled.
func (p *requestPool) running() (n int) {
	p.each(func(*singleHandler, time.Duration) { n++ })
	return n
}

// appendOpen appends the requests being handled; now is a time of the session.
func (p *requestPool) appendOpen(open []OpenCall, now time.Duration) []OpenCall {
	p.each(func(h *singleHandler, began time.Duration) {
		open = append(open, openCall(RoleServer, h.target, now-began))
	})
	return open
}
