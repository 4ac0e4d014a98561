package grid

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
)

// guests are the nodes that dial this one and are none of its hosts. There may be very many, so they
// are not among the members, a value that each change makes anew.
//
// A guest is there as long as something holds its Connection: handshakes that want to start a
// session on it, and the session. When the last of these has ended, the guest is gone. So a guest
// that comes back while this node still has its old session finds its Connection, as a host does, and
// otherwise gets a new one. Nothing has to expire.
type guests struct {
	node     *node
	make     func(name string, q *quotas) *Connection
	most     int
	rejected atomic.Int64 // handshakes

	mu      sync.Mutex // Protects following.
	sealed  bool       // no more come
	byName  map[string]*guest
	names   map[string]*guestName  // of those that are there and of those that are leaving
	leaving map[*Connection]*guest // guests that are gone or removed, as long as anything of them runs
	past    *pastStats             // of connections of which nothing runs anymore
	tell    []func(*Connection)    // of guests that connect
}

// guest is a node that dials this one. The lock of guests protects it.
type guest struct {
	conn  *Connection
	holds int  // of handshakes and sessions
	came  bool // there was a session
	over  bool // it left, and its calls are over; a session that was about to start may still hold it
}

// guestName is a name with which guests have come. Those whose handlers still run share the quotas with
// the one that is there: a guest that comes back is the same peer.
type guestName struct {
	quotas *quotas
	guests int
}

func (g *guests) init(n *node, newConnection func(name string, q *quotas) *Connection) {
	g.node, g.make, g.most, g.past = n, newConnection, n.Limits.MaxGuests, new(pastStats)
	g.byName, g.names, g.leaving = make(map[string]*guest), make(map[string]*guestName), make(map[*Connection]*guest)
}

// hold returns the connection to a guest, which is there until letGo.
func (g *guests) hold(name string) (*Connection, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sealed {
		return nil, ErrShutdown
	}
	one := g.byName[name]
	if one == nil {
		known := g.names[name]
		if known == nil {
			if len(g.names) >= g.most {
				return nil, fmt.Errorf("%s: there are %d already (Limits.MaxGuests)", guestRefused, g.most)
			}
			known = &guestName{quotas: newQuotas(&g.node.Limits)}
			g.names[name] = known
		}
		known.guests++
		one = &guest{conn: g.make(name, known.quotas)}
		one.conn.arrived = g.arrived
		g.byName[name] = one
	}
	one.holds++
	return one.conn, nil
}

// letGo takes hold back. For a connection that is not held, as that of a host, it does nothing.
func (g *guests) letGo(c *Connection) {
	if !g.last(c) {
		return
	}
	c.leave()
	c.shutdown(g.node.ctx, 0) // there is no session
	if c.active.count() == 0 {
		g.forget(c)
		return
	}
	g.node.goWork(func() {
		if c.active.wait(g.node.ctx) == nil { // for handlers that go on although their caller is gone
			g.forget(c)
		}
	})
}

// last takes a hold back, and reports whether it was the last one. The guest is leaving then.
func (g *guests) last(c *Connection) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	one, left := g.leaving[c], true
	if one == nil {
		one, left = g.byName[c.Remote], false
	}
	if one == nil || one.conn != c {
		return false
	}
	if one.holds--; one.holds > 0 {
		return false
	}
	if left {
		g.sumUp(one)
		return false
	}
	g.leave(one)
	return true
}

// reject counts a handshake that was rejected.
func (g *guests) reject() { g.rejected.Add(1) }

// remove takes a guest out, and returns the connection to it; nil if there is none.
func (g *guests) remove(name string) *Connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.byName[name]
	if one == nil {
		return nil
	}
	g.leave(one) // also where it is about to connect
	return one.conn
}

// leave notes that a guest is there no longer. g.mu is held.
func (g *guests) leave(one *guest) {
	delete(g.byName, one.conn.Remote)
	g.leaving[one.conn] = one
}

// forget notes that the calls of a guest that left are over.
func (g *guests) forget(c *Connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.leaving[c]
	one.over = true
	g.sumUp(one)
}

// sumUp adds what was counted with a guest to that of all others, if nothing of it runs anymore. g.mu
// is held.
func (g *guests) sumUp(one *guest) {
	if one.holds > 0 || !one.over {
		return
	}
	c := one.conn
	delete(g.leaving, c)
	known := g.names[c.Remote]
	if known.guests--; known.guests == 0 {
		delete(g.names, c.Remote)
	}
	g.past = g.past.with(c.Stats(), c.served.all(), c.called.all())
}

// arrived tells of a guest whose session has come up.
func (g *guests) arrived(c *Connection) {
	for _, f := range g.welcome(c) {
		go g.call(f, c)
	}
}

// welcome notes that there was a session with a guest, and returns who is to be told.
func (g *guests) welcome(c *Connection) []func(*Connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.byName[c.Remote]
	if one == nil || one.conn != c { // removed meanwhile
		return nil
	}
	one.came = true
	return g.tell
}

// call tells the application of a guest.
func (g *guests) call(f func(*Connection), c *Connection) {
	guarded(func() { f(c) }, func(how endedBy, value any) {
		if how == panicked {
			g.node.panicked("OnGuest", "")(value, debug.Stack())
		}
	})
}

// listen tells f of the guests that are there, and of each that connects from now on.
func (g *guests) listen(f func(*Connection)) {
	for _, c := range g.tellAlso(f) {
		go g.call(f, c)
	}
}

// tellAlso returns the guests that are there. f will be told of all that connect later.
func (g *guests) tellAlso(f func(*Connection)) []*Connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell = append(slices.Clip(g.tell), f)
	return g.present()
}

// present returns the connections to guests that have been connected. g.mu is held.
func (g *guests) present() (list []*Connection) {
	for _, one := range g.byName {
		if one.came {
			list = append(list, one.conn)
		}
	}
	return list
}

// get returns the connection to a guest; nil if it is not there.
func (g *guests) get(name string) *Connection {
	g.mu.Lock()
	defer g.mu.Unlock()
	if one := g.byName[name]; one != nil && one.came {
		return one.conn
	}
	return nil
}

// connected returns the connections to guests that are up.
func (g *guests) connected() []*Connection {
	g.mu.Lock()
	list := g.present()
	g.mu.Unlock()
	return slices.DeleteFunc(list, func(c *Connection) bool { return c.State() != StateConnected })
}

// all returns the connections of which something may run.
func (g *guests) all() []*Connection {
	all, _, _ := g.sum()
	return all
}

// sum returns the connections of which something may run, how many of them are leaving, and what
// all others have counted, at one moment.
func (g *guests) sum() (all []*Connection, leaving int, past *pastStats) {
	g.mu.Lock()
	defer g.mu.Unlock()
	all = make([]*Connection, 0, len(g.byName)+len(g.leaving))
	for _, one := range g.byName {
		all = append(all, one.conn)
	}
	for c := range g.leaving {
		all = append(all, c)
	}
	return all, len(g.leaving), g.past
}

// stats returns the statistics of guests, and adds their calls to a table.
func (g *guests) stats(table *handlerTable) GuestStats {
	all, leaving, past := g.sum()
	sums := past.removed
	s := GuestStats{Leaving: leaving, Rejected: g.rejected.Load()}
	for _, c := range all {
		stats := c.Stats()
		sums.add(stats)
		table.addConnection(&c.link, c.openCalls())
		if stats.State == StateConnected {
			s.Connected++
		}
	}
	table.add(past.served, past.called)
	s.Connects, s.Refused, s.In, s.Out = sums.Connects, sums.Refused, sums.In, sums.Out
	return s
}

// seal keeps guests from coming, and returns the connections of which something may run.
func (g *guests) seal() []*Connection {
	g.mu.Lock()
	g.sealed = true
	g.mu.Unlock()
	return g.all()
}
