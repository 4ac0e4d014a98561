package grid

import (
	"sync"
	"sync/atomic"
)

// inbox is where the reader leaves the messages of a stream for their consumer: one goroutine at a
// time, of the caller, or of a handler.
//
// The consumer takes several messages out of the queue under one lock, as long as they are small: it
// would otherwise fight with the reader for the lock at each.
type inbox struct {
	arrived chan struct{} // tells the consumer to look again; room for one signal

	shelf *shelf      // the memory of ready
	ready [][]byte    // taken out of the queue, to be handed out; the consumer's alone
	shut  atomic.Bool // the stream has ended at once: nothing more is handed out

	mu       sync.Mutex // Protects following, and more of the stream.
	queue    payloadQueue
	lent     int // bytes of the messages in ready, as the quota counts them, and of those handed out since it was empty
	taken    int // what those cost of the window
	inflow   inflow
	idle     bool // the consumer waits for arrived, or has just been told
	inputEnd bool // the other side sends no more messages
	ended    bool // the stream has ended
}

const (
	maxLent      = 32       // messages
	maxLentBytes = 32 << 10 // of memory
)

// shelf is the memory of messages that are ready. A stream has one only while somebody reads it.
type shelf [maxLent][]byte

var shelves = sync.Pool{New: func() any { return new(shelf) }}

// verdict is what a consumer finds that asks for the next message.
type verdict uint8

const (
	found   verdict = iota // a message
	noneYet                // it has to wait
	noMore                 // the stream has ended, or the other side's messages have
)

// handOut returns the oldest message that is ready.
func (i *inbox) handOut() []byte {
	b := i.ready[0]
	i.ready[0] = nil
	i.ready = i.ready[1:]
	return b
}

// quick returns the oldest message that is ready, unless the consumer has to look at the queue for
// another reason. It takes no lock.
func (i *inbox) quick() (b []byte, ok bool) {
	if len(i.ready) > 1 && !i.shut.Load() {
		return i.handOut(), true
	}
	return nil, false
}

// look returns the next message, and what to grant to the other side. If there is none, arrived
// tells when to look again, or there are no more: the consumer then waits for the end of the
// stream if toEnd is set, and otherwise for that of the messages.
func (i *inbox) look(s *sender, toEnd bool) (b []byte, grant int, v verdict) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.idle = false
	if b, ok := i.take(s); ok {
		grant = i.settle(s)
		i.lend(s)
		return b, grant, found
	}
	if i.ended || i.shut.Load() || i.inputEnd && !toEnd {
		return nil, 0, noMore
	}
	i.idle = true
	return nil, i.inflow.waits(s), noneYet
}

// take returns the last message that is ready, or else the oldest of the queue. i.mu is held.
func (i *inbox) take(s *sender) (b []byte, ok bool) {
	switch {
	case len(i.ready) > 0 && !i.shut.Load():
		return i.handOut(), true
	case i.queue.len() > 0:
		return i.pop(s), true
	}
	return nil, false
}

// pop takes the oldest message of the queue, and remembers what to settle for it. i.mu is held.
func (i *inbox) pop(s *sender) []byte {
	b := i.queue.pop()
	i.lent += held(b)
	i.taken += s.cost(len(b))
	return b
}

// settle stops counting what has been handed out, and returns what to grant for it. Nothing is
// ready. i.mu is held.
func (i *inbox) settle(s *sender) (grant int) {
	if !i.ended {
		s.streamQuota.free(i.lent)
		grant = i.inflow.consumed(i.taken, s)
	}
	i.lent, i.taken = 0, 0
	return grant
}

// lend gets messages ready, up to the one after which something has to be granted. i.mu is held.
func (i *inbox) lend(s *sender) {
	if i.queue.len() == 0 {
		return
	}
	most := i.inflow.untilGrant()
	if i.shelf != nil {
		i.ready = i.shelf[:0]
	}
	for i.queue.len() > 0 && len(i.ready) < maxLent && (i.taken < most || i.ended) {
		if i.lent+held(i.queue.oldest()) > maxLentBytes {
			return
		}
		if i.shelf == nil {
			i.shelf = shelves.Get().(*shelf)
			i.ready = i.shelf[:0]
		}
		i.ready = append(i.ready, i.pop(s))
	}
}

// dropReady returns to the pool what nobody will take. The consumer calls it.
func (i *inbox) dropReady() {
	for len(i.ready) > 0 {
		PutByteBuffer(i.handOut())
	}
	if i.shelf != nil {
		shelves.Put(i.shelf)
		i.ready, i.shelf = nil, nil
	}
}

// waiting returns the bytes of the messages waiting for the consumer. What is left of a stream that has
// ended counts no more, as ending it would free nothing.
func (i *inbox) waiting() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended {
		return 0
	}
	return i.queue.bytes + i.lent
}
