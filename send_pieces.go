package grid

import (
	"github.com/gridmesh/grid/internal/batch"
)

// pieceThreshold is the size of a payload, in bytes, from which its message goes in pieces.
const pieceThreshold = 32 << 10

// pieces sends a large message in parts: the bytes that it would have as a whole, but for the
// checksum, because each piece has its own. The zero value stands for a message that is sent as a
// whole.
type pieces struct {
	total    int // bytes of the message
	sent     int // of them
	checksum Flags
}

// maxGrown is how many bytes longer a message may be when it is numbered than it was before.
const maxGrown = 4

// inPieces reports whether m goes in pieces.
func (s *sender) inPieces(m *message) bool {
	return len(m.Payload) > pieceThreshold && m.Op.large() && s.has(featurePieces)
}

// beginPieces puts the message in the berth in line, to go in pieces.
func (b *berth) beginPieces(s *sender, item batch.Item) error {
	b.pieces = pieces{total: b.m.size(), checksum: s.checksum}
	var key uint64
	if b.m.Op == OpResponse {
		key = b.m.MuxID
	}
	return s.batch.AddLarge(b.m.lane, &b.Waiter, item, b.pieces.total+maxGrown, key)
}

// measure prepares the message in the berth for encoding, now that its fields have their final
// values, and returns its size.
func (b *berth) measure(s *sender) int {
	if b.pieces.total == 0 {
		s.stamp(&b.m)
		return b.m.size()
	}
	b.pieces.total = b.m.size()
	return b.pieces.total
}

// last reports whether n bytes are the rest of the message.
func (p *pieces) last(n int) bool { return p.sent+n == p.total }

// AppendPiece is part of batch.Item.
func (b *berth) AppendPiece(dst []byte, n int) []byte {
	p, start := &b.pieces, len(dst)
	piece := message{MuxID: b.m.MuxID, Op: OpPiece, Flags: p.checksum}
	if p.sent == 0 {
		piece.DeadlineMS = uint32(p.total)
	}
	piece.Seq = uint32(p.total - p.sent - n)
	dst = b.appendPart(piece.appendHead(dst, n), n)
	if p.sent += n; p.sent == p.total {
		*p = pieces{}
	}
	if piece.Flags&FlagCRCxxh3 != 0 {
		dst = appendChecksum(dst, start)
	}
	return dst
}

// appendPart appends the next n bytes of the message.
func (b *berth) appendPart(dst []byte, n int) []byte {
	from, m := b.pieces.sent, &b.m
	var room [maxOverhead]byte
	head := m.appendHead(room[:0], len(m.Payload))
	dst, from, n = appendSection(dst, head, from, n)
	dst, from, n = appendSection(dst, m.Payload, from, n)
	if n > 0 {
		dst, _, _ = appendSection(dst, m.appendTail(nil), from, n)
	}
	return dst
}

// appendSection appends what a section of the message has of the next n bytes, which begin at a
// place counted from its start. It returns the place and the number of those that are left.
func appendSection(dst, section []byte, from, n int) ([]byte, int, int) {
	if from >= len(section) {
		return dst, from - len(section), n
	}
	part := section[from:min(from+n, len(section))]
	return append(dst, part...), 0, n - len(part)
}

// AppendAbandoned is part of batch.Item.
func (b *berth) AppendAbandoned(dst []byte) []byte {
	m := message{MuxID: b.m.MuxID, Op: OpPiece, Flags: b.pieces.checksum}
	return m.appendTo(dst)
}
