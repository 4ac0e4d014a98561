package grid

import (
	"context"
	"fmt"
)

// Handle registers h for requests to a method: a handler with a name, such as "kv.Get". It is what
// Connection.Call calls; Method does the same with values in place of bytes. A name has at most 255
// bytes of printable text without spaces.
//
// It fails with ErrHandlerAlreadyExists if the name is taken, by a method of requests or of streams,
// or if another one has the same hash on the wire, and for what cannot be a name. Handlers should be
// registered before there is traffic, but may be registered at any time.
//
// On the wire a method is HandlerNamed on the subroute of its name. So RegisterSingleHandlerContext
// with those is the same, and is how a node of the original registers one.
func (m *Manager) Handle(name string, h SingleHandlerContextFn) error {
	to, err := method(name, h == nil)
	if err != nil {
		return err
	}
	return m.registerSingle(&singleHandler{target: to, handleContext: h})
}

// HandleStream is Handle for streams: each runs h on its own goroutine, with the stream. It is what
// Connection.OpenStream opens. ctx is that of a StreamHandlerFn, and so is what h returns, but h
// returns any error, like a SingleHandlerContextFn.
//
// A node of the original registers such a handler with an InCapacity and an OutCapacity of 16.
func (m *Manager) HandleStream(name string, h func(ctx context.Context, st *RawStream) error) error {
	to, err := method(name, h == nil)
	if err != nil {
		return err
	}
	return m.registerRaw(to, h)
}

// method returns what a handler is registered as, unless it lacks something.
func method(name string, nilHandler bool) (target, error) {
	if err := checkName(name); err != nil {
		return noHandler, fmt.Errorf("grid: register %.60q: %w", name, err)
	}
	to := target{id: HandlerNamed, route: name}
	if nilHandler {
		return noHandler, cannotRegister(to, errNilHandler)
	}
	return to, nil
}

// Prioritize is SetPriority for methods. It fails for what cannot be a name, and then sets none.
func (m *Manager) Prioritize(p Priority, names ...string) error {
	for _, name := range names {
		if err := checkName(name); err != nil {
			return fmt.Errorf("grid: priority of %.60q: %w", name, err)
		}
	}
	for _, name := range names {
		if err := m.prioritize(p, target{id: HandlerNamed, route: name}); err != nil {
			return err
		}
	}
	return nil
}
