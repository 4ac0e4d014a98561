package gridprom

import (
	"time"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
)

// states are the states of a connection, in their order.
var states = []grid.State{
	grid.StateUnconnected, grid.StateConnecting, grid.StateConnected, grid.StateConnectionError, grid.StateShutdown,
}

func collectPeer(ch chan<- prometheus.Metric, p *grid.ConnectionStats, called *callsOf) {
	gauge := func(d *prometheus.Desc, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{p.Remote}, more...)...)
	}
	counter := func(d *prometheus.Desc, v int64, more ...string) {
		ch <- newCounter(d, v, p.Added, append([]string{p.Remote}, more...)...)
	}

	gauge(peerConnected, flag(p.State == grid.StateConnected))
	for _, s := range states {
		gauge(peerState, flag(p.State == s), s.String())
	}
	gauge(peerStateSince, seconds(p.Since))
	if p.RoundTrip > 0 {
		gauge(peerRoundTrip, p.RoundTrip.Seconds())
	}
	if !p.LastPong.IsZero() {
		gauge(peerLastPong, seconds(p.LastPong))
	}
	counter(peerConnects, p.Connects)
	counter(peerReconnects, p.Reconnects)
	counter(peerDialErrors, p.DialErrors)
	peerFlows.collect(&p.In, &p.Out, counter)
	for limit, n := range refusals(&p.Refused) {
		counter(peerRefused, n, limit)
	}
	gauge(peerQueue, float64(p.BytesQueued))
	gauge(peerRequests, float64(p.IncomingRequests), "incoming")
	gauge(peerRequests, float64(p.OutgoingRequests), "outgoing")
	gauge(peerStreams, float64(p.IncomingStreams), "incoming")
	gauge(peerStreams, float64(p.OutgoingStreams), "outgoing")

	if called == nil {
		return
	}
	counter(peerCalls, called.calls)
	for i, cause := range causes {
		counter(peerErrors, called.errors[i], cause.String())
	}
	ch <- newHistogram(peerDuration, &called.latency, peerBucketStep, p.Added, p.Remote)
}

// peerBucketStep is how many buckets of a grid.Latency are one of a peer's: peers have few, because
// the nodes of a grid together have as many peers as the square of their number.
const peerBucketStep = 2

// callsOf sums up calls of several handlers.
type callsOf struct {
	calls   int64
	errors  [len(causes)]int64
	latency grid.Latency
}

// callsTo sums up the calls from here to a peer; nil if there is none of that name.
func callsTo(m *grid.Manager, peer string) *callsOf {
	conn := m.Connection(peer)
	if conn == nil {
		return nil
	}
	sum := new(callsOf)
	for _, h := range conn.HandlerStats() {
		if h.Role == grid.RoleClient {
			sum.add(&h)
		}
	}
	return sum
}

func (c *callsOf) add(h *grid.HandlerStats) {
	c.calls += h.Calls
	for i, n := range failures(&h.Errors) {
		c.errors[i] += n
	}
	c.latency.Sum += h.Latency.Sum
	for i, n := range h.Latency.Buckets {
		c.latency.Buckets[i] += n
	}
}

// newCounter returns a counter that began with zero at a time.
func newCounter(d *prometheus.Desc, v int64, began time.Time, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetricWithCreatedTimestamp(d, prometheus.CounterValue, float64(v), began, labels...)
}

// newHistogram returns a histogram that began empty at a time. Each of its buckets has as many of l
// as step says.
func newHistogram(d *prometheus.Desc, l *grid.Latency, step int, began time.Time, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstHistogramWithCreatedTimestamp(d, uint64(l.Count()), l.Sum.Seconds(), buckets(l, step), began, labels...)
}

// buckets returns the cumulative buckets of a histogram, by their bounds in seconds.
func buckets(l *grid.Latency, step int) map[float64]uint64 {
	const bounded = grid.LatencyBuckets - 1
	cumulative := make(map[float64]uint64, bounded/step)
	n := uint64(0)
	for i, count := range l.Buckets[:bounded] {
		n += uint64(count)
		if (i+1)%step == 0 {
			cumulative[grid.LatencyBound(i).Seconds()] = n
		}
	}
	return cumulative
}
