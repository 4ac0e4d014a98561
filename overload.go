package grid

import "sync/atomic"

// limit is one of Limits that a call can be over.
type limit uint8

const (
	limitNone limit = iota
	limitRequests
	limitRequestBytes
	limitStreams
	limitStreamBytes

	limitCount
)

var limitNames = [limitCount]string{
	limitRequests:     "MaxRequests",
	limitRequestBytes: "MaxRequestBytes",
	limitStreams:      "MaxStreams",
	limitStreamBytes:  "MaxStreamBytes",
}

// refusalCounters count the refusals of a Connection by limit.
type refusalCounters [limitCount]atomic.Int64

func (r *refusalCounters) stats() RefusalStats {
	return RefusalStats{
		MaxRequests:     r[limitRequests].Load(),
		MaxRequestBytes: r[limitRequestBytes].Load(),
		MaxStreams:      r[limitStreams].Load(),
		MaxStreamBytes:  r[limitStreamBytes].Load(),
	}
}

// overloaded refuses a request or a stream that is over a limit. The reader calls it.
func (s *session) overloaded(m *message, over limit) {
	s.refuse(m, string(ErrOverloaded))
	s.conn.refuses(RoleServer, m.Handler, over)
}

// refuses counts and tells that a call of a handler was refused, or ended, over a limit.
func (c *Connection) refuses(role Role, h HandlerID, over limit) {
	c.refused[over].Add(1)
	c.manager.recent.add(c.Remote, role, h, "overloaded: over Limits."+limitNames[over])
	c.noteOverload(limitNames[over])
}

// holder is a stream with messages that wait for their consumer.
type holder interface {
	waiting() int // bytes
	overload()    // ends it
}

// hold counts the bytes of a message that a stream is about to queue. Where
// streams hold too much, those with the most waiting are ended: slow consumers'
// own. It returns false, and counts nothing, where that is this stream. The reader calls it.
func (s *session) hold(own holder, bytes int) bool {
	for ok := s.conn.streams.hold(bytes); !ok; ok = !s.conn.streams.over() {
		if most := s.mostWaiting(); most != nil && most != own && most.waiting() > own.waiting()+bytes {
			most.overload()
			continue
		}
		s.conn.streams.free(bytes)
		return false
	}
	return true
}

// mostWaiting is the stream with the most waiting; nil where none has any.
func (s *session) mostWaiting() (most holder) {
	n := 0
	look := func(h holder) {
		if waiting := h.waiting(); waiting > n {
			most, n = h, waiting
		}
	}
	for _, m := range s.servers.all() {
		look(m)
	}
	for _, m := range s.clients.all() {
		look(m)
	}
	return most
}

// noteOverload logs the first refusal of a peer, and then one line a minute at the most.
func (c *Connection) noteOverload(limit string) {
	if skipped, ok := c.overloads.take(""); ok {
		c.log.Warn("grid: overloaded", "peer", c.Remote, "local", c.Local, "limit", limit, "more_refused", skipped)
	}
}
