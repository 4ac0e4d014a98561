package top

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// view is one of the tables.
type view struct {
	name  string
	key   string
	table func(s *snapshot, of span) table
	order string // head of the column that it is sorted by at first; empty for the order of the nodes
}

var views = []view{
	{"nodes", "1", nodesTable, ""},
	{"pairs", "2", pairsTable, ""},
	{"handlers", "3", handlersTable, headCalls},
	{"calls", "4", callsTable, headCalls},
	{"errors", "5", errorsTable, ""},
}

// Heads of columns that keys sort by.
const (
	headCalls  = "calls/s"
	headErrors = "errors"
	headP99    = "p99"
	headWait   = "oldest"
)

// figureColumns are those of figures.cells.
var figureColumns = []column{{headCalls, true, 1}, {headErrors, true, 1}, {"p50", true, 4}, {headP99, true, 1}}

func (f figures) cells() []cell {
	errors := number(unknown(f, fmt.Sprint(f.errors)), float64(f.errors))
	if f.errors > 0 {
		errors = errors.with(bad)
	}
	return []cell{rateCell(f, f.calls, countRate), errors, durationCell(f.p50), durationCell(f.p99)}
}

// nodesTable has what each node does, and how it is.
func nodesTable(s *snapshot, of span) (t table) {
	t.columns = slices.Concat(
		[]column{{"node", false, 0}, {"state", false, 0}, {"peers", true, 1}},
		figureColumns,
		[]column{{"served/s", true, 2}, {"waiting", true, 2}, {headWait, true, 2}, {"in", true, 3}, {"out", true, 3}, {"streams", true, 5}, {"guests", true, 6}, {"up", true, 5}, {"version", false, 6}})
	for _, n := range s.nodes {
		if n.status == nil {
			row := make([]cell, len(t.columns))
			row[0], row[1] = text(s.name(n.name)), text(n.err).with(bad)
			if silent := s.nodes[0].silent(n.name); silent > 0 {
				row[1] = text("silent " + age(silent)).with(bad)
			}
			t.add(row...)
			continue
		}
		t.add(nodeRow(s, &n, of)...)
	}
	return t
}

func nodeRow(s *snapshot, n *node, of span) []cell {
	var made, served figures
	var in, out int64
	var waiting, streams, up int
	var oldest time.Duration
	for i := range n.status.Peers {
		p := &n.status.Peers[i]
		f, received, sent := of.ofPeer(n.status, p)
		made.add(f)
		in, out = in+received, out+sent
		waiting += p.OutgoingRequests
		streams += p.OutgoingStreams + p.IncomingStreams
		oldest = max(oldest, p.OldestRequest)
		if p.State == grid.StateConnected && p.Silent() == 0 {
			up++
		}
	}
	for i := range n.status.Handlers {
		if h := &n.status.Handlers[i]; h.Role == grid.RoleServer {
			served.add(of.ofHandler(n.status, h))
		}
	}
	peers := len(n.status.Peers)
	state := text("up").with(good)
	switch silent := s.nodes[0].silent(n.name); {
	case silent > 0:
		state = text("silent " + age(silent)).with(bad)
	case n.status.Draining:
		state = text("draining").with(bad)
	case up < peers:
		state = text(fmt.Sprintf("%d missing", peers-up)).with(bad)
	}
	return slices.Concat(
		[]cell{text(s.name(n.name)), state, number(fmt.Sprintf("%d/%d", up, peers), float64(up))},
		made.cells(),
		[]cell{
			rateCell(served, served.calls, countRate),
			number(fmt.Sprint(waiting), float64(waiting)), ageCell(oldest),
			rateCell(made, in, byteRate), rateCell(made, out, byteRate),
			number(fmt.Sprint(streams), float64(streams)),
			number(fmt.Sprint(n.status.Guests.Connected), float64(n.status.Guests.Connected)),
			ageCell(uptime(n.status)), text(n.status.Version),
		})
}

// silent returns how long a peer of the node has been silent.
func (n *node) silent(peer string) time.Duration {
	for i := range n.status.Peers {
		if p := &n.status.Peers[i]; p.Remote == peer {
			return p.Silent()
		}
	}
	return 0
}

// pairsTable has each connection as each of its ends sees it.
func pairsTable(s *snapshot, of span) (t table) {
	t.columns = slices.Concat(
		[]column{{"node", false, 0}, {"peer", false, 0}, {"state", false, 0}, {"trip", true, 2}},
		figureColumns,
		[]column{{"waiting", true, 2}, {headWait, true, 2}, {"in", true, 3}, {"out", true, 3}, {"queue", true, 5}, {"streams", true, 5}, {"reconnects", true, 6}})
	for _, n := range s.nodes {
		if n.status == nil {
			continue
		}
		for i := range n.status.Peers {
			p := &n.status.Peers[i]
			f, in, out := of.ofPeer(n.status, p)
			t.add(slices.Concat(
				[]cell{text(s.name(n.name)), text(s.name(p.Remote)), stateCell(p), durationCell(p.RoundTrip)},
				f.cells(),
				[]cell{
					number(fmt.Sprint(p.OutgoingRequests), float64(p.OutgoingRequests)), ageCell(p.OldestRequest),
					rateCell(f, in, byteRate), rateCell(f, out, byteRate),
					number(byteText(float64(p.BytesQueued)), float64(p.BytesQueued)),
					number(fmt.Sprint(p.OutgoingStreams+p.IncomingStreams), float64(p.OutgoingStreams+p.IncomingStreams)),
					number(fmt.Sprint(p.Reconnects), float64(p.Reconnects)),
				})...)
		}
	}
	return t
}

func stateCell(p *debugz.Peer) cell {
	silent := p.Silent()
	switch {
	case silent > 0:
		return text("silent " + age(silent)).with(bad)
	case p.State == grid.StateConnected && p.Draining:
		return text("draining").with(bad)
	case p.State == grid.StateConnected:
		return text("up").with(good)
	case p.State == grid.StateConnectionError && p.Connects == 0:
		return text("absent").with(bad)
	case p.State == grid.StateConnectionError:
		return text("lost").with(bad)
	}
	return text(p.State.String()).with(bad)
}

// handlersTable has each handler over all nodes.
func handlersTable(s *snapshot, of span) (t table) {
	t.columns = slices.Concat(
		[]column{{"handler", false, 0}, {"role", false, 1}, {"kind", false, 4}},
		figureColumns,
		[]column{{"in flight", true, 2}, {"slowest at", false, 3}})
	type key struct {
		role           grid.Role
		id             grid.HandlerID
		name, subroute string
	}
	type sum struct {
		key
		figures
		flight  int
		stream  bool
		slowest string
	}
	all := make(map[key]*sum)
	var order []*sum
	for _, n := range s.nodes {
		if n.status == nil {
			continue
		}
		for i := range n.status.Handlers {
			h := &n.status.Handlers[i]
			k := key{h.Role, h.ID, h.Name, h.Subroute}
			of := of.ofHandler(n.status, h)
			g := all[k]
			if g == nil {
				g = &sum{key: k}
				all[k] = g
				order = append(order, g)
			}
			if of.p99 > g.p99 {
				g.slowest = s.name(n.name)
			}
			g.add(of)
			g.flight += h.InFlight
			g.stream = g.stream || h.IsStream()
		}
	}
	for _, g := range order {
		if g.calls == 0 && g.flight == 0 {
			continue
		}
		t.add(slices.Concat(
			[]cell{text(handlerName(g.name, g.subroute)), text(g.role.String()), kindCell(g.stream)},
			g.cells(),
			[]cell{number(fmt.Sprint(g.flight), float64(g.flight)), text(cmp.Or(g.slowest, "–"))})...)
	}
	return t
}

// callsTable has the calls of each node to each handler of each peer.
func callsTable(s *snapshot, of span) (t table) {
	t.columns = slices.Concat(
		[]column{{"node", false, 0}, {"peer", false, 0}, {"handler", false, 0}, {"kind", false, 4}},
		figureColumns, []column{{"in flight", true, 2}})
	for _, n := range s.nodes {
		if n.status == nil {
			continue
		}
		for i := range n.status.Pairs {
			p := &n.status.Pairs[i]
			if p.Role != grid.RoleClient {
				continue
			}
			f := of.ofPair(n.status, p)
			if f.calls == 0 && p.InFlight == 0 && f.over > 0 {
				continue
			}
			t.add(slices.Concat(
				[]cell{text(s.name(n.name)), text(s.name(p.Peer)), text(handlerName(p.Name, p.Subroute)), kindCell(p.Stream)},
				f.cells(), []cell{number(fmt.Sprint(p.InFlight), float64(p.InFlight))})...)
		}
	}
	return t
}

// errorsTable has the last errors of all nodes, the newest first.
func errorsTable(s *snapshot, _ span) (t table) {
	t.columns = []column{{"ago", true, 0}, {"node", false, 1}, {"peer", false, 1}, {"handler", false, 2}, {"count", true, 3}, {"error", false, 0}}
	for _, n := range s.nodes {
		if n.status == nil {
			continue
		}
		for _, e := range n.status.Errors {
			ago := n.status.Time.Sub(e.Time)
			t.add(number(age(ago), -ago.Seconds()), text(s.name(n.name)), text(s.name(e.Peer)), text(cmp.Or(e.Handler, "connection")),
				number(fmt.Sprint(e.Count), float64(e.Count)), text(e.Text))
			if ago > 5*time.Minute {
				for i := range t.rows[len(t.rows)-1] {
					t.rows[len(t.rows)-1][i].mood = faint
				}
			}
		}
	}
	t.sort("ago", false)
	return t
}

func handlerName(name, subroute string) string {
	if subroute == "" {
		return name
	}
	return name + " " + subroute
}

func kindCell(stream bool) cell {
	if stream {
		return text("stream")
	}
	return text("request")
}
