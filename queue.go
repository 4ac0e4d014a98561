package grid

// firstQueue is the number of payloads that a queue has room for at first.
const firstQueue = 8

// payloadQueue is a first-in-first-out queue of payloads.
type payloadQueue struct {
	items [][]byte
	head  int
	bytes int // of memory that the payloads hold
}

func (q *payloadQueue) len() int { return len(q.items) - q.head }

func (q *payloadQueue) push(b []byte) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	if q.items == nil {
		q.items = make([][]byte, 0, firstQueue)
	}
	q.items = append(q.items, b)
	q.bytes += held(b)
}

func (q *payloadQueue) pop() []byte {
	b := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	q.bytes -= held(b)
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
