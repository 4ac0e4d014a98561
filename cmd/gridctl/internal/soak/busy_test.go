package soak

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestSoakJudgesTheBusyNode(t *testing.T) {
	calls := func(longest time.Duration) (c BusyCalls) {
		c.add(time.Millisecond, nil)
		c.add(longest, nil)
		c.add(2*time.Millisecond, nil)
		return c
	}
	failed := calls(time.Second)
	failed.add(time.Second, errors.New("no such luck"))
	failed.add(time.Second, errors.New("nor such"))
	for _, c := range []struct {
		name      string
		grid, rpc BusyCalls
		want      string // a part of what is wrong; empty for nothing
	}{
		{"the same", calls(time.Second), calls(time.Second), ""},
		{"slower", calls(10 * time.Second), calls(time.Second), ""},
		{"too slow", calls(10*time.Second + 1), calls(time.Second), "more than 10 times"},
		{"failed calls", failed, calls(time.Second), "2 calls failed, the first one with: no such luck"},
		{"nothing to compare with", calls(time.Second), failed, "2 calls of net/rpc failed"},
		{"no calls", BusyCalls{}, calls(time.Second), "no call"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := (&Busy{Grid: c.grid, RPC: c.rpc}).judge()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("judged %v, want %q", err, c.want)
			}
		})
	}
}

// A busy node whose caller does not speak to it ends when its caller does, and tells of it.
func TestTheBusyNodeTellsOfItsSessions(t *testing.T) {
	var stdout, stderr strings.Builder
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	if err := RunBusyNode("http://127.0.0.1:1", strings.NewReader(""), &stdout, &stderr); err != nil {
		t.Error(err)
	}
	if out := stdout.String(); !strings.HasPrefix(out, "http://127.0.0.1:") || !strings.Contains(out, "had 0 sessions") {
		t.Errorf("it said %q", out)
	}
}
