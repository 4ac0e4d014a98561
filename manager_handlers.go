package grid

import (
	"errors"
	"fmt"
)

// RegisterSingleHandler registers h for requests with this ID, on a subroute if one is given.
// Several subroutes are joined with "/"; a caller's route must match exactly. It fails with
// ErrUnknownHandler for an invalid ID and with ErrHandlerAlreadyExists. Handlers should be
// registered before there is traffic, but may be registered at any time.
func (m *Manager) RegisterSingleHandler(id HandlerID, h SingleHandlerFn, subroute ...string) error {
	if h == nil {
		return cannotRegister(id, errNilHandler)
	}
	return m.registerSingle(&singleHandler{registration: registration{id: id}, handle: h}, subroute)
}

// RegisterSingleHandlerContext is RegisterSingleHandler for a handler with a context, which knows
// its caller, deadline and metadata, and is canceled when the caller gives up. It fails like
// RegisterSingleHandler.
func (m *Manager) RegisterSingleHandlerContext(id HandlerID, h SingleHandlerContextFn, subroute ...string) error {
	if h == nil {
		return cannotRegister(id, errNilHandler)
	}
	return m.registerSingle(&singleHandler{registration: registration{id: id}, handleContext: h}, subroute)
}

// RegisterStreamingHandler registers h for streams with this ID. It fails like
// RegisterSingleHandler.
func (m *Manager) RegisterStreamingHandler(id HandlerID, h StreamHandler) error {
	if h.Handle == nil {
		return cannotRegister(id, errNilHandler)
	}
	raw := codec[[]byte, []byte]{
		decode: func(b []byte, _ room) ([]byte, error) { return b, nil },
		encode: func(b []byte) ([]byte, error) { return b, nil },
	}
	of := &streamHandlerOf[[]byte, []byte]{codec: raw, id: id, handle: h.Handle}
	return registerStreamOf(m, of, h.Subroute, h.InCapacity, h.OutCapacity)
}

// cannotRegister is the error of a registration that lacks something.
func cannotRegister(id HandlerID, err error) error {
	return fmt.Errorf("grid: %v: register: %w", id, err)
}

var (
	errNilHandler = errors.New("no handler function")
	errNilManager = errors.New("no manager")
)

// registerStreamOf registers a handler of streams.
func registerStreamOf[In, Out any](m *Manager, h *streamHandlerOf[In, Out], subroute string, inCap, outCap int) error {
	if m == nil {
		return cannotRegister(h.id, errNilManager)
	}
	if len(m.interceptors.serverStreams) > 0 {
		h.intercept = func(mux *muxServer, payload []byte, handle ServeStreamFunc) *RemoteErr {
			call := callInfo(mux.link, h.id, mux.handler.subroute)
			return m.interceptors.serve(mux.ctx, call, payload, mux.observe, handle)
		}
	}
	if inCap < 0 || outCap < 0 {
		return fmt.Errorf("grid: handler %v: negative capacity (in %d, out %d)", h.id, inCap, outCap)
	}
	return m.registerStream(&streamHandler{
		registration: registration{id: h.id},
		inCapacity:   inCap,
		outCapacity:  max(outCap, 1),
		serve:        func(m *muxServer, payload []byte) { serveStream(m, h, payload) },
	}, subroute)
}

func (m *Manager) registerSingle(h *singleHandler, subroute []string) error {
	for _, part := range subroute {
		h.subroute = joinRoute(h.subroute, part)
	}
	if m != nil && len(m.interceptors.serverRequests) > 0 {
		plain := *h
		h = &singleHandler{registration: h.registration, handleContext: m.interceptors.handler(m.node.Local, plain)}
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

// register publishes a new registry, to which add has added a handler.
func (m *Manager) register(id HandlerID, subroute string, add func(r *registry, route *routeID)) error {
	if m == nil {
		return cannotRegister(id, errNilManager)
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
	r.names = append(r.names, registration{id, subroute, len(r.names)})
	m.registry.Store(r)
	return nil
}
