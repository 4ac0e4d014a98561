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
// session. NewManager makes it; Manager.Connection returns it.
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

	node         *node
	registry     *atomic.Pointer[registry] // of the Manager
	interceptors *interceptors             // of the Manager

	stuckDials atomic.Int32 // calls of the application's code by dials that have not returned

	current atomic.Pointer[session] // the connected session; nil while there is none

	comings    logLimit // sessions that came up, and that ended unseen
	dialFails  logLimit // attempts to connect that failed
	rejections logLimit // in the handshake, of nodes that claim to be the peer
	twins      logLimit // processes with the peer's name
	absences   logLimit // of a peer that should dial

	mu      sync.Mutex // Protects following.
	state   State
	newest  *session      // the session that was accepted or dialed last; it may not have started
	changed chan struct{} // closed when state changes

	absence   absence
	admission admission
	processes []process // that had the peer's name, the last one last

	since         time.Time // of state
	connects      int64     // sessions that came up
	dialErrors    int64     // attempts to connect that failed
	lastError     string    // why there was no connection the last time
	lastErrorTime time.Time
}

// newConnection returns the connection of a node to a peer. Nothing runs yet.
func newConnection(n *node, remote string, handlers *atomic.Pointer[registry], i *interceptors) *Connection {
	c := &Connection{
		Local:        n.Local,
		Remote:       remote,
		node:         n,
		registry:     handlers,
		interceptors: i,
		changed:      make(chan struct{}),
		since:        time.Now(),
		comings:      logLimit{lines: comingLines},
	}
	c.link.local, c.link.remote, c.caller = n.Local, remote, RemoteClient{Name: remote}
	c.log, c.limits, c.recent, c.panics = n.log, n.Limits, &n.recent, &n.panics
	c.busyPoll = n.BusyPoll
	c.nextID, c.lastPong = &c.NextID, &c.LastPong
	c.traffic, c.toldIn, c.toldOut = new(traffic), n.toldIn, n.toldOut
	c.active = newActivity()
	c.requestQuota.init(limitRequests, c.limits.MaxRequests, limitRequestBytes, c.limits.MaxRequestBytes)
	c.streamQuota.init(limitStreams, c.limits.MaxStreams, limitStreamBytes, c.limits.MaxStreamBytes)
	return c
}

// Request sends one request to handler h of the peer and waits for its answer. req may be reused
// once Request returns. The answer is the caller's, who may give it back with PutByteBuffer. A ctx
// without a deadline gets one of a minute, accurate to a few seconds.
//
// The error is one of: the handler's *RemoteErr; ErrDisconnected, at once if there is no
// connection, or when it is lost during the call, in which case the handler may or may not have
// run; ErrUnknownHandler if the peer has no such handler for requests; ErrShutdown; ErrOverloaded
// if the peer has refused the request because of its Limits; ErrMessageTooLarge; ErrMetadata; or
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
// and ErrShutdown if the Manager has ended.
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
		switch state {
		case StateConnected:
			return nil
		case StateShutdown:
			return ErrShutdown
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
		info := callInfo(&c.link, h, to.text())
		return c.interceptors.request(ctx, &info, req, func(ctx context.Context, req []byte) ([]byte, error) {
			return c.do(ctx, h, to, req)
		})
	}
	return c.do(ctx, h, to, req)
}

// do makes a request, behind all interceptors.
func (c *Connection) do(ctx context.Context, h HandlerID, to *route, req []byte) (resp []byte, err error) {
	if trace := startTrace(ctx, c.node.TraceTo, &c.link, h, to.text(), len(req)); trace != nil {
		defer func() { trace.end(len(resp), err) }()
	}
	resp, err = c.roundTrip(ctx, h, to, req)
	if err != nil {
		return nil, c.named(err, false, h, to.text())
	}
	return resp, nil
}

// roundTrip sends a request and waits for its answer. Its errors do not name the call yet.
func (c *Connection) roundTrip(ctx context.Context, h HandlerID, to *route, req []byte) ([]byte, error) {
	if !c.active.enter() {
		return nil, ErrShutdown
	}
	defer c.active.leave()
	s := c.current.Load()
	if s == nil {
		c.notSent(ctx, h, ErrDisconnected)
		return nil, ErrDisconnected
	}
	calls := c.called.get(int(h))
	watch := calls.begin()
	resp, err := s.callClient.request(ctx, h, to, req)
	calls.end(watch)
	if err != nil {
		c.callFailed(ctx, calls, h, err)
	}
	return resp, err
}

// newStream is NewStream on a route, which is nil for none.
func (c *Connection) newStream(ctx context.Context, id HandlerID, to *route, payload []byte) (*Stream, error) {
	switch {
	case c == nil:
		return nil, ErrDisconnected
	case ctx == nil:
		return nil, errNilContext
	case c.interceptors.clientStreams != nil:
		return c.interceptors.stream(ctx, callInfo(&c.link, id, to.text()), payload,
			func(ctx context.Context, payload []byte, observers []StreamObserver) (*Stream, error) {
				return c.open(ctx, id, to, payload, observers)
			})
	}
	return c.open(ctx, id, to, payload, nil)
}

// open opens a stream, behind all interceptors, with the given observers.
func (c *Connection) open(ctx context.Context, id HandlerID, to *route, payload []byte, observers []StreamObserver) (st *Stream, err error) {
	if trace := startTrace(ctx, c.node.TraceTo, &c.link, id, to.text(), len(payload)); trace != nil {
		defer func() {
			told := false
			defer func() {
				if !told && st != nil { // a subscriber's filter has ended the goroutine
					st.cancel(errNotReturned)
				}
			}()
			trace.end(0, err)
			told = true
		}()
	}
	m, err := c.openMux(ctx, id, to.wire(), payload, observers)
	if err != nil {
		return nil, c.named(err, true, id, to.text())
	}
	return newStream(m), nil
}

// openMux opens a stream. Its errors do not name the call yet.
func (c *Connection) openMux(ctx context.Context, id HandlerID, route *routeID, payload []byte, observers []StreamObserver) (*muxClient, error) {
	h := c.registry.Load().stream(id, route)
	if h == nil {
		return nil, fmt.Errorf("%w: not registered at %s, where the stream was to be opened from", ErrUnknownHandler, c.Local)
	}
	if !c.active.enter() {
		return nil, ErrShutdown
	}
	s := c.current.Load()
	if s == nil {
		c.active.leave()
		c.notSent(ctx, id, ErrDisconnected)
		return nil, ErrDisconnected
	}
	return s.muxes.open(ctx, h, payload, newObservation(&c.link, id, observers))
}

// newSession returns a session with a process of the peer, which has announced its features and
// that it accepts messages of maxMessage bytes. It does not run yet.
func (c *Connection) newSession(g *greeting, peer process, features, maxMessage uint32) *session {
	return newSession(&c.link, c.registry, c.lost, peer, agree(c.limits.MaxMessageSize, features&c.node.features(), maxMessage), g)
}

// start makes s the connection's session and runs it to its end. An older session ends first, with
// everything that is open on it. confirm, which may be nil, tells the peer that the session begins.
func (c *Connection) start(s *session, confirm func() error) error {
	c.mu.Lock()
	older := c.newest
	closed := c.state == StateShutdown
	if !closed {
		c.newest = s
	}
	c.mu.Unlock()
	if closed {
		s.discard(ErrShutdown)
		return ErrShutdown
	}
	if older != nil {
		older.abort(errReplaced, errReplaced.Error())
		<-older.finished
	}
	if confirm != nil {
		if err := confirm(); err != nil {
			c.forget(s)
			s.discard(err)
			return err
		}
	}
	c.mu.Lock()
	connected := c.newest == s && c.state != StateShutdown
	var twin *process
	if connected {
		twin = c.met(s.peer)
		c.current.Store(s)
		c.connects++
		c.setState(StateConnected)
	}
	c.mu.Unlock()
	if twin != nil {
		c.foundTwins(twin.address, s.peer.address)
	}
	if connected {
		c.announce(s)
	} else {
		s.end(errReplaced) // outside of the lock: it closes the socket
	}
	err := s.run()
	c.forget(s)
	return err
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

// lost notes that a session accepts no more calls. It may still have to end.
func (c *Connection) lost(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.CompareAndSwap(s, nil) {
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
	close(c.changed)
	c.changed = make(chan struct{})
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
	c.active.stop()
	c.mu.Lock()
	c.setState(StateShutdown)
	s := c.newest
	c.mu.Unlock()
	if s == nil {
		return true
	}
	if c.current.Load() != s && !s.ran.Load() {
		s.end(errLocalClose) // not started
		return true
	}
	return s.shutdown(ctx, grace)
}

// note records why there is no connection.
func (c *Connection) note(reason error) {
	text, _ := visible.Cut(reason.Error(), recentErrorLen)
	c.mu.Lock()
	c.lastError, c.lastErrorTime = text, time.Now()
	c.mu.Unlock()
	c.recent.add(c.Remote, RoleClient, handlerInvalid, text)
}
