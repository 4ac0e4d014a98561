package grid

import (
	"errors"
	"fmt"
	"math"
)

// errCapacity ends a stream whose handler has different capacities at the two nodes.
var errCapacity = errors.New("grid: the capacities of a stream's handler differ between the nodes")

// capacity converts a number of messages to the form granted on the wire.
func capacity(n int) uint32 { return uint32(min(uint64(n), math.MaxUint32)) }

// openGrant returns how many messages the handler of a stream may send ahead of its caller, for
// ConnectMux. It is 0 for a peer that ignores it.
func (s *sender) openGrant(h *streamHandler) uint32 {
	if !s.has(featureStreams) {
		return 0
	}
	return capacity(h.outCapacity)
}

// ackGrant returns how many messages the caller of a stream may send ahead of its handler, for
// AckMux. It is 0 for a peer that ignores it.
func (s *sender) ackGrant(h *streamHandler) uint32 {
	if !s.has(featureStreams) {
		return 0
	}
	return capacity(h.inCapacity)
}

// checkOpening compares the capacities in a stream's opening with those of the handler here. A
// caller that grants nothing states no capacity; one that ends its input at once believes that the
// handler takes none.
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

// checkAck compares what the handler's side grants with what this node would grant.
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

// creditBatch returns how many messages a receiver may take before it must grant credit to the
// sender, which may have window messages on their way. It always grants before it waits for more.
func creditBatch(window int) int { return max(window/8, 1) }

// grant gives the peer credit for n more messages of a stream. A node of this project gets it in
// one message, with the number in place of the deadline.
func (s *sender) grant(op Op, id uint64, n int, q *sequence) {
	m := message{MuxID: id, Op: op}
	if s.has(featureNative) && n > 1 {
		m.DeadlineMS, n = uint32(n), 1
	}
	for range n {
		s.reply(m, q)
	}
}
