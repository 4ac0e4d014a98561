package grid

import (
	"context"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// TraceType is the kind of a trace, a bit in the masks of subscribers.
type TraceType uint64

// The types of the traces of this package.
const (
	// TraceInternode is a request that this node has made, or a stream that it has opened.
	TraceInternode TraceType = 1 << iota
	// TraceServed is a request, or a stream, that a handler of this node has finished with.
	TraceServed
)

// TraceParamsKey is the context key under which a caller may leave a map[string]string for the
// trace of its request, which has it as Params. The map must not be changed afterwards.
type TraceParamsKey struct{}

// TraceInfo describes a call: a request that has ended, a stream that was opened, or what a handler
// has finished with.
type TraceInfo struct {
	// Type is TraceInternode or TraceServed.
	Type TraceType
	// Time is when the call began, Duration how long it took. For a stream that this node has
	// opened, that is how long opening it took, and for one that it has served, until its end.
	Time     time.Time
	Duration time.Duration
	// Handler is "grid." and the name of the method or the handler.
	Handler string
	// Local is the name of this node, Remote that of the other.
	Local, Remote string
	// Subroute is the route of the call, empty for none.
	Subroute string
	// BytesOut and BytesIn are the payload bytes that this node sent and received. For a stream,
	// BytesOut is the payload that opened it, and both are 0 for one that was served.
	BytesOut, BytesIn int
	// Error is the text of the error, empty if the call succeeded.
	Error string
	// Params are the caller's parameters, from TraceParamsKey.
	Params map[string]string
}

// Mask returns the type, for subscribers that want only some types.
func (t TraceInfo) Mask() TraceType { return t.Type }

// tracePrefix stands in front of handler names in traces.
const tracePrefix = "grid."

// trace is a request that is being traced.
type trace struct {
	info TraceInfo
	to   *pubsub.PubSub[TraceInfo, TraceType]
}

// startTrace returns nil if nobody wants traces.
func startTrace(ctx context.Context, to *pubsub.PubSub[TraceInfo, TraceType], l *link, called target, out int) *trace {
	if !to.Wants(TraceInternode) {
		return nil
	}
	params, _ := ctx.Value(TraceParamsKey{}).(map[string]string)
	return &trace{
		to: to,
		info: TraceInfo{
			Type:     TraceInternode,
			Time:     time.Now(),
			Handler:  tracePrefix + called.String(),
			Local:    l.local,
			Remote:   l.remote,
			Subroute: called.subroute(),
			BytesOut: out,
			Params:   params,
		},
	}
}

func (t *trace) end(in int, err error) {
	t.info.Duration = time.Since(t.info.Time)
	t.info.BytesIn = in
	if err != nil {
		t.info.Error = err.Error()
	}
	t.to.Publish(t.info)
}

// tracesServed reports whether somebody wants the traces of what this node serves.
func (l *link) tracesServed() bool { return l.traces.Wants(TraceServed) }

// traceServed publishes a call of the peer that a handler has finished with, if somebody wants that.
func (l *link) traceServed(h target, d time.Duration, in, out int, err error) {
	if !l.tracesServed() {
		return
	}
	info := TraceInfo{
		Type:     TraceServed,
		Time:     time.Now().Add(-d),
		Duration: d,
		Handler:  tracePrefix + h.String(),
		Local:    l.local,
		Remote:   l.remote,
		Subroute: h.subroute(),
		BytesIn:  in,
		BytesOut: out,
	}
	if err != nil {
		info.Error = err.Error()
	}
	l.traces.Publish(info)
}
