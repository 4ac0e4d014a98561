package grid

import (
	"maps"
	"time"

	"github.com/google/uuid"
)

// Peer is what a node knows of another. It is a copy: it does not change, and may be changed.
type Peer struct {
	// Name is the name of the peer, one of ManagerOptions.Hosts.
	Name string
	// ID is the peer's Manager.ID, which tells one process under this name from the next.
	ID uuid.UUID
	// Version and Labels are those of ManagerOptions there, or of Manager.SetLabels.
	Version string
	Labels  map[string]string
	// Draining reports whether the peer is about to go: see Manager.Drain.
	Draining bool
	// Features are the names of what both nodes can do beyond the original; docs/protocol.md lists
	// them. There are none if the peer is a node of the original.
	Features []string
	// LocalAddr and RemoteAddr are the network addresses of the two ends, such as "10.0.0.1:9000".
	// Behind a proxy, RemoteAddr is that of the proxy.
	LocalAddr, RemoteAddr string
	// Since is when the connection came up; zero while there is none.
	Since time.Time
}

// acquaintance is what a Connection knows of the newest process of its peer.
type acquaintance struct {
	process
	local    string // address
	features []string
}

// Peer returns what is known of the peer. As soon as the connection is up, that is everything. While
// it is down, it is what was known last, with a zero Since; before it was up for the first time,
// only Name. Nodes of the original, and those of this project that are older, tell neither Version,
// Labels nor Draining.
func (c *Connection) Peer() Peer {
	if c == nil {
		return Peer{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := Peer{
		Name:       c.Remote,
		ID:         c.known.id,
		Features:   append([]string(nil), c.known.features...),
		LocalAddr:  c.known.local,
		RemoteAddr: c.known.address,
	}
	if c.state == StateConnected {
		p.Since = c.since
	}
	if f := c.facts.Load(); f != nil {
		p.Version, p.Labels, p.Draining = f.version, maps.Clone(f.labels), f.draining
	}
	return p
}

// Handles reports whether the connection is up and the peer is known to have handler h, for requests
// or for streams. Use it where a cluster is upgraded node by node, to ask those that can answer.
//
// It is true from when the connection is up, or within a moment of the registration if that is
// later. It is false for nodes of the original, and for those of this project that are older: they
// do not tell. Of more than 4,096 handlers on subroutes those that were registered last are not
// told either, and none of them if Limits.MaxMessageSize is too low.
func (c *Connection) Handles(h HandlerID) bool {
	return c.handlesRoute(h, nil)
}

// handles reports whether the peer is known to have a handler of requests, or of streams.
func (c *Connection) handles(h HandlerID, to *route, stream bool) bool {
	if c == nil || c.current.Load() == nil {
		return false
	}
	f := c.facts.Load()
	return f != nil && f.handlers.of(stream).has(h, to.wire())
}

// meet notes what is known of the peer as a session begins. c.mu is held.
func (c *Connection) meet(s *session) {
	c.known = acquaintance{process: s.peer, local: s.local, features: s.names()}
	address := s.peer.address
	c.address.Store(&address)
	heard := s.heard
	if heard == nil {
		heard = new(facts)
	}
	c.facts.Store(heard)
}
