package gridotel_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridotel"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// Two nodes share a trace: the handler's span is a child of the caller's.
func Example() {
	spans := tracetest.NewInMemoryExporter() // a real program exports them with OTLP
	telemetry := gridotel.NewInterceptor(
		gridotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))),
		gridotel.WithPropagator(propagation.TraceContext{}),
	)
	servers := []*httptest.Server{httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)}
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, "http://"+s.Listener.Addr().String())
	}
	var nodes []*grid.Manager
	for i, s := range servers {
		m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:        hosts[i],
			Hosts:        hosts,
			AuthRequest:  func(*http.Request) error { return nil },
			Logger:       slog.New(slog.DiscardHandler),
			Interceptors: []grid.Interceptor{telemetry},
		})
		if err != nil {
			log.Fatal(err)
		}
		err = m.RegisterSingleHandler(grid.HandlerUserFirst+20, func(name []byte) ([]byte, *grid.RemoteErr) {
			return append([]byte("hello, "), name...), nil
		})
		if err != nil {
			log.Fatal(err)
		}
		s.Config.Handler = m.Handler()
		s.Start()
		defer s.Close()
		defer m.Close()
		nodes = append(nodes, m)
	}
	conn := nodes[0].Connection(hosts[1])
	if err := conn.WaitForConnect(context.Background()); err != nil {
		log.Fatal(err)
	}
	answer, err := conn.Request(context.Background(), grid.HandlerUserFirst+20, []byte("world"))
	fmt.Printf("%s %v\n", answer, err)
	for _, s := range spans.GetSpans() {
		fmt.Println(s.SpanKind, s.Parent.IsValid(), s.Parent.IsRemote())
	}
	// Output:
	// hello, world <nil>
	// server true true
	// client false false
}
