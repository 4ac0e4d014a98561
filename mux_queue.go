package grid

// firstQueue is the number of payloads that a queue has room for at first.
const firstQueue = 8

// payloadQueue is a first-in-first-out queue of payloads, in a ring that doubles when it is full.
// So what a payload costs does not depend on how many there are.
type payloadQueue struct {
	ring  [][]byte
	head  int // place of the oldest
	n     int // payloads
	bytes int // of memory that the payloads hold
}

func (q *payloadQueue) len() int { return q.n }

func (q *payloadQueue) push(b []byte) {
	if q.n == len(q.ring) {
		q.grow()
	}
	q.ring[q.wrap(q.head+q.n)] = b
	q.n++
	q.bytes += held(b)
}

func (q *payloadQueue) pop() []byte {
	b := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = q.wrap(q.head + 1)
	q.n--
	q.bytes -= held(b)
	return b
}

// wrap is the place i, which is less than twice round.
func (q *payloadQueue) wrap(i int) int {
	if i >= len(q.ring) {
		i -= len(q.ring)
	}
	return i
}

func (q *payloadQueue) grow() {
	ring := make([][]byte, max(firstQueue, 2*len(q.ring)))
	k := copy(ring, q.ring[q.head:])
	copy(ring[k:], q.ring[:q.head])
	q.ring, q.head = ring, 0
}

// drop gives all payloads back to the pool.
func (q *payloadQueue) drop() {
	for q.len() > 0 {
		PutByteBuffer(q.pop())
	}
	q.ring = nil
	q.head = 0
}
