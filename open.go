package grid

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// OpenCall is a single request or a stream that has not ended.
type OpenCall struct {
	// Role is RoleServer where the peer calls this node, and RoleClient where this node calls the peer.
	Role Role
	// Stream tells a stream from a single request.
	Stream bool
	// Peer is the name of the other node.
	Peer string
	// Handler and Subroute say what is called, Name is the handler's.
	Handler  HandlerID
	Name     string
	Subroute string
	// Age is how long it has been open. That of a single request from here may be 2.5 seconds short or over.
	Age time.Duration

	number int // of the registration, where Role is RoleServer
}

// Open returns what is open on all connections at the moment, the oldest first. It may be many.
func (m *Manager) Open() (open []OpenCall) {
	if m == nil {
		return nil
	}
	for _, c := range m.connections {
		open = append(open, c.openCalls()...)
	}
	slices.SortFunc(open, func(a, b OpenCall) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Handler, b.Handler))
	})
	for i := range open {
		open[i].Name = open[i].Handler.String()
	}
	return open
}

// openCalls returns what is open on the connection, without names.
func (c *Connection) openCalls() (open []OpenCall) {
	s := c.current.Load()
	if s == nil {
		return nil
	}
	now := time.Since(s.began)
	open = s.calls.open(open, s.ticks.Load(), s.tick)
	open = s.incoming.open(open, now)
	for _, m := range s.clients.all() {
		open = append(open, OpenCall{
			Role: RoleClient, Stream: true, Handler: m.handler.id, Subroute: m.handler.subroute, Age: now - m.began,
		})
	}
	for _, m := range s.servers.all() {
		open = append(open, OpenCall{
			Role: RoleServer, Stream: true, Handler: m.handler.id, Subroute: m.handler.subroute, Age: now - m.began,
			number: m.handler.number,
		})
	}
	for i := range open {
		open[i].Peer = c.Remote
		open[i].Age = max(open[i].Age, 0) // one that began after the look at the clock
	}
	return open
}

// open appends the calls that wait for an answer. Their age is known in rounds of the janitor, one each tick.
func (t *callTable) open(open []OpenCall, now uint32, tick time.Duration) []OpenCall {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, c := range sh.calls {
			open = append(open, OpenCall{
				Role: RoleClient, Handler: c.handler, Subroute: c.subroute, Age: time.Duration(now-c.tick) * tick,
			})
		}
		sh.mu.Unlock()
	}
	return open
}

// len returns the number of calls that wait for an answer.
func (t *callTable) len() (n int) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += len(sh.calls)
		sh.mu.Unlock()
	}
	return n
}

// incomingSet makes the incomings of a session and uses them again. It knows those that there are without keeping them,
// so that a request which is being handled can be listed and yet costs no table, no lock and no allocation:
// who handles it notes when it began, in the incoming itself. Its zero value is ready.
type incomingSet struct {
	pool sync.Pool

	mu    sync.Mutex // Protects following.
	made  []weak.Pointer[incoming]
	sweep int // length of made at which those that are gone are swept out
}

// listed is what an incoming shows of itself to others.
type listed struct {
	handler atomic.Pointer[singleHandler]
	began   atomic.Int64 // nanoseconds since the session began; 0 while it is not used
}

// get returns an incoming for a request that began at a time of the session.
func (t *incomingSet) get(s *session, h *singleHandler, began time.Duration) *incoming {
	in, ok := t.pool.Get().(*incoming)
	if !ok {
		in = t.make(s)
	}
	if in.handler.Load() != h {
		in.handler.Store(h)
	}
	in.began.Store(int64(max(began, 1)))
	return in
}

// put takes back an incoming that nobody uses any more.
func (t *incomingSet) put(in *incoming) {
	in.began.Store(0)
	t.pool.Put(in)
}

func (t *incomingSet) make(s *session) *incoming {
	in := &incoming{s: s}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.made) >= t.sweep {
		t.made = slices.DeleteFunc(t.made, func(p weak.Pointer[incoming]) bool { return p.Value() == nil })
		t.sweep = max(64, 2*len(t.made))
	}
	t.made = append(t.made, weak.Make(in))
	return in
}

// each calls f with the requests that are being handled.
func (t *incomingSet) each(f func(h *singleHandler, began time.Duration)) {
	t.mu.Lock()
	made := slices.Clone(t.made)
	t.mu.Unlock()
	for _, p := range made {
		in := p.Value()
		if in == nil {
			continue
		}
		if began := in.began.Load(); began != 0 {
			f(in.handler.Load(), time.Duration(began))
		}
	}
}

// running returns the number of requests that are being handled.
func (t *incomingSet) running() (n int) {
	t.each(func(*singleHandler, time.Duration) { n++ })
	return n
}

// open appends the requests that are being handled at a time of the session.
func (t *incomingSet) open(open []OpenCall, now time.Duration) []OpenCall {
	t.each(func(h *singleHandler, began time.Duration) {
		open = append(open, OpenCall{
			Role: RoleServer, Handler: h.id, Subroute: h.subroute, Age: now - began, number: h.number,
		})
	})
	return open
}
