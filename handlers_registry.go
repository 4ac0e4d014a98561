package grid

import (
	"context"
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
	id     HandlerID
	handle func(ctx context.Context, payload []byte, in <-chan In, out chan<- Out) *RemoteErr

	// intercept runs a handler of a stream within the interceptors of the node; nil where it has
	// none.
	intercept func(m *muxServer, payload []byte, handle ServeStreamFunc) *RemoteErr
}

// call runs the handler, within the interceptors.
func (h *streamHandlerOf[In, Out]) call(m *muxServer, payload []byte, in <-chan In, out chan<- Out) (err *RemoteErr) {
	defer m.recovered(h.id, &err)
	if h.intercept == nil {
		return h.handle(m.ctx, payload, in, out)
	}
	return h.intercept(m, payload, func(ctx context.Context, payload []byte) *RemoteErr {
		return whole(ctx, h.handle(ctx, payload, in, out))
	})
}

// singleHandler is a registered handler of requests. One of its functions is set: handleTyped is a
// typed handler without a context.
type singleHandler struct {
	registration
	handle        SingleHandlerFn
	handleTyped   func(r room, payload []byte) ([]byte, *RemoteErr)
	handleContext SingleHandlerContextFn
}

// streamHandler is a registered handler of streams.
type streamHandler struct {
	registration
	route       *routeID // nil without a subroute
	inCapacity  int
	outCapacity int
	serve       func(m *muxServer, payload []byte)
}

// registry is the set of handlers of a node. It is never changed: registering makes a new one.
type registry struct {
	singles      [256]*singleHandler
	streams      [256]*streamHandler
	routeSingles routes[*singleHandler]
	routeStreams routes[*streamHandler]
	names        []registration // by number
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

// clone copies the registry, to be changed before it is published. The tables of routes are shared:
// they are never changed.
func (r *registry) clone() *registry {
	c := *r
	return &c
}
