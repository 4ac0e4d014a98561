package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid/bench/measure"
	"github.com/gridmesh/grid/bench/scenario"
)

// example has two cases of three contenders, one of which failed in the second.
func example() *Report {
	names := []string{"limit", "grid", "grpc"}
	columns := []scenario.Column{{Name: "time", Unit: "ns"}, {Name: "allocations"}}
	result := func(name string, series ...measure.Series) scenario.Result {
		return scenario.Result{
			Case:   scenario.Case{Name: name, Columns: columns, Contenders: names[:len(series)], Baseline: "limit"},
			Series: series,
		}
	}
	figures := func(time, allocs float64) measure.Series {
		return measure.Series{Rounds: [][]float64{{time, allocs}, {time * 2, allocs}, {time, allocs}}}
	}
	results := []scenario.Result{
		result("2 callers", figures(1000, 0), figures(1500, 2.5), figures(40000, 145)),
		result("16 callers", figures(500, 0), figures(1000, 2.5), measure.Series{Err: errors.New("broken")}),
	}
	return &Report{
		Machine: Machine{
			CPU: "a CPU", Cores: 2, Procs: 2, OS: "an OS", Go: "go1.26",
			Versions: map[string]string{"google.golang.org/grpc": "v1.2.3"},
		},
		Command: "gridbench -x",
		Plotted: true,
		Sections: []Section{{
			Section: scenario.Section{
				Name: "echo", Title: "Echo", Text: "About it.",
				Cases: []scenario.Case{results[0].Case, results[1].Case},
			},
			Results: results,
		}},
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := example().WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{
		"# Benchmarks\n",
		"`gridbench -x`",
		"a CPU, 2 cores, an OS, go1.26, GOMAXPROCS=2",
		"![Calls per second of each contender](benchmarks.svg)",
		"## Echo\n\nAbout it. 3 rounds.\n",
		"| | 2 callers, ns | 16 callers, ns | allocations |\n|---|---:|---:|---:|\n",
		"| limit | 1,000 (1.00×) | 500 (1.00×) | 0 |\n",
		"| grid | 1,500 (1.50×) | 1,000 (2.00×) | 2.5 |\n",
		"| grpc | 40,000 (40×) | failed | failed |\n",
		"google.golang.org/grpc v1.2.3",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no\n%s\nin\n%s", want, got)
		}
	}
}

func TestTables(t *testing.T) {
	columns := []scenario.Column{{Name: "p50"}, {Name: "p99"}, {Name: "failed"}}
	result := func(name, baseline string, contenders []string, figures ...[]float64) scenario.Result {
		res := scenario.Result{Case: scenario.Case{Name: name, Columns: columns, Contenders: contenders, Baseline: baseline}}
		for _, f := range figures {
			res.Series = append(res.Series, measure.Series{Rounds: [][]float64{f}})
		}
		return res
	}
	broken := result("broken", "limit", []string{"limit", "grid"}, []float64{1, 1, 1}, nil)
	broken.Series[1] = measure.Series{Err: errors.New("broken")}
	s := Section{
		Section: scenario.Section{Title: "Title", Text: "Text.", Tables: []scenario.Table{
			{Title: "Times", Columns: []int{0, 1}, Ratio: true},
			{Title: "Failures", Columns: []int{2}, NotZero: true},
		}},
		Results: []scenario.Result{
			result("some", "limit", []string{"limit", "grid", "grpc"}, []float64{10, 20, 0}, []float64{15, 40, 0}, []float64{100, 200, 3}),
			result("few", "limit", []string{"grid"}, []float64{7, 8, 0}),
			result("earlier", scenario.Before, []string{"grid", scenario.Before}, []float64{7, 8, 0}, []float64{14, 20, 0}),
			broken,
		},
	}
	const want = `## Title

Text. One round.

Times:

| | limit | grid | before | grpc |
|---|---:|---:|---:|---:|
| some | 10 / 20 | 15 / 40 (1.50×) | | 100 / 200 (10×) |
| few | | 7 / 8 | | |
| earlier | | 7 / 8 (0.50×) | 14 / 20 | |
| broken | 1 / 1 | failed | | |

Failures:

| | limit | grid | before | grpc |
|---|---:|---:|---:|---:|
| some | 0 | 0 | | 3 |
| broken | 1 | failed | | |

`
	var b strings.Builder
	if s.write(&b, nil); b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestBusyMachineIsTold(t *testing.T) {
	for load, want := range map[string]bool{"": false, "0.10": false, "8.49": true} {
		r := example()
		r.Machine.Load = load
		var b strings.Builder
		if err := r.WriteMarkdown(&b); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(b.String(), "was busy"); got != want {
			t.Errorf("load %q: told is %v", load, got)
		}
	}
}

func TestFailures(t *testing.T) {
	all := example().Failures()
	if len(all) != 1 || !strings.Contains(all[0].Error(), "Echo, 16 callers: broken") {
		t.Errorf("%v", all)
	}
}

func TestPlot(t *testing.T) {
	var b strings.Builder
	if err := example().WritePlot(example().Plots()[0], &b); err != nil {
		t.Fatal(err)
	}
	texts := 0
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "text" {
			texts++
		}
	}
	if texts == 0 {
		t.Error("the plot has no texts")
	}
	for _, want := range []string{"grid", "2 callers", "Echo"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the plot does not show %q", want)
		}
	}
}

// TestPlotsOfAllSections has figures for all cases, for few, and none but failures.
func TestPlotsOfAllSections(t *testing.T) {
	for _, small := range []bool{false, true} {
		all := scenario.Sections(scenario.Options{Small: small})
		for _, series := range []measure.Series{{Rounds: [][]float64{slices.Repeat([]float64{1}, 10)}}, {Err: errors.New("broken")}} {
			r := new(Report)
			for _, s := range all {
				measured := Section{Section: s}
				for _, c := range s.Cases {
					measured.Results = append(measured.Results, scenario.Result{Case: c, Series: slices.Repeat([]measure.Series{series}, len(c.Contenders))})
				}
				r.Add(measured, all)
			}
			if got := len(r.Plots()); got != len(allPlots) {
				t.Errorf("%d plots, want %d", got, len(allPlots))
			}
			for _, p := range r.Plots() {
				if err := r.WritePlot(p, io.Discard); err != nil {
					t.Errorf("%s: %v", p.File, err)
				}
			}
		}
	}
}

func TestPlotNeedsItsSection(t *testing.T) {
	if err := new(Report).WritePlot(allPlots[0], io.Discard); err == nil {
		t.Error("a plot of nothing")
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		in   float64
		want string
	}{
		{0, "0"},
		{0.004, "0"},
		{0.04, "0.04"},
		{2.54, "2.5"},
		{2, "2"},
		{99.6, "100"},
		{999, "999"},
		{1000, "1,000"},
		{1234567, "1,234,567"},
		{-1234, "-1,234"},
		{math.NaN(), "-"},
		{math.Inf(1), "-"},
	} {
		if got := Number(tt.in); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestThisMachine(t *testing.T) {
	m := ThisMachine()
	if m.CPU == "" || m.OS == "" || m.Cores < 1 || m.Procs < 1 || !strings.HasPrefix(m.Go, "go") && !strings.HasPrefix(m.Go, "devel") {
		t.Errorf("%+v", m)
	}
}
