package grid

import (
	"cmp"
	"maps"
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
	s := Stats{Local: m.node.Local, Started: m.node.started, Time: time.Now(), Limits: m.node.Limits, Logged: m.node.logged()}
	says := m.says.now()
	s.Version, s.Labels, s.Draining = says.version, maps.Clone(says.labels), says.draining
	table := newHandlerTable(m.registry.Load().registered, calledMethods.name)
	set := m.members.Load()
	for _, c := range set.list {
		s.Peers = append(s.Peers, c.Stats())
		table.addConnection(&c.link, c.openCalls())
	}
	s.Removed = set.past.removed
	s.Removed.Leaving = len(set.leaving)
	for _, c := range set.leaving {
		s.Removed.add(c.Stats())
		table.addConnection(&c.link, c.openCalls())
	}
	table.add(set.past.served, set.past.called)
	s.Guests = m.guests.stats(table)
	s.Handlers = table.stats()
	return s
}

// Open returns the calls that are open now on all connections, oldest first. There may be many. Those
// with hosts that were removed, and with guests, are there until they end.
func (m *Manager) Open() (open []OpenCall) {
	if m == nil {
		return nil
	}
	for _, c := range append(m.members.Load().all(), m.guests.all()...) {
		open = append(open, c.openCalls()...)
	}
	slices.SortFunc(open, func(a, b OpenCall) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Handler, b.Handler), cmp.Compare(a.Name, b.Name))
	})
	return open
}

// RecentErrors returns the last different errors of the node, newest first: at most 64, plus 16
// about strangers, and 16 about guests. It has connections that were lost, failed or were refused, and failed calls of
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
