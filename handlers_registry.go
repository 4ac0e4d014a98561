package grid

import (
	"context"
	"runtime/pprof"
	rtrace "runtime/trace"

	"github.com/gridmesh/grid/internal/batch"
)

// codec turns the messages of a stream into a handler's values and back.
type codec[In, Out any] struct {
	decode func(b []byte, r room) (In, error) // takes ownership of b; what it makes of b counts in r
	encode func(v Out) ([]byte, error)        // takes ownership of v; the bytes go back to the pool once sent
}

// streamHandlerOf is a handler of streams whose channels carry In and Out. An
// error of the codec ends the stream with that error for the caller.
type streamHandlerOf[In, Out any] struct {
	codec[In, Out]
	to     target // but for its number
	handle func(ctx context.Context, payload []byte, in <-chan In, out chan<- Out) error

	// intercept runs a handler of a stream within the interceptors of the node; nil where it has
	// none.
	intercept func(m *muxServer, payload []byte, handle ServeStreamFunc) error
}

// call runs the handler, within the interceptors. Its error is what the caller is told.
func (h *streamHandlerOf[In, Out]) call(m *muxServer, payload []byte, in <-chan In, out chan<- Out) (err error) {
	defer m.recovered(m.ctx, h.to, &err)
	if labels := m.handler.labels; labels != nil {
		defer profiled(labels, h.to)()
	}
	if h.intercept == nil {
		return told(h.handle(m.ctx, payload, in, out))
	}
	return told(h.intercept(m, payload, func(ctx context.Context, payload []byte) error {
		returned := false
		defer keepOnPanic(ctx, &returned)
		err := h.handle(ctx, payload, in, out)
		returned = true
		return whole(ctx, ofHandler(err))
	}))
}

// singleHandler is a registered handler of requests. One of its functions is set: handleTyped is a
// typed handler without a context.
type singleHandler struct {
	target
	handle        func(payload []byte) ([]byte, error)
	handleTyped   func(r room, payload []byte) ([]byte, error)
	handleContext SingleHandlerContextFn
	labels        context.Context // with labels for profiles; nil for none
}

// streamHandler is a registered handler of streams.
type streamHandler struct {
	target
	onWire      *routeID // what its route is there; nil for none
	inCapacity  int
	outCapacity int
	direct      bool // it gets a RawStream
	foreign     bool // it is not registered here, so that only the peer knows its capacities
	serve       func(m *muxServer, payload []byte)
	labels      context.Context // as of a singleHandler
}

// handlerLabel is the name of the label in profiles.
const handlerLabel = "grid_handler"

// labelsOf returns a context with labels for the profiles of a handler.
func labelsOf(h target) context.Context {
	return pprof.WithLabels(context.Background(), pprof.Labels(handlerLabel, h.in()))
}

// profiled shows what this goroutine does, until end is called, in profiles and execution traces as
// work of a handler.
func profiled(labels context.Context, h target) (end func()) {
	pprof.SetGoroutineLabels(labels)
	region := rtrace.StartRegion(labels, h.in())
	return func() {
		region.End()
		pprof.SetGoroutineLabels(context.Background())
	}
}

// directCapacity is the capacity, in both directions, of handlers that get a RawStream, where windows
// are not in bytes.
const directCapacity = 16

// foreignStream returns what the caller of a stream knows of a handler that is not registered here.
func foreignStream(to target, onWire *routeID) *streamHandler {
	return &streamHandler{
		target:      to,
		onWire:      onWire,
		inCapacity:  directCapacity,
		outCapacity: directCapacity,
		direct:      true,
		foreign:     true,
	}
}

// registry is the set of handlers of a node. It is never changed: registering makes a new one.
type registry struct {
	singles      [256]*singleHandler
	streams      [256]*streamHandler
	routeSingles routes[*singleHandler]
	routeStreams routes[*streamHandler]
	registered   []registration // by number
	priorities   map[routeID]Priority
	list         handlerList // for the peers
}

// single finds the handler of a request; nil for none.
func (r *registry) single(id HandlerID, route *routeID) *singleHandler {
	if route != nil {
		return r.routeSingles.get(*route)
	}
	return r.singles[id]
}

// stream finds the handler of a stream; nil for none.
func (r *registry) stream(id HandlerID, route *routeID) *streamHandler {
	if route != nil {
		return r.routeStreams.get(*route)
	}
	return r.streams[id]
}

// find returns the handler of requests or of streams that is registered; false for none.
func (r *registry) find(id HandlerID, route *routeID) (to target, ok bool) {
	if h := r.single(id, route); h != nil {
		return h.target, true
	}
	if h := r.stream(id, route); h != nil {
		return h.target, true
	}
	return noHandler, false
}

// lane returns the lane of a call from here: by what its context says, or else by the handler.
func (r *registry) lane(out *outgoing, id HandlerID, route *routeID) batch.Lane {
	if out != nil && out.prioritized {
		return out.priority.lane()
	}
	return r.priority(id, route).lane()
}

// priority returns the priority of a handler, as SetPriority has set it.
func (r *registry) priority(id HandlerID, route *routeID) Priority {
	if r.priorities == nil {
		return PriorityNormal
	}
	return r.priorities[priorityKey(id, route)]
}

// priorityKey returns what a handler is known by in the table of priorities.
func priorityKey(id HandlerID, route *routeID) routeID {
	if route == nil {
		return routeID{byte(id)}
	}
	return *route
}

// clone copies the registry, to be changed before it is published. The tables of routes are shared:
// they are never changed.
func (r *registry) clone() *registry {
	c := *r
	return &c
}
