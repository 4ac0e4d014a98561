package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gridmesh/grid/bench/measure"
	"github.com/gridmesh/grid/bench/scenario"
)

func markdown(t *testing.T, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestStoreAndLoad(t *testing.T) {
	all := scenario.Sections(scenario.Options{})
	measured := new(Report)
	for _, s := range example().Sections {
		measured.Add(s, all)
	}
	file := filepath.Join(t.TempDir(), "results")
	if err := measured.Store(file); err != nil {
		t.Fatal(err)
	}
	loaded := new(Report)
	if err := loaded.Load(file, all); err != nil {
		t.Fatal(err)
	}
	if got, want := markdown(t, loaded), markdown(t, measured); got != want || !strings.Contains(got, "1,500 (1.50×)") {
		t.Errorf("loaded:\n%s\nstored:\n%s", got, want)
	}
	if len(loaded.Failures()) != 1 {
		t.Errorf("failures: %v, want that of the example", loaded.Failures())
	}
}

// TestWhatIsMeasuredReplacesWhatIsLoaded has a case and a section that the file does not have, and
// they end up where they belong.
func TestWhatIsMeasuredReplacesWhatIsLoaded(t *testing.T) {
	all := scenario.Sections(scenario.Options{})
	r := new(Report)
	for _, s := range example().Sections {
		r.Add(s, all)
	}
	section := func(name, title string, time float64) Section {
		return Section{
			Section: scenario.Section{Name: name},
			Results: []scenario.Result{{
				Case:   scenario.Case{Name: title, Columns: []scenario.Column{{Name: "time"}}, Contenders: []string{"grid"}},
				Series: []measure.Series{{Rounds: [][]float64{{time}}}},
			}},
		}
	}
	r.Add(section("idle", "a pair", 1), all)
	r.Add(section("tls", "2 callers", 2), all)
	r.Add(section("echo", "16 callers", 3), all)
	r.Add(section("echo", "no such case", 4), all)
	r.Add(section("no such section", "2 callers", 5), all)
	var got []string
	for _, s := range r.Sections {
		for _, res := range s.Results {
			grid, _ := res.Of("grid")
			got = append(got, s.Name+", "+res.Name+": "+Number(grid.Median(0)))
		}
	}
	want := "echo, 2 callers: 1,500; echo, 16 callers: 3; tls, 2 callers: 2; idle, a pair: 1"
	if strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}

func TestLoadOfAnotherFile(t *testing.T) {
	r, dir := new(Report), t.TempDir()
	if err := r.Load(filepath.Join(dir, "nothing"), nil); err != nil || len(r.Sections) > 0 {
		t.Errorf("a file that is not there: %v", err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("# Benchmarks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(other, nil); err == nil {
		t.Error("a file of something else: no error")
	}
}
