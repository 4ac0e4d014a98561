package gridprom

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// gather returns the metrics of a node by name.
func gather(t *testing.T, m *grid.Manager) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(New(m))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// Calls are counted for the peer that they went to, of all handlers together, and only at the
// caller.
func TestCallsByPeer(t *testing.T) {
	here, there := startGrid(t)
	if err := there.Handle("kv.Get", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }); err != nil {
		t.Fatal(err)
	}
	call(t, here, there, 3)
	if _, err := here.Connection(there.HostName()).Call(t.Context(), "kv.Get", nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		m             *grid.Manager
		calls, failed float64
	}{{here, 5, 1}, {there, 0, 0}} {
		all := gather(t, test.m)
		if got := all["grid_peer_calls_total"].GetMetric()[0].GetCounter().GetValue(); got != test.calls {
			t.Errorf("%v calls to the peer, want %v", got, test.calls)
		}
		for _, e := range all["grid_peer_call_errors_total"].GetMetric() {
			want := 0.0
			if e.GetLabel()[0].GetValue() == "handler_error" {
				want = test.failed
			}
			if got := e.GetCounter().GetValue(); got != want {
				t.Errorf("%v errors, want %v: %v", got, want, e)
			}
		}
		h := all["grid_peer_call_duration_seconds"].GetMetric()[0].GetHistogram()
		b := h.GetBucket()
		if h.GetSampleCount() != uint64(test.calls) || (h.GetSampleSum() > 0) != (test.calls > 0) || len(b) != 12 {
			t.Fatalf("%v", h)
		}
		if b[0].GetUpperBound() != 16.384e-6 || b[1].GetUpperBound() != 65.536e-6 || b[11].GetUpperBound() != 68.719476736 ||
			b[11].GetCumulativeCount() != uint64(test.calls) {
			t.Errorf("%v", h)
		}
	}
}

// README.md says how many series there are.
func TestNumberOfSeries(t *testing.T) {
	const fixed, perPeer, perHandler = 59, 54, 39
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if formula := fmt.Sprintf("%d + %d × peers + %d × handlers", fixed, perPeer, perHandler); !strings.Contains(string(readme), formula) {
		t.Errorf("README.md does not have %q", formula)
	}
	here, there := startGrid(t)
	call(t, here, there, 3)
	here.Health(t.Context())
	for _, peers := range []int{1, 3} {
		for i := range peers - 1 {
			addHost(t, here, fmt.Sprintf("http://127.0.0.%d:1", i+2))
		}
		handlers := len(here.Stats().Handlers)
		absent := 2 * (peers - 1) // no round trip and no pong yet
		const codes = 1           // of the handler that has failed
		want := fixed + perPeer*peers + perHandler*handlers + codes - absent
		if got := countSeries(gather(t, here)); got != want {
			t.Errorf("%d series with %d peers and %d handlers, want %d", got, peers, handlers, want)
		}
	}
}

// countSeries counts as a server does that scrapes them.
func countSeries(all map[string]*dto.MetricFamily) (n int) {
	for _, f := range all {
		for _, m := range f.GetMetric() {
			n++
			if h := m.GetHistogram(); h != nil {
				n += len(h.GetBucket()) + 2 // the last bucket, sum and count in place of one
			}
		}
	}
	return n
}

func addHost(t *testing.T, m *grid.Manager, host string) {
	t.Helper()
	hosts := []string{m.HostName(), host}
	for _, p := range m.Stats().Peers {
		hosts = append(hosts, p.Remote)
	}
	if err := m.SetHosts(hosts); err != nil {
		t.Fatal(err)
	}
}

// Every counter and histogram says since when it counts: for a peer, since that is one of the hosts.
func TestCreatedTimestamps(t *testing.T) {
	here, there := startGrid(t)
	call(t, here, there, 3)
	started := here.Stats().Started
	for !time.Now().After(started) { // of clocks that tick slowly
		time.Sleep(time.Millisecond)
	}
	const later = "http://127.0.0.2:1"
	addHost(t, here, later)
	added := here.Connection(later).Stats().Added
	if !added.After(started) {
		t.Fatalf("added at %v to a node that began at %v", added, started)
	}
	counted := 0
	for name, f := range gather(t, here) {
		for _, m := range f.GetMetric() {
			var got time.Time
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				got = m.GetCounter().GetCreatedTimestamp().AsTime()
			case dto.MetricType_HISTOGRAM:
				got = m.GetHistogram().GetCreatedTimestamp().AsTime()
			default:
				continue
			}
			counted++
			want := started
			for _, l := range m.GetLabel() {
				if l.GetName() == "peer" {
					want = here.Connection(l.GetValue()).Stats().Added
				}
			}
			if !got.Equal(want) {
				t.Errorf("%s was created at %v, want %v: %v", name, got, want, m)
			}
		}
	}
	if counted < 100 {
		t.Errorf("only %d are counters or histograms", counted)
	}
}
