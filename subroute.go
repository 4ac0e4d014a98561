package grid

import (
	"context"
	"sync/atomic"
)

// Subroute is a Connection narrowed to handlers that are registered on a subroute. Its methods may
// be called by any number of goroutines, and on a nil Subroute, which is never connected.
type Subroute struct {
	*Connection

	route   string
	routes  atomic.Pointer[route]          // to the handlers called so far, linked by next
	methods atomic.Pointer[subrouteMethod] // called so far, linked by next
}

// Subroute narrows the route further: the parts are joined with "/".
func (s *Subroute) Subroute(sub string) *Subroute {
	if s == nil {
		return nil
	}
	return &Subroute{Connection: s.Connection, route: joinRoute(s.route, sub)}
}

// Request is Connection.Request to a handler on the subroute.
func (s *Subroute) Request(ctx context.Context, h HandlerID, req []byte) ([]byte, error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	return s.Connection.request(ctx, h, s.to(h), req)
}

// NewStream is Connection.NewStream to a handler on the subroute.
func (s *Subroute) NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error) {
	if s == nil {
		return nil, ErrDisconnected
	}
	return s.Connection.newStream(ctx, h, s.to(h), payload)
}

// to returns the route to a handler; nil for the empty route. It makes each of them once, because
// hashing the name takes a tenth of a call.
func (s *Subroute) to(h HandlerID) *route {
	if s.route == "" {
		return nil
	}
	if h == HandlerNamed {
		if r, err := calledMethods.to(s.route); err == nil {
			return r
		}
	}
	for {
		first := s.routes.Load()
		for r := first; r != nil; r = r.next {
			if r.leadsTo(h) {
				return r
			}
		}
		if r := newRoute(h, s.route, first); s.routes.CompareAndSwap(first, r) {
			return r
		}
	}
}

// Handles is Connection.Handles for a handler on the subroute.
func (s *Subroute) Handles(h HandlerID) bool {
	return s != nil && s.handlesRoute(h, s.to(h))
}

// Peer is Connection.Peer.
func (s *Subroute) Peer() Peer { return s.connection().Peer() }

// WaitForConnect is Connection.WaitForConnect.
func (s *Subroute) WaitForConnect(ctx context.Context) error {
	return s.connection().WaitForConnect(ctx)
}

// State is Connection.State.
func (s *Subroute) State() State { return s.connection().State() }

// Stats is Connection.Stats.
func (s *Subroute) Stats() ConnectionStats { return s.connection().Stats() }

// HandlerStats is Connection.HandlerStats.
func (s *Subroute) HandlerStats() []HandlerStats { return s.connection().HandlerStats() }

// String returns "local->remote".
func (s *Subroute) String() string { return s.connection().String() }

// StringReverse returns "remote->local".
func (s *Subroute) StringReverse() string { return s.connection().StringReverse() }

// connection makes the promoted methods safe on a nil Subroute.
func (s *Subroute) connection() *Connection {
	if s == nil {
		return nil
	}
	return s.Connection
}
