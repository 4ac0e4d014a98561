package gridotel

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/rpcconv"
	"go.opentelemetry.io/otel/trace"
)

// Attributes that the conventions have no name for.
const (
	subrouteKey         = attribute.Key("grid.subroute")
	messagesSentKey     = attribute.Key("grid.messages.sent")
	messagesReceivedKey = attribute.Key("grid.messages.received")
	messageSizeKey      = attribute.Key("grid.message.size")
)

// Events of a stream's span.
const (
	sentMessage     = "message sent"
	receivedMessage = "message received"
)

// side is one end of calls: that of their callers, or that of their handlers.
type side struct {
	kind      trace.SpanKind
	duration  metric.Float64Histogram
	requests  metric.Int64Histogram
	responses metric.Int64Histogram
	active    metric.Int64UpDownCounter
}

func (s *side) init(meter metric.Meter, kind trace.SpanKind) {
	s.kind = kind
	prefix := "grid.client."
	var err error
	if kind == trace.SpanKindClient {
		var d rpcconv.ClientCallDuration
		d, err = rpcconv.NewClientCallDuration(meter)
		s.duration = d.Inst()
	} else {
		prefix = "grid.server."
		var d rpcconv.ServerCallDuration
		d, err = rpcconv.NewServerCallDuration(meter)
		s.duration = d.Inst()
	}
	handle(err)
	s.requests, err = meter.Int64Histogram(prefix+"request.size", metric.WithUnit("By"),
		metric.WithDescription("Size of payloads and stream messages to a handler."))
	handle(err)
	s.responses, err = meter.Int64Histogram(prefix+"response.size", metric.WithUnit("By"),
		metric.WithDescription("Size of answers and stream messages of a handler."))
	handle(err)
	s.active, err = meter.Int64UpDownCounter(prefix+"active_calls", metric.WithUnit("{call}"),
		metric.WithDescription("Requests and streams that have not ended."))
	handle(err)
}

func handle(err error) {
	if err != nil {
		otel.Handle(err)
	}
}

// call is one request or stream on one side. Its methods may be called by several goroutines.
type call struct {
	*side
	ctx    context.Context // with the span
	span   trace.Span
	began  time.Time
	attrs  []attribute.KeyValue // of the metrics; without the error
	set    metric.MeasurementOption
	events bool

	sent, received atomic.Int64 // messages
	over           atomic.Bool
}

// begin starts a span.
func (t *telemetry) begin(ctx context.Context, s *side, info *grid.CallInfo) (context.Context, *call) {
	handlerNode, caller := info.Remote, info.Local
	if s.kind == trace.SpanKindServer {
		handlerNode, caller = caller, handlerNode
	}
	method := info.Handler.String()
	attrs := append(serverAttributes(handlerNode), semconv.RPCSystemNameKey.String("grid"), semconv.RPCMethod(method))
	c := &call{
		side:   s,
		began:  time.Now(),
		attrs:  attrs,
		set:    metric.WithAttributeSet(attribute.NewSet(attrs...)),
		events: t.messageEvents,
	}
	spanAttrs := slices.Clip(attrs)
	if info.Subroute != "" {
		spanAttrs = append(spanAttrs, subrouteKey.String(info.Subroute))
	}
	if s.kind == trace.SpanKindServer {
		if host, _ := address(caller); host != "" {
			spanAttrs = append(spanAttrs, semconv.ClientAddress(host))
		}
	}
	c.ctx, c.span = t.tracer.Start(ctx, method,
		trace.WithSpanKind(s.kind), trace.WithTimestamp(c.began), trace.WithAttributes(spanAttrs...))
	s.active.Add(c.ctx, 1, c.set)
	return c.ctx, c
}

// request and response record the size of what goes to the handler and comes from it.
func (c *call) request(n int)  { c.requests.Record(c.ctx, int64(n), c.set) }
func (c *call) response(n int) { c.responses.Record(c.ctx, int64(n), c.set) }

// message records a message of a stream.
func (c *call) message(event string, n int) {
	if event == sentMessage {
		c.sent.Add(1)
	} else {
		c.received.Add(1)
	}
	if c.events {
		c.span.AddEvent(event, trace.WithAttributes(messageSizeKey.Int(n)))
	}
}

// classify is grid.Classify on the caller's side. On the other side every RemoteErr is the
// handler's own, whatever its text.
func (c *call) classify(err error) grid.ErrorClass {
	if _, said := err.(*grid.RemoteErr); said && c.kind == trace.SpanKindServer {
		return grid.ErrorHandler
	}
	return grid.Classify(c.ctx, err)
}

// end ends the call with the error that it returned. Only the first end counts.
func (c *call) end(err error) {
	if c.over.Swap(true) {
		return
	}
	now := time.Now()
	set := c.set
	if class := c.classify(err); class != grid.ErrorNone && class != grid.ErrorLeft {
		kind := semconv.ErrorTypeKey.String(errorType(err, class))
		set = metric.WithAttributes(append(slices.Clip(c.attrs), kind)...)
		c.span.SetAttributes(kind)
		if c.kind == trace.SpanKindClient || class != grid.ErrorCanceled { // a caller may leave when it likes
			err = validError(err)
			c.span.RecordError(err, trace.WithTimestamp(now))
			c.span.SetStatus(codes.Error, err.Error())
		}
	}
	if sent, received := c.sent.Load(), c.received.Load(); sent+received > 0 {
		c.span.SetAttributes(messagesSentKey.Int64(sent), messagesReceivedKey.Int64(received))
	}
	c.active.Add(c.ctx, -1, c.set)
	c.duration.Record(c.ctx, now.Sub(c.began).Seconds(), set)
	c.span.End(trace.WithTimestamp(now))
}

// validError returns an error whose text is valid UTF-8. A handler of another node may have
// returned one that is not, and OTLP, which is protobuf, would then drop the whole batch of spans.
func validError(err error) error {
	if text := err.Error(); !utf8.ValidString(text) {
		return errors.New(strings.ToValidUTF8(text, "\uFFFD"))
	}
	return err
}
