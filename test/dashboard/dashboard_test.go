// Package dashboard holds the dashboard of package gridprom against what that really exposes. It is
// a module of its own because of PromQL's parser.
package dashboard

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridprom"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

const (
	dashboardFile = "../../contrib/gridprom/dashboard.json"
	rulesFile     = "../../contrib/gridprom/rules.yaml"
)

// targetLabels are added by the server that scrapes.
var targetLabels = []string{"instance", "job"}

// exposition knows the labels of every series name that a node exposes.
type exposition map[string][]string

// expose runs two nodes with traffic, streams and errors between them, and gathers what both
// expose.
func expose(t *testing.T) exposition {
	t.Helper()
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	here, there := g.Managers[0], g.Managers[1]
	const single, stream = grid.HandlerUserFirst, grid.HandlerUserFirst + 1
	for _, m := range g.Managers {
		err := m.RegisterSingleHandler(single, func(b []byte) ([]byte, *grid.RemoteErr) {
			if len(b) == 0 {
				return nil, grid.NewRemoteErrString("nothing to say")
			}
			return b, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		err = m.RegisterStreamingHandler(stream, grid.StreamHandler{
			Handle: func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
				out <- []byte("hello")
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conn := here.Connection(there.HostName())
	for _, payload := range []string{"hello", ""} {
		_, err := conn.Request(t.Context(), single, []byte(payload))
		if (err == nil) != (payload != "") {
			t.Fatalf("%q: %v", payload, err)
		}
	}
	st, err := conn.NewStream(t.Context(), stream, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range st.All() {
		if err != nil {
			t.Fatal(err)
		}
	}
	here.Health(t.Context())
	e := make(exposition)
	for _, m := range g.Managers {
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(gridprom.New(m))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			e.add(f)
		}
	}
	return e
}

func (e exposition) add(f *dto.MetricFamily) {
	names := slices.Clone(targetLabels)
	for _, l := range f.GetMetric()[0].GetLabel() {
		names = append(names, l.GetName())
	}
	if f.GetType() != dto.MetricType_HISTOGRAM {
		e[f.GetName()] = names
		return
	}
	e[f.GetName()+"_sum"], e[f.GetName()+"_count"] = names, names
	e[f.GetName()+"_bucket"] = append(slices.Clone(names), "le")
}

// query is an expression of the dashboard, with what stands beside it.
type query struct {
	title, expr, legend string
}

type dashboard struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		Title   string
		Type    string
		Targets []struct{ Expr, LegendFormat string }
	}
}

func load(t *testing.T) *dashboard {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	d := new(dashboard)
	if err := json.Unmarshal(text, d); err != nil {
		t.Fatal(err)
	}
	return d
}

var labelValues = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)

// queries returns all queries of panels and variables.
func (d *dashboard) queries(t *testing.T) (all []query) {
	t.Helper()
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q has no query", p.Title)
		}
		for _, q := range p.Targets {
			all = append(all, query{p.Title, q.Expr, q.LegendFormat})
		}
	}
	for _, v := range d.Templating.List {
		if v.Type != "query" {
			continue
		}
		m := labelValues.FindStringSubmatch(v.Definition)
		if m == nil {
			t.Errorf("variable %s: %q is not understood", v.Name, v.Definition)
			continue
		}
		all = append(all, query{"variable " + v.Name, m[1], "{{" + m[2] + "}}"})
	}
	return all
}

var (
	variable    = regexp.MustCompile(`\$(\w+)`)
	legendLabel = regexp.MustCompile(`{{(\w+)}}`)
)

// expand replaces the variables of the dashboard as Grafana does.
func (d *dashboard) expand(t *testing.T, q query) string {
	return variable.ReplaceAllStringFunc(q.expr, func(v string) string {
		if v == "$__rate_interval" {
			return "5m"
		}
		for _, known := range d.Templating.List {
			if "$"+known.Name == v {
				return ".*"
			}
		}
		t.Errorf("%s: %s is no variable of the dashboard", q.title, v)
		return ".*"
	})
}

// Every query parses, and each metric and label in it is exposed.
func TestDashboard(t *testing.T) {
	d, e := load(t), expose(t)
	used := make(map[string]bool)
	queries := d.queries(t)
	for _, q := range queries {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(d.expand(t, q))
		if err != nil {
			t.Errorf("%s: %v: %s", q.title, err, q.expr)
			continue
		}
		e.check(t, q, expr, used)
	}
	if len(queries) < 20 {
		t.Errorf("only %d queries were found", len(queries))
	}
	for _, name := range []string{"grid_peer_connected", "grid_handler_calls_total", "grid_handler_duration_seconds_bucket"} {
		if !used[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// Every rule parses, and each metric and label in it is exposed, or recorded by a rule before it.
func TestRules(t *testing.T) {
	text, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Record, Alert, Expr string
				Annotations         map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	e, count := expose(t), 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			count++
			expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr)
			if err != nil {
				t.Errorf("%s%s: %v", r.Record, r.Alert, err)
				continue
			}
			e.check(t, query{r.Record + r.Alert, r.Expr, ""}, expr, make(map[string]bool))
			if r.Record != "" {
				e[r.Record] = outermost(expr).Grouping
			}
			for _, m := range alertLabel.FindAllStringSubmatch(r.Annotations["summary"], -1) {
				if !e.has(expr, m[1]) {
					t.Errorf("%s: the summary has %q: %s", r.Alert, m[1], r.Expr)
				}
			}
		}
	}
	if count < 20 {
		t.Errorf("only %d rules were found", count)
	}
}

var alertLabel = regexp.MustCompile(`\$labels\.(\w+)`)

// has reports whether a metric in an expression has a label.
func (e exposition) has(expr parser.Expr, label string) (found bool) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			found = found || slices.Contains(e[s.Name], label)
		}
		return nil
	})
	return found
}

// reporter is told what is wrong.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

// check holds a query against the exposition.
func (e exposition) check(t reporter, q query, expr parser.Expr, used map[string]bool) {
	t.Helper()
	var known []string // labels of any metric in the query
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		s, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		names, ok := e[s.Name]
		if !ok {
			t.Errorf("%s: no metric %q: %s", q.title, s.Name, q.expr)
			return nil
		}
		used[s.Name] = true
		known = append(known, names...)
		for _, m := range s.LabelMatchers {
			if m.Name != model.MetricNameLabel && !slices.Contains(names, m.Name) {
				t.Errorf("%s: %s has no label %q: %s", q.title, s.Name, m.Name, q.expr)
			}
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if a, ok := node.(*parser.AggregateExpr); ok {
			e.checkGrouping(t, q, a)
		}
		return nil
	})
	for _, m := range legendLabel.FindAllStringSubmatch(q.legend, -1) {
		if !slices.Contains(known, m[1]) {
			t.Errorf("%s: the legend has %q: %s", q.title, m[1], q.expr)
		}
		if a := outermost(expr); a != nil && !a.Without && !slices.Contains(a.Grouping, m[1]) {
			t.Errorf("%s: the legend has %q, which is summed away: %s", q.title, m[1], q.expr)
		}
	}
}

// checkGrouping says where an aggregation keeps a label that its metrics do not have.
func (e exposition) checkGrouping(t reporter, q query, a *parser.AggregateExpr) {
	t.Helper()
	parser.Inspect(a.Expr, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			for _, label := range a.Grouping {
				if !slices.Contains(e[s.Name], label) {
					t.Errorf("%s: %s has no label %q to group by: %s", q.title, s.Name, label, q.expr)
				}
			}
		}
		return nil
	})
}

// outermost returns the first aggregation of a query; nil where it has none.
func outermost(expr parser.Expr) (a *parser.AggregateExpr) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if found, ok := node.(*parser.AggregateExpr); ok && a == nil {
			a = found
		}
		return nil
	})
	return a
}

// faults counts what it is told.
type faults int

func (f *faults) Helper() {}

func (f *faults) Errorf(string, ...any) { *f++ }

// The check itself finds what is wrong.
func TestCheckFindsFaults(t *testing.T) {
	e := expose(t)
	for _, q := range []query{
		{"a metric", `grid_peers_connected`, ""},
		{"a matcher", `grid_peer_connected{handler="x"}`, ""},
		{"a grouping", `sum by (handler) (grid_peer_connected)`, ""},
		{"a legend", `grid_peer_connected`, "{{handler}}"},
		{"a legend that is summed away", `sum by (instance) (grid_peer_connected)`, "{{peer}}"},
	} {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(q.expr)
		if err != nil {
			t.Fatal(err)
		}
		var found faults
		e.check(&found, q, expr, make(map[string]bool))
		if found == 0 {
			t.Errorf("%s that is wrong is not found in %s", q.title, q.expr)
		}
	}
	for name := range strings.FieldsSeq("grid_peer_round_trip_seconds grid_handler_duration_seconds_count") {
		if e[name] == nil {
			t.Errorf("%s is not exposed", name)
		}
	}
}
