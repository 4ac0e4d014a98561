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
// other node; so is a stream, from its opening to its end. The spans are named after the handler
// and follow the conventions for RPC: rpc.system.name is "grid", rpc.method the handler's name,
// server.address and server.port those of the node that has the handler, error.type one of the
// names below. grid.subroute is the route, if there is one. A stream's span counts its messages in
// grid.messages.sent and grid.messages.received.
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
// # Errors
//
// error.type is "handler_error" for what a handler returned; "disconnected", "shutdown",
// "unknown_handler", "message_too_large", "invalid_metadata" and "incorrect_sequence" for the
// grid's own errors; "canceled" and "deadline_exceeded" for those of a context; "panic" for a call
// that panicked on this node; and otherwise the type of the error.
package gridotel

import (
	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
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

// config is what the options have set.
type config struct {
	tracers       trace.TracerProvider
	meters        metric.MeterProvider
	propagator    propagation.TextMapPropagator
	messageEvents bool
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

// NewInterceptor returns an interceptor that makes spans and metrics of a node's calls and
// handlers. Use it on all nodes, as the first of ManagerOptions.Interceptors, so that the others
// run inside its spans. One may serve several Managers. Metrics that cannot be made are reported to
// otel.Handle and left out.
func NewInterceptor(opts ...Option) grid.Interceptor {
	c := newConfig(opts)
	t := &telemetry{
		tracer:        c.tracers.Tracer(scope),
		propagator:    c.propagator,
		messageEvents: c.messageEvents,
	}
	meter := c.meters.Meter(scope)
	t.client.init(meter, trace.SpanKindClient)
	t.server.init(meter, trace.SpanKindServer)
	return grid.Interceptor{
		ClientRequest: t.clientRequest,
		ClientStream:  t.clientStream,
		ServerRequest: t.serverRequest,
		ServerStream:  t.serverStream,
	}
}
