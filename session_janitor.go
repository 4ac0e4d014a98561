package grid

import (
	"fmt"
	"sync"
	"time"
)

// janitor calls a function of a session in rounds. Between them it is no more than a timer, so that
// an idle session does without a goroutine and its stack: each round has one of its own. A round that
// takes long delays the next. No round begins while one runs.
type janitor struct {
	round func() bool // ends the rounds with false
	tick  time.Duration

	mu    sync.Mutex // Protects following.
	timer *time.Timer
	next  time.Time // when the timer fires
	over  bool      // no more rounds

	left sync.WaitGroup // counts one from begin until no round runs, and none will begin
}

// begin starts the rounds, the first of them after a tick.
func (j *janitor) begin(tick time.Duration, round func() bool) {
	j.mu.Lock()
	defer j.mu.Unlock() // so that the first round finds the timer
	j.tick, j.round = tick, round
	j.left.Add(1)
	j.next = time.Now().Add(tick)
	j.timer = time.AfterFunc(tick, j.run)
}

// end waits for the round that runs, if one does. There is none afterwards.
func (j *janitor) end() {
	j.mu.Lock()
	j.over = true
	if j.timer.Stop() { // else the round that the timer has begun counts itself out, or the last one has
		j.left.Done()
	}
	j.mu.Unlock()
	j.left.Wait()
}

// run is one round.
func (j *janitor) run() {
	goesOn := false
	defer func() { j.ran(goesOn) }() // also after runtime.Goexit, in a method of a context
	goesOn = j.round()
}

// ran sets the timer for the next round, if there is to be one.
func (j *janitor) ran(goesOn bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.over || !goesOn {
		j.left.Done()
		return
	}
	now := time.Now()
	if j.next = j.next.Add(j.tick); j.next.Before(now) {
		j.next = now
	}
	j.timer.Reset(j.next.Sub(now))
}

// beginRounds starts the janitor of the session.
func (s *session) beginRounds() {
	if s.has(featureWindows) { // which depend on the round trip
		s.pinged = time.Now()
		s.ping()
	}
	s.janitor.begin(s.tick, s.round)
}

// round pings the peer if it is time to, and ends what is overdue. It returns false once the session is
// over.
func (s *session) round() bool {
	if isClosed(s.closed) {
		return false
	}
	if now := time.Now(); now.Sub(s.pinged) >= s.limits.PingInterval-s.tick/2 {
		s.pinged = now
		s.ping()
	}
	late := turn()
	s.batch.Late(late)
	l := s.live.check(late, s.tick, s.frames, s.batch)
	// The sign of life may be a tick older than the look that saw it, and the next look is
	// a tick away.
	if l.silent > s.limits.PeerTimeout-2*s.tick-s.tick/2 {
		silent := l.silent.Round(time.Millisecond)
		err := fmt.Errorf("%w for %v", errPeerSilent, silent)
		s.abort(err, fmt.Sprintf("nothing received for %v", silent))
		s.flushed()
		s.end(err)
		return false
	}
	s.callClient.checkAlive(&l)
	s.muxes.checkAlive(&l)
	return true
}
