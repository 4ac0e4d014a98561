package scenario

import (
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gridmesh/grid/bench/pair"
)

func TestMain(m *testing.M) {
	pair.BeNode()
	os.Exit(m.Run())
}

// TestEveryCaseRuns runs each case with each contender for a moment. It does not judge what is
// measured.
func TestEveryCaseRuns(t *testing.T) {
	o := Options{Warm: time.Millisecond, Time: time.Millisecond, Rounds: 1, Small: true}
	for _, s := range Sections(o) {
		for _, c := range s.Cases {
			t.Run(s.Name+"/"+c.Name, func(t *testing.T) {
				r := c.Run(o, func(string) {})
				for i, name := range c.Contenders {
					series := r.Series[i]
					if series.Err != nil {
						t.Errorf("%s: %v", name, series.Err)
						continue
					}
					if len(series.Rounds) != 1 || len(series.Rounds[0]) != len(c.Columns) {
						t.Errorf("%s has figures %v for the columns %v", name, series.Rounds, c.Columns)
						continue
					}
					for j, v := range series.Rounds[0] {
						if math.IsNaN(v) || math.IsInf(v, 0) {
							t.Errorf("%s: %s is %v", name, c.Columns[j].Name, v)
						}
					}
				}
			})
		}
	}
}

func TestSectionsAreWhole(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range Sections(Options{}) {
		if s.Name == "" || s.Title == "" || s.Text == "" || len(s.Cases) == 0 || seen[s.Name] {
			t.Errorf("section %q lacks something or is there twice", s.Name)
		}
		seen[s.Name] = true
		var results []Result
		for _, c := range s.Cases {
			results = append(results, Result{Case: c})
		}
		known := Contenders(results)
		for _, r := range results {
			c := r.Case
			for _, name := range append(c.Contenders, c.Baseline) {
				if name != "" && !slices.Contains(known, name) {
					t.Errorf("%s, %s: no contender is named %q", s.Name, c.Name, name)
				}
			}
			for _, shown := range s.Tables {
				if slices.Max(shown.Columns) >= len(c.Columns) {
					t.Errorf("%s, %s: there is no column %d", s.Name, c.Name, slices.Max(shown.Columns))
				}
			}
			if _, ok := r.Of("nobody"); ok {
				t.Error("nobody has figures")
			}
		}
	}
}
