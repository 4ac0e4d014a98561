// Package gridprom exports the statistics of a grid node to Prometheus.
//
//	registry := prometheus.NewRegistry()
//	registry.MustRegister(gridprom.New(m)) // m is a *grid.Manager
//	http.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
//
// It counts nothing by itself: a node always counts, and each scrape reads Manager.Stats. If one
// process has several nodes, register each with its own label:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"grid": "storage"}, registry).MustRegister(gridprom.New(m))
package gridprom

import (
	"slices"
	"strconv"
	"time"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
)

// Collector exports the statistics of one node. It is safe for concurrent use.
type Collector struct {
	m *grid.Manager
}

// New returns a Collector for a node, to be registered with a prometheus.Registerer.
func New(m *grid.Manager) *Collector { return &Collector{m: m} }

// metric describes one metric. It has the labels of its group, and those in more.
func metric(name, help string, group []string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("grid_"+name, help, append(append([]string(nil), group...), more...), nil)
}

// Labels that all metrics of a group have.
var (
	peerLabels    = []string{"peer"}
	handlerLabels = []string{"role", "id", "handler", "subroute"}
)

var (
	startTime = metric("node_start_time_seconds", "When the node was started, in Unix time.", nil)

	peerConnected   = metric("peer_connected", "1 while the connection to the peer is up, else 0.", peerLabels)
	peerState       = metric("peer_state", "1 for the state of the connection to the peer, 0 for the others.", peerLabels, "state")
	peerStateSince  = metric("peer_state_since_timestamp_seconds", "When the state of the connection began, in Unix time.", peerLabels)
	peerRoundTrip   = metric("peer_round_trip_seconds", "How long the peer took to answer the last ping.", peerLabels)
	peerLastPong    = metric("peer_last_pong_timestamp_seconds", "When the peer last answered a ping, in Unix time.", peerLabels)
	peerConnects    = metric("peer_connects_total", "How often the connection came up.", peerLabels)
	peerReconnects  = metric("peer_reconnects_total", "How often the connection came up again.", peerLabels)
	peerDialErrors  = metric("peer_dial_errors_total", "Attempts of this node to connect to the peer that failed.", peerLabels)
	peerInBytes     = metric("peer_received_bytes_total", "Bytes received from the peer, in WebSocket frames.", peerLabels)
	peerOutBytes    = metric("peer_sent_bytes_total", "Bytes sent to the peer, in WebSocket frames.", peerLabels)
	peerInMessages  = metric("peer_received_messages_total", "Messages received from the peer.", peerLabels)
	peerOutMessages = metric("peer_sent_messages_total", "Messages sent to the peer.", peerLabels)
	peerInFrames    = metric("peer_received_frames_total", "Frames with messages received from the peer.", peerLabels)
	peerOutFrames   = metric("peer_sent_frames_total", "Frames with messages sent to the peer.", peerLabels)
	peerInMerged    = metric("peer_received_merged_frames_total", "Frames with more than one message received from the peer.", peerLabels)
	peerOutMerged   = metric("peer_sent_merged_frames_total", "Frames with more than one message sent to the peer.", peerLabels)
	peerRefused     = metric("peer_refused_calls_total", "Calls of the peer that were refused or ended, by the field of Limits that they were over.", peerLabels, "limit")
	peerQueue       = metric("peer_send_queue_bytes", "Bytes that wait to be written to the socket.", peerLabels)
	peerRequests    = metric("peer_requests_in_flight", "Single requests between the nodes that are not answered yet.", peerLabels, "direction")
	peerStreams     = metric("peer_streams", "Streams between the nodes that are open.", peerLabels, "direction")

	handlerCalls    = metric("handler_calls_total", "Calls that have ended, streams too.", handlerLabels)
	handlerErrors   = metric("handler_errors_total", "Calls that failed, by cause.", handlerLabels, "cause")
	handlerInFlight = metric("handler_in_flight", "Calls that have not ended, streams too.", handlerLabels)
	handlerStreams  = metric("handler_streams", "Streams that are open.", handlerLabels)
	handlerDuration = metric("handler_duration_seconds",
		"How long calls took. A server's are all counted; a client's are estimated from a sample of one in eight.", handlerLabels)
)

// all are the descriptions of every metric.
var all = []*prometheus.Desc{
	startTime,
	peerConnected, peerState, peerStateSince, peerRoundTrip, peerLastPong, peerConnects, peerReconnects, peerDialErrors,
	peerInBytes, peerOutBytes, peerInMessages, peerOutMessages, peerInFrames, peerOutFrames, peerInMerged, peerOutMerged,
	peerRefused, peerQueue, peerRequests, peerStreams,
	handlerCalls, handlerErrors, handlerInFlight, handlerStreams, handlerDuration,
}

// Describe is part of prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	stats := c.m.Stats()
	if !stats.Started.IsZero() {
		ch <- prometheus.MustNewConstMetric(startTime, prometheus.GaugeValue, seconds(stats.Started))
	}
	for i := range stats.Peers {
		collectPeer(ch, &stats.Peers[i])
	}
	for i := range stats.Handlers {
		collectHandler(ch, &stats.Handlers[i])
	}
}

// states are the states of a connection, in their order.
var states = []grid.State{
	grid.StateUnconnected, grid.StateConnecting, grid.StateConnected, grid.StateConnectionError, grid.StateShutdown,
}

func collectPeer(ch chan<- prometheus.Metric, p *grid.ConnectionStats) {
	set := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, append([]string{p.Remote}, more...)...)
	}
	gauge := func(d *prometheus.Desc, v float64, more ...string) { set(d, prometheus.GaugeValue, v, more...) }
	counter := func(d *prometheus.Desc, v int64) { set(d, prometheus.CounterValue, float64(v)) }

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
	counter(peerInBytes, p.In.Bytes)
	counter(peerOutBytes, p.Out.Bytes)
	counter(peerInMessages, p.In.Messages)
	counter(peerOutMessages, p.Out.Messages)
	counter(peerInFrames, p.In.Frames)
	counter(peerOutFrames, p.Out.Frames)
	counter(peerInMerged, p.In.MergedFrames)
	counter(peerOutMerged, p.Out.MergedFrames)
	for _, r := range []struct {
		limit string
		n     int64
	}{
		{"MaxRequests", p.Refused.MaxRequests},
		{"MaxRequestBytes", p.Refused.MaxRequestBytes},
		{"MaxStreams", p.Refused.MaxStreams},
		{"MaxStreamBytes", p.Refused.MaxStreamBytes},
	} {
		set(peerRefused, prometheus.CounterValue, float64(r.n), r.limit)
	}
	gauge(peerQueue, float64(p.BytesQueued))
	gauge(peerRequests, float64(p.IncomingRequests), "incoming")
	gauge(peerRequests, float64(p.OutgoingRequests), "outgoing")
	gauge(peerStreams, float64(p.IncomingStreams), "incoming")
	gauge(peerStreams, float64(p.OutgoingStreams), "outgoing")
}

func collectHandler(ch chan<- prometheus.Metric, h *grid.HandlerStats) {
	labels := []string{h.Role.String(), strconv.Itoa(int(h.ID)), h.Name, h.Subroute}
	set := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, more ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, append(slices.Clip(labels), more...)...)
	}
	set(handlerCalls, prometheus.CounterValue, float64(h.Calls))
	for _, e := range []struct {
		cause grid.ErrorClass
		n     int64
	}{
		{grid.ErrorHandler, h.Errors.Handler},
		{grid.ErrorCanceled, h.Errors.Canceled},
		{grid.ErrorDeadline, h.Errors.TimedOut},
		{grid.ErrorDisconnected, h.Errors.Disconnected},
		{grid.ErrorOverloaded, h.Errors.Overloaded},
		{grid.ErrorShutdown, h.Errors.Shutdown},
		{grid.ErrorUnknownHandler, h.Errors.UnknownHandler},
		{grid.ErrorOther, h.Errors.Other},
	} {
		set(handlerErrors, prometheus.CounterValue, float64(e.n), e.cause.String())
	}
	set(handlerInFlight, prometheus.GaugeValue, float64(h.InFlight))
	set(handlerStreams, prometheus.GaugeValue, float64(h.Streams))
	ch <- prometheus.MustNewConstHistogram(handlerDuration, uint64(h.Latency.Count()), h.Latency.Sum.Seconds(),
		buckets(&h.Latency), labels...)
}

// buckets returns the cumulative buckets of a histogram, by their bounds in seconds.
func buckets(l *grid.Latency) map[float64]uint64 {
	cumulative := make(map[float64]uint64, grid.LatencyBuckets-1)
	n := uint64(0)
	for i, count := range l.Buckets[:grid.LatencyBuckets-1] {
		n += uint64(count)
		cumulative[grid.LatencyBound(i).Seconds()] = n
	}
	return cumulative
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// seconds is Unix time as Prometheus has it.
func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
