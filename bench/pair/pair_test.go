package pair

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/link"
	"github.com/gridmesh/grid/bench/load"
)

func TestMain(m *testing.M) {
	BeNode()
	os.Exit(m.Run())
}

func TestContendersInTwoProcesses(t *testing.T) {
	for _, c := range contender.All() {
		if !c.Apart {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			r, err := Run(Config{Contender: c.Name, Others: 2}, load.Spec{
				Kind: load.Calls, Callers: 2, Size: 100, Time: 20 * time.Millisecond, Timed: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.Done == 0 || r.Failed > 0 || r.CPU <= 0 || r.P50 <= 0 || r.Fewest > r.Most || r.Peak[0] < 1<<20 || r.Peak[1] < 1<<20 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestCPUIsThatOfBoth has the process compute that does not measure.
func TestCPUIsThatOfBoth(t *testing.T) {
	const compute = 50 * time.Millisecond
	r, err := Run(Config{Contender: "grid"}, load.Spec{
		Kind: load.Calls, Callers: 2, Size: 100, Once: true, Task: contender.Task{Answer: 10, Compute: compute},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Done != 2 || r.CPU < compute {
		t.Errorf("%d calls took %v of CPU, want at least %v for each", r.Done, r.CPU, compute)
	}
}

func TestFailures(t *testing.T) {
	quick := load.Spec{Kind: load.Calls, Callers: 1, Size: 10}
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\necho no node here >&2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		config Config
		spec   load.Spec
		want   string
	}{
		{"unknown contender", Config{Contender: "pigeons"}, quick, "pigeons"},
		{"contender of one process", Config{Contender: "yamux"}, quick, "several processes"},
		{"unknown load", Config{Contender: "grid"}, load.Spec{Kind: "none"}, "no load"},
		{"streams without streams", Config{Contender: "net/rpc"}, load.Spec{Kind: load.Streams, Callers: 1}, "no streams"},
		{"program that is none", Config{Contender: "grid", Program: silent + "?"}, quick, "no such file"},
		{"program that is no node", Config{Contender: "grid", Program: silent}, quick, "no node here"},
		{"too large requests", Config{Contender: "grid"}, load.Spec{Kind: load.Calls, Callers: 1, Size: 65 << 20, Once: true}, "too large"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Run(tt.config, tt.spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want something with %q", err, tt.want)
			}
		})
	}
}

func TestOutage(t *testing.T) {
	if err := link.Able(link.Cable); err != nil {
		t.Skip("SKIPPED: ", err)
	}
	const lasts = 100 * time.Millisecond
	r, err := Run(Config{Contender: "grid", Link: link.Spec{Kind: link.Cable, Rate: 1e9}, Outage: lasts}, load.Spec{
		Kind: load.Paced, Rate: 100, Size: 100, Timed: true, Time: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if first, all := r.Recovery(); first <= 0 || all <= 0 || r.Max < lasts/2 {
		t.Errorf("after an outage of %v: first %v, all %v, longest %v", lasts, first, all, r.Max)
	}
}

func TestRecovery(t *testing.T) {
	healed := time.Now()
	sample := func(began, ended int, ok bool) load.Sample { // in milliseconds after the outage
		at := func(n int) time.Time { return healed.Add(time.Duration(n) * time.Millisecond) }
		return load.Sample{Began: at(began), Ended: at(ended), OK: ok}
	}
	for _, tt := range []struct {
		name       string
		samples    []load.Sample
		first, all int64 // in milliseconds
	}{
		{"answers come late", []load.Sample{sample(-9, -8, true), sample(-5, 7, true), sample(-4, 3, true), sample(1, 20, true)}, 3, 7},
		{"calls fail first", []load.Sample{sample(-5, 2, false), sample(-4, 9, false), sample(5, 6, true)}, 6, 9},
		{"nothing comes", []load.Sample{sample(-5, -4, true)}, 0, 0},
	} {
		first, all := Result{Result: load.Result{Samples: tt.samples}, Healed: healed}.Recovery()
		if first.Milliseconds() != tt.first || all.Milliseconds() != tt.all || first == 0 {
			t.Errorf("%s: first %v, all %v; want %d and %d ms", tt.name, first, all, tt.first, tt.all)
		}
	}
}
