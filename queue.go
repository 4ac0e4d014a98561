package grid

// payloadQueue is a first-in-first-out queue of payloads.
type payloadQueue struct {
	items [][]byte
	head  int
}

func (q *payloadQueue) len() int { return len(q.items) - q.head }

func (q *payloadQueue) push(b []byte) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, b)
}

func (q *payloadQueue) pop() []byte {
	b := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return b
}

// drop gives all payloads back to the pool.
func (q *payloadQueue) drop() {
	for q.len() > 0 {
		PutByteBuffer(q.pop())
	}
	q.items = nil
}
