package grid

import (
	"cmp"
	"slices"
	"time"
)

// Stats is what a node has counted since it started, and what is open at the moment. Counters only grow, and those of
// a connection survive its reconnects. They are read one after the other while work goes on: a call that ends
// at that moment may be in one of two related counters and not yet in the other. Durations are in nanoseconds in JSON.
type Stats struct {
	// Local is this node's name.
	Local string
	// Started is when the Manager was made, Time when the statistics were taken.
	Started, Time time.Time
	// Peers has the connection to every other node, in the order of ManagerOptions.Hosts.
	Peers []ConnectionStats
	// Handlers has every handler that is registered here or was called from here, by ID, subroute and role.
	Handlers []HandlerStats
}

// ConnectionStats is what is known and counted of the connection to one other node.
type ConnectionStats struct {
	// Remote is the peer's name.
	Remote string
	// State is the state of this moment, Since when it began.
	State State
	Since time.Time
	// Dialed says that this node opened the live connection, and Native that the peer is a node of this project.
	Dialed, Native bool

	// OutgoingStreams are the streams open now that were opened from here.
	OutgoingStreams int
	// IncomingStreams are the streams open now that were opened by the peer.
	IncomingStreams int
	// OutgoingRequests are the single requests from here that wait for their answer.
	OutgoingRequests int
	// IncomingRequests are the single requests of the peer that are being handled.
	IncomingRequests int
	// BytesQueued are the bytes that wait to be written to the socket: those in the send queue, and the
	// messages that wait in line for room in it. So it is more than Limits.MaxQueuedBytes where senders
	// wait. What is being written does not count any more.
	BytesQueued int

	// RoundTrip is how long the peer took to answer the last ping, by this node's monotonic clock; 0 before the first answer. Pings go out every 10
	// seconds, and with every Manager.Health.
	RoundTrip time.Duration
	// LastPong is when the peer last answered a ping; zero for never.
	LastPong time.Time

	// Connects counts how often the connection came up, Reconnects how often after the first time.
	Connects, Reconnects int64
	// DialErrors counts attempts of this node to connect that failed.
	DialErrors int64
	// LastError is why the connection could not be made or was lost the last time, and when; empty for never. It is escaped and cut as
	// RecentError.Text is.
	LastError     string
	LastErrorTime time.Time

	// Refused counts the calls that this node did not take, by the limit that they were over.
	Refused RefusalStats

	// In and Out count what was received and sent.
	In, Out FlowStats
}

// RefusalStats counts the calls of a peer that were refused with ErrOverloaded, by the field of Limits
// that they were over. MaxStreamBytes also counts the streams, of either node, that were ended over it.
type RefusalStats struct {
	MaxRequests, MaxRequestBytes, MaxStreams, MaxStreamBytes int64
}

// Total returns the number of calls that were refused.
func (r RefusalStats) Total() int64 {
	return r.MaxRequests + r.MaxRequestBytes + r.MaxStreams + r.MaxStreamBytes
}

// FlowStats counts one direction of a connection.
type FlowStats struct {
	// Bytes of WebSocket frames with their headers, without those of TLS and of opening the connection.
	Bytes int64
	// Messages are requests, answers, messages of streams, credits, pings and so on.
	Messages int64
	// Frames are WebSocket frames with messages. MergedFrames are those with more than one.
	Frames, MergedFrames int64
}

// HandlerStats counts the calls of one handler, single requests or streams.
type HandlerStats struct {
	// Role says whether the calls came in or went out.
	Role Role
	// ID and Name are the handler's.
	ID   HandlerID
	Name string
	// Subroute is that of the registered handler. It is empty in RoleClient: there all subroutes of an ID count as
	// one, because a program may call any number of them.
	Subroute string

	// Calls have ended, with an answer or an error. InFlight have not. A stream is a call.
	Calls    int64
	InFlight int
	// Streams are those of InFlight that are streams.
	Streams int
	// Errors counts the calls that failed, by cause.
	Errors ErrorStats
	// Latency is how long calls took. A server's starts when the frame with the request has come in, and ends when the
	// handler has returned; all calls are in it. A client's starts when Request is called, and ends when it
	// returns. It has each of the first 256 calls to a peer, then a random one of eight, counted eight times. Calls that
	// found no connection are not in it.
	Latency Latency
}

// ErrorStats counts failed calls by their cause.
type ErrorStats struct {
	// Handler is the number of calls whose handler returned an error or panicked.
	Handler int64
	// Canceled calls were given up by their caller, or are streams whose consumer left. TimedOut ones had
	// reached their deadline.
	Canceled, TimedOut int64
	// Disconnected calls found no connection, or lost it.
	Disconnected int64
	// Overloaded calls were refused over one of Limits, or are streams that were ended over one.
	Overloaded int64
	// Shutdown calls were not made, or not taken, because one of the nodes was shutting down.
	Shutdown int64
	// UnknownHandler calls were of a handler that the peer has not registered.
	UnknownHandler int64
	// Other calls failed for another reason: a message too large, for example.
	Other int64
}

// Total returns the number of failed calls.
func (e ErrorStats) Total() int64 {
	return e.Handler + e.Canceled + e.TimedOut + e.Disconnected + e.Overloaded + e.Shutdown + e.UnknownHandler + e.Other
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
	case ErrorUnknownHandler:
		return &e.UnknownHandler
	}
	return &e.Other
}

// LatencyBuckets is the number of buckets of a Latency.
const LatencyBuckets = 25

// firstLatencyBits sets the bound of the first bucket: 2^13 ns, or 8.192 µs.
const firstLatencyBits = 13

// Latency is a histogram of durations. Bucket i holds those of up to 8.192 µs × 2^i, and more than the bucket before.
// The last but one ends at 68.7 s; the last has no bound.
type Latency struct {
	Buckets [LatencyBuckets]int64
	// Sum of all durations.
	Sum time.Duration
}

// LatencyBound returns the upper bound of a bucket, which belongs to it. The last one has none, for which it returns
// the largest duration there is.
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

// Mean returns the mean duration, 0 where there is none.
func (l *Latency) Mean() time.Duration {
	if n := l.Count(); n > 0 {
		return l.Sum / time.Duration(n)
	}
	return 0
}

// Quantile returns the duration that the part q of all stay within, 0 <= q <= 1, such as 0.99. Within a bucket it
// assumes that durations are spread evenly, so it is wrong by at most a factor of two. It is 0 where there is none.
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

// handlerTable gathers the statistics of handlers over connections.
type handlerTable struct {
	served []HandlerStats // by number of the registration
	called [256]*HandlerStats
}

func newHandlerTable(names []registration) *handlerTable {
	t := new(handlerTable)
	for _, h := range names {
		t.served = append(t.served, HandlerStats{Role: RoleServer, ID: h.id, Name: h.id.String(), Subroute: h.subroute})
	}
	return t
}

func (t *handlerTable) client(id HandlerID) *HandlerStats {
	if t.called[id] == nil {
		t.called[id] = &HandlerStats{Role: RoleClient, ID: id, Name: id.String()}
	}
	return t.called[id]
}

// add adds what is counted of the calls over a connection, and those that are open on it.
func (t *handlerTable) add(l *link, open []OpenCall) {
	for i, counters := range l.served.all() {
		if counters != nil && i < len(t.served) {
			counters.addTo(&t.served[i])
		}
	}
	for i, counters := range l.called.all() {
		if counters != nil {
			counters.addTo(t.client(HandlerID(i)))
		}
	}
	for _, o := range open {
		var h *HandlerStats
		switch {
		case o.Role == RoleClient:
			h = t.client(o.Handler)
		case o.number < len(t.served):
			h = &t.served[o.number]
		default:
			continue
		}
		h.InFlight++
		if o.Stream {
			h.Streams++
		}
	}
}

// stats returns the handlers by ID, subroute and role.
func (t *handlerTable) stats() []HandlerStats {
	all := t.served
	for _, h := range t.called {
		if h != nil {
			all = append(all, *h)
		}
	}
	slices.SortFunc(all, func(a, b HandlerStats) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Subroute, b.Subroute), cmp.Compare(a.Role, b.Role))
	})
	return all
}
