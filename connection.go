package grid

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/visible"
)

// Connection is the link to one other node. Its methods may be called by any number of goroutines,
// and on a nil Connection, which is never connected.
//
// A Connection outlives its sockets: each live socket is a session, and a reconnect replaces the
// session. Manager.Connection returns it. Once its host is removed, by Manager.SetHosts, it is of no
// more use.
type Connection struct {
	// NextID is the number of calls and streams opened from here so far. The next one gets an ID
	// derived from it. Read it atomically, and do not change it.
	NextID uint64
	// LastPong is when the peer last answered a ping, in nanoseconds since the Unix epoch; 0 if
	// never. Read it atomically, and do not change it.
	LastPong int64
	// Local and Remote are the names of the two nodes.
	Local, Remote string

	link

	// ctx ends when the host is removed, or the Manager ends: from then on nothing is dialed, and no
	// session starts.
	ctx    context.Context
	cancel context.CancelFunc
	added  time.Time       // when the Connection was made
	ready  <-chan struct{} // closed when no earlier Connection to the host is left: only then is there any session
	gone   chan struct{}   // closed when the host was removed, and the last session has ended

	node         *node
	registry     *atomic.Pointer[registry] // of the Manager
	interceptors *interceptors             // of the Manager

	stuckDials atomic.Int32 // calls of the application's code by dials that have not returned

	current atomic.Pointer[session] // the connected session; nil while there is none

	arrived func(*Connection) // is told of each session that has come up; nil for nobody

	comings    *logLimit // sessions that came up, and that ended unseen
	dialFails  logLimit  // attempts to connect that failed
	rejections logLimit  // in the handshake, of nodes that claim to be the peer
	twins      *logLimit // processes with the peer's name
	absences   logLimit  // of a peer that should dial

	mu      sync.Mutex // Protects following.
	state   State
	newest  *session      // the session that was accepted or dialed last; it may not have started
	changed chan struct{} // closed when state changes

	dialing   dialing
	absence   absence
	admission admission
	processes []process // that had the peer's name, the last one last

	known         acquaintance
	since         time.Time // of state
	connects      int64     // sessions that came up
	dialErrors    int64     // attempts to connect that failed
	lostReason    string    // why the connection was lost the last time
	lastError     string    // why there was no connection the last time
	lastErrorTime time.Time
}

// newConnection returns the connection of a node to a peer. Nothing runs yet. Another one to the same
// peer may have to go before; it is nil if there is none.
func newConnection(n *node, remote string, before *Connection, q *quotas, handlers *atomic.Pointer[registry], i *interceptors) *Connection {
	c := &Connection{
		Local:        n.Local,
		Remote:       remote,
		ready:        alwaysDone,
		gone:         make(chan struct{}),
		node:         n,
		registry:     handlers,
		interceptors: i,
		changed:      make(chan struct{}),
		added:        time.Now(),
	}
	c.since = c.added
	c.ctx, c.cancel = context.WithCancel(n.ctx)
	if before != nil {
		c.ready = before.gone
	}
	c.link.local, c.link.remote, c.caller = n.Local, remote, RemoteClient{Name: remote, address: &c.link.address}
	c.log, c.limits, c.recent, c.panics = n.log, &n.Limits, &n.recent, &n.panics
	c.busyPoll, c.bulletin, c.drains = n.BusyPoll, n.says, n.changed
	c.nextID, c.lastPong = &c.NextID, &c.LastPong
	c.traffic, c.toldIn, c.toldOut = new(traffic), n.toldIn, n.toldOut
	c.active, c.traces = newActivity(), n.TraceTo
	c.comings, c.overloads, c.ignored, c.twins = &logLimit{lines: comingLines}, new(logLimit), new(logLimit), new(logLimit)
	if isGuest(remote) { // there may be very many, each of which comes again and again
		c.recent = &n.guestErrors
		c.comings, c.overloads, c.ignored, c.twins = &n.guestComings, &n.guestOverloads, &n.guestIgnored, &n.guestTwins
	}
	c.requestQuota, c.streamQuota = &q.requests, &q.streams
	return c
}

// Request sends one request to handler h of the peer and waits for its answer. req may be reused
// once Request returns. The answer is the caller's, who may give it back with PutByteBuffer. A ctx
// without a deadline gets one of a minute, accurate to a few seconds, unless WithoutDeadline was called.
//
// The error is one of: the handler's *Error; ErrDisconnected, at once if there is no
// connection, or when it is lost during the call, in which case the handler may or may not have
// run; ErrUnknownHandler if the peer has no such handler for requests; ErrShutdown; ErrRemoved;
// ErrOverloaded if the peer has refused the request because of its Limits; ErrMessageTooLarge; ErrMetadata; or
// context.Cause(ctx) when ctx ends.
func (c *Connection) Request(ctx context.Context, h HandlerID, req []byte) ([]byte, error) {
	return c.request(ctx, h, nil, req)
}

// NewStream opens a stream to handler h of the peer. The handler must be registered on this node
// too, because the stream uses its capacities; otherwise the error is ErrUnknownHandler. The stream
// ends with ctx. NewStream does not wait for the peer to accept the stream: if it refuses,
// Stream.Results returns the error. payload may be reused once NewStream returns.
func (c *Connection) NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error) {
	return c.newStream(ctx, h, nil, payload)
}

// Subroute narrows the connection to handlers registered on a subroute. Keep the result for many
// calls: it hashes the subroute once.
func (c *Connection) Subroute(s string) *Subroute {
	if c == nil {
		return nil
	}
	return &Subroute{Connection: c, route: s}
}

// WaitForConnect waits until the connection is up. It returns the cause of ctx if that ends first,
// ErrShutdown if the Manager has ended, and ErrRemoved if the host has been removed.
func (c *Connection) WaitForConnect(ctx context.Context) error {
	switch {
	case c == nil:
		return ErrDisconnected
	case ctx == nil:
		return errNilContext
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		c.mu.Lock()
		state, changed := c.state, c.changed
		c.mu.Unlock()
		switch {
		case c.removed(), state == StateShutdown:
			return c.active.why()
		case state == StateConnected:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// State returns the current state. It is StateUnconnected for a nil Connection.
func (c *Connection) State() State {
	if c == nil {
		return StateUnconnected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// String returns "local->remote".
func (c *Connection) String() string {
	if c == nil {
		return "<nil>"
	}
	return c.Local + "->" + c.Remote
}

// StringReverse returns "remote->local".
func (c *Connection) StringReverse() string {
	if c == nil {
		return "<nil>"
	}
	return c.Remote + "->" + c.Local
}

// request is Request on a route, which is nil for none.
func (c *Connection) request(ctx context.Context, h HandlerID, to *route, req []byte) ([]byte, error) {
	switch {
	case c == nil:
		return nil, ErrDisconnected
	case ctx == nil:
		return nil, errNilContext
	case h == handlerInvalid:
		return nil, fmt.Errorf("%w: %v", ErrUnknownHandler, h)
	case c.interceptors.clientRequests != nil:
		info := callInfo(&c.link, to.target(h))
		return c.interceptors.request(ctx, &info, req, func(ctx context.Context, req []byte) ([]byte, error) {
			return c.do(ctx, h, to, req)
		})
	}
	return c.do(ctx, h, to, req)
}

// do makes a request, behind all interceptors.
func (c *Connection) do(ctx context.Context, h HandlerID, to *route, req []byte) (resp []byte, err error) {
	if trace := startTrace(ctx, c.node.TraceTo, &c.link, to.target(h), len(req)); trace != nil {
		defer func() { trace.end(len(resp), err) }()
	}
	resp, err = c.roundTrip(ctx, h, to, req)
	if err != nil {
		return nil, c.named(err, false, to.target(h))
	}
	return resp, nil
}

// roundTrip sends a request and waits for its answer. Its errors do not name the call yet.
func (c *Connection) roundTrip(ctx context.Context, h HandlerID, to *route, req []byte) ([]byte, error) {
	if !c.active.enter() {
		return nil, c.active.why()
	}
	defer c.active.leave()
	s := c.current.Load()
	if s == nil {
		c.notSent(ctx, to.target(h), ErrDisconnected)
		return nil, ErrDisconnected
	}
	calls := c.called.get(to.counter(h))
	watch := calls.begin()
	resp, err := s.callClient.request(ctx, h, to, req)
	calls.end(watch)
	if err != nil {
		c.callFailed(ctx, calls, to.target(h), err)
	}
	return resp, err
}

// newStream is NewStream on a route, which is nil for none.
func (c *Connection) newStream(ctx context.Context, id HandlerID, to *route, payload []byte) (*Stream, error) {
	return c.openStream(ctx, id, to, payload, false)
}

// openStream opens a stream to a handler; named if that gets a RawStream. Such a stream has no
// Requests, and the handler need not be registered here.
func (c *Connection) openStream(ctx context.Context, id HandlerID, to *route, payload []byte, named bool) (*Stream, error) {
	switch {
	case c == nil:
		return nil, ErrDisconnected
	case ctx == nil:
		return nil, errNilContext
	case c.interceptors.clientStreams != nil:
		return c.interceptors.stream(ctx, callInfo(&c.link, to.target(id)), payload,
			func(ctx context.Context, payload []byte, observers []StreamObserver) (*Stream, error) {
				return c.open(ctx, id, to, payload, named, observers)
			})
	}
	return c.open(ctx, id, to, payload, named, nil)
}

// open opens a stream, behind all interceptors, with the given observers.
func (c *Connection) open(ctx context.Context, id HandlerID, to *route, payload []byte, named bool, observers []StreamObserver) (st *Stream, err error) {
	if trace := startTrace(ctx, c.node.TraceTo, &c.link, to.target(id), len(payload)); trace != nil {
		defer func() {
			told := false
			defer func() {
				if !told && st != nil { // a subscriber's filter has ended the goroutine
					st.Cancel(errNotReturned)
				}
			}()
			trace.end(0, err)
			told = true
		}()
	}
	m, err := c.openMux(ctx, to.target(id), to.wire(), payload, named, observers)
	if err != nil {
		return nil, c.named(err, true, to.target(id))
	}
	return newStream(m, !m.handler.direct), nil
}

// openMux opens a stream. Its errors do not name the call yet.
func (c *Connection) openMux(ctx context.Context, to target, route *routeID, payload []byte, named bool, observers []StreamObserver) (*muxClient, error) {
	h := c.registry.Load().stream(to.id, route)
	switch {
	case named && (h == nil || !h.direct):
		h = foreignStream(to, route)
	case h == nil:
		return nil, fmt.Errorf("%w: not registered at %s, where the stream was to be opened from", ErrUnknownHandler, c.Local)
	}
	if !c.active.enter() {
		return nil, c.active.why()
	}
	s := c.current.Load()
	if s == nil {
		c.active.leave()
		c.notSent(ctx, to, ErrDisconnected)
		return nil, ErrDisconnected
	}
	return s.muxes.open(ctx, h, to, payload, newObservation(&c.link, to, observers))
}

// newSession returns a session with a process of the peer, which has announced its features and
// that it accepts messages of maxMessage bytes, with metadata of maxMetadata bytes. It does not run
// yet.
func (c *Connection) newSession(g *greeting, peer process, features, maxMessage, maxMetadata uint32) *session {
	with := agree(c.limits.MaxMessageSize, features&c.node.features(), maxMessage).agreeMetadata(c.limits.MaxMetadataSize, maxMetadata)
	return newSession(&c.link, c.registry, c.lost, peer, with, g)
}

// start begins a session, and leaves it to a goroutine of its own: what has led to it takes a larger
// stack than to wait for messages, which may be all there is to do for months. ended is called with
// why the session ended, or did not begin. The caller counts in the node's work.
func (c *Connection) start(s *session, confirm func() error, ended func(error)) {
	if err := c.begin(s, confirm); err != nil {
		ended(err)
		return
	}
	c.node.goOn(func() { ended(c.run(s)) })
}

// run runs a session that has begun to its end, and returns the reason.
func (c *Connection) run(s *session) error {
	err := s.run()
	c.forget(s)
	return err
}

// begin makes s the connection's session, which must run then. An older session ends first, with
// everything that is open on it. confirm, which may be nil, tells the peer that the session begins.
func (c *Connection) begin(s *session, confirm func() error) error {
	c.mu.Lock()
	older := c.newest
	closed := c.over()
	if !closed {
		c.newest = s
	}
	c.mu.Unlock()
	if closed {
		why := c.active.why()
		s.discard(why)
		return why
	}
	if older != nil {
		older.abort(errReplaced, errReplaced.Error())
		select {
		case <-older.finished:
		case <-s.closed: // by shutdown, which must not wait for the other one's goodbye
			older.end(errLocalClose)
			<-older.finished
		}
	}
	if confirm != nil {
		if err := confirm(); err != nil {
			c.forget(s)
			s.discard(err)
			return err
		}
	}
	c.mu.Lock()
	replaced := c.newest != s // by a session that ends this one, with a word to the peer
	connected := !replaced && c.state != StateShutdown
	var twin *process
	if connected {
		twin = c.met(s.peer)
		c.meet(s)
		c.current.Store(s)
		c.connects++
		c.setState(StateConnected)
	}
	c.mu.Unlock()
	if twin != nil {
		c.foundTwins(twin.address, s.peer.address)
	}
	switch {
	case connected:
		c.announce(s)
		if c.arrived != nil {
			c.arrived(c)
		}
	case !replaced:
		s.end(errLocalClose) // outside of the lock: it closes the socket
	}
	return nil
}

// announce logs that a session has come up, unless there were too many recently; then its end is
// not logged either.
func (c *Connection) announce(s *session) {
	if more, ok := c.comings.allow(""); ok && s.announced.CompareAndSwap(false, true) {
		c.logConnected(s, more)
	}
}

// logConnected logs that a session has come up, and how many others have not been logged.
func (c *Connection) logConnected(s *session, more int) {
	c.log.Info("grid: connected", "peer", c.Remote, "local", c.Local, "dialed", s.dialed, "more", more)
}

// lost notes that a session accepts no more calls, because of why. It may still have to end.
func (c *Connection) lost(s *session, why error) {
	reason, _ := visible.Cut(why.Error(), recentErrorLen)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.CompareAndSwap(s, nil) {
		c.lostReason = reason
		c.setState(StateConnectionError)
	}
}

// forget notes the end of a session.
func (c *Connection) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest != s {
		return
	}
	c.newest = nil
	c.setState(StateConnectionError)
}

// setState changes the state and wakes those who wait for that. c.mu is held.
func (c *Connection) setState(s State) {
	if c.state == s || c.state == StateShutdown {
		return
	}
	c.watch(c.state, s)
	c.state, c.since = s, time.Now()
	c.wake()
}

// wake wakes those who wait for a change of the state. c.mu is held.
func (c *Connection) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
	c.node.changed()
}

// connecting notes the dialer's first attempt.
func (c *Connection) connecting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == StateUnconnected {
		c.setState(StateConnecting)
	}
}

// shutdown refuses new calls and ends the session after sending what is queued, telling the peer
// and waiting for its answer, until ctx ends but for at least grace. It reports whether that was
// enough.
func (c *Connection) shutdown(ctx context.Context, grace time.Duration) bool {
	c.active.stop(&errShutdown)
	c.mu.Lock()
	c.setState(StateShutdown)
	c.stopDialing()
	s := c.newest
	c.mu.Unlock()
	if s == nil {
		return true
	}
	if c.current.Load() != s && !s.ran.Load() {
		s.end(errLocalClose) // not started
		<-s.finished
		return true
	}
	return s.shutdown(ctx, grace)
}

// leave refuses new calls because the host was removed, and sessions that have not started.
func (c *Connection) leave() {
	c.active.stop(&errRemoved)
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch(c.state, c.state)
	c.stopDialing()
	c.wake()
}

// refusal returns why there are no more handshakes once ctx has ended.
func (c *Connection) refusal() error {
	if c.removed() {
		return ErrRemoved
	}
	return ErrShutdown
}

// removed reports whether the host was removed.
func (c *Connection) removed() bool {
	return c.active.stopped() && c.active.why() == ErrRemoved
}

// over reports whether no more sessions may start. c.mu is held.
func (c *Connection) over() bool { return c.state == StateShutdown || c.removed() }

// note records why there is no connection.
func (c *Connection) note(reason string) {
	text, _ := visible.Cut(reason, recentErrorLen)
	c.mu.Lock()
	c.lastError, c.lastErrorTime = text, time.Now()
	c.mu.Unlock()
	c.recent.add(c.Remote, RoleClient, noHandler, text)
}
