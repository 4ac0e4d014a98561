package grid

import (
	"cmp"
	"slices"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// Stats returns what the node has counted. It costs some microseconds for each connection, and disturbs no call.
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

// RecentErrors returns the last different errors of the node, 64 and 16 of strangers at the most, the newest first: connections that were lost, not
// made or refused, and calls from here and of others that failed, those aside that their caller has canceled.
func (m *Manager) RecentErrors() []RecentError {
	if m == nil {
		return nil
	}
	return m.node.recentErrors()
}

// Traces returns where traces are published: ManagerOptions.TraceTo, or where that is nil, one of the Manager's own.
// Requests are traced while it has a subscriber.
func (m *Manager) Traces() *pubsub.PubSub[TraceInfo, TraceType] {
	if m == nil {
		return nil
	}
	return m.node.TraceTo
}
