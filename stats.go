package grid

import (
	"time"
)

// Stats is what a node has counted since it started, and what is open now. Counters never decrease,
// and those of a connection survive its reconnects. They are read one after the other while work
// goes on, so a call that ends at that moment may be in one of two related counters and not yet in
// the other. In JSON, durations are in nanoseconds.
type Stats struct {
	// Local is this node's name.
	Local string
	// Version and Labels are those of this node, Draining whether it is about to end.
	Version  string
	Labels   map[string]string
	Draining bool
	// Started is when the Manager was made, Time when the statistics were taken.
	Started, Time time.Time
	// Limits are those of ManagerOptions, with the defaults filled in.
	Limits Limits
	// Logged counts the lines that the Manager has logged, by message, such as "grid: handler
	// panicked". It has those that the Logger drops, but not those beyond the limits on lines that
	// repeat.
	Logged map[string]int64
	// Peers has the connection to every other node, in the order of the hosts.
	Peers []ConnectionStats
	// Removed sums up the connections to hosts that were removed.
	Removed RemovedStats
	// Guests sums up the connections to guests: see ManagerOptions.AcceptGuest. Connection.Stats has
	// those of one.
	Guests GuestStats
	// Handlers has every handler registered or called here, by ID, name, subroute and role.
	Handlers []HandlerStats
}

// ConnectionStats describes the connection to one other node, and what was counted on it.
type ConnectionStats struct {
	// Remote is the peer's name.
	Remote string
	// State is the current state, Since when it began.
	State State
	Since time.Time
	// Added is when the peer became one of the hosts, or a guest; counting begins there.
	Added time.Time
	// Dialed reports whether this node opened the live connection, Native whether the peer is a
	// node of this project.
	Dialed, Native bool
	// Version and Draining are those of Connection.Peer, which also has the labels.
	Version  string
	Draining bool

	// OutgoingStreams is the number of open streams that this node has opened.
	OutgoingStreams int
	// IncomingStreams is the number of open streams that the peer has opened.
	IncomingStreams int
	// OutgoingRequests is the number of single requests from here that wait for their answer.
	OutgoingRequests int
	// IncomingRequests is the number of single requests of the peer that are being handled.
	IncomingRequests int
	// BytesQueued is the number of bytes that wait to be written to the socket: those in the send
	// queue, and those of messages that wait in line for room in it. So it exceeds
	// Limits.MaxQueuedBytes while senders wait. What is being written no longer counts.
	BytesQueued int

	// RoundTrip is how long the peer took to answer the last ping, by this node's monotonic clock;
	// 0 before the first answer. Pings are sent every 10 seconds, and by every Manager.Health.
	RoundTrip time.Duration
	// Unanswered is how long the oldest ping that the peer has not answered has waited; 0 if there is
	// none. A peer that hangs answers none, and Manager.Health sends one.
	Unanswered time.Duration
	// LastPong is when the peer last answered a ping; zero if never.
	LastPong time.Time

	// Connects counts how often the connection came up, Reconnects those after the first.
	Connects, Reconnects int64
	// DialErrors counts failed attempts of this node to connect.
	DialErrors int64
	// LastError is why the connection last failed or was lost, LastErrorTime when; empty if never.
	// It is escaped and cut like RecentError.Text.
	LastError     string
	LastErrorTime time.Time

	// Refused counts the calls that this node refused, by the limit that they exceeded.
	Refused RefusalStats

	// In and Out count what was received and sent.
	In, Out FlowStats
}

// RemovedStats is the sum of what was counted on the connections to hosts that were removed. Neither
// these counters nor their sums with those of Stats.Peers ever decrease. Stats.Handlers has the
// calls with such hosts too.
type RemovedStats struct {
	// Hosts is the number of hosts that were removed and with which nothing runs anymore.
	Hosts int64
	// Leaving is the number of hosts that were removed, and with which something still runs.
	Leaving int

	// The rest is as in ConnectionStats.
	Connects, Reconnects int64
	DialErrors           int64
	Refused              RefusalStats
	In, Out              FlowStats
}

// GuestStats is the sum of what was counted on the connections to guests, also of those that are
// gone. Counters never decrease. Stats.Handlers has the calls with guests too.
type GuestStats struct {
	// Connected is the number of guests that are connected.
	Connected int
	// Leaving is the number of guests that are gone or were removed, and with which something still
	// runs.
	Leaving int
	// Rejected counts the handshakes of guests that were rejected, for any reason.
	Rejected int64

	// The rest is as in ConnectionStats.
	Connects int64
	Refused  RefusalStats
	In, Out  FlowStats
}

// RefusalStats counts the calls of a peer that were refused with ErrOverloaded, by the field of
// Limits that they exceeded. MaxStreamBytes also counts the streams, of either node, that were
// ended because of it.
type RefusalStats struct {
	MaxRequests, MaxRequestBytes, MaxStreams, MaxStreamBytes int64
}

// Total returns the number of refused calls.
func (r RefusalStats) Total() int64 {
	return r.MaxRequests + r.MaxRequestBytes + r.MaxStreams + r.MaxStreamBytes
}

// FlowStats counts one direction of a connection.
type FlowStats struct {
	// Bytes are those of WebSocket frames with their headers, without TLS and without opening the
	// connection.
	Bytes int64
	// Messages are requests, answers, stream messages, credits, pings and so on.
	Messages int64
	// Frames are WebSocket frames with messages, MergedFrames those with more than one.
	Frames, MergedFrames int64
}

// HandlerStats counts the calls of one handler, single requests or streams.
type HandlerStats struct {
	// Role is RoleServer for calls that came in, and RoleClient for those that went out.
	Role Role
	// ID and Name are those of the handler. A method has its own name, and HandlerNamed as ID. With
	// RoleClient, only the first 1,024 different methods that the process calls have their own
	// statistics; all others count together, as "other methods".
	ID   HandlerID
	Name string
	// Subroute is that of the registered handler; a method has none. With RoleClient it is empty:
	// there all subroutes of an ID count together, because a program may call any number of them.
	Subroute string

	// Stream reports whether the handler is one of streams. Only where it is registered, with
	// RoleServer, is that known.
	Stream bool

	// Calls is the number of calls that have ended, with an answer or an error. InFlight is the
	// number of those that have not. A stream is one call.
	Calls    int64
	InFlight int
	// Streams is how many of InFlight are streams, EndedStreams how many of Calls were. What a stream
	// adds to Latency is how long it was open: that of a handler with streams is no latency.
	Streams      int
	EndedStreams int64
	// Errors counts the calls that failed, by cause.
	Errors ErrorStats
	// Latency is how long calls took. With RoleServer it has every call, from the arrival of the
	// frame with the request to the return of the handler. With RoleClient a call takes from the
	// call of Request to its return. There it has the first 256 calls to each peer, then a random
	// one in eight, counted eight times, and no calls that found no connection.
	Latency Latency
}

// ErrorStats counts failed calls by cause.
type ErrorStats struct {
	// Handler counts calls whose handler returned an error or panicked, Codes the same by the code of
	// the error: Unknown for one without a code, Internal for a panic.
	Handler int64
	Codes   CodeStats
	// Canceled counts calls that their caller gave up, and streams whose consumer left. TimedOut
	// counts calls that reached their deadline.
	Canceled, TimedOut int64
	// Disconnected counts calls that found no connection, or lost it.
	Disconnected int64
	// Overloaded counts calls that were refused, and streams that were ended, because of Limits.
	Overloaded int64
	// Shutdown counts calls not made, or not accepted, because one of the nodes was shutting down.
	Shutdown int64
	// Removed counts calls not accepted because the peer had removed this node from its hosts, or
	// this node the peer.
	Removed int64
	// UnknownHandler counts calls to a handler that the peer has not registered.
	UnknownHandler int64
	// Other counts calls that failed for another reason, such as a message that is too large.
	Other int64
}

// Total returns the number of failed calls.
func (e ErrorStats) Total() int64 {
	return e.Handler + e.Canceled + e.TimedOut + e.Disconnected + e.Overloaded + e.Shutdown + e.Removed + e.UnknownHandler + e.Other
}

// count returns the counter of a class.
func (e *ErrorStats) count(class ErrorClass) *int64 {
	switch class {
	case ErrorHandler:
		return &e.Handler
	case ErrorCanceled, ErrorLeft:
		return &e.Canceled
	case ErrorDeadline:
		return &e.TimedOut
	case ErrorDisconnected:
		return &e.Disconnected
	case ErrorOverloaded:
		return &e.Overloaded
	case ErrorShutdown:
		return &e.Shutdown
	case ErrorRemoved:
		return &e.Removed
	case ErrorUnknownHandler:
		return &e.UnknownHandler
	}
	return &e.Other
}

// LatencyBuckets is the number of buckets of a Latency.
const LatencyBuckets = 25

// firstLatencyBits sets the bound of the first bucket: 2^13 ns, or 8.192 µs.
const firstLatencyBits = 13

// Latency is a histogram of durations. Bucket i holds those of up to 8.192 µs × 2^i that no lower
// bucket holds. The last but one ends at 68.7 s; the last has no bound.
type Latency struct {
	Buckets [LatencyBuckets]int64
	// Sum is the sum of all durations.
	Sum time.Duration
}

// LatencyBound returns the upper bound of a bucket, inclusive. The last bucket has none: for it the
// result is the largest time.Duration.
func LatencyBound(bucket int) time.Duration {
	if bucket >= LatencyBuckets-1 {
		return 1<<63 - 1
	}
	return 1 << (firstLatencyBits + max(bucket, 0))
}

// Count returns the number of durations.
func (l *Latency) Count() (n int64) {
	for _, c := range l.Buckets {
		n += c
	}
	return n
}

// Mean returns the mean duration, or 0 if there is none.
func (l *Latency) Mean() time.Duration {
	if n := l.Count(); n > 0 {
		return l.Sum / time.Duration(n)
	}
	return 0
}

// Quantile returns the duration that a fraction q of all durations do not exceed, 0 <= q <= 1, such
// as 0.99. Within a bucket it assumes an even spread, so it is off by at most a factor of two. It
// is 0 if there are no durations.
func (l *Latency) Quantile(q float64) time.Duration {
	rank := q * float64(l.Count())
	for i, n := range l.Buckets {
		if n == 0 || float64(n) < rank {
			rank -= float64(n)
			continue
		}
		if i == LatencyBuckets-1 {
			return LatencyBound(i - 1)
		}
		upper := LatencyBound(i)
		lower := upper / 2
		if i == 0 {
			lower = 0
		}
		return lower + time.Duration(max(rank, 0)/float64(n)*float64(upper-lower))
	}
	return 0
}
