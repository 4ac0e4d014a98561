package gridprom

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
			grid_handler_errors_total{cause="removed",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="shutdown",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0
			grid_handler_errors_total{cause="unknown_handler",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 0`},
		{"grid_handler_error_codes_total", there, `
			grid_handler_error_codes_total{code="Unknown",handler="HandlerID(128)",id="128",role="server",subroute="disks/sda"} 1`},
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

// What was counted with a host that is removed stays in the sum.
func TestRemovedHosts(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 3)
	before := value(t, here, "grid_peer_sent_messages_total")
	if err := here.SetHosts(nil); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); value(t, here, "grid_removed_hosts_total") != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the host is not gone")
		}
	}
	for name, want := range map[string]float64{"grid_removed_hosts_leaving": 0, "grid_removed_connects_total": 1, "grid_removed_reconnects_total": 0} {
		if got := value(t, here, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := value(t, here, "grid_removed_sent_messages_total"); got < before || got < 4 {
		t.Errorf("%v messages were sent to the removed host, and %v before it was removed", got, before)
	}
}

// Guests are counted together, also those that are gone.
func TestGuests(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       url,
		AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(_ *http.Request, name string) error {
			if name != "welcome" {
				return errors.New("not welcome")
			}
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = m.Handler()
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(func() { m.Close() })
	join := func(name string) *grid.Manager {
		guest, err := grid.Join(t.Context(), url, grid.ManagerOptions{Local: name, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { guest.Close() })
		return guest
	}
	reaches := func(name string, want float64) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); value(t, m, name) != want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %v, want %v", name, value(t, m, name), want)
			}
		}
	}
	guest := join("welcome")
	reaches("grid_guests", 1)
	join("unwelcome")
	reaches("grid_guests_rejected_total", 1)
	guest.Close()
	reaches("grid_guests", 0)
	reaches("grid_guests_leaving", 0)
	if value(t, m, "grid_guests_connects_total") != 1 || value(t, m, "grid_guests_received_bytes_total") == 0 {
		t.Error("what a guest has counted is gone with it")
	}
}

// value returns that of a metric without labels, or with one peer's.
func value(t *testing.T, m *grid.Manager, name string) float64 {
	t.Helper()
	got, err := testutil.CollectAndFormat(New(m), expfmt.TypeTextPlain, name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(got)) {
		if fields := strings.Fields(line); !strings.HasPrefix(line, "#") {
			v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s", name)
	return 0
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
