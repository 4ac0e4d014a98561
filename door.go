package grid

import "github.com/gridmesh/grid/internal/door"

func init() {
	door.Look = func(connection any) door.Held { return connection.(*Connection).holds() }
}

// holds counts what the connection holds.
func (c *Connection) holds() (h door.Held) {
	h.Active = c.active.count()
	h.Open = len(c.openCalls())
	h.QuotaRequests, h.QuotaRequestBytes = c.requestQuota.holds()
	h.QuotaStreams, h.QuotaStreamBytes = c.streamQuota.holds()
	h.Grown = int(c.grown.Load())
	c.mu.Lock()
	s := c.newest
	if s == nil {
		s = c.current.Load()
	}
	c.mu.Unlock()
	if s == nil {
		return h
	}
	h.Sessions = 1
	h.Queued = s.batch.Queued()
	h.LargeOut = s.batch.Large()
	h.LargeIn = s.assembly.holds()
	h.Calls = s.callClient.count()
	h.StreamsOut, h.StreamsIn = s.muxes.count()
	h.Requests = s.callServer.withContext()
	return h
}

func (q *quota) holds() (number, bytes int) {
	used := q.used.Load()
	return int(used >> quotaShift), int(used & quotaBytes)
}
