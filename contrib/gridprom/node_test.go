package gridprom

import (
	"context"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

func TestInfo(t *testing.T) {
	here, _ := startGrid(t)
	all := gather(t, here)
	for name, want := range map[string]map[string]string{
		"grid_build_info": {"version": "unknown", "goversion": runtime.Version()}, // a test knows no versions of modules
		"grid_node_info":  {"node": here.HostName(), "version": ""},
	} {
		m := all[name].GetMetric()[0]
		if m.GetGauge().GetValue() != 1 || len(m.GetLabel()) != len(want) {
			t.Errorf("%s: %v", name, m)
		}
		for _, l := range m.GetLabel() {
			if l.GetValue() != want[l.GetName()] {
				t.Errorf("%s: %s is %q, want %q", name, l.GetName(), l.GetValue(), want[l.GetName()])
			}
		}
	}
	if v := value(t, here, "grid_node_draining"); v != 0 {
		t.Errorf("draining is %v", v)
	}
	here.Drain()
	if v := value(t, here, "grid_node_draining"); v != 1 {
		t.Errorf("draining is %v after Drain", v)
	}
}

func TestLibraryVersion(t *testing.T) {
	library := func(version string, replace *debug.Module) *debug.BuildInfo {
		deps := []*debug.Module{{Path: "example.com/other", Version: "v9.0.0"}, {Path: "github.com/gridmesh/grid", Version: version, Replace: replace}}
		return &debug.BuildInfo{Main: debug.Module{Path: "example.com/app", Version: "v8.0.0"}, Deps: deps}
	}
	for _, test := range []struct {
		info *debug.BuildInfo
		want string
	}{
		{library("v1.2.3", nil), "v1.2.3"},
		{library("v1.2.3", &debug.Module{Path: "../grid"}), "(devel)"},
		{library("v1.2.3", &debug.Module{Path: "example.com/fork", Version: "v1.2.4"}), "v1.2.4"},
		{&debug.BuildInfo{Main: debug.Module{Path: "github.com/gridmesh/grid", Version: "(devel)"}}, "(devel)"},
		{&debug.BuildInfo{Main: debug.Module{Path: "example.com/app", Version: "v8.0.0"}}, "unknown"},
	} {
		if got := libraryVersion(test.info); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestLimits(t *testing.T) {
	here, _ := startGrid(t)
	for _, m := range gather(t, here)["grid_limit"].GetMetric() {
		if name := m.GetLabel()[0].GetValue(); name == "MaxQueuedBytes" {
			if got := m.GetGauge().GetValue(); got != 256<<10 {
				t.Errorf("%s is %v", name, got)
			}
			return
		}
	}
	t.Error("no MaxQueuedBytes")
}

// A line is counted under its message; it begins with 0.
func TestLogLines(t *testing.T) {
	here, there := startGrid(t)
	lines := func() map[string]float64 {
		counts := make(map[string]float64)
		for _, m := range gather(t, there)["grid_log_lines_total"].GetMetric() {
			counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
		}
		return counts
	}
	if n, ok := lines()["handler panicked"]; n != 0 || !ok {
		t.Errorf("before a panic there are %v", n)
	}
	err := there.RegisterSingleHandlerContext(echo+1, func(context.Context, []byte) ([]byte, error) { panic("oh no") })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.Connection(there.HostName()).Request(t.Context(), echo+1, nil); grid.Classify(t.Context(), err) != grid.ErrorHandler {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); lines()["handler panicked"] != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a panic: %v", lines())
		}
	}
}

// Every message of the log that docs/operations.md has is counted, but for those of discovery, which
// belong to no node.
func TestMessages(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `grid: ([^`]*)` \\|").FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(row[1], "discovery ") {
			want = append(want, row[1])
		}
	}
	got := slices.Sorted(slices.Values(messages))
	if slices.Sort(want); len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("counted are %q, want %q", got, want)
	}
}
