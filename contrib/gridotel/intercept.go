package gridotel

import (
	"context"
	"errors"
	"fmt"

	"github.com/gridmesh/grid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
)

// telemetry is what the interceptor's functions share.
type telemetry struct {
	config
	tracer         trace.Tracer
	client, server side
}

// skips reports whether the application does not want to see a call.
func (t *telemetry) skips(info *grid.CallInfo) bool { return t.filter != nil && !t.filter(info) }

// errPanicked ends the call of an interceptor or handler that did not return.
var errPanicked = errors.New("panic")

func (t *telemetry) clientRequest(ctx context.Context, info *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
	if t.skips(info) {
		return next(ctx, req)
	}
	ctx, c := t.begin(ctx, &t.client, info)
	defer c.end(errPanicked) // counts where nothing ended it before
	c.request(len(req))
	traced := t.inject(ctx)
	resp, err := next(traced, req)
	if untraced(ctx, traced, err) { // nothing has been sent
		resp, err = next(ctx, req)
	}
	if err == nil {
		c.response(len(resp))
	}
	c.end(err)
	return resp, err
}

func (t *telemetry) clientStream(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.NewStreamFunc) (*grid.Stream, error) {
	if t.skips(&info.CallInfo) {
		return next(ctx, payload)
	}
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
	traced := t.inject(ctx)
	st, err := next(traced, payload)
	if untraced(ctx, traced, err) { // nothing has been sent
		st, err = next(ctx, payload)
	}
	if err != nil {
		c.end(err)
	}
	opened = err == nil
	return st, err
}

func (t *telemetry) serverRequest(ctx context.Context, info *grid.CallInfo, payload []byte, next grid.ServeRequestFunc) ([]byte, error) {
	if t.skips(info) {
		return next(ctx, payload)
	}
	ctx, c := t.begin(t.extract(ctx), &t.server, info)
	defer c.end(errPanicked) // counts where nothing ended it before
	c.request(len(payload))
	resp, err := next(ctx, payload)
	if err == nil {
		c.response(len(resp))
	}
	c.end(err)
	return resp, err
}

func (t *telemetry) serverStream(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.ServeStreamFunc) error {
	if t.skips(&info.CallInfo) {
		return next(ctx, payload)
	}
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
	return grid.WithMetadata(ctx, md)
}

// untraced reports whether a call has failed because it has no room for the trace, and would not
// without it.
func untraced(ctx, traced context.Context, err error) bool {
	if ctx == traced || !errors.Is(err, grid.ErrMetadata) {
		return false
	}
	otel.Handle(fmt.Errorf("gridotel: trace is not propagated: %w", err))
	return true
}

// extract returns a context with the caller's trace.
func (t *telemetry) extract(ctx context.Context) context.Context {
	return t.propagator.Extract(ctx, grid.MetadataFrom(ctx))
}
