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

// sizeBounds are the bounds of the histograms of sizes, in bytes: up to the largest message by default.
var sizeBounds = []float64{0, 64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20}

// side is one end of calls: that of their callers, or that of their handlers.
type side struct {
	kind      trace.SpanKind
	duration  metric.Float64Histogram
	requests  metric.Int64Histogram
	responses metric.Int64Histogram
	active    metric.Int64UpDownCounter

	spanAttrs, metricAttrs []attribute.KeyValue // the application's
	cache                  labelCache
}

func (s *side) init(meter metric.Meter, kind trace.SpanKind, c *config) {
	s.kind, s.spanAttrs, s.metricAttrs = kind, c.spanAttrs, c.metricAttrs
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
	s.requests, err = meter.Int64Histogram(prefix+"request.size", metric.WithUnit("By"), metric.WithExplicitBucketBoundaries(sizeBounds...),
		metric.WithDescription("Size of payloads and stream messages to a handler."))
	handle(err)
	s.responses, err = meter.Int64Histogram(prefix+"response.size", metric.WithUnit("By"), metric.WithExplicitBucketBoundaries(sizeBounds...),
		metric.WithDescription("Size of answers and stream messages of a handler."))
	handle(err)
	s.active, err = meter.Int64UpDownCounter(prefix+"active_calls", metric.WithUnit("{call}"),
		metric.WithDescription("Requests and streams that have not ended."))
	handle(err)
}

func (s *side) client() bool { return s.kind == trace.SpanKindClient }

func handle(err error) {
	if err != nil {
		otel.Handle(err)
	}
}

// call is one request or stream on one side. Its methods may be called by several goroutines.
type call struct {
	*side
	*labels
	telemetry *telemetry
	ctx       context.Context // with the span
	span      trace.Span
	began     time.Time

	sent, received atomic.Int64 // messages
	over           atomic.Bool
}

// begin starts a span.
func (t *telemetry) begin(ctx context.Context, s *side, info *grid.CallInfo) (context.Context, *call) {
	c := &call{side: s, labels: s.of(info), telemetry: t, began: time.Now()}
	start := c.start
	if info.Subroute != "" {
		start = append(slices.Clip(start), trace.WithAttributes(subrouteKey.String(info.Subroute)))
	}
	if !s.client() && t.public != nil && t.public(ctx, info) {
		start = append(slices.Clip(start), trace.WithNewRoot())
		if caller := trace.SpanContextFromContext(ctx); caller.IsValid() {
			start = append(start, trace.WithLinks(trace.Link{SpanContext: caller}))
		}
	}
	c.ctx, c.span = t.tracer.Start(ctx, info.Method, start...)
	s.active.Add(c.ctx, 1, c.add...)
	return c.ctx, c
}

// request and response record the size of what goes to the handler and comes from it.
func (c *call) request(n int)  { c.requests.Record(c.ctx, int64(n), c.record...) }
func (c *call) response(n int) { c.responses.Record(c.ctx, int64(n), c.record...) }

// message records a message of a stream.
func (c *call) message(event string, n int) {
	if event == sentMessage {
		c.sent.Add(1)
	} else {
		c.received.Add(1)
	}
	if c.telemetry.messageEvents {
		c.span.AddEvent(event, trace.WithAttributes(messageSizeKey.Int(n)))
	}
}

// end ends the call with the error that it returned. Only the first end counts.
func (c *call) end(err error) {
	if c.over.Swap(true) {
		return
	}
	took := time.Since(c.began)
	options := c.succeeded
	o := c.outcome(err)
	if o.code != grid.OK {
		attrs := []attribute.KeyValue{statusCode(o.code)}
		if o.failed {
			attrs = append(attrs, semconv.ErrorTypeKey.String(o.kind))
		}
		options = []metric.RecordOption{metric.WithAttributeSet(c.with(attrs...))}
	}
	c.active.Add(c.ctx, -1, c.add...)
	c.side.duration.Record(c.ctx, took.Seconds(), options...)
	if c.span.IsRecording() {
		c.endSpan(o, err)
	}
	c.span.End()
}

// endSpan tells the span how the call ended.
func (c *call) endSpan(o outcome, err error) {
	c.span.SetAttributes(statusCode(o.code))
	if sent, received := c.sent.Load(), c.received.Load(); sent+received > 0 {
		c.span.SetAttributes(messagesSentKey.Int64(sent), messagesReceivedKey.Int64(received))
	}
	if !o.failed {
		return
	}
	err = validError(err)
	c.span.SetAttributes(semconv.ErrorTypeKey.String(o.kind))
	c.span.SetStatus(codes.Error, err.Error())
	if !c.telemetry.noErrorEvents {
		c.span.RecordError(err)
	}
}

// validError returns an error whose text is valid UTF-8. A handler of another node may have
// returned one that is not, and OTLP, which is protobuf, would then drop the whole batch of spans.
func validError(err error) error {
	if text := err.Error(); !utf8.ValidString(text) {
		return errors.New(strings.ToValidUTF8(text, "\uFFFD"))
	}
	return err
}
