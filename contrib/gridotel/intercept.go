package gridotel

import (
	"context"
	"errors"
	"fmt"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// telemetry is what the interceptor's functions share.
type telemetry struct {
	tracer         trace.Tracer
	propagator     propagation.TextMapPropagator
	messageEvents  bool
	client, server side
}

// errPanicked ends the call of an interceptor or handler that did not return.
var errPanicked = errors.New("panic")

func (t *telemetry) clientRequest(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
	ctx, c := t.begin(ctx, &t.client, info)
	defer c.end(errPanicked) // counts where nothing ended it before
	c.request(len(req))
	resp, err := next(t.inject(ctx), req)
	if err == nil {
		c.response(len(resp))
	}
	c.end(err)
	return resp, err
}

func (t *telemetry) clientStream(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.NewStreamFunc) (*grid.Stream, error) {
	ctx, c := t.begin(ctx, &t.client, &info.CallInfo)
	opened := false
	defer func() {
		if !opened {
			c.end(errPanicked)
		}
	}()
	c.request(len(payload))
	info.Observe(grid.StreamObserver{
		OnSend:    func(n int) { c.request(n); c.message(sentMessage, n) },
		OnReceive: func(n int) { c.response(n); c.message(receivedMessage, n) },
		OnEnd:     c.end,
	})
	st, err := next(t.inject(ctx), payload)
	if err != nil {
		c.end(err)
	}
	opened = err == nil
	return st, err
}

func (t *telemetry) serverRequest(ctx context.Context, info *grid.CallInfo, payload []byte, next grid.SingleHandlerContextFn) ([]byte, *grid.RemoteErr) {
	ctx, c := t.begin(t.extract(ctx), &t.server, info)
	defer c.end(errPanicked) // counts where nothing ended it before
	c.request(len(payload))
	resp, remoteErr := next(ctx, payload)
	if remoteErr != nil {
		c.end(remoteErr)
		return resp, remoteErr
	}
	c.response(len(resp))
	c.end(nil)
	return resp, nil
}

func (t *telemetry) serverStream(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.ServeStreamFunc) *grid.RemoteErr {
	ctx, c := t.begin(t.extract(ctx), &t.server, &info.CallInfo)
	c.request(len(payload))
	info.Observe(grid.StreamObserver{
		OnSend:    func(n int) { c.response(n); c.message(sentMessage, n) },
		OnReceive: func(n int) { c.request(n); c.message(receivedMessage, n) },
		OnEnd:     c.end, // comes in any case
	})
	return next(ctx, payload)
}

// inject returns a context whose calls carry the trace. A call that has no room for the trace is
// made without it.
func (t *telemetry) inject(ctx context.Context) context.Context {
	md := make(grid.Metadata)
	t.propagator.Inject(ctx, md)
	if len(md) == 0 {
		return ctx
	}
	with := grid.WithMetadata(ctx, md)
	all := grid.OutgoingMetadata(with)
	if mayExceed(all) {
		if err := all.Validate(); err != nil && grid.OutgoingMetadata(ctx).Validate() == nil {
			otel.Handle(fmt.Errorf("gridotel: trace is not propagated: %w", err))
			return ctx
		}
	}
	return with
}

// mayExceed reports whether metadata is large enough to need a closer look.
func mayExceed(md grid.Metadata) bool {
	size := 0
	for key, value := range md {
		size += len(key) + len(value)
	}
	return size > grid.MaxMetadataSize/2 || len(md) > grid.MaxMetadataPairs
}

// extract returns a context with the caller's trace.
func (t *telemetry) extract(ctx context.Context) context.Context {
	return t.propagator.Extract(ctx, grid.MetadataFrom(ctx))
}
