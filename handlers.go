package grid

import (
	"context"
	"errors"
	"fmt"
	"maps"
)

// SingleHandlerFn answers a single request. It owns payload; what it returns
// is no longer its own. Each call runs on a goroutine of its own.
type SingleHandlerFn func(payload []byte) ([]byte, *RemoteErr)

// SingleHandlerContextFn is a SingleHandlerFn that knows its caller: ctx has
// the caller's deadline, GetCaller and GetSubroute, and is canceled when the
// caller gives up or goes away. Callers of the original do not say that they give up.
// What it returns once ctx has ended is not sent: nobody waits for it.
type SingleHandlerContextFn func(ctx context.Context, payload []byte) ([]byte, *RemoteErr)

// StreamHandlerFn serves one stream. It receives requests from in, which is
// nil where InCapacity is 0 and is closed when the caller ends its input or the
// stream is canceled, and sends its answers to out, which it never closes.
// What it sends is no longer its own. All that it sent before it returned is
// delivered. ctx carries the caller's deadline and cancellation, GetCaller and GetSubroute. It has ended before in is closed
// for that reason. What the handler returns counts only where ctx has not ended by then, and its deadline has not passed:
// the caller of a stream that was cut short always gets an error.
type StreamHandlerFn func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr

// StreamHandler describes a handler of streams.
type StreamHandler struct {
	// Handle serves one stream.
	Handle StreamHandlerFn
	// Subroute the handler serves, empty for none.
	Subroute string
	// OutCapacity is the number of messages that the handler may send ahead
	// of the caller's consumer. 0 means 1. Both nodes must use the same number, else their streams end with an error.
	OutCapacity int
	// InCapacity is the number of messages that the caller may send ahead of
	// the handler. 0 means that the handler takes no input. Both nodes must use the same number, as for OutCapacity.
	InCapacity int
}

// StatelessHandlerFn is part of the original's API. Its streams were never supported on the wire.
type StatelessHandlerFn func(ctx context.Context, payload []byte, resp chan<- []byte) *RemoteErr

// StatelessHandler is part of the original's API. Its streams were never supported on the wire.
type StatelessHandler struct {
	// Handle is never called.
	Handle StatelessHandlerFn
	// OutCapacity is the number of messages that the handler may send ahead.
	OutCapacity int
}

// RegisterSingleHandler registers h for requests with this ID. Several
// subroutes are joined with "/"; a caller's route must match exactly. It fails
// with ErrUnknownHandler for an invalid ID and with ErrHandlerAlreadyExists.
// Register before traffic; it is safe to call at any time.
func (m *Manager) RegisterSingleHandler(id HandlerID, h SingleHandlerFn, subroute ...string) error {
	if h == nil {
		return nilHandler(id)
	}
	return m.registerSingle(&singleHandler{id: id, handle: h}, subroute)
}

// RegisterSingleHandlerContext is RegisterSingleHandler for a handler that is given a context: it knows its caller, its
// deadline and its metadata, and hears when the caller gives up. It fails as RegisterSingleHandler does.
func (m *Manager) RegisterSingleHandlerContext(id HandlerID, h SingleHandlerContextFn, subroute ...string) error {
	if h == nil {
		return nilHandler(id)
	}
	return m.registerSingle(&singleHandler{id: id, handleContext: h}, subroute)
}

// RegisterStreamingHandler registers h for streams with this ID. It fails as RegisterSingleHandler does.
func (m *Manager) RegisterStreamingHandler(id HandlerID, h StreamHandler) error {
	if h.Handle == nil {
		return nilHandler(id)
	}
	raw := codec[[]byte, []byte]{
		decode: func(b []byte, _ room) ([]byte, error) { return b, nil },
		encode: func(b []byte) ([]byte, error) { return b, nil },
	}
	of := &streamHandlerOf[[]byte, []byte]{codec: raw, id: id, handle: h.Handle}
	return of.register(m, h.Subroute, h.InCapacity, h.OutCapacity)
}

func nilHandler(id HandlerID) error {
	return fmt.Errorf("grid: handler %v is nil", id)
}

// codec turns the messages of a stream into a handler's values and back.
type codec[In, Out any] struct {
	decode func(b []byte, r room) (In, error) // takes ownership of b; what it makes of b counts in r
	encode func(v Out) ([]byte, error)        // takes ownership of v; the bytes go back to the pool once sent
}

// safely calls f, which may be the application's code, and makes an error of its panic.
func safely[A, B any](f func(A) (B, error), a A) (b B, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return f(a)
}

// streamHandlerOf is a handler of streams whose channels carry In and Out. An
// error of the codec ends the stream with that error for the caller.
type streamHandlerOf[In, Out any] struct {
	codec[In, Out]
	id     HandlerID
	handle func(ctx context.Context, payload []byte, in <-chan In, out chan<- Out) *RemoteErr
}

// register registers the handler.
func (h *streamHandlerOf[In, Out]) register(m *Manager, subroute string, inCap, outCap int) error {
	if inCap < 0 || outCap < 0 {
		return fmt.Errorf("grid: handler %v: negative capacity (in %d, out %d)", h.id, inCap, outCap)
	}
	return m.registerStream(&streamHandler{
		id:          h.id,
		inCapacity:  inCap,
		outCapacity: max(outCap, 1),
		serve:       func(m *muxServer, payload []byte) { serveStream(m, h, payload) },
	}, subroute)
}

// call runs the handler, within the interceptors.
func (h *streamHandlerOf[In, Out]) call(m *muxServer, payload []byte, in <-chan In, out chan<- Out) (err *RemoteErr) {
	defer m.recovered(h.id, &err)
	if m.interceptors.serverStreams == nil {
		return h.handle(m.ctx, payload, in, out)
	}
	observe := func(observers []StreamObserver) { m.observed = newObservation(m.link, h.id, observers) }
	return m.interceptors.serve(m.ctx, m.callInfo(h.id, m.handler.subroute), payload, observe,
		func(ctx context.Context, payload []byte) *RemoteErr {
			return whole(ctx, h.handle(ctx, payload, in, out))
		})
}

// singleHandler is a registered handler of requests. One of its functions is set: handleTyped is a typed handler without a context.
type singleHandler struct {
	id            HandlerID
	number        int // of the registration
	subroute      string
	handle        SingleHandlerFn
	handleTyped   func(r room, payload []byte) ([]byte, *RemoteErr)
	handleContext SingleHandlerContextFn
}

// streamHandler is a registered handler of streams.
type streamHandler struct {
	id          HandlerID
	number      int // of the registration
	subroute    string
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
	names        []handlerName // by number of the registration
}

// handlerName is what statistics call a handler.
type handlerName struct {
	id       HandlerID
	subroute string
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

// clone copies the registry, to be changed before it is published. The tables of routes are shared: they
// are never changed.
func (r *registry) clone() *registry {
	c := *r
	return &c
}

// routes are the handlers on subroutes. A table is never changed: adding makes a new one. It is in two
// parts, of which only the small one is copied for that, so that registering many is not quadratic. Its
// zero value is ready.
type routes[H any] struct{ most, latest map[routeID]H }

func (t routes[H]) get(id routeID) H {
	if h, ok := t.most[id]; ok {
		return h
	}
	return t.latest[id]
}

// with returns the table with one more handler.
func (t routes[H]) with(id routeID, h H) routes[H] {
	if n := len(t.latest); n*n > len(t.most)+1 { // the larger part is copied once for about its root
		all := make(map[routeID]H, len(t.most)+n)
		maps.Copy(all, t.most)
		maps.Copy(all, t.latest)
		t = routes[H]{most: all}
	}
	latest := make(map[routeID]H, len(t.latest)+1)
	maps.Copy(latest, t.latest)
	latest[id] = h
	t.latest = latest
	return t
}

func (m *Manager) registerSingle(h *singleHandler, subroute []string) error {
	for _, part := range subroute {
		h.subroute = joinRoute(h.subroute, part)
	}
	if m != nil && len(m.interceptors.serverRequests) > 0 {
		plain := *h
		h = &singleHandler{id: h.id, subroute: h.subroute, handleContext: m.interceptors.handler(m.options.Local, plain)}
	}
	return m.register(h.id, h.subroute, func(r *registry, route *routeID) {
		h.number = len(r.names)
		if route != nil {
			r.routeSingles = r.routeSingles.with(*route, h)
		} else {
			r.singles[h.id] = h
		}
	})
}

func (m *Manager) registerStream(h *streamHandler, subroute string) error {
	h.subroute = subroute
	return m.register(h.id, subroute, func(r *registry, route *routeID) {
		h.route, h.number = route, len(r.names)
		if route != nil {
			r.routeStreams = r.routeStreams.with(*route, h)
		} else {
			r.streams[h.id] = h
		}
	})
}

// register publishes a registry to which add has added a handler.
func (m *Manager) register(id HandlerID, subroute string, add func(r *registry, route *routeID)) error {
	if m == nil {
		return errors.New("grid: register on a nil Manager")
	}
	if id == handlerInvalid {
		return fmt.Errorf("%w: %v", ErrUnknownHandler, id)
	}
	var route *routeID
	name := id.String()
	if subroute != "" {
		r := makeRouteID(id, subroute)
		route = &r
		name += " on subroute " + subroute
	}
	m.registerMu.Lock()
	defer m.registerMu.Unlock()
	r := m.registry.Load().clone()
	if r.single(id, route) != nil || r.stream(id, route) != nil {
		return fmt.Errorf("%w: %s", ErrHandlerAlreadyExists, name)
	}
	add(r, route)
	r.names = append(r.names, handlerName{id, subroute})
	m.registry.Store(r)
	return nil
}
