package grid

import (
	"context"
	"errors"
	"fmt"
	"maps"
)

// RegisterSingleHandler registers h for requests with this ID, on a subroute if one is given.
// Several subroutes are joined with "/"; a caller's route must match exactly. It fails with
// ErrUnknownHandler for an invalid ID and with ErrHandlerAlreadyExists. Handlers should be
// registered before there is traffic, but may be registered at any time.
func (m *Manager) RegisterSingleHandler(id HandlerID, h SingleHandlerFn, subroute ...string) error {
	to := target{id: id, route: joinRoutes(subroute)}
	if h == nil {
		return cannotRegister(to, errNilHandler)
	}
	handle := func(payload []byte) ([]byte, error) {
		out, err := h(payload)
		return out, err.orNil()
	}
	return m.registerSingle(&singleHandler{target: to, handle: handle})
}

// RegisterSingleHandlerContext is RegisterSingleHandler for a handler with a context, which knows
// its caller, deadline and metadata, and is canceled when the caller gives up. It fails like
// RegisterSingleHandler.
func (m *Manager) RegisterSingleHandlerContext(id HandlerID, h SingleHandlerContextFn, subroute ...string) error {
	to := target{id: id, route: joinRoutes(subroute)}
	if h == nil {
		return cannotRegister(to, errNilHandler)
	}
	return m.registerSingle(&singleHandler{target: to, handleContext: h})
}

// RegisterStreamingHandler registers h for streams with this ID. It fails like
// RegisterSingleHandler.
func (m *Manager) RegisterStreamingHandler(id HandlerID, h StreamHandler) error {
	to := target{id: id, route: h.Subroute}
	if h.Handle == nil {
		return cannotRegister(to, errNilHandler)
	}
	handle := func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) error {
		return h.Handle(ctx, payload, in, out).orNil()
	}
	of := &streamHandlerOf[[]byte, []byte]{codec: rawCodec, to: to, handle: handle}
	return registerStreamOf(m, of, h.InCapacity, h.OutCapacity)
}

// rawCodec is for handlers that take and send bytes.
var rawCodec = codec[[]byte, []byte]{
	decode: func(b []byte, _ room) ([]byte, error) { return b, nil },
	encode: func(b []byte) ([]byte, error) { return b, nil },
}

// SetPriority sets the priority of the calls of a handler: of those that this node makes, unless
// WithPriority says otherwise, and of the answers of the handler here, also for callers that ask for
// none. Call it for all nodes, before or after the handler is registered; it holds for calls that
// begin from then on. Several subroutes are joined with "/". It fails with ErrUnknownHandler for an
// invalid ID.
func (m *Manager) SetPriority(p Priority, id HandlerID, subroute ...string) error {
	return m.prioritize(p, target{id: id, route: joinRoutes(subroute)})
}

func (m *Manager) prioritize(p Priority, to target) error {
	switch {
	case m == nil:
		return errNilManager
	case to.id == handlerInvalid:
		return fmt.Errorf("%w: %v", ErrUnknownHandler, to)
	case p > PriorityHigh:
		return fmt.Errorf("grid: %s: no priority %d", to.in(), p)
	}
	m.registerMu.Lock()
	defer m.registerMu.Unlock()
	r := m.registry.Load().clone()
	r.priorities = maps.Clone(r.priorities)
	if r.priorities == nil {
		r.priorities = make(map[routeID]Priority)
	}
	r.priorities[priorityKey(to.id, to.wire())] = p
	m.registry.Store(r)
	return nil
}

// cannotRegister is the error of a registration that lacks something.
func cannotRegister(to target, err error) error {
	return fmt.Errorf("grid: %s: register: %w", to.in(), err)
}

var (
	errNilHandler = errors.New("no handler function")
	errNilManager = errors.New("no manager")
)

// registerStreamOf registers a handler of streams.
func registerStreamOf[In, Out any](m *Manager, h *streamHandlerOf[In, Out], inCap, outCap int) error {
	if m == nil {
		return cannotRegister(h.to, errNilManager)
	}
	h.intercept = m.interceptStreams()
	if inCap < 0 || outCap < 0 {
		return fmt.Errorf("grid: handler %s: negative capacity (in %d, out %d)", h.to.in(), inCap, outCap)
	}
	return m.registerStream(&streamHandler{
		target:      h.to,
		inCapacity:  inCap,
		outCapacity: max(outCap, 1),
		serve:       func(m *muxServer, payload []byte) { serveStream(m, h, payload) },
	})
}

// registerRaw registers a handler of streams that gets a RawStream.
func (m *Manager) registerRaw(to target, handle func(ctx context.Context, st *RawStream) error) error {
	if m == nil {
		return cannotRegister(to, errNilManager)
	}
	h := &rawHandler{to: to, intercept: m.interceptStreams()}
	h.handle = func(ctx context.Context, mux *muxServer, payload []byte) error {
		st := &RawStream{ctx: ctx, mux: mux, payload: payload}
		if ctx == nil { // of an interceptor
			st.ctx = mux.ctx
		}
		mux.out.owner = st // which alone ends the messages
		return handle(ctx, st)
	}
	return m.registerStream(&streamHandler{
		target:      to,
		inCapacity:  directCapacity,
		outCapacity: directCapacity,
		direct:      true,
		serve:       h.serve,
	})
}

// interceptStreams returns what runs a handler of streams within the interceptors; nil if there are
// none.
func (m *Manager) interceptStreams() func(*muxServer, []byte, ServeStreamFunc) error {
	if len(m.interceptors.serverStreams) == 0 {
		return nil
	}
	return func(mux *muxServer, payload []byte, handle ServeStreamFunc) error {
		call := callInfo(mux.link, mux.handler.target)
		return m.interceptors.serve(mux.ctx, call, payload, mux.observe, handle)
	}
}

func (m *Manager) registerSingle(h *singleHandler) error {
	if m != nil && len(m.interceptors.serverRequests) > 0 {
		plain := *h
		h = &singleHandler{target: h.target, handleContext: m.interceptors.handler(m.node.Local, plain)}
	}
	if m != nil && m.node.ProfileHandlers {
		h.labels = labelsOf(h.target)
	}
	return m.register(h.target, func(r *registry, route *routeID) {
		h.number = len(r.registered)
		r.list.add(false, h.id, route)
		if route != nil {
			r.routeSingles = r.routeSingles.with(*route, h)
		} else {
			r.singles[h.id] = h
		}
	})
}

func (m *Manager) registerStream(h *streamHandler) error {
	if m != nil && m.node.ProfileHandlers {
		h.labels = labelsOf(h.target)
	}
	return m.register(h.target, func(r *registry, route *routeID) {
		h.onWire, h.number = route, len(r.registered)
		r.list.add(true, h.id, route)
		if route != nil {
			r.routeStreams = r.routeStreams.with(*route, h)
		} else {
			r.streams[h.id] = h
		}
	})
}

// register publishes a new registry, to which add has added a handler, and tells the peers.
func (m *Manager) register(to target, add func(r *registry, route *routeID)) error {
	switch {
	case m == nil:
		return cannotRegister(to, errNilManager)
	case to.id == handlerInvalid:
		return fmt.Errorf("%w: %v", ErrUnknownHandler, to)
	}
	if err := m.publish(to, to.wire(), add); err != nil {
		return err
	}
	m.says.registered()
	return nil
}

// publish publishes a new registry with a handler that is on a route on the wire; nil for none.
func (m *Manager) publish(to target, route *routeID, add func(r *registry, route *routeID)) error {
	m.registerMu.Lock()
	defer m.registerMu.Unlock()
	r := m.registry.Load().clone()
	if known, ok := r.find(to.id, route); ok {
		if known.route != to.route {
			return fmt.Errorf("%w: %s has the same hash on the wire as %s", ErrHandlerAlreadyExists, to.in(), known.in())
		}
		return fmt.Errorf("%w: %s", ErrHandlerAlreadyExists, to.in())
	}
	add(r, route)
	to.number = len(r.registered)
	r.registered = append(r.registered, registration{to, r.stream(to.id, route) != nil})
	m.registry.Store(r)
	return nil
}
