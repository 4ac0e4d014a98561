package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// SetHosts replaces the hosts of the grid: hosts is the whole set, in any order. This node's own
// name may be left out. It may be called at any time, by any goroutine. The slice may be reused.
// Nothing happens to connections to hosts that stay.
//
// To a host that is added, the node begins to connect at once, or when BlockConnect is closed; or
// it waits to be dialed. Until both nodes know each other they cannot connect. A node that dials
// before this one knows it is kept waiting for a few seconds, so it does little harm if the nodes
// learn of each other one after the other.
//
// With a host that is removed no more calls are made: new ones get ErrRemoved at both nodes, and so
// does whoever still has its Connection. Those that run may finish for
// ManagerOptions.RemovalGrace. Then, or as soon as nothing runs anymore, the connection is closed as
// Shutdown closes it. That is final: if the host is added again, it gets a new Connection, which
// comes up once the old one is closed.
//
// An error names the host that it is about, and nothing has changed. It is ErrShutdown once Shutdown
// or Close has been called. A set without any other host is none: the node is then alone.
func (m *Manager) SetHosts(hosts []string) error {
	if m == nil {
		return fmt.Errorf("grid: SetHosts: %w", errNilManager)
	}
	if err := checkHosts("SetHosts", hosts); err != nil {
		return err
	}
	n := m.node
	added, removed, err := m.setHosts(hosts)
	if len(added)+len(removed) > 0 {
		n.log.Info("grid: hosts changed", "local", n.Local, "added", namesOf(added), "removed", namesOf(removed))
	}
	return err
}

// namesOf lists the hosts of connections for the log.
func namesOf(list []*Connection) string {
	if len(list) == 0 {
		return ""
	}
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = c.Remote
	}
	return someOf(names)
}

// setHosts is SetHosts for hosts that are valid.
func (m *Manager) setHosts(hosts []string) (added, removed []*Connection, err error) {
	n := m.node
	others := slices.DeleteFunc(slices.Clone(hosts), func(host string) bool { return host == n.Local })
	m.hostsMu.Lock()
	defer m.hostsMu.Unlock()
	if m.sealed {
		return nil, nil, ErrShutdown
	}
	old := m.members.Load()
	next, added, removed := old.with(others, func(host string, before *Connection) *Connection {
		return newConnection(n, host, before, newQuotas(&n.Limits), &m.registry, &m.interceptors)
	})
	m.members.Store(next)
	close(old.changed)
	n.changed()
	var gone []*Connection
	for _, c := range removed {
		c.leave()
		if c.retireAtOnce() {
			gone = append(gone, c)
		} else {
			n.goWork(func() { m.retire(c, m.forgetHost) })
		}
	}
	m.members.Store(next.without(gone))
	for _, c := range added {
		m.open(c)
	}
	return added, removed, nil
}

// open sees to it that this node begins to connect to a new host, once an earlier connection to it is gone and dialing is
// unblocked.
func (m *Manager) open(c *Connection) {
	n := m.node
	dials := shouldDial(c.Local, c.Remote)
	if isClosed(c.ready) && (!dials || n.BlockConnect == nil) {
		m.begin(c, dials) // which needs no goroutine that waits
		return
	}
	n.goWork(func() {
		if awaitClosed(c.ctx, c.ready) && (!dials || n.BlockConnect == nil || awaitClosed(c.ctx, n.BlockConnect)) {
			m.begin(c, dials)
		}
	})
}

// begin begins to connect, or to wait to be dialed.
func (m *Manager) begin(c *Connection, dials bool) {
	c.expect()
	if dials {
		m.dialer.keepUp(c)
	}
}

// awaitClosed waits until a channel is closed. It returns false if ctx ends before that.
func awaitClosed(ctx context.Context, c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// retireAtOnce ends the connection to a host that was removed, if nothing of it runs, which is so for
// most that are absent. An attempt to dial the host finds out by itself.
func (c *Connection) retireAtOnce() bool {
	c.mu.Lock()
	idle := c.newest == nil // and there will be none, after leave
	c.mu.Unlock()
	if !idle || c.active.count() > 0 || !isClosed(c.ready) {
		return false
	}
	c.shutdown(c.node.ctx, 0) // there is no session
	close(c.gone)
	return true
}

// retire ends the connection to a host that was removed, or a guest, once its calls are over, or after
// the grace. forget is told when nothing of it runs anymore.
func (m *Manager) retire(c *Connection, forget func(*Connection)) {
	n := m.node
	select {
	case <-c.ready:
	case <-n.ctx.Done():
	}
	ctx, cancel := context.WithTimeout(n.ctx, n.RemovalGrace)
	err := c.active.wait(ctx)
	left := c.active.count()
	c.shutdown(ctx, shutdownGrace)
	cancel()
	close(c.gone)
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("grid: calls of a removed peer were cut", "peer", c.Remote, "local", c.Local, "calls", left)
	}
	if c.active.wait(n.ctx) == nil { // for handlers that go on although their caller is gone
		forget(c)
	}
}

// forgetHost notes that nothing runs anymore of a connection to a host that was removed.
func (m *Manager) forgetHost(c *Connection) {
	m.hostsMu.Lock()
	defer m.hostsMu.Unlock()
	m.members.Store(m.members.Load().without([]*Connection{c}))
}

// seal keeps hosts and guests from coming, and returns the connections of which something may run.
func (m *Manager) seal() []*Connection { return append(m.sealHosts(), m.guests.seal()...) }

// isSealed reports whether the node has begun to end.
func (m *Manager) isSealed() bool {
	m.hostsMu.Lock()
	defer m.hostsMu.Unlock()
	return m.sealed
}

// sealHosts keeps the hosts from being changed anymore.
func (m *Manager) sealHosts() []*Connection {
	m.hostsMu.Lock()
	defer m.hostsMu.Unlock()
	m.sealed = true
	return m.members.Load().all()
}
