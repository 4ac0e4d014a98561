// Package gridotel reports to OpenTelemetry what a node of a grid does: a span and metrics for each
// request and stream, on both nodes, and the state of its connections.
//
//	o := grid.ManagerOptions{…}
//	o.Interceptors = append([]grid.Interceptor{gridotel.NewInterceptor()}, o.Interceptors...)
//	m, err := grid.NewManager(ctx, o)
//	…
//	reg, err := gridotel.ObserveConnections(m)
//
// Trace context travels between nodes in the metadata of calls, in the propagator's format. A
// handler with a context gets the span of its call.
//
// # Spans
//
// A request is a span of kind client on the node that makes it, with a child of kind server on the
// other node; so is a stream, from its opening to its end. The spans are named after the method and
// follow the conventions for RPC, version 1.43.0: rpc.system.name is "grid", rpc.method the name of
// the method, or of the handler's ID, server.address and server.port are those of the name of the
// node that has the handler, network.peer.address and network.peer.port those of the other node on
// the network, and client.address that of the name of the caller. rpc.response.status_code is the
// code of the error, such as "NotFound", or "OK". grid.subroute is the route, if there is one. A
// stream's span counts its messages in grid.messages.sent and grid.messages.received.
//
// # Metrics
//
//	rpc.client.call.duration     s          histogram, of requests and of streams from opening to end
//	rpc.server.call.duration     s
//	grid.client.request.size     By         histogram, of payloads and stream messages to the handler
//	grid.server.request.size     By
//	grid.client.response.size    By         histogram, of answers and stream messages of the handler
//	grid.server.response.size    By
//	grid.client.active_calls     {call}     up-down counter
//	grid.server.active_calls     {call}
//	grid.connection.state        {connection}  gauge: 1 for the state that the connection to a peer has, 0 for the others
//	grid.connection.round_trip   s          gauge: how long the peer took to answer the last ping
//
// All but the last two have rpc.system.name and rpc.method; the durations also have
// rpc.response.status_code and error.type, and those of clients server.address and server.port. The
// SDK keeps 2,000 different sets of attributes for each metric, unless it is told otherwise, and the
// rest in one. So a node that calls 50 methods at 100 others needs a view that leaves
// server.address and server.port out of rpc.client.call.duration, or a higher limit.
//
// # Errors
//
// A client's span is an error whenever its call fails. A server's span is an error if its handler
// panics, or returns an error with the code Unknown, as errors without a code have, or with
// DeadlineExceeded, Unimplemented, Internal, Unavailable or DataLoss. The other codes are expected
// outcomes, of which the caller is the judge; a stream whose consumer leaves is none for either.
//
// error.type is the name of the class that grid.Classify finds, such as "handler_error",
// "disconnected" or "deadline_exceeded"; grid.ErrorClass has them all. It is "panic" for a call that
// panicked on this node.
package gridotel

import (
	"context"
	"runtime/debug"
	"sync"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the tracer and the meter.
const scope = "github.com/gridmesh/grid/contrib/gridotel"

// Option changes what NewInterceptor and ObserveConnections use.
type Option func(*config)

// WithTracerProvider sets where spans go. The default, also for nil, is otel.GetTracerProvider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(c *config) { c.tracers = p }
}

// WithMeterProvider sets where metrics go. The default, also for nil, is otel.GetMeterProvider.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(c *config) { c.meters = p }
}

// WithPropagator sets how trace context travels between nodes. The default, also for nil, is
// otel.GetTextMapPropagator.
func WithPropagator(p propagation.TextMapPropagator) Option {
	return func(c *config) { c.propagator = p }
}

// WithMessageEvents adds an event to the span of a stream for each of its messages, with the size
// in bytes.
func WithMessageEvents() Option {
	return func(c *config) { c.messageEvents = true }
}

// WithoutErrorEvents leaves out the event of a span that describes its error. The text is in the
// status of the span, too.
func WithoutErrorEvents() Option {
	return func(c *config) { c.noErrorEvents = true }
}

// WithFilter leaves out the calls for which keep returns false: they get no span, no metrics and no
// trace to carry. It is called at both ends, with each call; by several goroutines at once. With
// nil, all are kept.
func WithFilter(keep func(*grid.CallInfo) bool) Option {
	return func(c *config) { c.filter = keep }
}

// WithPublicEndpoint lets the spans of handlers begin new traces, with a link to the span of the
// caller in place of a parent: for callers of which only the calls are trusted, and not the traces,
// such as guests. Those are the calls for which public returns true. It may be called by several
// goroutines at once. With nil, no calls are.
func WithPublicEndpoint(public func(context.Context, *grid.CallInfo) bool) Option {
	return func(c *config) { c.public = public }
}

// WithSpanAttributes adds attributes to all spans.
func WithSpanAttributes(attrs ...attribute.KeyValue) Option {
	return func(c *config) { c.spanAttrs = append(c.spanAttrs, attrs...) }
}

// WithMetricAttributes adds attributes to all metrics of calls.
func WithMetricAttributes(attrs ...attribute.KeyValue) Option {
	return func(c *config) { c.metricAttrs = append(c.metricAttrs, attrs...) }
}

// config is what the options have set.
type config struct {
	tracers       trace.TracerProvider
	meters        metric.MeterProvider
	propagator    propagation.TextMapPropagator
	messageEvents bool
	noErrorEvents bool
	filter        func(*grid.CallInfo) bool
	public        func(context.Context, *grid.CallInfo) bool

	spanAttrs, metricAttrs []attribute.KeyValue
}

func newConfig(opts []Option) (c config) {
	for _, o := range opts {
		o(&c)
	}
	if c.tracers == nil {
		c.tracers = otel.GetTracerProvider()
	}
	if c.meters == nil {
		c.meters = otel.GetMeterProvider()
	}
	if c.propagator == nil {
		c.propagator = otel.GetTextMapPropagator()
	}
	return c
}

// meter returns the meter of all metrics.
func (c *config) meter() metric.Meter {
	return c.meters.Meter(scope, metric.WithInstrumentationVersion(version()), metric.WithSchemaURL(semconv.SchemaURL))
}

// version is that of this module, as the program was built with it; empty if that is not known.
var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range append(info.Deps, &info.Main) {
		switch {
		case m.Path != scope:
		case m.Replace != nil:
			return m.Replace.Version
		default:
			return m.Version
		}
	}
	return ""
})

// NewInterceptor returns an interceptor that makes spans and metrics of a node's calls and
// handlers. Use it on all nodes, as the first of ManagerOptions.Interceptors, so that the others
// run inside its spans. One may serve several Managers. Metrics that cannot be made are reported to
// otel.Handle and left out.
func NewInterceptor(opts ...Option) grid.Interceptor {
	c := newConfig(opts)
	t := &telemetry{config: c, tracer: c.tracers.Tracer(scope,
		trace.WithInstrumentationVersion(version()), trace.WithSchemaURL(semconv.SchemaURL))}
	meter := c.meter()
	t.client.init(meter, trace.SpanKindClient, &c)
	t.server.init(meter, trace.SpanKindServer, &c)
	return grid.Interceptor{
		ClientRequest: t.clientRequest,
		ClientStream:  t.clientStream,
		ServerRequest: t.serverRequest,
		ServerStream:  t.serverStream,
	}
}
