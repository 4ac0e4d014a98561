package grid

import "github.com/gridmesh/grid/internal/door"

func init() {
	door.Look = func(connection any) door.Held { return connection.(*Connection).holds() }
}

// holds counts what the connection holds.
func (c *Connection) holds() (h door.Held) {
	h.Active = int(c.active.running.Load())
	h.Open = len(c.openCalls())
	h.QuotaRequests, h.QuotaRequestBytes = c.requests.holds()
	h.QuotaStreams, h.QuotaStreamBytes = c.streams.holds()
	c.mu.Lock()
	s := c.newest
	if current := c.current.Load(); s == nil {
		s = current
	}
	c.mu.Unlock()
	if s == nil {
		return h
	}
	h.Sessions = 1
	h.Queued = s.out.Queued()
	h.Calls = s.calls.len()
	h.StreamsOut, h.StreamsIn = s.clients.len(), s.servers.len()
	s.running.mu.Lock()
	h.Requests = len(s.running.calls)
	s.running.mu.Unlock()
	return h
}

func (q *quota) holds() (number, bytes int) {
	used := q.used.Load()
	return int(used >> quotaShift), int(used & quotaBytes)
}
