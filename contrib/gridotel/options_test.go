package gridotel

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// handle registers a method at the second node, and returns a function that calls it from the first.
func (p *pair) handle(t *testing.T, name string, handler func(context.Context, []byte) ([]byte, error)) (call func(ctx context.Context) error) {
	t.Helper()
	if err := p.nodes[1].Handle(name, handler); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) error {
		_, err := p.conn(0).Call(ctx, name, nil)
		return err
	}
}

// A caller's span fails with its call; a handler's only if the code says that the handler is to blame.
func TestExpectedOutcomesAreNoErrorsOfTheHandler(t *testing.T) {
	p := startPair(t, nil)
	for i, test := range []struct {
		err   error
		code  string
		there bool // is it an error for the handler's span?
	}{
		{grid.NotFound, "NotFound", false},
		{grid.Errorf(grid.InvalidArgument, "bad"), "InvalidArgument", false},
		{fmt.Errorf("wrapped: %w", grid.ResourceExhausted), "ResourceExhausted", false},
		{grid.Errorf(grid.Canceled, "enough"), "Canceled", false},
		{errors.New("plain"), "Unknown", true},
		{grid.Errorf(grid.Internal, "broken"), "Internal", true},
		{grid.Errorf(grid.Unavailable, "later"), "Unavailable", true},
	} {
		name := fmt.Sprintf("test.Fail%d", i)
		if p.handle(t, name, func(context.Context, []byte) ([]byte, error) { return nil, test.err })(t.Context()) == nil {
			t.Fatal("no error")
		}
		for kind, span := range p.spans(t, 2) {
			attrs := attributes(span)
			want := ""
			if span.SpanKind == trace.SpanKindClient || test.there {
				want = "handler_error"
			}
			if attrs["error.type"] != want || attrs["rpc.response.status_code"] != test.code || (span.Status.Code == codes.Error) != (want != "") {
				t.Errorf("%v: the %s span has %v, %v", test.err, kind, span.Status, attrs)
			}
		}
	}
	for _, point := range p.metrics(t)["rpc.server.call.duration"].Data.(metricdata.Histogram[float64]).DataPoints {
		code, _ := point.Attributes.Value("rpc.response.status_code")
		kind, failed := point.Attributes.Value("error.type")
		if expected := code.AsString() == "NotFound"; expected && failed || code.AsString() == "" {
			t.Errorf("%v counts as %v", code.AsString(), kind.AsString())
		}
	}
}

// A consumer that leaves its stream is no error, at either end.
func TestLeavingAStreamIsNoError(t *testing.T) {
	p := startPair(t, nil)
	err := p.nodes[1].HandleStream("test.Count", func(_ context.Context, st *grid.RawStream) error {
		for {
			if err := st.Send([]byte("x")); err != nil {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := p.conn(0).OpenStream(t.Context(), "test.Count", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range st.All() {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	for kind, span := range p.spans(t, 2) {
		if attrs := attributes(span); span.Status.Code != codes.Unset || attrs["error.type"] != "" || attrs["rpc.response.status_code"] != "Canceled" || len(span.Events) != 0 {
			t.Errorf("%s: %v, %v, %v", kind, span.Status, attrs, span.Events)
		}
	}
}

func TestWithoutErrorEvents(t *testing.T) {
	p := startPair(t, []Option{WithoutErrorEvents()})
	if p.handle(t, "test.Fail", func(context.Context, []byte) ([]byte, error) { return nil, errors.New("no luck") })(t.Context()) == nil {
		t.Fatal("no error")
	}
	for kind, span := range p.spans(t, 2) {
		if len(span.Events) != 0 || span.Status.Description != "no luck" {
			t.Errorf("%s: %v, %v", kind, span.Status, span.Events)
		}
	}
}

// What is filtered out has no span, no metric and no trace, requests and streams alike.
func TestWithFilter(t *testing.T) {
	p := startPair(t, []Option{WithFilter(func(info *grid.CallInfo) bool { return info.Method == "test.Seen" })})
	carried := make(chan grid.Metadata, 1)
	hidden := p.handle(t, "test.Hidden", func(ctx context.Context, _ []byte) ([]byte, error) {
		carried <- grid.MetadataFrom(ctx)
		return nil, nil
	})
	ctx, root := p.tracers.Tracer("test").Start(t.Context(), "root")
	if err := hidden(ctx); err != nil {
		t.Fatal(err)
	}
	if md := <-carried; len(md) != 0 {
		t.Errorf("carried is %v", md)
	}
	if err := p.stream(ctx, "", 1); err != nil {
		t.Fatal(err)
	}
	seen := p.handle(t, "test.Seen", func(context.Context, []byte) ([]byte, error) { return nil, nil })
	if err := seen(ctx); err != nil {
		t.Fatal(err)
	}
	root.End()
	spans := p.spans(t, 3)
	checkParent(t, spans["client test.Seen"], root.SpanContext(), false)
	for name, m := range p.metrics(t) {
		if h, ok := m.Data.(metricdata.Histogram[int64]); ok && len(h.DataPoints) != 1 {
			t.Errorf("%s has %d methods", name, len(h.DataPoints))
		}
	}
}

// A handler's span begins a trace of its own, with a link to the caller's.
func TestWithPublicEndpoint(t *testing.T) {
	public := func(ctx context.Context, info *grid.CallInfo) bool {
		return trace.SpanContextFromContext(ctx).IsRemote() && info.Method == "test.Public"
	}
	p := startPair(t, []Option{WithPublicEndpoint(public)})
	for _, name := range []string{"test.Public", "test.Private"} {
		if err := p.handle(t, name, func(context.Context, []byte) ([]byte, error) { return nil, nil })(t.Context()); err != nil {
			t.Fatal(err)
		}
		spans := p.spans(t, 2)
		client, server := spans["client "+name], spans["server "+name]
		if name == "test.Private" {
			checkParent(t, server, client.SpanContext, true)
			continue
		}
		if server.Parent.IsValid() || server.SpanContext.TraceID() == client.SpanContext.TraceID() {
			t.Errorf("the handler's span is a child of %v", server.Parent)
		}
		if len(server.Links) != 1 || server.Links[0].SpanContext.SpanID() != client.SpanContext.SpanID() {
			t.Errorf("links are %v", server.Links)
		}
		if client.Parent.IsValid() || len(client.Links) != 0 {
			t.Errorf("the caller's span has %v, %v", client.Parent, client.Links)
		}
	}
}

func TestMoreAttributes(t *testing.T) {
	p := startPair(t, []Option{
		WithSpanAttributes(attribute.String("zone", "a")), WithSpanAttributes(attribute.String("rack", "7")),
		WithMetricAttributes(attribute.String("pool", "hot")),
	})
	if err := p.stream(t.Context(), "", 1); err != nil {
		t.Fatal(err)
	}
	for kind, span := range p.spans(t, 2) {
		if attrs := attributes(span); attrs["zone"] != "a" || attrs["rack"] != "7" || attrs["pool"] != "" {
			t.Errorf("%s: %v", kind, attrs)
		}
	}
	check := func(name string, set attribute.Set) {
		pool, _ := set.Value("pool")
		if _, zone := set.Value("zone"); pool.AsString() != "hot" || zone {
			t.Errorf("%s: %v", name, set.ToSlice())
		}
	}
	for name, m := range p.metrics(t) {
		switch data := m.Data.(type) {
		case metricdata.Histogram[int64]:
			check(name, data.DataPoints[0].Attributes)
		case metricdata.Histogram[float64]:
			check(name, data.DataPoints[0].Attributes)
		case metricdata.Sum[int64]:
			check(name, data.DataPoints[0].Attributes)
		default:
			t.Errorf("%s is %T", name, data)
		}
	}
}

func TestScope(t *testing.T) {
	p := startPair(t, nil)
	if err := p.stream(t.Context(), "", 1); err != nil {
		t.Fatal(err)
	}
	for kind, span := range p.spans(t, 2) {
		if s := span.InstrumentationScope; s.Name != scope || s.SchemaURL != semconv.SchemaURL || s.Version != version() {
			t.Errorf("%s has the scope %+v", kind, s)
		}
	}
	var rm metricdata.ResourceMetrics
	if err := p.reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	for _, m := range rm.ScopeMetrics {
		if s := m.Scope; s.Name != scope || s.SchemaURL != semconv.SchemaURL {
			t.Errorf("metrics have the scope %+v", s)
		}
	}
}
