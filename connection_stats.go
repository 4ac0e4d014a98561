package grid

import (
	"slices"
	"time"
)

// HandlerStats returns what Manager.Stats has in Handlers, for the calls with this peer alone.
// Handlers without a call are left out.
func (c *Connection) HandlerStats() []HandlerStats {
	if c == nil {
		return nil
	}
	table := newHandlerTable(c.registry.Load().registered, calledMethods.name)
	table.addConnection(&c.link, c.openCalls())
	return slices.DeleteFunc(table.stats(), func(h HandlerStats) bool { return h.Calls == 0 && h.InFlight == 0 })
}

// Stats returns the state of the connection and what was counted on it.
func (c *Connection) Stats() ConnectionStats {
	if c == nil {
		return ConnectionStats{}
	}
	c.mu.Lock()
	stats := ConnectionStats{
		Remote:        c.Remote,
		State:         c.state,
		Since:         c.since,
		Added:         c.added,
		Connects:      c.connects,
		Reconnects:    max(c.connects-1, 0),
		DialErrors:    c.dialErrors,
		LastError:     c.lastError,
		LastErrorTime: c.lastErrorTime,
	}
	c.mu.Unlock()
	stats.In, stats.Out = c.flowIn.stats(), c.flowOut.stats()
	stats.Refused = c.refusals.stats()
	stats.LastPong = c.lastPongTime()
	if f := c.facts.Load(); f != nil {
		stats.Version, stats.Draining = f.version, f.draining
	}
	s := c.current.Load()
	if s == nil {
		return stats
	}
	stats.Dialed, stats.Native = s.dialed, s.has(featureNative)
	stats.OutgoingStreams, stats.IncomingStreams = s.muxes.count()
	stats.OutgoingRequests, stats.IncomingRequests = s.callClient.count(), s.callServer.count()
	stats.BytesQueued = s.batch.Backlog()
	stats.RoundTrip = time.Duration(s.rtt.Load())
	stats.Unanswered = s.pings.waited(time.Now())
	return stats
}

// openCalls returns the calls that are open on the connection.
func (c *Connection) openCalls() (open []OpenCall) {
	s := c.current.Load()
	if s == nil {
		return nil
	}
	now := time.Since(s.began)
	open = s.callClient.appendOpen(open)
	open = s.callServer.appendOpen(open, now)
	open = s.muxes.appendOpen(open, now)
	for i := range open {
		open[i].Peer = c.Remote
		open[i].Age = max(open[i].Age, 0) // one that began after the look at the clock
	}
	return open
}
