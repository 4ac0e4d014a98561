package grid

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// errCapacity ends a stream whose handler has different capacities at the two nodes.
var errCapacity = errors.New("grid: the capacities of a stream's handler differ between the nodes")

// capacity converts a number of messages or bytes to the form granted on the wire.
func capacity(n int) uint32 { return uint32(min(uint64(n), math.MaxUint32)) }

// cost returns how much credit a stream message with n bytes of payload takes.
func (s *sender) cost(n int) int {
	if s.has(featureWindows) {
		return messageFootprint + n
	}
	return 1
}

// minStreamWindow is how far the sender of a stream may be ahead at first, in bytes.
const minStreamWindow = 64 << 10

// nearby is the least round trip for which windows grow, because the nodes take time too.
const nearby = 250 * time.Microsecond

// While the round trip is shorter than farAway, a window grows to nearWindow at most, and all
// windows of the peer by nearGrowth, in bytes. That is enough for 256 MiB a second. Larger windows
// only move messages out of the caches, and a busy node may take a near peer for a distant one. But
// where a message takes a bulkPart of nearWindow, or more, both bounds are bulkRoom times as much: few
// messages would leave one end or the other without work.
const (
	farAway    = time.Millisecond
	nearWindow = 256 << 10
	nearGrowth = 1 << 20
	bulkPart   = nearWindow / 4
	bulkRoom   = 2
)

// inflow is the receiving end of one direction of a stream: how far the other side may be ahead of
// the consumer, in messages or in bytes. The mutex of the stream guards it.
//
// A window of bytes doubles when the consumer takes all of it within two round trips: then it is
// the window that limits the stream, and not the consumer. So a window grows to between two and
// four times of what fits between the nodes, and those of slow consumers stay small.
type inflow struct {
	bytes  bool // not messages
	size   int  // the window
	most   int  // that it may grow to
	credit int  // what the other side may still send
	owed   int  // taken by the consumer, but not yet granted anew
	bulk   bool // messages are large

	// Since when the consumer has taken how much of the window.
	since time.Time
	taken int
}

// newInflow returns the receiving end of a direction with the handler's capacity for it; 0 if there
// are no messages.
func (s *sender) newInflow(messages int) inflow {
	f := inflow{size: messages}
	if f.bytes = s.has(featureWindows) && messages > 0; f.bytes {
		f.size = min(minStreamWindow, s.limits.MaxStreamWindow)
		f.most = s.limits.MaxStreamWindow
	}
	f.credit = f.size
	return f
}

// arrived takes credit for a message. It returns false if there was none.
func (f *inflow) arrived(cost int) bool {
	if f.credit <= 0 {
		return false
	}
	f.credit -= cost
	return true
}

// consumed records that the consumer has taken a message. It returns what to grant now.
func (f *inflow) consumed(cost int, s *sender) (grant int) {
	f.bulk = cost >= bulkPart
	f.owed += cost
	if f.owed < f.batch() {
		return 0
	}
	return f.settle(s)
}

// untilGrant returns how much more the consumer may take before consumed grants something.
func (f *inflow) untilGrant() int { return f.batch() - f.owed }

// waits returns what to grant before the consumer waits for more. In bytes nothing need be granted
// for that: the sender has most of the window left.
func (f *inflow) waits(s *sender) (grant int) {
	if f.bytes {
		return 0
	}
	return f.settle(s)
}

// batch returns how much the consumer may take before that is granted anew.
func (f *inflow) batch() int {
	if f.bytes {
		return f.size / 4
	}
	return max(f.size/8, 1)
}

// settle returns what is owed, which the caller must grant, and grows the window if that is due.
func (f *inflow) settle(s *sender) (grant int) {
	grant, f.owed = f.owed, 0
	if f.bytes && f.size < f.most {
		grant += f.grow(grant, s)
	}
	f.credit += grant
	return grant
}

// grow returns by how much the window has grown, after the consumer has taken more of it.
func (f *inflow) grow(taken int, s *sender) (by int) {
	now := time.Now()
	if f.since.IsZero() {
		f.since = now
		return 0
	}
	if f.taken += taken; f.taken < f.size {
		return 0
	}
	most, all, trip := f.most, s.limits.MaxStreamBytes/2, time.Duration(s.roundTrip.Load())
	if trip < farAway {
		room := 1
		if f.bulk {
			room = bulkRoom
		}
		most, all = min(most, room*nearWindow), min(all, room*nearGrowth)
	}
	if f.size < most && now.Sub(f.since) < 2*max(trip, nearby) {
		by = s.moreWindow(min(f.size, most-f.size), all)
		f.size += by
	}
	f.since, f.taken = now, 0
	return by
}

// close gives up what the window has grown by, for good. Nobody takes messages anymore.
func (f *inflow) close(s *sender) {
	if f.bytes {
		first := min(minStreamWindow, f.most)
		s.grown.Add(-int64(f.size - first))
		f.size, f.most = first, first
	}
}

// grantHere returns, for the message that opens or accepts a stream, how far the other side may be
// ahead. It is 0 for a peer that ignores it.
func (s *sender) grantHere(f *inflow) uint32 {
	if !s.has(featureStreams) {
		return 0
	}
	return capacity(f.size)
}

// mostCredit returns how much credit a peer can give in a direction with the handler's capacity for
// it.
func (s *sender) mostCredit(messages int) int {
	if s.has(featureWindows) {
		return math.MaxInt32
	}
	return messages
}

// addCredit returns credit with n more. What a peer grants beyond what it can is cut.
func (s *sender) addCredit(credit, n, messages int) int {
	return int(min(int64(credit)+int64(n), int64(s.mostCredit(messages)))) // the sum may not fit an int of 32 bits
}

// granted returns how much an opened or accepted stream may send: what the other side has said, or
// the capacity that is registered here.
func (s *sender) granted(said uint32, messages int) int {
	if s.has(featureWindows) {
		return int(min(said, math.MaxInt32))
	}
	return messages
}

// checkOpening compares the capacities in a stream's opening with those of the handler here. A
// caller that grants nothing states no capacity; one that ends its input at once believes that the
// handler takes none. If windows are in bytes, only whether there is any input has to agree.
func (s *sender) checkOpening(h *streamHandler, open *message) error {
	switch {
	case !s.has(featureStreams):
		return nil
	case open.Seq != 0 && open.Seq != capacity(h.outCapacity) && !s.has(featureWindows):
		return s.differ(h, "OutCapacity", capacity(h.outCapacity), open.Seq)
	case open.Flags&FlagEOF != 0 && h.inCapacity != 0 && !h.direct:
		return s.differ(h, "InCapacity", capacity(h.inCapacity), 0)
	}
	return nil
}

// checkAck compares what the handler's side grants with what this node would grant. See
// checkOpening.
func (s *sender) checkAck(h *streamHandler, ack *message) error {
	switch {
	case !s.has(featureStreams), ack.DeadlineMS == capacity(h.inCapacity):
		return nil
	case s.has(featureWindows) && (h.foreign || (ack.DeadlineMS == 0) == (h.inCapacity == 0)):
		return nil
	}
	return s.differ(h, "InCapacity", capacity(h.inCapacity), ack.DeadlineMS)
}

// differ names the handler, both numbers and both nodes.
func (s *sender) differ(h *streamHandler, which string, here, there uint32) error {
	return fmt.Errorf("%w: %s of %s is %d at %s and %d at %s", errCapacity, which, h.in(), here, s.local, there, s.remote)
}

// grant gives the peer credit for n more messages, or bytes, of a stream. A node of this project
// gets it in one message, or in few of maxGrant, with the number in place of the deadline.
func (s *sender) grant(op Op, id uint64, n int, q *sequence) {
	m := message{MuxID: id, Op: op}
	for n > 0 {
		some := 1
		if s.has(featureNative) && n > 1 {
			some = min(n, maxGrant)
			m.DeadlineMS = capacity(some)
		}
		n -= some
		s.reply(m, q)
		m.DeadlineMS = 0
	}
}
