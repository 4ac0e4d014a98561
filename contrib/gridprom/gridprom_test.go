package gridprom

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

const echo = grid.HandlerUserFirst

// startGrid returns two connected nodes, the second with an echo.
func startGrid(t *testing.T) (here, there *grid.Manager) {
	t.Helper()
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	here, there = g.Managers[0], g.Managers[1]
	err = there.RegisterSingleHandler(echo, func(b []byte) ([]byte, *grid.RemoteErr) {
		if len(b) == 0 {
			return nil, grid.NewRemoteErrString("nothing to say")
		}
		return b, nil
	}, "disks/sda")
	if err != nil {
		t.Fatal(err)
	}
	return here, there
}

// call calls the echo n times, and once in vain.
func call(t *testing.T, here, there *grid.Manager, n int) {
	t.Helper()
	r := here.Connection(there.HostName()).Subroute("disks/sda")
	for range n {
		if _, err := r.Request(t.Context(), echo, []byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Request(t.Context(), echo, nil); err == nil {
		t.Fatal("the handler did not fail")
	}
}

func TestLint(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 3)
	here.Health(context.Background())
	for _, m := range []*grid.Manager{here, there} {
		problems, err := testutil.CollectAndLint(New(m))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// Every metric that is described is collected, once for each set of labels.
func TestCollectsWhatItDescribes(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 3)
	here.Health(t.Context())
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(here))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if len(families) != len(all) {
		t.Errorf("%d metrics, want %d", len(families), len(all))
	}
	for _, d := range all {
		if !slices.ContainsFunc(families, func(f *dto.MetricFamily) bool {
			return strings.Contains(d.String(), fmt.Sprintf("fqName: %q", f.GetName()))
		}) {
			t.Errorf("not collected: %v", d)
		}
	}
}

func TestValues(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 3)
	for _, test := range []struct {
		name string
		m    *grid.Manager
		want string
	}{
		{"grid_handler_calls_total", here, `
			grid_handler_calls_total{handler="HandlerID(128)",id="128",role="client",subroute=""} 4`},
		{"grid_handler_calls_total", there, `
			grid_handler_calls_total{handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 4`},
		{"grid_handler_errors_total", there, `
			grid_handler_errors_total{cause="canceled",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="deadline_exceeded",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="disconnected",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="handler_error",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 1
			grid_handler_errors_total{cause="other",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="overloaded",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="shutdown",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="unknown_handler",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0`},
		{"grid_peer_refused_calls_total", there, `
			grid_peer_refused_calls_total{limit="MaxRequestBytes",peer="` + here.HostName() + `"} 0
			grid_peer_refused_calls_total{limit="MaxRequests",peer="` + here.HostName() + `"} 0
			grid_peer_refused_calls_total{limit="MaxStreamBytes",peer="` + here.HostName() + `"} 0
			grid_peer_refused_calls_total{limit="MaxStreams",peer="` + here.HostName() + `"} 0`},
		{"grid_peer_connected", here, `
			grid_peer_connected{peer="` + there.HostName() + `"} 1`},
		{"grid_peer_state", here, `
			grid_peer_state{peer="` + there.HostName() + `",state="Connected"} 1
			grid_peer_state{peer="` + there.HostName() + `",state="Connecting"} 0
			grid_peer_state{peer="` + there.HostName() + `",state="ConnectionError"} 0
			grid_peer_state{peer="` + there.HostName() + `",state="Shutdown"} 0
			grid_peer_state{peer="` + there.HostName() + `",state="Unconnected"} 0`},
	} {
		got, err := testutil.CollectAndFormat(New(test.m), expfmt.TypeTextPlain, test.name)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(got)) {
			if !strings.HasPrefix(line, "#") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		want := strings.Fields(strings.ReplaceAll(test.want, " ", "\x00"))
		for i := range want {
			want[i] = strings.Trim(strings.ReplaceAll(want[i], "\x00", " "), " ")
		}
		if !slices.Equal(lines, want) {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestHistogram(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 10)
	registry := prometheus.NewRegistry()
	registry.MustRegister(New(there))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "grid_handler_duration_seconds" {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		b := h.GetBucket()
		if h.GetSampleCount() != 11 || h.GetSampleSum() <= 0 || len(b) != grid.LatencyBuckets-1 {
			t.Fatalf("%v", h)
		}
		if b[0].GetUpperBound() != 8.192e-6 || b[len(b)-1].GetUpperBound() != 68.719476736 || b[len(b)-1].GetCumulativeCount() != 11 {
			t.Errorf("%v", h)
		}
		return
	}
	t.Error("there is no histogram")
}

// Two nodes of one process can share a registry, and a nil Manager has no metrics.
func TestSeveralNodes(t *testing.T) {
	here, there := startGrid(t)
	registry := prometheus.NewPedanticRegistry()
	for name, m := range map[string]*grid.Manager{"here": here, "there": there, "nil": nil} {
		prometheus.WrapRegistererWith(prometheus.Labels{"grid": name}, registry).MustRegister(New(m))
	}
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(New(nil)); n != 0 {
		t.Errorf("a nil Manager has %d metrics", n)
	}
}
