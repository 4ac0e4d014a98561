package scenario

import (
	"math"
	"testing"
	"time"
)

// TestEveryCaseRuns runs each case with each contender for a moment. It does not judge what is
// measured.
func TestEveryCaseRuns(t *testing.T) {
	o := Options{Warm: time.Millisecond, Time: time.Millisecond, Rounds: 1, Small: true}
	for _, s := range Sections(o, true) {
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
	for _, s := range Sections(Options{}, true) {
		if s.Name == "" || s.Title == "" || s.Text == "" || len(s.Cases) == 0 || seen[s.Name] {
			t.Errorf("section %q lacks something or is there twice", s.Name)
		}
		seen[s.Name] = true
		for _, c := range s.Cases {
			r := Result{Case: c}
			for _, name := range append(c.Contenders, c.Baseline) {
				known := false
				for _, k := range s.Contenders() {
					known = known || k == name
				}
				if !known {
					t.Errorf("%s, %s: no contender is named %q", s.Name, c.Name, name)
				}
			}
			if _, ok := r.Of("nobody"); ok {
				t.Error("nobody has figures")
			}
		}
	}
}
