package grid

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
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
)

// keepDialing keeps the connection up until ctx ends, or the connection is shut down.
func (c *Connection) keepDialing(ctx context.Context, dial func(context.Context) (*session, error)) {
	attempt, short := 0, 0
	for ctx.Err() == nil && c.State() != StateShutdown { // by no error: a Dialer's may be ErrShutdown, of another Manager
		c.connecting()
		began := time.Now()
		s, err := dial(ctx)
		if err == nil {
			started := time.Now()
			err = c.start(s, nil)
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

// logLoss says once why a session ended: of one that was announced, and of others as far as comings
// allow.
func (c *Connection) logLoss(ctx context.Context, s *session, reason error) {
	closed := ctx.Err() != nil || errors.Is(reason, errLocalClose) || errors.Is(reason, errPeerLeaving) || errors.Is(reason, ErrShutdown)
	if !closed || errors.Is(reason, errPeerLeaving) {
		c.note(reason)
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

// dialFailed takes note of an attempt to connect that failed.
func (c *Connection) dialFailed(err error) {
	if skipped, ok := c.dialFails.allow(err.Error()); ok {
		c.log.Warn("grid: cannot connect", "peer", c.Remote, "local", c.Local, "reason", err, "more_failures", skipped)
	}
	c.mu.Lock()
	c.dialErrors++
	c.mu.Unlock()
	c.note(err)
}

// backoff is a random pause of at most 100 ms before the first attempt, of 1 to 2 s at the most
// later.
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
