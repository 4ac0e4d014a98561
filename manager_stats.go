package grid

import (
	"cmp"
	"slices"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// Stats returns what the node has counted. It takes some microseconds per connection and does not
// disturb calls.
func (m *Manager) Stats() Stats {
	if m == nil {
		return Stats{}
	}
	s := Stats{Local: m.node.Local, Started: m.node.started, Time: time.Now()}
	table := newHandlerTable(m.registry.Load().names)
	for _, host := range m.Targets() {
		c := m.connections[host]
		s.Peers = append(s.Peers, c.Stats())
		table.add(&c.link, c.openCalls())
	}
	s.Handlers = table.stats()
	return s
}

// Open returns the calls that are open now on all connections, oldest first. There may be many.
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

// RecentErrors returns the last different errors of the node, newest first: at most 64, plus 16
// about strangers. It has connections that were lost, failed or were refused, and failed calls of
// this node and of others, except those that their caller canceled.
func (m *Manager) RecentErrors() []RecentError {
	if m == nil {
		return nil
	}
	return m.node.recentErrors()
}

// Traces returns the PubSub to which traces are published: ManagerOptions.TraceTo, or the Manager's
// own if that is nil. Calls are traced while it has a subscriber.
func (m *Manager) Traces() *pubsub.PubSub[TraceInfo, TraceType] {
	if m == nil {
		return nil
	}
	return m.node.TraceTo
}
