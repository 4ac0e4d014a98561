// Package door shows tests outside of package grid what a Connection holds, where no exported
// method tells. They see numbers only, so nothing can be done through it.
package door

// Held is what a Connection holds at one moment. All but Sessions is 0 where nothing is open.
type Held struct {
	Sessions int // 1 while there is a session, also one that is about to end

	Active int // calls, streams and handlers that a shutdown would wait for
	Open   int // what Manager.Open lists

	// Of the session.
	Queued     int // bytes that wait to be written
	LargeOut   int // bytes of messages that go in pieces, and are not finished
	LargeIn    int // bytes that messages will have of which pieces are missing
	Calls      int // single requests from here, in their table
	Requests   int // of the peer, whose handlers have a context
	StreamsOut int
	StreamsIn  int

	// Of the quotas, which outlive sessions.
	QuotaRequests     int
	QuotaRequestBytes int
	QuotaStreams      int
	QuotaStreamBytes  int

	Grown int // bytes by which the windows of streams have grown
}

// Empty reports whether nothing is open. There may be a session.
func (h Held) Empty() bool {
	h.Sessions = 0
	return h == Held{}
}

// Look returns what a *grid.Connection holds. Package grid sets it, which imports this one. It may
// be called at any time.
var Look func(connection any) Held
