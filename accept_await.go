package grid

import "time"

// earlyPatience is how long a handshake waits until its host is known, and until an earlier
// connection of that host is gone. Nodes that are told of a new one learn of it one after the other.
const earlyPatience = 3 * time.Second

// await returns the connection to a host as soon as a session may start on it, or what there is,
// which may be nil, when that takes too long or too many wait already.
func (a *acceptor) await(host string) *Connection {
	set := a.members.Load()
	c := set.get(host)
	if c != nil && isClosed(c.ready) || checkHost(host) != nil {
		return c
	}
	defer a.early.Add(-1)
	if int(a.early.Add(1)) > max(a.Limits.MaxHandshakes/4, 1) {
		return c
	}
	patience := time.NewTimer(min(earlyPatience, a.Limits.HandshakeTimeout/3))
	defer patience.Stop()
	for {
		var ready <-chan struct{} // nil is never ready
		if c != nil {
			if isClosed(c.ready) {
				return c
			}
			ready = c.ready
		}
		select {
		case <-ready:
		case <-set.changed:
		case <-patience.C:
			return c
		case <-a.ctx.Done():
			return c
		}
		set = a.members.Load()
		c = set.get(host)
	}
}
