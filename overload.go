package grid

import (
	"cmp"
	"slices"
	"sync/atomic"
)

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
		if most := s.heaviest.get(s.streams); most != nil && most != own && most.waiting() > own.waiting()+bytes {
			most.overload()
			continue
		}
		s.conn.streams.free(bytes)
		return false
	}
	return true
}

// streams returns all streams of this moment.
func (s *session) streams() (all []holder) {
	for _, m := range s.servers.all() {
		all = append(all, m)
	}
	for _, m := range s.clients.all() {
		all = append(all, m)
	}
	return all
}

// heaviest finds the stream with the most waiting without a look at all of them for each message: it
// keeps those that had the most, and looks at all again when as many messages have come as there were
// streams, or when those are used up. So a message costs a look at no more than a few streams. It may
// keep heaviestKept streams a while that have ended. Its zero value is ready.
type heaviest struct {
	top  []holder
	left int  // messages until the next look at all
	more bool // there were others with something waiting
}

const heaviestKept = 64

// get returns the stream with the most waiting; nil where none of those known has any.
func (h *heaviest) get(all func() []holder) holder {
	h.left--
	most := h.best()
	if h.left > 0 && (most != nil || !h.more) {
		return most
	}
	h.look(all())
	return h.best()
}

// best returns the one of the top that has the most waiting, and forgets those that have nothing.
func (h *heaviest) best() (most holder) {
	n, kept := 0, h.top[:0]
	for _, one := range h.top {
		waiting := one.waiting()
		if waiting == 0 {
			continue
		}
		kept = append(kept, one)
		if waiting > n {
			most, n = one, waiting
		}
	}
	clear(h.top[len(kept):])
	h.top = kept
	return most
}

// look chooses the top anew.
func (h *heaviest) look(all []holder) {
	type weighed struct {
		holder
		bytes int
	}
	var waiting []weighed
	for _, one := range all {
		if n := one.waiting(); n > 0 {
			waiting = append(waiting, weighed{one, n})
		}
	}
	slices.SortFunc(waiting, func(a, b weighed) int { return cmp.Compare(b.bytes, a.bytes) })
	h.left, h.more = len(all), len(waiting) > heaviestKept
	h.top = h.top[:0]
	for _, one := range waiting[:min(len(waiting), heaviestKept)] {
		h.top = append(h.top, one.holder)
	}
}

// noteOverload logs the first refusal of a peer, and then one line a minute at the most.
func (c *Connection) noteOverload(limit string) {
	if skipped, ok := c.overloads.take(""); ok {
		c.log.Warn("grid: overloaded", "peer", c.Remote, "local", c.Local, "limit", limit, "more_refused", skipped)
	}
}
