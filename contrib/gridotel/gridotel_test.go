package gridotel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	handlerEcho   = grid.HandlerUserFirst
	handlerStream = grid.HandlerUserFirst + 1
)

// pair is two connected nodes with what they tell OpenTelemetry.
type pair struct {
	nodes    [2]*grid.Manager
	tracers  *sdktrace.TracerProvider
	exporter *tracetest.InMemoryExporter
	reader   *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
}

// startPair starts two nodes; calls go from the first to the second. more are interceptors of both,
// behind gridotel's.
func startPair(t *testing.T, opts []Option, more ...grid.Interceptor) *pair {
	t.Helper()
	p := &pair{exporter: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	p.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(p.exporter))
	p.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(p.reader))
	opts = append([]Option{
		WithTracerProvider(p.tracers),
		WithMeterProvider(p.meters),
		WithPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
	}, opts...)
	var hosts []string
	var listeners []net.Listener
	for range p.nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		hosts = append(hosts, "http://"+l.Addr().String())
	}
	for i := range p.nodes {
		m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:        hosts[i],
			Hosts:        hosts,
			AuthRequest:  func(*http.Request) error { return nil },
			Logger:       slog.New(slog.DiscardHandler),
			Interceptors: append([]grid.Interceptor{NewInterceptor(opts...)}, more...),
		})
		if err != nil {
			t.Fatal(err)
		}
		p.nodes[i] = m
		server := &http.Server{Handler: m.Handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
		var wg sync.WaitGroup
		wg.Go(func() { server.Serve(listeners[i]) })
		t.Cleanup(func() {
			m.Close()
			server.Close()
			wg.Wait()
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range p.nodes {
		if err := p.conn(i).WaitForConnect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	p.register(t)
	return p
}

// conn is the connection of a node to the other.
func (p *pair) conn(i int) *grid.Connection { return p.nodes[i].Connection(p.nodes[1-i].HostName()) }

// register registers handlers that echo, or fail with what they are given after "fail ".
func (p *pair) register(t *testing.T) {
	t.Helper()
	for _, m := range p.nodes {
		err := errors.Join(
			m.RegisterSingleHandler(handlerEcho, func(b []byte) ([]byte, *grid.RemoteErr) {
				if text, ok := strings.CutPrefix(string(b), "fail "); ok {
					return nil, grid.NewRemoteErrString(text)
				}
				return b, nil
			}),
			m.RegisterStreamingHandler(handlerStream, grid.StreamHandler{
				InCapacity:  2,
				OutCapacity: 2,
				Handle: func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
					for b := range in {
						select {
						case out <- append(b, b...):
						case <-ctx.Done():
						}
					}
					if text, ok := strings.CutPrefix(string(payload), "fail "); ok {
						return grid.NewRemoteErrString(text)
					}
					return nil
				},
			}))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stream opens a stream, sends n messages of 10 bytes and reads to the end.
func (p *pair) stream(ctx context.Context, payload string, n int) error {
	st, err := p.conn(0).NewStream(ctx, handlerStream, []byte(payload))
	if err != nil {
		return err
	}
	go func() {
		defer close(st.Requests)
		for range n {
			st.Send(make([]byte, 10))
		}
	}()
	return st.Results(func([]byte) error { return nil })
}

// spans waits for n spans to end and returns them by kind and name, as in "client Echo".
func (p *pair) spans(t *testing.T, n int) map[string]tracetest.SpanStub {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); len(p.exporter.GetSpans()) < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d spans, want %d: %+v", len(p.exporter.GetSpans()), n, p.exporter.GetSpans())
		}
	}
	spans := make(map[string]tracetest.SpanStub)
	for _, s := range p.exporter.GetSpans() {
		spans[s.SpanKind.String()+" "+s.Name] = s
	}
	if len(spans) != n {
		t.Fatalf("%d different spans, want %d: %+v", len(spans), n, p.exporter.GetSpans())
	}
	p.exporter.Reset()
	return spans
}

// attributes are those of a span, as text.
func attributes(s tracetest.SpanStub) map[string]string {
	m := make(map[string]string)
	for _, a := range s.Attributes {
		m[string(a.Key)] = a.Value.String()
	}
	return m
}

// checkParent fails where child is not a child of parent, by way of another node where remote.
func checkParent(t *testing.T, child tracetest.SpanStub, parent trace.SpanContext, remote bool) {
	t.Helper()
	if child.SpanContext.TraceID() != parent.TraceID() || child.Parent.SpanID() != parent.SpanID() || child.Parent.IsRemote() != remote {
		t.Errorf("%s %s is a child of %v (remote: %v), want %v (remote: %v)",
			child.SpanKind, child.Name, child.Parent.SpanID(), child.Parent.IsRemote(), parent.SpanID(), remote)
	}
}

func TestATraceGoesFromNodeToNode(t *testing.T) {
	p := startPair(t, nil)
	// The handler calls back: a trace of two hops, with baggage.
	const back = handlerStream + 1
	err := p.nodes[1].RegisterSingleHandlerContext(back, func(ctx context.Context, _ []byte) ([]byte, error) {
		user := baggage.FromContext(ctx).Member("user").Value()
		b, err := p.conn(1).Request(ctx, handlerEcho, []byte(user))
		return b, grid.NewRemoteErr(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	member, err := baggage.NewMember("user", "anna")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	ctx, root := p.tracers.Tracer("test").Start(baggage.ContextWithBaggage(t.Context(), bag), "root")
	b, err := p.conn(0).Request(ctx, back, nil)
	if err != nil || string(b) != "anna" {
		t.Errorf("got %q, %v", b, err)
	}
	spans := p.spans(t, 4)
	outer, inner := back.String(), handlerEcho.String()
	checkParent(t, spans["client "+outer], root.SpanContext(), false)
	checkParent(t, spans["server "+outer], spans["client "+outer].SpanContext, true)
	checkParent(t, spans["client "+inner], spans["server "+outer].SpanContext, false)
	checkParent(t, spans["server "+inner], spans["client "+inner].SpanContext, true)

	if err := p.stream(ctx, "", 3); err != nil {
		t.Fatal(err)
	}
	spans = p.spans(t, 2)
	name := handlerStream.String()
	checkParent(t, spans["client "+name], root.SpanContext(), false)
	checkParent(t, spans["server "+name], spans["client "+name].SpanContext, true)

	typed := grid.NewSingleHandler[*grid.MSS, *grid.MSS](handlerEcho, grid.NewMSS, grid.NewMSS)
	err = typed.RegisterContext(p.nodes[1], func(ctx context.Context, req *grid.MSS) (*grid.MSS, error) {
		return grid.NewMSSWith(map[string]string{"span": trace.SpanContextFromContext(ctx).SpanID().String()}), nil
	}, "typed")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := typed.Call(ctx, p.conn(0).Subroute("typed"), grid.NewMSS())
	if err != nil {
		t.Fatal(err)
	}
	spans = p.spans(t, 2)
	checkParent(t, spans["client "+inner], root.SpanContext(), false)
	checkParent(t, spans["server "+inner], spans["client "+inner].SpanContext, true)
	if got, want := resp.Get("span"), spans["server "+inner].SpanContext.SpanID().String(); got != want {
		t.Errorf("the handler's context has span %s, want %s", got, want)
	}
}

func TestSpansHaveTheirAttributes(t *testing.T) {
	p := startPair(t, []Option{WithMessageEvents()})
	if err := p.stream(t.Context(), "payload", 3); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.nodes[1].HostName(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, span := range p.spans(t, 2) {
		want := map[string]string{
			"rpc.system.name": "grid", "rpc.method": handlerStream.String(), "server.address": "127.0.0.1", "server.port": port,
			"grid.messages.sent": "3", "grid.messages.received": "3", "rpc.response.status_code": "OK",
		}
		conn := p.conn(0)
		if span.SpanKind == trace.SpanKindServer {
			want["client.address"] = "127.0.0.1"
			conn = p.conn(1)
		}
		want["network.peer.address"], want["network.peer.port"], err = net.SplitHostPort(conn.Peer().RemoteAddr)
		if err != nil {
			t.Fatal(err)
		}
		if got := attributes(span); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s has %v, want %v", kind, got, want)
		}
		if span.Status.Code != codes.Unset {
			t.Errorf("%s has the status %v", kind, span.Status)
		}
		sizes := make(map[string]int64)
		for _, e := range span.Events {
			for _, a := range e.Attributes {
				if a.Key == "grid.message.size" {
					sizes[e.Name] += a.Value.AsInt64()
				}
			}
		}
		want10, want20 := sizes["message sent"], sizes["message received"]
		if span.SpanKind == trace.SpanKindServer {
			want10, want20 = want20, want10
		}
		if len(span.Events) != 6 || want10 != 30 || want20 != 60 {
			t.Errorf("%s has %d events with sizes %v", kind, len(span.Events), sizes)
		}
	}
	_, err = p.conn(0).Subroute("a").Subroute("b").Request(t.Context(), handlerEcho, nil)
	if !errors.Is(err, grid.ErrUnknownHandler) {
		t.Fatal(err)
	}
	span := p.spans(t, 1)["client "+handlerEcho.String()]
	if got := attributes(span); got["grid.subroute"] != "a/b" || got["error.type"] != "unknown_handler" {
		t.Errorf("attributes %v", got)
	}
}

func TestErrorsAreRecorded(t *testing.T) {
	custom := errors.New("custom")
	refusing := grid.Interceptor{
		ClientRequest: func(ctx context.Context, _ *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if string(req) == "panic here" {
				panic("oops")
			}
			return next(ctx, req)
		},
		ServerRequest: func(ctx context.Context, _ *grid.CallInfo, b []byte, next grid.ServeRequestFunc) ([]byte, error) {
			if string(b) == "panic" {
				panic("oops")
			}
			return next(ctx, b)
		},
		ClientStream: func(ctx context.Context, _ *grid.StreamInfo, b []byte, next grid.NewStreamFunc) (*grid.Stream, error) {
			switch string(b) {
			case "panic here":
				panic("oops")
			case "refuse here":
				return nil, custom
			}
			return next(ctx, b)
		},
		ServerStream: func(ctx context.Context, _ *grid.StreamInfo, b []byte, next grid.ServeStreamFunc) error {
			switch string(b) {
			case "refuse":
				return grid.NewRemoteErrString("not you")
			case "panic":
				panic("oops")
			}
			return next(ctx, b)
		},
	}
	p := startPair(t, nil, refusing)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	overdue, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	because, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(custom)
	overBudget, cancel := context.WithDeadlineCause(t.Context(), time.Now(), custom)
	defer cancel()
	for _, test := range []struct {
		name        string
		ctx         context.Context
		payload     string
		stream      bool
		here, there string // error.type; "-" for no span
		text        string // of the status
		textThere   string // where it is another there
	}{
		{name: "nothing", payload: "hi"},
		{name: "a handler's error", payload: "fail badly", here: "handler_error", there: "handler_error", text: "badly"},
		{
			name: "a handler's panic", payload: "panic", here: "handler_error", there: "panic",
			text: "handler " + handlerEcho.String() + " panicked: oops", textThere: "panic",
		},
		{name: "a caller's panic", payload: "panic here", here: "panic", there: "-", text: "panic"},
		{name: "a context that is canceled", ctx: canceled, here: "canceled", there: "-", text: "context canceled"},
		{name: "a context with a cause", ctx: because, here: "canceled", there: "-", text: "custom"},
		{name: "a deadline", ctx: overdue, here: "deadline_exceeded", there: "-", text: "context deadline exceeded"},
		{
			name: "wrong metadata", ctx: grid.WithMetadata(t.Context(), grid.Metadata{"": {"x"}}), here: "invalid_metadata", there: "-",
			text: "grid: request to " + handlerEcho.String() + " at " + p.conn(0).Remote + ": invalid metadata: a key is empty",
		},
		{name: "a deadline with a cause", ctx: overBudget, here: "deadline_exceeded", there: "-", text: "custom"},
		{
			name: "an unknown handler", ctx: t.Context(), payload: "unknown", here: "unknown_handler", there: "-",
			text: "grid: request to HandlerID(250) at " + p.conn(0).Remote + ": unknown handler",
		},
		{name: "a stream", stream: true},
		{name: "a stream's error", stream: true, payload: "fail badly", here: "handler_error", there: "handler_error", text: "badly"},
		{
			name: "a stream's panic", stream: true, payload: "panic", here: "handler_error", there: "handler_error",
			text: "handler " + handlerStream.String() + " panicked: oops",
		},
		{name: "a stream that is refused", stream: true, payload: "refuse", here: "handler_error", there: "handler_error", text: "not you"},
		{name: "a stream that is refused here", stream: true, payload: "refuse here", here: "other", there: "-", text: "custom"},
		{name: "a stream's panic here", stream: true, payload: "panic here", here: "panic", there: "-", text: "panic"},
		{name: "a stream with a canceled context", stream: true, ctx: canceled, here: "canceled", there: "-", text: "context canceled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := test.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			func() {
				defer func() { recover() }()
				if test.payload == "unknown" {
					p.conn(0).Request(ctx, 250, nil)
				} else if test.stream {
					p.stream(ctx, test.payload, 1)
				} else {
					p.conn(0).Request(ctx, handlerEcho, []byte(test.payload))
				}
			}()
			n := 2
			if test.there == "-" {
				n = 1
			}
			for _, span := range p.spans(t, n) {
				kind, text := test.here, test.text
				if span.SpanKind == trace.SpanKindServer {
					kind = test.there
					if test.textThere != "" {
						text = test.textThere
					}
				}
				if got := attributes(span)["error.type"]; got != kind {
					t.Errorf("%v: error.type is %q, want %q", span.SpanKind, got, kind)
				}
				want := sdktrace.Status{}
				if kind != "" {
					want = sdktrace.Status{Code: codes.Error, Description: text}
				}
				if span.Status != want {
					t.Errorf("%v: status %+v, want %+v", span.SpanKind, span.Status, want)
				}
				if recorded := len(span.Events) == 1; recorded != (kind != "") {
					t.Errorf("%v: events %+v", span.SpanKind, span.Events)
				}
			}
		})
	}
	for _, data := range p.metrics(t)["grid.client.active_calls"].Data.(metricdata.Sum[int64]).DataPoints {
		if data.Value != 0 {
			t.Errorf("%d calls are active with %v", data.Value, data.Attributes)
		}
	}
}

// What is no UTF-8 would keep a batch of spans from being exported.
func TestTextsOfSpansAreUTF8(t *testing.T) {
	p := startPair(t, nil)
	if _, err := p.conn(0).Request(t.Context(), handlerEcho, []byte("fail \xff\xfe")); err == nil || !strings.HasSuffix(err.Error(), "\xff\xfe") {
		t.Fatalf("the caller gets %q, want what the handler said", err)
	}
	seen := 0
	for deadline := time.Now().Add(20 * time.Second); seen < 2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		seen = len(p.exporter.GetSpans())
	}
	for _, s := range p.exporter.GetSpans() {
		if s.Status.Description == "" || !utf8.ValidString(s.Status.Description) {
			t.Errorf("%s ends with %q", s.SpanKind, s.Status.Description)
		}
		for _, e := range s.Events {
			for _, a := range e.Attributes {
				if !utf8.ValidString(a.Value.String()) {
					t.Errorf("%s has %s %q", s.SpanKind, a.Key, a.Value.String())
				}
			}
		}
	}
}

func TestACallWithoutRoomForItsTraceGoesThrough(t *testing.T) {
	p := startPair(t, nil)
	var mu sync.Mutex
	var reported []error
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		mu.Lock()
		defer mu.Unlock()
		reported = append(reported, err)
	}))
	ctx, root := p.tracers.Tracer("test").Start(t.Context(), "root")
	for size, fits := range map[int]bool{grid.MaxMetadataSize - 100: true, grid.MaxMetadataSize - 20: false} {
		full := grid.WithMetadata(ctx, grid.Metadata{"k": {strings.Repeat("v", size)}})
		if _, err := p.conn(0).Request(full, handlerEcho, nil); err != nil {
			t.Errorf("with %d bytes: %v", size, err)
		}
		server := p.spans(t, 2)["server "+handlerEcho.String()]
		if got := server.SpanContext.TraceID() == root.SpanContext().TraceID(); got != fits {
			t.Errorf("with %d bytes: part of the trace: %v, want %v", size, got, fits)
		}
	}
	if len(reported) != 1 || !errors.Is(reported[0], grid.ErrMetadata) {
		t.Errorf("reported: %v", reported)
	}
}

// metrics collects all metrics by name.
func (p *pair) metrics(t *testing.T) map[string]metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := p.reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]metricdata.Metrics)
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			all[m.Name] = m
		}
	}
	return all
}

func TestMetricsOfCalls(t *testing.T) {
	p := startPair(t, nil)
	for range 3 {
		if _, err := p.conn(0).Request(t.Context(), handlerEcho, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.conn(0).Request(t.Context(), handlerEcho, []byte("fail x")); err == nil {
		t.Fatal("no error")
	}
	if err := p.stream(t.Context(), "12345", 4); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); len(p.exporter.GetSpans()) < 10; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the spans do not end")
		}
	}
	all := p.metrics(t)
	echo, stream := handlerEcho.String(), handlerStream.String()
	for _, side := range []string{"client", "server"} {
		duration := all["rpc."+side+".call.duration"]
		calls := make(map[string]uint64)
		for _, point := range duration.Data.(metricdata.Histogram[float64]).DataPoints {
			method, _ := point.Attributes.Value("rpc.method")
			kind, _ := point.Attributes.Value("error.type")
			calls[method.AsString()+" "+kind.AsString()] = point.Count
			if point.Sum < 0 || point.Sum > 60 {
				t.Errorf("%s: %v seconds", side, point.Sum)
			}
			if address, ok := point.Attributes.Value("server.address"); ok != (side == "client") || ok && address.AsString() != "127.0.0.1" {
				t.Errorf("%s: attributes %v", side, point.Attributes.ToSlice())
			}
		}
		want := map[string]uint64{echo + " ": 3, echo + " handler_error": 1, stream + " ": 1}
		if duration.Unit != "s" || fmt.Sprint(calls) != fmt.Sprint(want) {
			t.Errorf("%s: durations in %q of %v, want %v", side, duration.Unit, calls, want)
		}
		for what, want := range map[string]map[string]string{
			"request":  {echo: "4 of 306 bytes", stream: "5 of 45 bytes"},
			"response": {echo: "3 of 300 bytes", stream: "4 of 80 bytes"},
		} {
			size := all["grid."+side+"."+what+".size"]
			got := make(map[string]string)
			for _, point := range size.Data.(metricdata.Histogram[int64]).DataPoints {
				if n := len(point.Attributes.ToSlice()); n != 2 || len(point.Bounds) != 12 || point.Bounds[11] != 64<<20 {
					t.Errorf("%s: bounds %v, attributes %v", side, point.Bounds, point.Attributes.ToSlice())
				}
				method, _ := point.Attributes.Value("rpc.method")
				got[method.AsString()] = fmt.Sprintf("%d of %d bytes", point.Count, point.Sum)
			}
			if size.Unit != "By" || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: sizes of a %s in %q: %v, want %v", side, what, size.Unit, got, want)
			}
		}
		active := all["grid."+side+".active_calls"]
		for _, point := range active.Data.(metricdata.Sum[int64]).DataPoints {
			if point.Value != 0 || active.Unit != "{call}" {
				t.Errorf("%s: %d %s are active", side, point.Value, active.Unit)
			}
		}
	}
}

func TestConnectionsAreObserved(t *testing.T) {
	p := startPair(t, nil)
	reg, err := ObserveConnections(p.nodes[0], WithMeterProvider(p.meters))
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		points := p.metrics(t)["grid.connection.state"].Data.(metricdata.Gauge[int64]).DataPoints
		if len(points) != 5 {
			t.Fatalf("%d states", len(points))
		}
		for _, point := range points {
			state, _ := point.Attributes.Value("grid.connection.state")
			peer, _ := point.Attributes.Value("grid.peer.name")
			local, _ := point.Attributes.Value("grid.local.name")
			is := int64(0)
			if state.AsString() == want {
				is = 1
			}
			if point.Value != is || peer.AsString() != p.nodes[1].HostName() || local.AsString() != p.nodes[0].HostName() {
				t.Errorf("%v is %d, want %s", point.Attributes.ToSlice(), point.Value, want)
			}
		}
	}
	check("connected")
	p.nodes[0].Close()
	check("shutdown")
	if err := reg.Unregister(); err != nil {
		t.Fatal(err)
	}
	if _, there := p.metrics(t)["grid.connection.state"]; there {
		t.Error("it is observed after Unregister")
	}
	if _, err := ObserveConnections(nil); err == nil {
		t.Error("a nil Manager is observed")
	}
}

// Without providers, calls go through, and nothing is told to anybody.
func TestDefaultsAreSafe(t *testing.T) {
	p := startPair(t, []Option{WithTracerProvider(nil), WithMeterProvider(nil), WithPropagator(nil)})
	if _, err := p.conn(0).Request(t.Context(), handlerEcho, []byte("hi")); err != nil {
		t.Error(err)
	}
	if err := p.stream(t.Context(), "", 2); err != nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for name, want := range map[string]string{
		"http://10.0.0.1:9000": "10.0.0.1 9000",
		"http://[::1]:9000":    "::1 9000",
		"http://node1":         "node1 80",
		"https://node1":        "node1 443",
		"%":                    "% 0",
	} {
		host, port := address(name)
		if got := fmt.Sprint(host, " ", port); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
