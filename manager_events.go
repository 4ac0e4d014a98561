package grid

import (
	"context"
	"fmt"
	"iter"
)

// EventKind is what has happened to a host.
type EventKind uint8

const (
	// EventAdded is a host that is one of the hosts now: see Manager.SetHosts.
	EventAdded EventKind = iota + 1
	// EventConnected is a host whose connection has come up.
	EventConnected
	// EventLost is a host whose connection was up and is no longer.
	EventLost
	// EventRemoved is a host that is none of the hosts anymore. Nothing more is said about it, not
	// even that its connection ends, unless it is added again.
	EventRemoved
	// EventDraining is a host that is connected and about to go: see Manager.Drain. EventUndrained is
	// one that has taken that back.
	EventDraining
	EventUndrained
)

// String returns the name of the kind, such as "connected".
func (k EventKind) String() string {
	switch k {
	case EventAdded:
		return "added"
	case EventConnected:
		return "connected"
	case EventLost:
		return "lost"
	case EventRemoved:
		return "removed"
	case EventDraining:
		return "draining"
	case EventUndrained:
		return "undrained"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is a change of the hosts or of a connection, as Manager.Events reports it.
type Event struct {
	// Kind is what has happened.
	Kind EventKind
	// Peer is the name of the host.
	Peer string
	// Reason is why a connection was lost, in words; empty for other events. It is escaped and cut
	// like RecentError.Text.
	Reason string
}

// Events reports what happens to the hosts and their connections, until ctx or the Manager ends, or
// the loop is left. It begins with how things are: each host is added, and connected and draining if
// it is.
//
// Nothing waits for the loop, which is the caller's. What has changed back meanwhile is left out,
// except that a connection that has come up again was lost in between. So however slow the loop
// is, nothing piles up, and the last event about a host says how things are. Several loops are
// independent of each other. With a nil ctx the loop has no events.
func (m *Manager) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		if m == nil || ctx == nil {
			return
		}
		ctx, cancel := bounded(ctx)
		defer cancel()
		n := m.node
		changed, stop := n.watchers.add()
		defer stop()
		var v view
		for ctx.Err() == nil && !n.over() {
			if !v.update(m.members.Load(), yield) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			case <-n.ctx.Done():
			}
		}
	}
}

// view is what a loop over events has been told. The zero value is that of one that knows nothing.
type view struct {
	hosts map[string]seen
}

// seen is what was told of one host.
type seen struct {
	conn     *Connection
	up       bool
	connects int64 // when up was told
	draining bool  // never while it is not up
}

// update tells what is different from the view, which it brings up to date. It returns false if
// nobody listens anymore.
func (v *view) update(now *members, yield func(Event) bool) bool {
	if v.hosts == nil {
		v.hosts = make(map[string]seen, len(now.list))
	}
	for host, was := range v.hosts {
		if now.get(host) == was.conn {
			continue
		}
		delete(v.hosts, host)
		if !yield(Event{Kind: EventRemoved, Peer: host}) {
			return false
		}
	}
	for _, c := range now.list {
		was, known := v.hosts[c.Remote]
		is, why := c.glance()
		v.hosts[c.Remote] = is
		again := is.connects != was.connects
		for _, e := range []struct {
			kind   EventKind
			happen bool
			reason string
		}{
			{EventAdded, !known, ""},
			{EventLost, was.up && (!is.up || again), why},
			{EventConnected, is.up && (!was.up || again), ""},
			{EventDraining, is.draining && (!was.draining || again), ""},
			{EventUndrained, is.up && !is.draining && was.draining && !again, ""},
		} {
			if e.happen && !yield(Event{Kind: e.kind, Peer: c.Remote, Reason: e.reason}) {
				return false
			}
		}
	}
	return true
}

// glance returns how the connection is now, and why it was lost the last time.
func (c *Connection) glance() (is seen, lost string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	is = seen{conn: c, up: c.state == StateConnected, connects: c.connects}
	if f := c.facts.Load(); f != nil {
		is.draining = is.up && f.draining
	}
	return is, c.lostReason
}

// WaitForConnect waits until enough hosts are connected: more than half of all nodes, counting this
// one, or all of them. It counts the hosts of the moment, so it follows SetHosts, and a node that is
// alone waits for nobody. It returns ErrShutdown if the Manager ends, and if ctx ends first an error
// that wraps its cause and names hosts that are missing.
func (m *Manager) WaitForConnect(ctx context.Context, enough Readiness) error {
	switch {
	case m == nil:
		return ErrShutdown
	case ctx == nil:
		return errNilContext
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	n := m.node
	changed, stop := n.watchers.add()
	defer stop()
	for {
		all, missing := 1, []string(nil)
		for _, c := range m.members.Load().list {
			all++
			if c.State() != StateConnected {
				missing = append(missing, c.Remote)
			}
		}
		if len(missing) == 0 || enough == ReadyQuorum && 2*(all-len(missing)) > all {
			return nil
		}
		select {
		case <-changed:
		case <-n.ctx.Done():
			return ErrShutdown
		case <-ctx.Done():
			return fmt.Errorf("grid: not connected to %s: %w", someOf(missing), context.Cause(ctx))
		}
	}
}
