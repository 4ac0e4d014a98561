package scenario

import (
	"fmt"
	"slices"
	"time"

	"github.com/gridmesh/grid/bench/link"
	"github.com/gridmesh/grid/bench/load"
	"github.com/gridmesh/grid/bench/pair"
)

// withHigh adds grid whose small calls pass others.
func withHigh(names []string) []string {
	return slices.Insert(slices.Clone(names), slices.Index(names, gridName)+1, highName)
}

// crowdSection has small calls beside many others.
func crowdSection(o Options) Section {
	s := Section{
		Name:   "crowd",
		Title:  "Small calls beside many callers",
		Rounds: slowRounds,
		Text: pairText + "100 calls a second of 512 bytes, on the connection over which many callers send 4,000 bytes and get them back, as fast as " +
			"answers come. A call is timed from its start.",
		Tables: []Table{
			{Title: "p50 / p99 of a small call, ms", Columns: []int{0, 1}},
			{Title: "Calls a second of the many", Columns: []int{2}},
			{Title: "Failed small calls", Columns: []int{3}, NotZero: true},
		},
	}
	type crowd struct {
		callers int
		rate    float64 // bits a second; 0 for loopback
	}
	all := []crowd{{1_000, 0}, {10_000, 0}, {1_000, 1e8}, {1_000, 1e9}}
	if o.Small {
		all = []crowd{{50, 0}}
	}
	for _, c := range all {
		s.Cases = append(s.Cases, crowdCase(c.callers, c.rate))
	}
	return s
}

func crowdCase(callers int, rate float64) Case {
	name, config := number(callers, "caller"), pair.Config{}
	if rate > 0 {
		name = fmt.Sprintf("%s, %s", name, rateName(rate))
		config.Link = link.Spec{Kind: link.Relay, Rate: rate}
	}
	return Case{
		Name:       name,
		Columns:    []Column{{"p50", "ms"}, {"p99", "ms"}, {"calls/s", ""}, {"failed", ""}},
		Contenders: withHigh([]string{limitName, gridName, "grpc"}),
		pair: &pairCase{
			config: config,
			spec: load.Spec{
				Kind: load.Crowd, Callers: callers, CrowdSize: 4_000, Rate: 100, Size: small, Time: 3 * time.Second,
			},
			figures: func(r pair.Result) []float64 {
				return []float64{millis(r.P50), millis(r.P99), r.CrowdCalls, float64(r.Failed)}
			},
		},
	}
}
