package grid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Connection is the link to one other node. Its methods may be called by any
// number of goroutines, and on a nil Connection, which is never connected.
//
// A Connection outlives its sockets: each live socket is a session, and a
// reconnect replaces the session. It is made by NewManager and found with Manager.Connection.
type Connection struct {
	// NextID counts the calls and streams opened from here. Atomic access only.
	NextID uint64
	// LastPong is when the peer last answered a ping, in nanoseconds of Unix time; 0 for never. Atomic access only.
	LastPong int64
	// Local and Remote are the names of the two nodes.
	Local, Remote string

	manager *Manager
	log     *slog.Logger
	limits  Limits
	caller  RemoteClient // the peer, as handlers see it
	active  activity

	requests quota // requests of the peer that run here
	streams  quota // streams of the peer that run here, and the bytes of all streams
	refused  refusalCounters

	stuckDials atomic.Int32 // calls of the application's code by dials that have not returned

	current atomic.Pointer[session] // the connected session; nil while there is none

	traffic *traffic
	served  counterTable // calls of the peer, by number of the registration
	called  counterTable // calls from here, by handler ID

	comings    logLimit // sessions that came up, and that ended unseen
	dialFails  logLimit // attempts to connect that failed
	overloads  logLimit // refusals
	rejections logLimit // in the handshake, of who says it is the peer
	twins      logLimit // processes with the peer's name
	absences   logLimit // of who should dial
	ignored    logLimit // operations of the peer

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

var errNilContext = errors.New("grid: nil context")

func newConnection(m *Manager, remote string) *Connection {
	c := &Connection{
		Local:   m.local,
		Remote:  remote,
		manager: m,
		log:     m.log,
		limits:  m.limits,
		caller:  RemoteClient{Name: remote},
		active:  newActivity(),
		changed: make(chan struct{}),
		traffic: new(traffic),
		since:   time.Now(),
		comings: logLimit{lines: comingLines},
	}
	c.requests.init(limitRequests, m.limits.MaxRequests, limitRequestBytes, m.limits.MaxRequestBytes)
	c.streams.init(limitStreams, m.limits.MaxStreams, limitStreamBytes, m.limits.MaxStreamBytes)
	return c
}

// Request sends one request to handler h of the peer and waits for its answer.
// It returns the answer, which may be given back with PutByteBuffer, or one
// error: the handler's *RemoteErr; ErrDisconnected at once where there is no connection, or when
// it is lost during the call, where the handler may or may not have run; ErrUnknownHandler where the peer
// has no such handler for requests; ErrShutdown; ErrOverloaded where the peer has too much to do; ErrMessageTooLarge;
// ErrMetadata; or context.Cause(ctx) when ctx ends. A ctx without a deadline gets one of a minute, to
// within a few seconds. req may be used again on return.
func (c *Connection) Request(ctx context.Context, h HandlerID, req []byte) ([]byte, error) {
	return c.request(ctx, h, "", nil, req)
}

// NewStream opens a stream to handler h of the peer. The handler must be
// registered here too, as its capacities are used, else the error is
// ErrUnknownHandler. The stream ends with ctx; whether the peer takes it is
// told by Stream.Results. payload may be used again on return.
func (c *Connection) NewStream(ctx context.Context, h HandlerID, payload []byte) (st *Stream, err error) {
	return c.newStream(ctx, h, "", nil, payload)
}

// Subroute narrows the connection to handlers registered on a subroute. It may be kept.
func (c *Connection) Subroute(s string) *Subroute {
	if c == nil {
		return nil
	}
	return &Subroute{Connection: c, route: s}
}

// WaitForConnect returns nil once the connection is up. It fails with the
// cause of ctx, and with ErrShutdown after the end of the Manager.
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

// State returns the state of this moment, StateUnconnected for a nil Connection.
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
func (c *Connection) request(ctx context.Context, h HandlerID, subroute string, route *routeID, req []byte) ([]byte, error) {
	switch {
	case c == nil:
		return nil, ErrDisconnected
	case ctx == nil:
		return nil, errNilContext
	case h == handlerInvalid:
		return nil, fmt.Errorf("%w: %v", ErrUnknownHandler, h)
	case c.manager.interceptors.clientRequests != nil:
		return c.interceptRequest(ctx, h, subroute, route, req)
	}
	return c.do(ctx, h, subroute, route, req)
}

// do makes a request, behind all interceptors.
func (c *Connection) do(ctx context.Context, h HandlerID, subroute string, route *routeID, req []byte) (resp []byte, err error) {
	if trace := c.startTrace(ctx, h, subroute, len(req)); trace != nil {
		defer func() { trace.end(len(resp), err) }()
	}
	resp, err = c.roundTrip(ctx, h, subroute, route, req)
	if err != nil {
		return nil, c.named(err, false, h, subroute)
	}
	return resp, nil
}

// roundTrip sends a request and waits for its answer. Its errors do not name the call yet.
func (c *Connection) roundTrip(ctx context.Context, h HandlerID, subroute string, route *routeID, req []byte) ([]byte, error) {
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
	resp, err := s.request(ctx, h, subroute, route, req)
	calls.end(watch)
	if err != nil {
		c.callFailed(ctx, calls, h, err)
	}
	return resp, err
}

// newStream is NewStream on a route, which is nil for none.
func (c *Connection) newStream(ctx context.Context, id HandlerID, subroute string, route *routeID, payload []byte) (*Stream, error) {
	switch {
	case c == nil:
		return nil, ErrDisconnected
	case ctx == nil:
		return nil, errNilContext
	case c.manager.interceptors.clientStreams != nil:
		return c.interceptStream(ctx, id, subroute, route, payload)
	}
	return c.open(ctx, id, subroute, route, payload, nil)
}

// open opens a stream, behind all interceptors. observers are told about it.
func (c *Connection) open(ctx context.Context, id HandlerID, subroute string, route *routeID, payload []byte, observers []StreamObserver) (st *Stream, err error) {
	if trace := c.startTrace(ctx, id, subroute, len(payload)); trace != nil {
		defer func() {
			told := false
			defer func() {
				if !told && st != nil { // a subscriber's filter has ended the goroutine
					st.mux.cancel(errNotReturned)
				}
			}()
			trace.end(0, err)
			told = true
		}()
	}
	m, err := c.openMux(ctx, id, route, payload, observers)
	if err != nil {
		return nil, c.named(err, true, id, subroute)
	}
	return newStream(m), nil
}

// openMux opens a stream. Its errors do not name the call yet.
func (c *Connection) openMux(ctx context.Context, id HandlerID, route *routeID, payload []byte, observers []StreamObserver) (*muxClient, error) {
	h := c.handlers().stream(id, route)
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
	return s.openMux(ctx, h, payload, newObservation(c, id, observers))
}

// start makes s the connection's session and runs it to its end. An older
// session ends first, with all that is open on it. confirm tells the peer that the session begins.
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
		older.part(errReplaced, errReplaced.Error())
		<-older.finished
	}
	if err := confirm(); err != nil {
		c.forget(s)
		s.discard(err)
		return err
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
		s.fail(errReplaced) // outside of the lock: it closes the socket
	}
	err := s.run()
	c.forget(s)
	return err
}

// announce logs that a session has come up, unless too many have of late, and then its end is not logged either.
func (c *Connection) announce(s *session) {
	if more, ok := c.comings.take(""); ok && s.announced.CompareAndSwap(false, true) {
		c.log.Info("grid: connected", "peer", c.Remote, "local", c.Local, "dialed", s.dialed, "more", more)
	}
}

// lost takes note that a session takes no more calls. It may still have to end.
func (c *Connection) lost(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.CompareAndSwap(s, nil) {
		c.setState(StateConnectionError)
	}
}

// forget takes note of the end of a session.
func (c *Connection) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest != s {
		return
	}
	c.newest = nil
	c.setState(StateConnectionError)
}

// setState tells those who wait. c.mu is held.
func (c *Connection) setState(s State) {
	if c.state == s || c.state == StateShutdown {
		return
	}
	c.watch(c.state, s)
	c.state, c.since = s, time.Now()
	close(c.changed)
	c.changed = make(chan struct{})
}

// connecting takes note of the dialer's first attempt.
func (c *Connection) connecting() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == StateUnconnected {
		c.setState(StateConnecting)
	}
}

// shutdown lets nothing start any more and ends the session: after all that is queued is sent, and the peer has been told and
// has answered, for which there is time until ctx ends, and at least grace. It reports whether that was enough.
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
		s.fail(errLocalClose) // not started
		return true
	}
	return s.leave(ctx, grace)
}

// handlers returns the handlers registered at this moment.
func (c *Connection) handlers() *registry { return c.manager.registry.Load() }

// bothTLS reports whether TLS protects both names' traffic, so that messages need no checksum.
func (c *Connection) bothTLS() bool {
	return isTLS(c.Local) && isTLS(c.Remote)
}

func isTLS(name string) bool {
	return strings.HasPrefix(name, "https:") || strings.HasPrefix(name, "wss:")
}

func (c *Connection) onWrite() func(int) {
	outgoing, sent := c.manager.outgoing, &c.traffic.out.bytes
	return func(n int) {
		sent.Add(int64(n))
		outgoing.add(int64(n))
	}
}

// handlerContext is the context of a handler that the peer called with m: with its deadline unless that is zero. r is
// where what the handler decodes counts.
func (c *Connection) handlerContext(deadline time.Time, subroute string, m *message, r room) (context.Context, context.CancelCauseFunc) {
	parent := context.Context(callerContext{
		Context:  context.Background(),
		caller:   &c.caller,
		subroute: subroute,
		metadata: newIncomingMetadata(m),
		room:     r,
	})
	ctx, cancel := context.WithCancelCause(parent)
	if deadline.IsZero() {
		return ctx, cancel
	}
	ctx, stop := context.WithDeadline(ctx, deadline)
	return ctx, func(cause error) {
		cancel(cause)
		stop()
	}
}

// newMask returns a mask for a control frame.
func newMask() (key [4]byte) {
	n := rand.Uint32()
	return [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}

// Backoff between the beginnings of dials: the first within 100 ms, none later than 2 s. A dial that takes as long, since
// nobody answers, is followed by the next within 100 ms: a peer that is back is reached soon.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 2 * time.Second
	// shortSessions is how many sessions in a row may end within maxBackoff
	// before the pauses grow: somebody cuts them again and again.
	shortSessions = 5
)

// keepDialing keeps the connection up until ctx ends, or the connection is shut down.
func (c *Connection) keepDialing(ctx context.Context, dial func(context.Context) (*session, func() error, error)) {
	attempt, short := 0, 0
	for ctx.Err() == nil && c.State() != StateShutdown { // by no error: a Dialer's may be ErrShutdown, of another Manager
		c.connecting()
		began := time.Now()
		s, confirm, err := dial(ctx)
		if err == nil {
			started := time.Now()
			err = c.start(s, confirm)
			c.logLoss(ctx, s, err)
			attempt, began = 0, time.Now()
			if began.Sub(started) > maxBackoff {
				short = 0
				c.dialFails.reset()
			} else if short++; short > shortSessions {
				attempt = short - shortSessions
			}
		} else if ctx.Err() == nil {
			c.dialFailed(err)
		}
		pause(ctx, max(backoff(attempt)-time.Since(began), rand.N(firstBackoff)))
		attempt++
	}
}

// logLoss says once why a session ended: of one that was announced, and of others as far as comings allow.
func (c *Connection) logLoss(ctx context.Context, s *session, reason error) {
	closed := ctx.Err() != nil || errors.Is(reason, errLocalClose) || errors.Is(reason, errPeerLeaving) || errors.Is(reason, ErrShutdown)
	if !closed || errors.Is(reason, errPeerLeaving) {
		c.note(reason)
	}
	more := 0
	if !s.announced.Load() {
		var ok bool
		if more, ok = c.comings.take(""); !ok {
			return
		}
	}
	if closed {
		c.log.Info("grid: connection closed", "peer", c.Remote, "local", c.Local, "reason", reason, "more", more)
		return
	}
	c.log.Warn("grid: connection lost", "peer", c.Remote, "local", c.Local, "reason", reason, "more", more)
}

// backoff is a random pause of at most 100 ms before the first attempt, of 1 to 2 s at the most later.
func backoff(attempt int) time.Duration {
	limit := maxBackoff
	if attempt < 5 {
		limit = firstBackoff << attempt
	}
	limit = min(limit, maxBackoff)
	if attempt == 0 {
		return rand.N(limit)
	}
	return limit/2 + rand.N(limit/2)
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
