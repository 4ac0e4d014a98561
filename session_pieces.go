package grid

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
)

// Sizes in bytes.
const (
	// ackPieces is after how many bytes of pieces the peer is told that they were read.
	ackPieces = 16 << 10
	// maxAhead bounds how much more than what has come is allocated for a message whose pieces are
	// coming in.
	maxAhead = 1 << 20
	// pieceAhead is the largest frame for which all memory is allocated with its first bytes. Peers
	// send pieces that fit.
	pieceAhead = 256 << 10
)

// assembly puts the messages together that the peer sends in pieces. Only the peer ends a message:
// with its last piece, or with one that says that no more follow. So each side knows what the other
// holds, and what nobody waits for when it begins is only left out. It belongs to the reader.
type assembly struct {
	partials map[uint64]*partial // by mux ID
	begun    atomic.Int64        // bytes of all of them, once they are whole; tests read it
	read     int                 // bytes of pieces, not yet acknowledged
}

// holds returns the bytes of all messages that are begun.
func (a *assembly) holds() int { return int(a.begun.Load()) }

// partial is a message of which pieces are missing.
type partial struct {
	message           // its fields, and what has come of the payload
	total   int       // bytes of the message
	left    int       // of them, not yet come
	tail    []byte    // what has come of what follows it
	began   time.Time // when the first piece came
	wanted  bool      // somebody waits for it: it is not left out
}

var errPieces = errors.New("malformed piece")

// piece takes a piece of a message that arrived now. The message is dispatched with its last one.
func (s *session) piece(m *message, now time.Time) error {
	p, begins := s.assembly.partials[m.MuxID], m.DeadlineMS != 0
	switch {
	case m.MuxID == 0: // nor would it need a checksum
		return fmt.Errorf("%w: %v", errMessageNoMux, m.Op)
	case begins == (p != nil):
		return fmt.Errorf("%w: a first one in a message, or another without", errPieces)
	case !begins && len(m.Payload) == 0 && m.Seq == 0:
		s.forget(p)
		s.unclaimed(&p.message)
		return nil
	}
	s.ackPiece(len(m.Payload))
	part := m.Payload
	if begins {
		var err error
		if p, part, err = s.beginAssembly(m, now); err != nil {
			return err
		}
	}
	if len(part) == 0 || len(part) > p.left || uint64(m.Seq) != uint64(p.left-len(part)) {
		return fmt.Errorf("%w: %d bytes with %d to follow, of %d", errPieces, len(part), m.Seq, p.left)
	}
	if !m.alone || !s.adopt(p, part) {
		p.add(part)
	}
	if p.left > 0 {
		return nil
	}
	s.forget(p)
	err := s.assembled(p, now)
	s.unclaimed(&p.message)
	return err
}

// ackPiece tells the peer at times how much of its pieces was read, so that it sends more.
func (s *session) ackPiece(n int) {
	a := &s.assembly
	if a.read += n; a.read >= ackPieces {
		s.reply(message{Seq: uint32(a.read), Op: OpAckPieces}, nil)
		a.read = 0
	}
}

// beginAssembly begins a message with its first piece. It returns the part of it that comes after
// the head of the message.
func (s *session) beginAssembly(m *message, now time.Time) (p *partial, part []byte, err error) {
	p = &partial{total: int(min(m.DeadlineMS, maxSize+1)), began: now}
	part, whole := p.parseFields(m.Payload)
	payload, part, ok := mpack.CutBinHeader(part)
	rest := p.total - (len(m.Payload) - len(part)) // of the message, behind its head
	a := &s.assembly
	switch {
	case !whole || !ok || p.MuxID != m.MuxID || p.Flags&FlagCRCxxh3 != 0:
		return nil, nil, fmt.Errorf("%w: no message begins in it", errPieces)
	case p.total > s.maxMessage || payload <= pieceThreshold || rest < 0 || payload > uint64(rest) || rest-int(payload) > s.maxTail(p.Op):
		return nil, nil, fmt.Errorf("%w: a message of %d bytes with a payload of %d", errPieces, p.total, payload)
	case a.holds()+p.total > 2*s.maxMessage:
		return nil, nil, fmt.Errorf("%w: more than %d bytes in messages that are not finished", errPieces, 2*s.maxMessage)
	}
	p.left, p.coming = rest, int(payload)
	s.takePriority(&p.message)
	if p.opens() && p.Flags&FlagMetadata != 0 {
		p.behind = rest - p.coming
		if p.Flags&FlagSubroute != 0 {
			p.behind = max(p.behind-len(routeID{}), 0)
		}
	}
	if p.wanted, err = s.wants(&p.message, now); err != nil {
		return nil, nil, err
	}
	p.checked = true
	if a.partials == nil {
		a.partials = make(map[uint64]*partial)
	}
	a.partials[p.MuxID] = p
	a.begun.Add(int64(p.total))
	return p, part, nil
}

// wants reports whether somebody waits for a message whose first piece has come, and enters it into
// the quota. If it is refused, the peer is told so at once, and not when all of it has come.
func (s *session) wants(m *message, now time.Time) (bool, error) {
	quota := s.requestQuota
	switch m.Op {
	case OpResponse:
		return s.callClient.waits(m.MuxID), nil
	case OpMuxClientMsg, OpMuxServerMsg:
		return s.muxes.receiveFirst(m, now), nil
	case OpConnectMux:
		quota = s.streamQuota
	case OpRequest:
	default:
		return false, fmt.Errorf("%w of %v", errPieces, m.Op)
	}
	if s.hopeless(m) {
		return false, nil
	}
	size, over := s.admitted(m, quota)
	if over != limitNone {
		s.overloaded(m, target{id: m.Handler}, over)
		return false, nil
	}
	m.counted = size
	return true, nil
}

// hopeless refuses a call whose first piece shows that no handler is going to run for it. It
// reports whether it did.
func (s *session) hopeless(m *message) bool {
	handlers := s.muxes.handlers()
	known := m.Flags&FlagSubroute != 0 || // nothing is known before that has come, which is last
		m.Op == OpRequest && handlers.single(m.Handler, nil) != nil ||
		m.Op == OpConnectMux && handlers.stream(m.Handler, nil) != nil
	switch {
	case !known:
		s.refuseUnknown(m)
	case !s.active.stopped():
		return false
	case m.Op == OpRequest:
		s.callServer.refuseLeaving(m)
	default:
		s.refuse(m, string(s.active.why()))
	}
	return true
}

// adopt takes the only piece of a message, which is alone in its frame, together with its buffer, if
// that is as large as one for the payload would be. It moves the payload to the front, which costs
// less than a copy to memory that is not in the caches. It returns false if it has not taken the piece.
func (s *session) adopt(p *partial, part []byte) bool {
	if !p.wanted || p.Payload != nil || len(part) != p.left {
		return false
	}
	buf := s.frames.Keep(bytepool.Size(p.coming))
	if buf == nil {
		return false
	}
	p.left, p.tail = 0, bytes.Clone(part[p.coming:])
	p.Payload, p.owned = append(buf[:0], part[:p.coming]...), true
	return true
}

// add takes the next bytes of the message.
func (p *partial) add(b []byte) {
	p.left -= len(b)
	if !p.wanted {
		return
	}
	n := min(len(b), p.coming-len(p.Payload))
	p.reserve(n)
	p.Payload = append(p.Payload, b[:n]...)
	p.tail = append(p.tail, b[n:]...)
}

// reserve makes room for n more bytes of the payload. At last the buffer has the size for which the
// message was counted.
func (p *partial) reserve(n int) {
	have := len(p.Payload)
	if cap(p.Payload)-have >= n {
		return
	}
	bigger := bytepool.Get(min(p.coming, max(maxAhead, 2*have, have+n)))
	bigger = append(bigger, p.Payload...)
	bytepool.Put(p.Payload)
	p.Payload, p.owned = bigger, true
}

// assembled dispatches a message of which everything has come.
func (s *session) assembled(p *partial, now time.Time) error {
	if !p.wanted {
		return nil
	}
	m := &p.message
	if err := m.parseTail(nil, p.tail); err != nil {
		return fmt.Errorf("malformed message: %w", err)
	}
	if m.opens() && m.DeadlineMS > 0 { // it counts from when the first piece came
		m.DeadlineMS -= uint32(min(now.Sub(p.began)/time.Millisecond, time.Duration(m.DeadlineMS-1)))
	}
	return s.route(m, now)
}

// forget stops counting a message of which no more comes.
func (s *session) forget(p *partial) {
	a := &s.assembly
	delete(a.partials, p.MuxID)
	a.begun.Add(-int64(p.total))
	if len(a.partials) == 0 {
		a.partials = nil // an idle session keeps no table
	}
}

// unclaimed gives up what nobody has taken of a message that came in pieces.
func (s *session) unclaimed(m *message) {
	switch {
	case m.counted == 0:
	case m.Op == OpRequest:
		s.requestQuota.leave(m.counted)
	case m.Op == OpConnectMux:
		s.streamQuota.leave(m.counted)
	default:
		s.streamQuota.free(m.counted)
	}
	m.counted = 0
	if m.owned {
		PutByteBuffer(m.Payload)
	}
}

// dropPartials gives up the messages that the session ended in the middle of.
func (s *session) dropPartials() {
	for _, p := range s.assembly.partials {
		s.forget(p)
		s.unclaimed(&p.message)
	}
}
