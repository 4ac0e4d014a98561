package gridotel

import (
	"context"
	"fmt"
	"testing"

	"github.com/gridmesh/grid"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// No call of a large mesh ends in the overflow of a metric of the project: these have no peer.
func TestMetricsOfAMeshDoNotOverflow(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	i := NewInterceptor(WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample()))),
		WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	const peers, methods = 100, 50
	for peer := range peers {
		for method := range methods {
			info := &grid.CallInfo{Method: fmt.Sprintf("kv.%d", method), Local: "http://here:1", Remote: fmt.Sprintf("http://peer%d:1", peer)}
			_, err := i.ClientRequest(t.Context(), info, nil, func(ctx context.Context, req []byte) ([]byte, error) {
				return i.ServerRequest(ctx, info, req, func(context.Context, []byte) ([]byte, error) { return nil, nil })
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		var points int
		switch data := m.Data.(type) {
		case metricdata.Histogram[int64]:
			points = len(data.DataPoints)
		case metricdata.Sum[int64]:
			points = len(data.DataPoints)
		case metricdata.Histogram[float64]:
			if m.Name == "rpc.client.call.duration" { // has to have the peer
				continue
			}
			points = len(data.DataPoints)
		}
		if points != methods {
			t.Errorf("%s has %d sets of attributes, want %d", m.Name, points, methods)
		}
	}
}

// Labels are made once, again where the peer has another address, and do not become too many.
func TestLabelsAreKept(t *testing.T) {
	c := newConfig(nil)
	var s side
	s.init(c.meter(), 0, &c)
	info := grid.CallInfo{Method: "kv.Get", Local: "http://a:1", Remote: "http://b:1", RemoteAddr: "10.0.0.2:1"}
	first := s.of(&info)
	if s.of(&info) != first {
		t.Error("labels are made anew")
	}
	info.RemoteAddr = "10.0.0.3:1"
	if second := s.of(&info); second == first || second.address != info.RemoteAddr {
		t.Error("a new address has the old labels")
	}
	for guest := range 3 * maxLabels {
		info.Remote = fmt.Sprint("guest", guest)
		s.of(&info)
		if len(s.cache.all) > maxLabels {
			t.Fatalf("%d labels are kept", len(s.cache.all))
		}
	}
}
