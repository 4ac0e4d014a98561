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
	buildInfo = metric("build_info", "1, with the versions of the library and of Go.", nil, "version", "goversion")
	nodeInfo  = metric("node_info", "1, with the node's name, which is the peer of others, and the version of the application.",
		nil, "node", "version")
	nodeDraining = metric("node_draining", "1 while the node is about to end, else 0.", nil)
	startTime    = metric("node_start_time_seconds", "When the node was started, in Unix time.", nil)
	limit        = metric("limit", "The limits of the node, by the field of Limits.", nil, "limit")
	logLines     = metric("log_lines_total", "Lines that the library has logged, by message.", nil, "message")

	peerConnected  = metric("peer_connected", "1 while the connection to the peer is up, else 0.", peerLabels)
	peerState      = metric("peer_state", "1 for the state of the connection to the peer, 0 for the others.", peerLabels, "state")
	peerStateSince = metric("peer_state_since_timestamp_seconds", "When the state of the connection began, in Unix time.", peerLabels)
	peerRoundTrip  = metric("peer_round_trip_seconds", "How long the peer took to answer the last ping.", peerLabels)
	peerLastPong   = metric("peer_last_pong_timestamp_seconds", "When the peer last answered a ping, in Unix time.", peerLabels)
	peerConnects   = metric("peer_connects_total", "How often the connection came up.", peerLabels)
	peerReconnects = metric("peer_reconnects_total", "How often the connection came up again.", peerLabels)
	peerDialErrors = metric("peer_dial_errors_total", "Attempts of this node to connect to the peer that failed.", peerLabels)
	peerFlows      = newFlows("peer", "the peer", peerLabels)
	peerRefused    = metric("peer_refused_calls_total", "Calls of the peer that were refused or ended, by the field of Limits that they were over.", peerLabels, "limit")
	peerQueue      = metric("peer_send_queue_bytes", "Bytes that wait to be written to the socket.", peerLabels)
	peerRequests   = metric("peer_requests_in_flight", "Single requests between the nodes that are not answered yet.", peerLabels, "direction")
	peerStreams    = metric("peer_streams", "Streams between the nodes that are open.", peerLabels, "direction")
	peerCalls      = metric("peer_calls_total", "Calls to the peer that have ended, streams too.", peerLabels)
	peerErrors     = metric("peer_call_errors_total", "Calls to the peer that failed, by cause.", peerLabels, "cause")
	peerDuration   = metric("peer_call_duration_seconds", "How long calls to the peer took, estimated from a sample of one in eight.", peerLabels)

	removedHosts      = metric("removed_hosts_total", "Hosts that were removed, and with which nothing runs anymore.", nil)
	removedLeaving    = metric("removed_hosts_leaving", "Hosts that were removed, and with which something still runs.", nil)
	removedConnects   = metric("removed_connects_total", "How often connections to removed hosts came up.", nil)
	removedReconnects = metric("removed_reconnects_total", "How often connections to removed hosts came up again.", nil)
	removedDialErrors = metric("removed_dial_errors_total", "Attempts of this node to connect to removed hosts that failed.", nil)
	removedFlows      = newFlows("removed", "removed hosts", nil)
	removedRefused    = metric("removed_refused_calls_total",
		"Calls of removed hosts that were refused or ended, by the field of Limits that they were over.", nil, "limit")

	guestsConnected = metric("guests", "Guests that are connected.", nil)
	guestsLeaving   = metric("guests_leaving", "Guests that are gone or were removed, and with which something still runs.", nil)
	guestsRejected  = metric("guests_rejected_total", "Handshakes of guests that were rejected.", nil)
	guestsConnects  = metric("guests_connects_total", "How often connections to guests came up.", nil)
	guestsFlows     = newFlows("guests", "guests", nil)
	guestsRefused   = metric("guests_refused_calls_total",
		"Calls of guests that were refused or ended, by the field of Limits that they were over.", nil, "limit")

	handlerCalls    = metric("handler_calls_total", "Calls that have ended, streams too.", handlerLabels)
	handlerErrors   = metric("handler_errors_total", "Calls that failed, by cause.", handlerLabels, "cause")
	handlerCodes    = metric("handler_error_codes_total", "Calls whose handler returned an error, by its code, where there were any.", handlerLabels, "code")
	handlerInFlight = metric("handler_in_flight", "Calls that have not ended, streams too.", handlerLabels)
	handlerStreams  = metric("handler_streams", "Streams that are open.", handlerLabels)
	handlerDuration = metric("handler_duration_seconds",
		"How long calls took. A server's are all counted; a client's are estimated from a sample of one in eight.", handlerLabels)
)

// all are the descriptions of every metric.
var all = slices.Concat([]*prometheus.Desc{
	buildInfo, nodeInfo, nodeDraining, startTime, limit, logLines,
	peerConnected, peerState, peerStateSince, peerRoundTrip, peerLastPong, peerConnects, peerReconnects, peerDialErrors,
	peerRefused, peerQueue, peerRequests, peerStreams, peerCalls, peerErrors, peerDuration,
	removedHosts, removedLeaving, removedConnects, removedReconnects, removedDialErrors, removedRefused,
	guestsConnected, guestsLeaving, guestsRejected, guestsConnects, guestsRefused,
	handlerCalls, handlerErrors, handlerCodes, handlerInFlight, handlerStreams, handlerDuration,
}, peerFlows[:], removedFlows[:], guestsFlows[:])

// Describe is part of prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range all {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	if c.m == nil {
		return
	}
	stats := c.m.Stats()
	collectNode(ch, &stats)
	collectRemoved(ch, &stats.Removed, stats.Started)
	collectGuests(ch, &stats.Guests, stats.Started)
	for i := range stats.Peers {
		p := &stats.Peers[i]
		collectPeer(ch, p, callsTo(c.m, p.Remote))
	}
	for i := range stats.Handlers {
		collectHandler(ch, &stats.Handlers[i], stats.Started)
	}
}

func collectRemoved(ch chan<- prometheus.Metric, r *grid.RemovedStats, began time.Time) {
	counter := func(d *prometheus.Desc, v int64, more ...string) { ch <- newCounter(d, v, began, more...) }
	counter(removedHosts, r.Hosts)
	ch <- prometheus.MustNewConstMetric(removedLeaving, prometheus.GaugeValue, float64(r.Leaving))
	counter(removedConnects, r.Connects)
	counter(removedReconnects, r.Reconnects)
	counter(removedDialErrors, r.DialErrors)
	removedFlows.collect(&r.In, &r.Out, counter)
	for limit, n := range refusals(&r.Refused) {
		counter(removedRefused, n, limit)
	}
}

func collectGuests(ch chan<- prometheus.Metric, g *grid.GuestStats, began time.Time) {
	gauge := func(d *prometheus.Desc, v int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v int64, more ...string) { ch <- newCounter(d, v, began, more...) }
	gauge(guestsConnected, g.Connected)
	gauge(guestsLeaving, g.Leaving)
	counter(guestsRejected, g.Rejected)
	counter(guestsConnects, g.Connects)
	guestsFlows.collect(&g.In, &g.Out, counter)
	for limit, n := range refusals(&g.Refused) {
		counter(guestsRefused, n, limit)
	}
}

// refusals are the refused calls by the field of Limits that they were over.
func refusals(r *grid.RefusalStats) map[string]int64 {
	return map[string]int64{
		"MaxRequests":     r.MaxRequests,
		"MaxRequestBytes": r.MaxRequestBytes,
		"MaxStreams":      r.MaxStreams,
		"MaxStreamBytes":  r.MaxStreamBytes,
	}
}

func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// seconds is Unix time as Prometheus has it.
func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
