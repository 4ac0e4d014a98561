package grid

import "time"

// Why a peer is missed that has to dial this node.
const (
	neverCame    = "not connected yet; it dials this node"
	didNotReturn = "not connected again; it dials this node"
)

// absence watches for a peer that should dial this node and does not. It is a timer,
// which also tells of a connection that has come up unseen. Connection.mu protects it.
type absence struct {
	since time.Time   // when the peer was there last, or this node was made
	timer *time.Timer // runs Connection.look
}

// expect begins to watch, now that a session may start.
func (c *Connection) expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over() {
		return
	}
	c.absence.since = time.Now()
	c.absence.timer = time.AfterFunc(c.patience(), func() { c.node.doWork(c.look) })
}

// patience is how long a peer may take to dial.
func (c *Connection) patience() time.Duration {
	return c.limits.DialTimeout + c.limits.HandshakeTimeout + 2*maxBackoff
}

// watch sets the timer for a change of the state. c.mu is held.
func (c *Connection) watch(from, to State) {
	a := &c.absence
	switch {
	case a.timer == nil: // of a guest, which is not expected, and in tests
	case to == StateShutdown, c.removed():
		a.timer.Stop()
	case to == StateConnected:
		a.timer.Reset(logChangedEvery)
	case from == StateConnected:
		a.since = time.Now()
		a.timer.Reset(c.patience())
	}
}

// look is run when the state has not changed for a while.
func (c *Connection) look() {
	c.mu.Lock()
	state, away, came := c.state, time.Since(c.absence.since), c.connects > 0
	dials, over := shouldDial(c.Local, c.Remote), c.over()
	if state == StateUnconnected && !dials && !over {
		c.setState(StateConnectionError)
	}
	c.mu.Unlock()
	switch {
	case over:
	case state == StateConnected:
		if s := c.current.Load(); s != nil {
			c.announceLate(s)
		}
	case !dials:
		reason := didNotReturn
		if !came {
			reason = neverCame
			c.note(reason)
		}
		if more, ok := c.absences.allow(""); ok {
			c.log.Warn("grid: peer is absent", "peer", c.Remote, "local", c.Local, "reason", reason,
				"for", away.Round(time.Millisecond), "more", more)
		}
	}
}

// announceLate logs a session that has come up unseen and stayed.
func (c *Connection) announceLate(s *session) {
	if s.announced.CompareAndSwap(false, true) {
		c.logConnected(s, c.comings.sum())
	}
}
