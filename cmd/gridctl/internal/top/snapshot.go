// Package top shows what the nodes of a grid do, as their status pages tell it: as tables, once or in
// a terminal that follows them.
package top

import (
	"net/url"
	"strings"
	"time"

	"github.com/gridmesh/grid/debugz"
)

// snapshot is what all nodes that could be asked do.
type snapshot struct {
	time  time.Time
	nodes []node // the one that was asked first
	short map[string]string
}

// node is one of them.
type node struct {
	name   string
	status *debugz.Status // nil if it has not answered
	err    string         // why not
}

// newSnapshot puts together what a page says.
func newSnapshot(s *debugz.Status) *snapshot {
	snap := &snapshot{time: s.Time, nodes: []node{{name: s.Node, status: s}}}
	names := []string{s.Node}
	for _, n := range s.Nodes {
		snap.nodes = append(snap.nodes, node{n.Node, n.Status, n.Error})
		names = append(names, n.Node)
	}
	for _, p := range s.Peers {
		names = append(names, p.Remote)
	}
	snap.short = shortNames(names)
	return snap
}

// name returns the short name of a node.
func (s *snapshot) name(node string) string {
	if short, ok := s.short[node]; ok {
		return short
	}
	return withoutScheme(node)
}

// shortNames leaves out the host where all nodes are on the same one.
func shortNames(names []string) map[string]string {
	short := make(map[string]string)
	host := ""
	for i, name := range names {
		u, err := url.Parse(name)
		if err != nil || u.Port() == "" || i > 0 && u.Hostname() != host {
			return nil
		}
		host = u.Hostname()
		short[name] = ":" + u.Port()
	}
	if len(short) < 2 {
		return nil
	}
	return short
}

func withoutScheme(name string) string {
	if _, rest, ok := strings.Cut(name, "://"); ok {
		return rest
	}
	return name
}

// span is the time that figures are of.
type span int

const (
	tenSeconds span = iota
	minute
	fiveMinutes
	sinceStart
	spans
)

func (s span) String() string {
	return [spans]string{"10 seconds", "minute", "5 minutes", "start"}[s]
}

// figures are what was counted in a span.
type figures struct {
	over          time.Duration // 0 if nothing is known
	calls, errors int64
	p50, p99      time.Duration
}

func (s span) of(w *debugz.Windows, start figures) figures {
	var from debugz.Window
	switch s {
	case tenSeconds:
		from = w.TenSeconds
	case minute:
		from = w.Minute
	case fiveMinutes:
		from = w.FiveMinutes
	default:
		return start
	}
	return figures{from.Over, from.Calls, from.Errors, from.P50, from.P99}
}

func (s span) ofPair(n *debugz.Status, p *debugz.Pair) figures {
	return s.of(&p.Windows, figures{uptime(n), p.Calls, p.Errors, p.P50, p.P99})
}

func (s span) ofHandler(n *debugz.Status, h *debugz.Handling) figures {
	start := figures{over: uptime(n), calls: h.Calls, errors: h.Errors.Total()}
	if !h.IsStream() {
		start.p50, start.p99 = h.Latency.Quantile(0.5), h.Latency.Quantile(0.99)
	}
	return s.of(&h.Windows, start)
}

// ofPeer also returns what was received and sent.
func (s span) ofPeer(n *debugz.Status, p *debugz.Peer) (f figures, in, out int64) {
	w := debugz.Windows{TenSeconds: p.TenSeconds.Window, Minute: p.Minute.Window, FiveMinutes: p.FiveMinutes.Window}
	f = s.of(&w, figures{uptime(n), p.Calls, p.CallErrors, p.CallLatency.Quantile(0.5), p.CallLatency.Quantile(0.99)})
	switch s {
	case tenSeconds:
		return f, p.TenSeconds.BytesIn, p.TenSeconds.BytesOut
	case minute:
		return f, p.Minute.BytesIn, p.Minute.BytesOut
	case fiveMinutes:
		return f, p.FiveMinutes.BytesIn, p.FiveMinutes.BytesOut
	}
	return f, p.In.Bytes, p.Out.Bytes
}

func uptime(n *debugz.Status) time.Duration { return n.Time.Sub(n.Started) }

// add sums up figures of what runs at the same time. Of the times it keeps the longest: the node that is
// worst off counts.
func (f *figures) add(o figures) {
	f.over = max(f.over, o.over)
	f.calls += o.calls
	f.errors += o.errors
	f.p50, f.p99 = max(f.p50, o.p50), max(f.p99, o.p99)
}
