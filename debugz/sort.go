package debugz

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gridmesh/grid"
)

// A table is sorted by the values of the query parameter sort: "peers.p99" has the largest first, or
// of texts the first in the alphabet, and "-peers.p99" turns that around. There may be one for each
// table.

// orders has the columns that the rows of a table can be sorted by.
type orders[T any] map[string]func(a, b *T) int

func largest[T any, V cmp.Ordered](of func(*T) V) func(a, b *T) int {
	return func(a, b *T) int { return cmp.Compare(of(b), of(a)) }
}

func alphabetic[T any](of func(*T) string) func(a, b *T) int {
	return func(a, b *T) int { return strings.Compare(of(a), of(b)) }
}

var (
	peerOrders = orders[Peer]{
		"peer":       alphabetic(func(p *Peer) string { return p.Remote }),
		"state":      alphabetic(func(p *Peer) string { return linkOf(&p.ConnectionStats).text() }),
		"trip":       largest(func(p *Peer) int64 { return int64(max(p.RoundTrip, p.Silent())) }),
		"waiting":    largest(func(p *Peer) int64 { return int64(p.OldestRequest) }),
		"rate":       largest(func(p *Peer) int64 { return p.Minute.Calls }),
		"errors":     largest(func(p *Peer) int64 { return p.Minute.Errors }),
		"p50":        largest(func(p *Peer) int64 { return int64(p.Minute.P50) }),
		"p99":        largest(func(p *Peer) int64 { return int64(p.Minute.P99) }),
		"in":         largest(func(p *Peer) int64 { return p.Minute.BytesIn }),
		"out":        largest(func(p *Peer) int64 { return p.Minute.BytesOut }),
		"queue":      largest(func(p *Peer) int { return p.BytesQueued }),
		"reconnects": largest(func(p *Peer) int64 { return p.Reconnects }),
	}
	handlerOrders = orders[Handling]{
		"handler": alphabetic(func(h *Handling) string { return h.Name + " " + h.Subroute }),
		"role":    alphabetic(func(h *Handling) string { return h.Role.String() }),
		"rate":    largest(func(h *Handling) int64 { return h.Minute.Calls }),
		"calls":   largest(func(h *Handling) int64 { return h.Calls }),
		"errors":  largest(func(h *Handling) int64 { return h.Minute.Errors }),
		"flight":  largest(func(h *Handling) int { return h.InFlight }),
		"p50":     largest(func(h *Handling) int64 { return int64(h.Minute.P50) }),
		"p99":     largest(func(h *Handling) int64 { return int64(h.Minute.P99) }),
	}
	pairOrders = orders[Pair]{
		"peer":    alphabetic(func(p *Pair) string { return p.Peer }),
		"handler": alphabetic(func(p *Pair) string { return p.Name + " " + p.Subroute }),
		"role":    alphabetic(func(p *Pair) string { return p.Role.String() }),
		"rate":    largest(func(p *Pair) int64 { return p.Minute.Calls }),
		"calls":   largest(func(p *Pair) int64 { return p.Calls }),
		"errors":  largest(func(p *Pair) int64 { return p.Minute.Errors }),
		"flight":  largest(func(p *Pair) int { return p.InFlight }),
		"p50":     largest(func(p *Pair) int64 { return int64(p.Minute.P50) }),
		"p99":     largest(func(p *Pair) int64 { return int64(p.Minute.P99) }),
	}
	openOrders = orders[grid.OpenCall]{
		"handler": alphabetic(func(o *grid.OpenCall) string { return o.Name + " " + o.Subroute }),
		"peer":    alphabetic(func(o *grid.OpenCall) string { return o.Peer }),
		"role":    alphabetic(func(o *grid.OpenCall) string { return o.Role.String() }),
		"kind":    alphabetic(func(o *grid.OpenCall) string { return kindOf(o.Stream) }),
		"age":     largest(func(o *grid.OpenCall) int64 { return int64(o.Age) }),
	}
	errorOrders = orders[grid.RecentError]{
		"time":    largest(func(e *grid.RecentError) int64 { return e.Time.UnixNano() }),
		"peer":    alphabetic(func(e *grid.RecentError) string { return e.Peer }),
		"handler": alphabetic(func(e *grid.RecentError) string { return e.Handler }),
		"count":   largest(func(e *grid.RecentError) int64 { return e.Count }),
	}
)

// sort sorts the tables that are to be sorted.
func (s *Status) sort(by []string) {
	sortRows(s.Peers, "peers", peerOrders, by)
	sortRows(s.Handlers, "handlers", handlerOrders, by)
	sortRows(s.Pairs, "pairs", pairOrders, by)
	sortRows(s.Open, "open", openOrders, by)
	sortRows(s.Errors, "errors", errorOrders, by)
}

func sortRows[T any](rows []T, table string, columns orders[T], by []string) {
	column, reverse := sortedBy(table, by)
	order := columns[column]
	if order == nil {
		return
	}
	slices.SortStableFunc(rows, func(a, b T) int {
		if reverse {
			a, b = b, a
		}
		return order(&a, &b)
	})
}

// sortedBy returns the column that a table is to be sorted by, if any, and whether in reverse.
func sortedBy(table string, by []string) (column string, reverse bool) {
	for _, v := range by {
		name, back := strings.CutPrefix(v, "-")
		if name, ok := strings.CutPrefix(name, table+"."); ok {
			return name, back
		}
	}
	return "", false
}

// textColumns are sorted by texts.
var textColumns = map[string]bool{"peer": true, "state": true, "handler": true, "role": true, "kind": true}

// column is the head of a column that its table can be sorted by.
type column struct {
	Label, Class, Title string
	Link                string // to the page sorted by the column
	Sorted              string // a value of aria-sort; empty if the table is not sorted by the column
}

// Column returns the head of a column.
func (v *view) Column(table, name, label, class, title string) column {
	c := column{Label: label, Class: class, Title: title}
	sorted, reverse := sortedBy(table, v.query["sort"])
	next := table + "." + name
	if sorted == name {
		// Texts begin with the smallest, everything else with the largest.
		c.Sorted = "descending"
		if textColumns[name] != reverse {
			c.Sorted = "ascending"
		}
		if !reverse {
			next = "-" + next
		}
	}
	q := v.kept()
	q["sort"] = []string{next}
	for _, other := range v.query["sort"] {
		if c, _ := sortedBy(table, []string{other}); c == "" && len(q["sort"]) < maxSorts {
			q["sort"] = append(q["sort"], other)
		}
	}
	c.Link = "./?" + q.Encode()
	return c
}

// maxSorts is how many tables can be sorted.
const maxSorts = 5
