package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// twinPatience is how long a connected process has to answer a ping when another one comes under
// its name.
const twinPatience = time.Second

// knownProcesses is how many processes of a peer are remembered.
const knownProcesses = 8

var errOvertaken = errors.New("overtaken by a newer handshake of the same host")

// twinError says that a process was turned away because another of the same name is connected.
type twinError struct{ name, address string }

func (e *twinError) Error() string {
	return fmt.Sprintf("another process with the name %s is connected, from %s", e.name, e.address)
}

// admission decides when sessions that the peer opens may start. Connection.mu protects it.
type admission struct {
	streak  int           // of sessions with less than maxBackoff between them
	last    time.Time     // when the last one was admitted
	next    time.Time     // when the next one may be
	waiting chan struct{} // closed when a newer handshake comes; nil where none waits

	handshakes uint64 // that have come
	foremost   uint64 // the number of the newest one that waits or is admitted
}

// admit returns nil when a session with a process of the peer may start: at once, or after a pause
// where too many came in a row. A process that is connected keeps its place while it lives.
func (c *Connection) admit(ctx context.Context, p process) error {
	number := c.nextHandshake()
	if s := c.current.Load(); s != nil && c.contends(s, p) && c.alive(ctx, s) {
		if s.peer.id == p.id {
			return fmt.Errorf("%s: %s is connected already, from %s; does another URL lead here, too?", guestRefused, c.Remote, s.peer.address)
		}
		c.foundTwins(s.peer.address, p.address)
		return &twinError{c.Remote, s.peer.address}
	}
	for {
		overtaken, wait, err := c.queueUp(number)
		if overtaken == nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-overtaken:
			timer.Stop()
			return errOvertaken
		case <-ctx.Done():
			timer.Stop()
			return c.refusal()
		}
	}
}

// contends reports whether a process has to give way to a session while that lives: if it is another
// process, or a guest that dials this node by two names. Of these the right one counts.
func (c *Connection) contends(s *session, p process) bool {
	return s.peer.id != p.id || isGuest(c.Remote) && (s.peer.meant || !p.meant)
}

// nextHandshake numbers the handshakes of the peer in the order in which they come.
func (c *Connection) nextHandshake() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admission.handshakes++
	return c.admission.handshakes
}

// queueUp admits a session, or returns how long to wait before the next try and a channel that is
// closed when a newer handshake takes over the wait. Only one handshake can wait. A handshake never
// displaces a newer one, however late it arrives here: its peer has given it up or is gone.
func (c *Connection) queueUp(number uint64) (overtaken chan struct{}, wait time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &c.admission
	if number < a.foremost {
		return nil, 0, errOvertaken
	}
	a.foremost = number
	if a.waiting != nil {
		close(a.waiting)
		a.waiting = nil
	}
	now := time.Now()
	if wait := a.next.Sub(now); wait > 0 {
		a.waiting = make(chan struct{})
		return a.waiting, wait, nil
	}
	if now.Sub(a.last) > maxBackoff {
		a.streak = 0
	}
	a.last = now
	if a.streak++; a.streak > shortSessions {
		a.next = now.Add(min(c.backoff(hostPace, a.streak-shortSessions), c.limits.HandshakeTimeout/2))
	}
	return nil, 0, nil
}

// alive reports whether the peer of a session answers a ping, or is in the middle of sending
// something.
func (c *Connection) alive(ctx context.Context, s *session) bool {
	var seen uint64
	for range 2 {
		_, seen = s.frames.Received()
		half, cancel := context.WithTimeout(ctx, min(twinPatience, c.limits.HandshakeTimeout/2)/2)
		_, err := s.probe(half)
		cancel()
		if err == nil {
			return true
		}
	}
	_, now := s.frames.Received()
	return now != seen && c.current.Load() == s
}

// met takes note of the process that a session is with. One that is back after another has had its
// place shows that there are two: a process that was started again never has an old ID. c.mu is
// held.
func (c *Connection) met(p process) (twin *process) {
	i := slices.IndexFunc(c.processes, func(known process) bool { return known.id == p.id })
	if i >= 0 {
		if i < len(c.processes)-1 {
			twin = &process{}
			*twin = c.processes[len(c.processes)-1]
		}
		c.processes = slices.Delete(c.processes, i, i+1)
	} else if len(c.processes) == knownProcesses {
		c.processes = slices.Delete(c.processes, 0, 1)
	}
	c.processes = append(c.processes, p)
	return twin
}

// foundTwins tells that there are two processes with the name of the peer.
func (c *Connection) foundTwins(one, other string) {
	c.recent.add(c.Remote, RoleClient, noHandler,
		fmt.Sprintf("two processes with this name, at %s and at %s", addressHost(one), addressHost(other)))
	if more, ok := c.twins.allow(""); ok {
		c.log.Warn("grid: two processes with one name", "peer", c.Remote, "local", c.Local,
			"remote", other, "other", one, "more", more)
	}
}
