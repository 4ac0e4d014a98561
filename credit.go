package grid

// creditBatch is how many messages a receiver may take before it has to tell
// the sender, who may have window of them on their way. It tells in any case before it waits for more.
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
