package grid

import (
	"context"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// TraceType is the kind of a trace, a bit in the masks of subscribers.
type TraceType uint64

// TraceInternode is the type of all traces of this package.
const TraceInternode TraceType = 1

// TraceParamsKey is the context key under which a caller may leave a map[string]string for the
// trace of its request, which has it as Params. The map must not be changed afterwards.
type TraceParamsKey struct{}

// TraceInfo describes one finished request or opened stream.
type TraceInfo struct {
	// Type is TraceInternode.
	Type TraceType
	// Time is when the call began, Duration how long it took.
	Time     time.Time
	Duration time.Duration
	// Handler is "grid." and the handler's name.
	Handler string
	// Local is the name of this node, Remote that of the other.
	Local, Remote string
	// Subroute is the route of the call, empty for none.
	Subroute string
	// BytesOut and BytesIn are the payload bytes that this node sent and received. For a stream,
	// BytesOut is the payload that opened it.
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
func startTrace(ctx context.Context, to *pubsub.PubSub[TraceInfo, TraceType], l *link, h HandlerID, subroute string, out int) *trace {
	if !to.Wants(TraceInternode) {
		return nil
	}
	params, _ := ctx.Value(TraceParamsKey{}).(map[string]string)
	return &trace{
		to: to,
		info: TraceInfo{
			Type:     TraceInternode,
			Time:     time.Now(),
			Handler:  tracePrefix + h.String(),
			Local:    l.local,
			Remote:   l.remote,
			Subroute: subroute,
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
