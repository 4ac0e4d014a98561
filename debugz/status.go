package debugz

import (
	"net/http"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/visible"
)

// How much a page shows of lists without an end.
const (
	maxOpen   = 100
	maxTraces = 100
	maxText   = 1 << 10 // bytes of the error of a trace
)

// Status is what a page shows, and what status.json contains. Durations are in nanoseconds.
type Status struct {
	// Node is the name of this node.
	Node string
	// Started is when the node was started, Time when the status was taken.
	Started, Time time.Time
	// Cluster has the connections of this node first, then those of the others, in the order of
	// ManagerOptions.Hosts.
	Cluster []Row
	// Peers has this node's connections, in the same order.
	Peers []Peer
	// Handlers has the handlers that were called or can be called.
	Handlers []Handling
	// Open has the oldest 100 open calls, OpenTotal their total number.
	Open      []grid.OpenCall
	OpenTotal int
	// Errors has the last errors, newest first.
	Errors []grid.RecentError
	// Tracing reports whether requests are being traced and were asked for. Traces has the last
	// 100, newest first.
	Tracing bool
	Traces  []grid.TraceInfo
}

// Peer is a connection and its rates.
type Peer struct {
	grid.ConnectionStats
	// Rates are per second, over about the last second in which somebody looked.
	BytesInRate, BytesOutRate, MessagesInRate, MessagesOutRate float64
	// CallLatency is how long calls from this node to the peer took, over all handlers.
	CallLatency grid.Latency
}

// Handling is a handler and its rate.
type Handling struct {
	grid.HandlerStats
	// CallRate is calls per second, over about the last second in which somebody looked.
	CallRate float64
}

// status takes the status that a request asks for.
func (h *handler) status(r *http.Request) *Status {
	s, _ := h.take(r)
	return s
}

// take takes the status, and the history with it.
func (h *handler) take(r *http.Request) (*Status, []sample) {
	stats := h.m.Stats()
	samples := h.history.add(&stats)
	s := &Status{
		Node:    stats.Local,
		Started: stats.Started,
		Time:    stats.Time,
		Cluster: h.cluster.rows(h.m, &stats, h.options.Cluster),
		Errors:  h.m.RecentErrors(),
	}
	if asksForTraces(r) {
		s.Traces, s.Tracing = h.watch.traces()
		for i := range s.Traces { // the copies; the other texts of a node are fit to be shown
			s.Traces[i].Error, _ = visible.Cut(s.Traces[i].Error, maxText)
		}
	}
	match := matcher(r.URL.Query().Get("q"))
	for _, p := range stats.Peers {
		if match(p.Remote, p.State.String(), linkOf(&p).text(), p.LastError) {
			peer := Peer{ConnectionStats: p}
			last := func(v func(*flows) int64) float64 { return lastRate(peerSeries(samples, p.Remote, v)) }
			peer.BytesInRate, peer.BytesOutRate = last(bytesIn), last(bytesOut)
			peer.MessagesInRate, peer.MessagesOutRate = last(messagesIn), last(messagesOut)
			peer.CallLatency = callLatency(h.m.Connection(p.Remote))
			s.Peers = append(s.Peers, peer)
		}
	}
	for _, g := range stats.Handlers {
		if match(g.Name, g.Subroute, g.Role.String()) {
			s.Handlers = append(s.Handlers, Handling{g, lastRate(handlerSeries(samples, keyOf(&g)))})
		}
	}
	for _, o := range h.m.Open() {
		if match(o.Peer, o.Name, o.Subroute, o.Role.String(), kindOf(o.Stream)) {
			s.Open = append(s.Open, o)
		}
	}
	s.OpenTotal = len(s.Open)
	s.Open = s.Open[:min(len(s.Open), maxOpen)]
	s.Errors = filter(s.Errors, func(e grid.RecentError) bool {
		return match(e.Peer, e.Handler, e.Text)
	})
	s.Traces = filter(s.Traces, func(t grid.TraceInfo) bool {
		return match(t.Remote, t.Handler, t.Subroute, t.Error)
	})
	return s, samples
}

// callLatency adds up how long the calls of a connection took.
func callLatency(c *grid.Connection) (sum grid.Latency) {
	for _, h := range c.HandlerStats() {
		if h.Role != grid.RoleClient {
			continue
		}
		for i, n := range h.Latency.Buckets {
			sum.Buckets[i] += n
		}
		sum.Sum += h.Latency.Sum
	}
	return sum
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
