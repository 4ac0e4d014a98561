package grid

import "fmt"

// exchangeFacts tells the peer what this node is, and learns what the peer is, before there is a
// session. The node that was dialed speaks first: if both wrote at once, a connection without
// buffers would stand still.
func (g *greeting) exchangeFacts(l *link, with *agreement) error {
	if !with.has(featureFacts) {
		return nil
	}
	g.frames.SetMaxMessage(maxFactsSize + maxOverhead)
	defer g.frames.SetMaxMessage(l.limits.MaxMessageSize)
	steps := [...]func(*link, *agreement) error{g.tellFacts, g.hearFacts}
	if g.dialed {
		steps[0], steps[1] = steps[1], steps[0]
	}
	for _, step := range steps {
		if err := step(l, with); err != nil {
			return err
		}
	}
	return nil
}

func (g *greeting) tellFacts(l *link, with *agreement) error {
	payload, revision := l.bulletin.first(with.maxMessage - maxOverhead)
	g.told = revision
	return writeHandshake(g.socket, message{Seq: revision, Op: OpFacts, Flags: l.checksum(), Payload: payload}, g.dialed)
}

func (g *greeting) hearFacts(l *link, _ *agreement) error {
	m, err := readGreeting(g.frames, OpFacts)
	if err == nil && l.checksum()&^m.Flags != 0 {
		err = errUnchecked
	}
	if err == nil {
		g.heard, err = parseFacts(m.Payload)
	}
	if err != nil {
		return fmt.Errorf("what the peer says of itself: %w", err)
	}
	return nil
}

// exchangeFacts does the same for a session that has not begun.
func (s *session) exchangeFacts(g *greeting) error {
	err := g.exchangeFacts(s.link, &s.agreement)
	s.heard, s.reader.known = g.heard, g.told
	return err
}

// joinBulletin begins to tell the peer of what changes.
func (s *session) joinBulletin() {
	if s.has(featureFacts) {
		s.reader.limit = s.maxMessage - maxOverhead
		s.reader.send = func(m message) { s.advise(m, nil) }
		s.bulletin.join(&s.reader)
	}
}

func (s *session) leaveBulletin() {
	if s.has(featureFacts) {
		s.bulletin.leave(&s.reader)
	}
}

// takeFacts handles what the peer says of itself, and what it has read of what this node says.
func (s *session) takeFacts(m *message) error {
	if m.Op == OpAckFacts {
		if !s.bulletin.acknowledged(&s.reader, m.Seq) {
			return fmt.Errorf("facts %d acknowledged that were not sent", m.Seq)
		}
		return nil
	}
	known := facts{}
	if last := s.facts.Load(); last != nil {
		known = *last
	}
	if m.Payload != nil { // otherwise it says whether they are final
		heard, err := parseFacts(m.Payload)
		if err != nil {
			return fmt.Errorf("malformed facts: %w", err)
		}
		known = *heard
	}
	known.final = m.Flags&FlagEOF != 0
	before := s.facts.Swap(&known)
	if before == nil || before.draining != known.draining {
		s.drains()
	}
	s.reply(message{Seq: m.Seq, Op: OpAckFacts}, nil)
	return nil
}
