package debugz

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/visible"
)

// How much a page shows of lists without an end.
const (
	maxOpen   = 100
	maxPairs  = 200
	maxTraces = 100
	maxText   = 1 << 10 // bytes of the error of a trace
)

// Status is what a page shows, and what status.json contains. Durations are in nanoseconds. What is
// not said to be of a window has been counted since the node was started.
type Status struct {
	// Node is the name of this node.
	Node string
	// Version, Labels and Draining are what this node tells its peers.
	Version  string
	Labels   map[string]string
	Draining bool
	// Started is when the node was started, Time when the status was taken.
	Started, Time time.Time
	// Cluster has the connections of this node first, then those of the others, in the order of
	// ManagerOptions.Hosts.
	Cluster []Row
	// Peers has this node's connections, in the same order.
	Peers []Peer
	// Guests sums up the connections to guests.
	Guests grid.GuestStats
	// Handlers has the handlers that were called or can be called.
	Handlers []Handling
	// Pairs has the 200 pairs of a handler and a peer with the most calls of the last five minutes,
	// PairsTotal the number of all that had calls.
	Pairs      []Pair
	PairsTotal int
	// Open has the oldest 100 open calls, OpenTotal their total number.
	Open      []grid.OpenCall
	OpenTotal int
	// Errors has the last errors, newest first.
	Errors []grid.RecentError
	// Tracing reports whether requests are being traced and were asked for. Traces has the last
	// 100, newest first.
	Tracing bool
	Traces  []grid.TraceInfo
	// Nodes has what the other nodes say of themselves, where that was asked for with all=1.
	Nodes []NodeStatus `json:",omitempty"`
}

// Peer is a connection, what goes over it, and the calls from this node to the peer.
type Peer struct {
	grid.ConnectionStats
	// Labels are those of the peer.
	Labels map[string]string
	// Page is the address of the peer's own page; empty if it has not told.
	Page string
	// OldestRequest is how long the oldest of OutgoingRequests has waited.
	OldestRequest time.Duration
	// Calls and CallErrors count the calls to the peer, over all handlers. CallLatency is how long
	// those took that were no streams.
	Calls, CallErrors int64
	CallLatency       grid.Latency
	// TenSeconds and so on are what was counted lately.
	TenSeconds, Minute, FiveMinutes PeerWindow
}

// Silent returns how long the peer has left a ping without an answer, from about a second on: it
// hangs, or its machine or network does. It is 0 if the peer answers, or is not connected.
func (p *Peer) Silent() time.Duration { return silence(&p.ConnectionStats) }

// Handling is a handler, with all peers.
type Handling struct {
	grid.HandlerStats
	Windows
}

// IsStream reports whether the handler's calls are streams, whose times are no latencies.
func (h *Handling) IsStream() bool { return hasStreams(&h.HandlerStats) }

// Pair is what was counted of a handler with one peer.
type Pair struct {
	// Peer is the name of the peer. With RoleClient it has the handler, else it calls it.
	Peer string
	Role grid.Role
	// ID, Name and Subroute are those of grid.HandlerStats.
	ID       grid.HandlerID
	Name     string
	Subroute string
	// Stream reports whether the calls are streams, whose times are no latencies.
	Stream bool
	// Calls, Errors and InFlight are those of grid.HandlerStats.
	Calls, Errors int64
	InFlight      int
	// P50 and P99 are how long calls have taken since the start; 0 for streams.
	P50, P99 time.Duration
	Windows
}

func (p *Pair) key() tallyKey {
	return tallyKey{p.Peer, handlerKey{p.Role, p.ID, p.Name, p.Subroute}}
}

// observer looks at a node, and remembers what it needs for the next look. Its fields but m are ready
// as zero values.
type observer struct {
	m       *grid.Manager
	history history
	marks   marks
	pinger  pinger
}

// observation is a look at a node.
type observation struct {
	*Status
	samples []sample
	recent  *recent
}

// look takes the status of the node, without what others know of it.
func (o *observer) look() *observation {
	stats := o.m.Stats()
	open := o.m.Open()
	o.pinger.ping(o.m)
	s := &Status{
		Node:    stats.Local,
		Version: stats.Version, Labels: stats.Labels, Draining: stats.Draining,
		Started: stats.Started,
		Time:    stats.Time,
		Guests:  stats.Guests,
		Open:    open,
		Errors:  o.m.RecentErrors(),
	}
	now := mark{stats.Time, make(tallies)}
	for i := range stats.Handlers {
		h := &stats.Handlers[i]
		s.Handlers = append(s.Handlers, Handling{HandlerStats: *h})
		now.tallies[tallyKey{handlerKey: keyOf(h)}] = newTally(h)
	}
	oldest := oldestRequests(open)
	for _, p := range stats.Peers {
		peer := Peer{ConnectionStats: p, OldestRequest: oldest[p.Remote]}
		conn := o.m.Connection(p.Remote) // nil if it has just been removed
		if conn != nil {
			peer.Labels = conn.Peer().Labels
		}
		sum := &tally{flows: flows{p.In, p.Out}}
		for _, h := range conn.HandlerStats() {
			t := newTally(&h)
			if h.Role == grid.RoleClient {
				sum.add(t)
			}
			s.Pairs = append(s.Pairs, Pair{
				Peer: p.Remote, Role: h.Role, ID: h.ID, Name: h.Name, Subroute: h.Subroute, Stream: hasStreams(&h),
				Calls: t.calls, Errors: t.errors, InFlight: h.InFlight,
				P50: t.latency.Quantile(0.5), P99: t.latency.Quantile(0.99),
			})
			now.tallies[s.Pairs[len(s.Pairs)-1].key()] = t
		}
		peer.Calls, peer.CallErrors, peer.CallLatency = sum.calls, sum.errors, sum.latency
		now.tallies[tallyKey{peer: p.Remote}] = sum
		s.Peers = append(s.Peers, peer)
	}
	s.track(now.tallies)
	r := newRecent(now, o.marks.add(now, stats.Started))
	for i := range s.Handlers {
		s.Handlers[i].Windows = r.windows(tallyKey{handlerKey: keyOf(&s.Handlers[i].HandlerStats)})
	}
	for i := range s.Pairs {
		s.Pairs[i].Windows = r.windows(s.Pairs[i].key())
	}
	for i := range s.Peers {
		p := &s.Peers[i]
		p.TenSeconds, p.Minute, p.FiveMinutes = r.peerWindow(r.short, p.Remote), r.peerWindow(r.minute, p.Remote), r.peerWindow(r.longer, p.Remote)
	}
	return &observation{s, o.history.add(&stats), r}
}

// track forgets what was counted of pairs that are too many to have windows.
func (s *Status) track(of tallies) {
	if len(s.Pairs) <= maxTracked {
		return
	}
	slices.SortStableFunc(s.Pairs, func(a, b Pair) int { return cmp.Compare(b.Calls, a.Calls) })
	for _, p := range s.Pairs[maxTracked:] {
		delete(of, p.key())
	}
}

// oldestRequests returns how long the oldest request from here to each peer has waited.
func oldestRequests(open []grid.OpenCall) map[string]time.Duration {
	oldest := make(map[string]time.Duration)
	for _, o := range open {
		if o.Role == grid.RoleClient && !o.Stream {
			oldest[o.Peer] = max(oldest[o.Peer], o.Age)
		}
	}
	return oldest
}

// keep leaves what a request asks for, in its order.
func (s *Status) keep(q url.Values) {
	match := matcher(q.Get("q"))
	s.Peers = filter(s.Peers, func(p Peer) bool {
		return match(append(labelTexts(p.Labels), p.Remote, p.State.String(), linkOf(&p.ConnectionStats).text(), p.LastError, p.Version, drainingText(p.Draining))...)
	})
	s.Handlers = filter(s.Handlers, func(h Handling) bool {
		return match(h.Name, h.Subroute, h.Role.String())
	})
	s.Pairs = filter(s.Pairs, func(p Pair) bool {
		return match(p.Peer, p.Name, p.Subroute, p.Role.String())
	})
	s.Open = filter(s.Open, func(o grid.OpenCall) bool {
		return match(o.Peer, o.Name, o.Subroute, o.Role.String(), kindOf(o.Stream))
	})
	s.Errors = filter(s.Errors, func(e grid.RecentError) bool {
		return match(e.Peer, e.Handler, e.Text)
	})
	s.Traces = filter(s.Traces, func(t grid.TraceInfo) bool {
		return match(t.Remote, t.Handler, t.Subroute, t.Error)
	})
	slices.SortStableFunc(s.Pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(b.FiveMinutes.Calls, a.FiveMinutes.Calls), cmp.Compare(b.Calls, a.Calls))
	})
	s.sort(q["sort"])
	s.PairsTotal, s.OpenTotal = len(s.Pairs), len(s.Open)
	s.Pairs = s.Pairs[:min(len(s.Pairs), maxPairs)]
	s.Open = s.Open[:min(len(s.Open), maxOpen)]
}

// showTraces adds traces.
func (s *Status) showTraces(w *watch) {
	s.Traces, s.Tracing = w.traces()
	for i := range s.Traces { // the copies; the other texts of a node are fit to be shown
		s.Traces[i].Error, _ = visible.Cut(s.Traces[i].Error, maxText)
	}
}

// labelTexts returns labels as the page shows them, in order.
func labelTexts(labels map[string]string) (texts []string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		texts = append(texts, key+"="+labels[key])
	}
	return texts
}

func drainingText(draining bool) string {
	if draining {
		return "draining"
	}
	return ""
}

// matcher returns whether one of several texts holds q, in whatever case.
func matcher(q string) func(texts ...string) bool {
	q = strings.ToLower(strings.TrimSpace(q))
	return func(texts ...string) bool {
		for _, text := range texts {
			if strings.Contains(strings.ToLower(text), q) {
				return true
			}
		}
		return false
	}
}

func filter[T any](all []T, keep func(T) bool) (kept []T) {
	for _, v := range all {
		if keep(v) {
			kept = append(kept, v)
		}
	}
	return kept
}

func kindOf(stream bool) string {
	if stream {
		return "stream"
	}
	return "request"
}
