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

// refuses counts and tells that a call of a handler was refused, or ended, over a limit.
func (l *link) refuses(role Role, h HandlerID, over limit) {
	l.refusals[over].Add(1)
	l.recent.add(l.remote, role, h, "overloaded: over Limits."+limitNames[over])
	l.noteOverload(limitNames[over])
}

// noteOverload logs the first refusal of a peer, and then one line a minute at the most.
func (l *link) noteOverload(limit string) {
	if skipped, ok := l.overloads.take(""); ok {
		l.log.Warn("grid: overloaded", "peer", l.remote, "local", l.local, "limit", limit, "more_refused", skipped)
	}
}
