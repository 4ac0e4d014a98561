package grid

import (
	"cmp"
	"slices"
	"time"
)

// OpenCall is a single request or a stream that has not ended.
type OpenCall struct {
	// Role is RoleServer where the peer calls this node, and RoleClient where this node calls the peer.
	Role Role
	// Stream tells a stream from a single request.
	Stream bool
	// Peer is the name of the other node.
	Peer string
	// Handler and Subroute say what is called, Name is the handler's.
	Handler  HandlerID
	Name     string
	Subroute string
	// Age is how long it has been open. That of a single request from here may be 2.5 seconds short or over.
	Age time.Duration

	number int // of the registration, where Role is RoleServer
}

// Open returns what is open on all connections at the moment, the oldest first. It may be many.
func (m *Manager) Open() (open []OpenCall) {
	if m == nil {
		return nil
	}
	for _, c := range m.connections {
		open = append(open, c.openCalls()...)
	}
	slices.SortFunc(open, func(a, b OpenCall) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Handler, b.Handler))
	})
	for i := range open {
		open[i].Name = open[i].Handler.String()
	}
	return open
}

// openCalls returns what is open on the connection, without names.
func (c *Connection) openCalls() (open []OpenCall) {
	s := c.current.Load()
	if s == nil {
		return nil
	}
	now := time.Since(s.began)
	open = s.calls.table.open(open, s.calls.ticks.Load(), s.tick)
	open = s.requests.requests.open(open, now)
	for _, m := range s.muxes.clients.all() {
		open = append(open, OpenCall{
			Role: RoleClient, Stream: true, Handler: m.handler.id, Subroute: m.handler.subroute, Age: now - m.began,
		})
	}
	for _, m := range s.muxes.servers.all() {
		open = append(open, OpenCall{
			Role: RoleServer, Stream: true, Handler: m.handler.id, Subroute: m.handler.subroute, Age: now - m.began,
			number: m.handler.number,
		})
	}
	for i := range open {
		open[i].Peer = c.Remote
		open[i].Age = max(open[i].Age, 0) // one that began after the look at the clock
	}
	return open
}
