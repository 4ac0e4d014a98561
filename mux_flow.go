package grid

import (
	"errors"
	"fmt"
	"math"
)

// errCapacity ends a stream whose handler the two nodes have registered with different capacities.
var errCapacity = errors.New("grid: the capacities of a stream's handler differ between the nodes")

// capacity is a number of messages as it is granted on the wire.
func capacity(n int) uint32 { return uint32(min(uint64(n), math.MaxUint32)) }

// openGrant is how many messages the handler of a stream may send ahead of its caller, as
// ConnectMux says it. It is 0 towards a peer that does not look for it.
func (s *sender) openGrant(h *streamHandler) uint32 {
	if !s.has(featureStreams) {
		return 0
	}
	return capacity(h.outCapacity)
}

// ackGrant is how many messages the caller of a stream may send ahead of its handler, as AckMux
// says it, like openGrant.
func (s *sender) ackGrant(h *streamHandler) uint32 {
	if !s.has(featureStreams) {
		return 0
	}
	return capacity(h.inCapacity)
}

// checkOpening compares what the opening of a stream says of the capacities to those of the handler
// here. A caller that grants nothing does not say; one that sends the end of its input takes the
// handler for one without.
func (s *sender) checkOpening(h *streamHandler, open *message) error {
	switch {
	case !s.has(featureStreams):
		return nil
	case open.Seq != 0 && open.Seq != capacity(h.outCapacity):
		return s.differ(h, "OutCapacity", capacity(h.outCapacity), open.Seq)
	case open.Flags&FlagEOF != 0 && h.inCapacity != 0:
		return s.differ(h, "InCapacity", capacity(h.inCapacity), 0)
	}
	return nil
}

// checkAck compares what the handler's side grants to what this node would.
func (s *sender) checkAck(h *streamHandler, ack *message) error {
	if !s.has(featureStreams) || ack.DeadlineMS == capacity(h.inCapacity) {
		return nil
	}
	return s.differ(h, "InCapacity", capacity(h.inCapacity), ack.DeadlineMS)
}

// differ names the handler, both numbers and both nodes.
func (s *sender) differ(h *streamHandler, which string, here, there uint32) error {
	name := h.id.String()
	if h.subroute != "" {
		name += " on subroute " + h.subroute
	}
	return fmt.Errorf("%w: %s of %s is %d at %s and %d at %s", errCapacity, which, name, here, s.local, there, s.remote)
}

// creditBatch is how many messages a receiver may take before it has to tell the sender, who may
// have window of them on their way. It tells in any case before it waits for more.
func creditBatch(window int) int { return max(window/8, 1) }

// grant gives the peer credit for n more messages of a stream. A node of this
// project is told once, with the number in place of the deadline.
func (s *sender) grant(op Op, id uint64, n int, q *sequence) {
	m := message{MuxID: id, Op: op}
	if s.has(featureNative) && n > 1 {
		m.DeadlineMS, n = uint32(n), 1
	}
	for range n {
		s.reply(m, q)
	}
}
