package grid

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// pingDeadlineMS is the deadline that goes over the wire with a ping.
const pingDeadlineMS = 5000

// ping asks the peer for a sign of life.
func (s *session) ping() {
	now := time.Now() // the janitor's own time may be stale
	payload, err := (&pingMsg{T: now}).MarshalMsg(nil)
	if err != nil {
		return
	}
	pieces, _ := s.batch.Pieces()
	s.pings.sent(now, pieces)
	s.advise(message{Op: OpPing, DeadlineMS: pingDeadlineMS, Payload: payload}, nil)
}

// pong handles the answer to a ping.
func (s *session) pong(m *message) error {
	var pong pongMsg
	if err := unmarshal(&pong, m.Payload); err != nil {
		return fmt.Errorf("malformed pong: %w", err)
	}
	now := time.Now()
	s.ponged(now)
	rtt, before, ok := s.pings.answer(pong.T, now)
	if !ok {
		return nil
	}
	s.rtt.Store(int64(max(rtt, 1))) // 0 means that there was none
	s.roundTrip.Store(int64(s.pings.shortest(rtt)))
	if sent, flight := s.batch.Pieces(); before-(sent-int64(flight)) >= ackPieces {
		return errUnacked
	}
	return nil
}

// pings tracks the pings of a session that were not answered yet, and the probe that waits for one.
// The zero value is ready.
type pings struct {
	mu         sync.Mutex      // Protects following.
	unanswered []sentPing      // the oldest first
	trips      []time.Duration // of the last pings
	running    *probe          // nil for none
}

// sentPing is a ping on its way.
type sentPing struct {
	at     time.Time
	pieces int64 // bytes of large messages that were sent before it
}

// recentTrips is how many round trips are remembered.
const recentTrips = 6

// maxPings bounds the pings waiting for an answer. A live peer answers one after the other.
const maxPings = 16

// probe is a ping that callers wait for.
type probe struct {
	sent     time.Time
	answered chan struct{}
	rtt      time.Duration // set before answered is closed
}

// probe sends a ping, or joins the wait for one that is on its way.
func (s *session) probe(ctx context.Context) (time.Duration, error) {
	p, first := s.pings.probe()
	if first {
		s.ping()
	}
	select {
	case <-p.answered:
		return p.rtt, nil
	case <-s.closed:
		return 0, ErrDisconnected
	case <-ctx.Done():
		return s.probeLate(ctx, p)
	}
}

// probe returns the running probe. first reports whether it has just begun.
func (p *pings) probe() (running *probe, first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first = p.running == nil; first {
		p.running = &probe{sent: time.Now(), answered: make(chan struct{})}
	}
	return p.running, first
}

// probeLate looks once more after ctx has ended: an answer counts if it has arrived but this node
// had not got round to it.
func (s *session) probeLate(ctx context.Context, p *probe) (time.Duration, error) {
	late := turn()
	select {
	case <-p.answered:
		return p.rtt, nil
	default:
	}
	err := contextCause(ctx)
	if late > lateTurn {
		err = fmt.Errorf("%w; this node is busy itself: it is late by %v", err, late.Round(time.Millisecond))
	}
	return 0, err
}

// sent records a ping, before which so many bytes of large messages were sent.
func (p *pings) sent(now time.Time, pieces int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.unanswered) == maxPings {
		p.unanswered = slices.Delete(p.unanswered, 0, 1)
	}
	p.unanswered = append(p.unanswered, sentPing{now, pieces})
}

// waited returns how long the oldest ping without an answer has waited, 0 if there is none.
func (p *pings) waited(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.unanswered) == 0 {
		return 0
	}
	return max(now.Sub(p.unanswered[0].at), 1)
}

// shortest records a round trip, and returns the shortest of the last ones. A path that has become
// longer is noticed after a few pings.
func (p *pings) shortest(rtt time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.trips) == recentTrips {
		p.trips = slices.Delete(p.trips, 0, 1)
	}
	p.trips = append(p.trips, max(rtt, 1))
	return slices.Min(p.trips)
}

// answer handles a pong and returns how long ago the ping it answers was sent, and what was sent
// before it. The time that the
// peer echoes only identifies the ping; a pong without one, or with an unknown one, answers the
// oldest. The monotonic clock measures, so a clock that is wrong or set anew changes nothing.
// answer returns false for a pong that answers no ping. It completes the running probe if that
// began no later than the ping.
func (p *pings) answer(echo, now time.Time) (rtt time.Duration, pieces int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.unanswered) == 0 {
		return 0, 0, false
	}
	i := slices.IndexFunc(p.unanswered, func(sent sentPing) bool { return sent.at.UnixNano() == echo.UnixNano() })
	i = max(i, 0)
	sent := p.unanswered[i]
	p.unanswered = slices.Delete(p.unanswered, 0, i+1)
	rtt = now.Sub(sent.at)
	if p.running != nil && !sent.at.Before(p.running.sent) {
		p.running.rtt = rtt
		close(p.running.answered)
		p.running = nil
	}
	return rtt, sent.pieces, true
}
