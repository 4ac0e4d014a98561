package grid

// firstQueue is the initial capacity of a queue, in payloads.
const firstQueue = 8

// payloadQueue is a first-in-first-out queue of payloads, in a ring that doubles when full. So the
// cost of a payload does not depend on how many there are.
type payloadQueue struct {
	ring  [][]byte
	head  int // place of the oldest
	n     int // payloads
	bytes int // of memory held by the payloads
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

// oldest returns what pop will return.
func (q *payloadQueue) oldest() []byte { return q.ring[q.head] }

func (q *payloadQueue) pop() []byte {
	b := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = q.wrap(q.head + 1)
	q.n--
	q.bytes -= held(b)
	return b
}

// wrap returns the ring position of i, which is below twice the ring's length.
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

// putAll returns payloads to the pool.
func putAll(payloads [][]byte) {
	for _, b := range payloads {
		PutByteBuffer(b)
	}
}

// drop returns all payloads to the pool.
func (q *payloadQueue) drop() {
	for q.len() > 0 {
		PutByteBuffer(q.pop())
	}
	q.ring = nil
	q.head = 0
}
