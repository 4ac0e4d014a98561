package grid

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/zeebo/xxh3"
)

// Backoff between the beginnings of dials: the first within 100 ms, none later than 2 s. A dial
// that takes as long, since nobody answers, is followed by the next within 100 ms: a peer that is
// back is reached soon.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 2 * time.Second
	// shortSessions is how many sessions in a row may end within maxBackoff
	// before the pauses grow: somebody cuts them again and again.
	shortSessions = 5
	// maxPause is the longest pause of a node that the other one does not have among its hosts, as
	// it was removed there or is not known yet; and of one that dials very many hosts in vain.
	maxPause = 10 * time.Second
	// dialSpacing is how much time there is, on average, between dials in vain to different hosts.
	// It counts from 80 of them on, which take more than maxBackoff.
	dialSpacing = 25 * time.Millisecond
)

// pace is how often a node dials.
type pace struct {
	first time.Duration // the most between a loss and the first attempt
	most  time.Duration // between the beginnings of attempts
}

var (
	hostPace = pace{firstBackoff, maxBackoff}
	// guestPace is that of guests, of which a node may have very many: when it starts again, they do
	// not all come at once.
	guestPace = pace{time.Second, maxPause}
)

// unknownHost is the reason for the rejection of a host that is not a member, as nodes of the
// original give it too.
const unknownHost = "unknown incoming host"

// guestRefused is the beginning of the reason for the rejection of a guest.
const guestRefused = "not accepted as a guest"

// notMemberError says that the other node does not have this one among its hosts, nor as a guest.
type notMemberError struct{ error }

// dialing keeps a connection up. Between two attempts it is no more than a timer, so that a peer that
// is absent costs no goroutine and no stack: each attempt has a goroutine of its own, and so has the
// session that it leads to. One of them at a time runs, or the timer does.
type dialing struct {
	// The following belong to whoever of them runs.
	dial      func(context.Context) (*session, error)
	attempt   int // in a row that failed
	short     int // sessions in a row that ended soon
	unwelcome int // attempts in a row that failed because this node is not a member

	// Connection.mu protects the following.
	timer  *time.Timer // runs Connection.tryToConnect; nil before the first pause
	absent bool        // the peer is dialed in vain, and counted as such
}

// keepDialing keeps the connection up until the host is removed, or the connection is shut down. The
// first attempt begins at once.
func (c *Connection) keepDialing(dial func(context.Context) (*session, error)) {
	c.dialing.dial = dial
	c.node.goWork(c.tryToConnect)
}

// tryToConnect makes one attempt.
func (c *Connection) tryToConnect() {
	if c.dialsNoMore() {
		return
	}
	c.connecting()
	began := time.Now()
	s, err := c.dialing.dial(c.ctx)
	if err != nil {
		c.dialFailed(err)
		c.pause(began)
		return
	}
	c.setAbsent(false)
	started := time.Now()
	c.start(s, nil, func(reason error) { c.dialedEnded(s, started, reason) })
}

// dialedEnded sees to the next attempt after a session that has ended.
func (c *Connection) dialedEnded(s *session, started time.Time, reason error) {
	c.logLoss(c.ctx, s, reason)
	d, ended := &c.dialing, time.Now()
	d.attempt, d.unwelcome = 0, 0
	if ended.Sub(started) > maxBackoff {
		d.short = 0
		c.dialFails.reset()
	} else if d.short++; d.short > shortSessions {
		d.attempt = d.short - shortSessions
	}
	c.pause(ended)
}

// dialsNoMore reports whether the last attempt has been made. It does not go by an error: a Dialer's may
// be ErrShutdown, of another Manager.
func (c *Connection) dialsNoMore() bool { return c.ctx.Err() != nil || c.State() == StateShutdown }

// pause sets the timer for the next attempt, after one that began, or a session that ended, at a time.
func (c *Connection) pause(since time.Time) {
	d, pace := &c.dialing, hostPace
	if isGuest(c.Local) {
		pace = guestPace
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over() { // stopDialing has been called
		return
	}
	wait := max(c.backoff(pace, d.attempt), c.spread()) - time.Since(since)
	wait = max(wait, c.jitter(pace.first), c.unwelcomePause())
	d.attempt++
	if d.timer == nil {
		// The attempt is on the timer's own goroutine.
		d.timer = time.AfterFunc(wait, func() { c.node.doWork(c.tryToConnect) })
		return
	}
	d.timer.Reset(wait)
}

// stopDialing keeps further attempts from starting, except one that starts now, which finds out by
// itself. c.over holds, and c.mu is held.
func (c *Connection) stopDialing() {
	if t := c.dialing.timer; t != nil {
		t.Stop()
	}
	c.countAbsent(false)
}

// setAbsent counts whether the peer is dialed in vain.
func (c *Connection) setAbsent(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.countAbsent(is && !c.over())
}

// countAbsent is setAbsent. c.mu is held.
func (c *Connection) countAbsent(is bool) {
	if c.dialing.absent == is {
		return
	}
	c.dialing.absent = is
	if n := c.node; is {
		n.absent.Add(1)
	} else {
		n.absent.Add(-1)
	}
}

// spread is the least time between two dials to a peer that is absent, so that very many of those
// do not keep the node busy; 0 if they are not that many. c.mu is held.
func (c *Connection) spread() time.Duration {
	n := c.node
	limit := min(time.Duration(n.absent.Load())*dialSpacing, maxPause)
	if !c.dialing.absent || limit <= maxBackoff {
		return 0
	}
	return limit - c.jitter(limit/4)
}

// unwelcomePause is the least pause after dials in a row of a node that is not a member: 1 to 2 s at
// first, 5 to 10 s at the most later.
func (c *Connection) unwelcomePause() time.Duration {
	dials := c.dialing.unwelcome
	if dials == 0 {
		return 0
	}
	limit := min(maxBackoff<<min(dials-1, 8), maxPause)
	return limit/2 + c.jitter(limit/2)
}

// logLoss says once why a session ended: of one that was announced, and of others as far as comings
// allow.
func (c *Connection) logLoss(ctx context.Context, s *session, reason error) {
	byPeer := errors.Is(reason, errPeerLeaving) || errors.Is(reason, errRemovedByPeer)
	closed := byPeer || ctx.Err() != nil || errors.Is(reason, errLocalClose) || errors.Is(reason, ErrShutdown)
	if !closed || byPeer {
		c.note(reason.Error())
	}
	more := 0
	if !s.announced.Load() {
		var ok bool
		if more, ok = c.comings.allow(""); !ok {
			return
		}
	}
	if closed {
		c.log.Info("grid: connection closed", "peer", c.Remote, "local", c.Local, "reason", reason, "more", more)
		return
	}
	c.log.Warn("grid: connection lost", "peer", c.Remote, "local", c.Local, "reason", reason, "more", more)
}

// dialFailed takes note of an attempt to connect that failed, unless that is because no more are wanted.
// That the peer does not have this node among its hosts is logged once.
func (c *Connection) dialFailed(err error) {
	if c.ctx.Err() != nil {
		return
	}
	d := &c.dialing
	if _, ok := errors.AsType[*notMemberError](err); ok {
		d.unwelcome++
	} else {
		d.unwelcome = 0
	}
	text := err.Error()
	if skipped, ok := c.dialFails.allow(text); d.unwelcome == 1 || d.unwelcome == 0 && ok {
		c.log.Warn("grid: cannot connect", "peer", c.Remote, "local", c.Local, "reason", err, "more_failures", skipped)
	}
	c.mu.Lock()
	c.countAbsent(!c.over())
	c.dialErrors++
	c.mu.Unlock()
	c.note(text)
}

// backoff is a random pause: of at most p.first before the first attempt, of half of p.most to all of
// it at the most later.
func (c *Connection) backoff(p pace, attempt int) time.Duration {
	limit := p.most
	if attempt < 5 {
		limit = min(p.first<<attempt, p.most)
	}
	if attempt == 0 {
		return c.jitter(limit)
	}
	return limit/2 + c.jitter(limit/2)
}

// jitter is a pause from 0 to less than limit. It follows from the names of both nodes and from the
// clock: as good as random, and different for each connection, while in a simulation, where the clock
// is virtual, what has happened once happens again.
func (c *Connection) jitter(limit time.Duration) time.Duration {
	now := uint64(time.Now().UnixNano())
	part, _ := bits.Mul64(xxh3.HashStringSeed(c.Local, xxh3.HashStringSeed(c.Remote, now)), uint64(limit))
	return time.Duration(part)
}
