package simnet

import (
	"math/bits"
	"math/rand/v2"
	"time"
)

// pipe is one direction of a connection. The network's lock guards it.
type pipe struct {
	path     *path
	number   int
	rng      *rand.Rand
	segments []segment     // on their way, or arrived and not read
	buffered int           // bytes in segments
	sent     time.Time     // when the last segment has left, where bandwidth is short
	arrives  time.Time     // when the last segment arrives: nothing overtakes it
	over     bool          // a proxy takes nothing more
	lost     bool          // nothing arrives any more
	changed  chan struct{} // closed when a reader or a writer should look again; nil while nobody waits
}

// segment is what arrives at once. It has no bytes where it is the end of the direction.
type segment struct {
	left time.Time // when its last byte has left the sender
	at   time.Time
	data []byte
}

func (p *pipe) order() int { return p.number }

func (p *pipe) notify() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// change returns a channel that is closed when a reader or a writer should look again.
func (p *pipe) change() <-chan struct{} {
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

// ready returns when the first segment, or something that was sent at the given time, can be read;
// zero for never, or not yet known.
func (p *pipe) ready(at time.Time) time.Time {
	switch {
	case p.lost, p.path.blocked:
		return time.Time{}
	case p.path.stalled.After(at):
		return p.path.stalled
	}
	return at
}

// room returns how many bytes may be written.
func (p *pipe) room() int {
	size := p.path.link.Buffer
	if size == 0 {
		size = defaultBuffer
	}
	return max(size-p.buffered, 0)
}

// push sends a copy of b on its way.
func (p *pipe) push(b []byte, now time.Time) {
	data := append([]byte(nil), b...)
	if p.path.flips > 0 && p.rng.IntN(2) == 0 {
		p.path.flips--
		data[p.rng.IntN(len(data))] ^= 1 << p.rng.IntN(8)
	}
	p.buffered += len(data)
	link := &p.path.link
	delay := p.path.delay()
	gaps := link.Jitter // between the pieces, together
	for len(data) > 0 {
		n := p.piece(len(data))
		p.append(now, data[:n:n], delay+p.path.resends(p.rng, resendsData))
		data = data[n:]
		if gaps > 0 && p.rng.IntN(4) == 0 {
			gap := time.Duration(p.rng.Int64N(int64(gaps)))
			delay += gap
			gaps -= gap
		}
	}
	p.notify()
}

// end sends the end of the direction on its way.
func (p *pipe) end(now time.Time) {
	p.append(now, nil, p.path.delay()+p.path.resends(p.rng, resendsData))
	p.notify()
}

// cut ends the direction at once. It reports whether something was on its way, which is lost.
func (p *pipe) cut(now time.Time) (dropped bool) {
	kept := p.segments[:0]
	for _, s := range p.segments {
		if s.at.After(now) && len(s.data) > 0 {
			p.buffered -= len(s.data)
			dropped = true
			continue
		}
		kept = append(kept, s)
	}
	p.segments = kept
	p.sent, p.arrives, p.over = now, now, true
	p.append(now, nil, 0)
	p.notify()
	return dropped
}

// append sends bytes on their way at once, or as soon as all that was sent before has left.
func (p *pipe) append(now time.Time, data []byte, delay time.Duration) {
	s := segment{data: data}
	p.schedule(&s, now, delay)
	p.segments = append(p.segments, s)
}

// reschedule gives what has not left the times that it has with the bandwidth of now.
func (p *pipe) reschedule(now time.Time) {
	p.sent, p.arrives = now, now
	for i := range p.segments {
		if s := &p.segments[i]; s.left.After(now) {
			p.schedule(s, now, s.at.Sub(s.left))
		} else {
			p.arrives = s.at
		}
	}
	p.notify()
}

// piece draws the size of the next segment of n bytes: small ones are as likely as large ones.
func (p *pipe) piece(n int) int {
	most := p.path.link.Segment
	if most <= 0 {
		return n
	}
	scale := 1 << p.rng.IntN(bits.Len(uint(most)))
	return min(n, most, scale+p.rng.IntN(scale))
}

// schedule says when a segment leaves and when it arrives: behind all that was sent before.
func (p *pipe) schedule(s *segment, now time.Time, delay time.Duration) {
	if p.sent.Before(now) {
		p.sent = now
	}
	if rate := p.path.link.Bandwidth; rate > 0 {
		p.sent = p.sent.Add(time.Duration(len(s.data)) * time.Second / time.Duration(rate))
	}
	s.left, s.at = p.sent, p.sent.Add(delay)
	if s.at.Before(p.arrives) {
		s.at = p.arrives
	}
	p.arrives = s.at
}

// read takes bytes that have arrived. end says that none will follow; wake is when to look again,
// zero for not by itself.
func (p *pipe) read(b []byte, now time.Time) (n int, end bool, wake time.Time) {
	if len(p.segments) == 0 {
		return 0, false, time.Time{}
	}
	s := &p.segments[0]
	at := p.ready(s.at)
	switch {
	case at.IsZero() || at.After(now):
		return 0, false, at
	case len(s.data) == 0:
		return 0, true, time.Time{}
	}
	n = copy(b, s.data)
	s.data = s.data[n:]
	if len(s.data) == 0 {
		p.segments[0] = segment{}
		p.segments = p.segments[1:]
	}
	p.buffered -= n
	p.notify()
	return n, false, time.Time{}
}

// clear drops what is on its way. It reports whether there were bytes that nobody has read.
func (p *pipe) clear() bool {
	unread := p.buffered > 0
	p.segments, p.buffered = nil, 0
	p.notify()
	return unread
}
