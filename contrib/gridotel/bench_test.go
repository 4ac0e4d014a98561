package gridotel

import (
	"context"
	"testing"

	"github.com/gridmesh/grid"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// What the interceptor costs a call, at the caller and at the handler together, without the network.
func BenchmarkInterceptor(b *testing.B) {
	for name, opts := range map[string][]Option{
		"noop": {WithTracerProvider(tracenoop.NewTracerProvider()), WithMeterProvider(metricnoop.NewMeterProvider())},
		"sdk": {
			WithTracerProvider(sdktrace.NewTracerProvider()),
			WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))),
		},
	} {
		b.Run(name, func(b *testing.B) {
			i := NewInterceptor(opts...)
			info := &grid.CallInfo{Method: "kv.Get", Handler: grid.HandlerNamed, Local: "http://10.0.0.1:9000", Remote: "http://10.0.0.2:9000"}
			there := &grid.CallInfo{Method: info.Method, Handler: info.Handler, Local: info.Remote, Remote: info.Local}
			payload := make([]byte, 100)
			b.ReportAllocs()
			for b.Loop() {
				_, err := i.ClientRequest(b.Context(), info, payload, func(ctx context.Context, req []byte) ([]byte, error) {
					return i.ServerRequest(ctx, there, req, func(context.Context, []byte) ([]byte, error) { return payload, nil })
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
