// Package limit is the yardstick: about the least that a multiplexer can do.
//
// A message is a length, an ID and a payload. One TCP connection carries all
// calls of both ends; one flusher yields once before each write; reads are
// buffered; the reader itself sends the replies; those who wait are pooled.
// There is no checksum, mask, handler, deadline, limit or handling of failures.
//
//	p := limit.New(conn)
//	err := p.Call(payload, func(answer []byte) error { return nil })
package limit

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
)

const (
	headerSize = 12       // bytes: length (4), kind and ID (8)
	readBuffer = 64 << 10 // bytes
	kindShift  = 56       // the upper byte of an ID is the kind
	idMask     = 1<<kindShift - 1
)

// The kinds of messages.
const (
	kindCall uint64 = iota << kindShift
	kindAsk
	kindReply
	kindOpen
	kindData
	kindEnd
	kindCredit
	kindCancel
)

// Peer is one end of a connection. It echoes what the other end calls with.
type Peer struct {
	conn   net.Conn
	wake   chan struct{}
	answer func(request []byte) []byte // for kindAsk

	mu     sync.Mutex // Protects following.
	batch  []byte
	asleep bool
	closed bool

	callsMu sync.Mutex // Protects following.
	lastID  uint64
	calls   map[uint64]*call
	streams map[uint64]*stream // opened here
	sources map[uint64]*source // opened by the other end
}

// call is one call that waits for its answer.
type call struct {
	done   chan struct{}
	answer []byte
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

// New returns an end of c and starts its two goroutines. Close ends them.
func New(c net.Conn) *Peer { return NewAnswering(c, nil) }

// NewAnswering is New for an end that takes requests of Ask. answer must not keep its request, and
// nothing else is read while it runs.
func NewAnswering(c net.Conn, answer func(request []byte) []byte) *Peer {
	p := &Peer{
		conn:    c,
		answer:  answer,
		wake:    make(chan struct{}, 1),
		calls:   make(map[uint64]*call),
		streams: make(map[uint64]*stream),
		sources: make(map[uint64]*source),
	}
	go p.flush()
	go p.read()
	return p
}

// Call sends payload and gives what comes back to use, which must not keep it.
func (p *Peer) Call(payload []byte, use func(answer []byte) error) error {
	return p.call(kindCall, payload, use)
}

// Ask is Call, but what comes back is what NewAnswering's function says.
func (p *Peer) Ask(payload []byte, use func(answer []byte) error) error {
	return p.call(kindAsk, payload, use)
}

func (p *Peer) call(kind uint64, payload []byte, use func(answer []byte) error) error {
	c := calls.Get().(*call)
	p.callsMu.Lock()
	p.lastID++
	id := p.lastID
	p.calls[id] = c
	p.callsMu.Unlock()
	p.send(kind|id, payload)
	<-c.done
	err := use(c.answer)
	calls.Put(c)
	return err
}

// Close ends the connection and its goroutines. No call may be running.
func (p *Peer) Close() error {
	p.mu.Lock()
	p.closed = true
	p.wakeFlusher()
	p.mu.Unlock()
	return p.conn.Close()
}

// send puts one message into the batch.
func (p *Peer) send(id uint64, payload []byte) {
	p.mu.Lock()
	p.batch = binary.LittleEndian.AppendUint32(p.batch, uint32(len(payload)))
	p.batch = binary.LittleEndian.AppendUint64(p.batch, id)
	p.batch = append(p.batch, payload...)
	p.wakeFlusher()
	p.mu.Unlock()
}

// wakeFlusher is called with p.mu held. It cannot block: asleep is set once for each receive.
func (p *Peer) wakeFlusher() {
	if p.asleep {
		p.asleep = false
		p.wake <- struct{}{}
	}
}

// flush writes the batches.
func (p *Peer) flush() {
	var spare []byte
	for {
		p.mu.Lock()
		for len(p.batch) == 0 && !p.closed {
			p.asleep = true
			p.mu.Unlock()
			<-p.wake
			p.mu.Lock()
		}
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
		runtime.Gosched() // everybody who can run gets into the batch
		p.mu.Lock()
		b := p.batch
		p.batch = spare[:0]
		p.mu.Unlock()
		if _, err := p.conn.Write(b); err != nil {
			return
		}
		spare = b
	}
}

// read handles what comes until the connection ends.
func (p *Peer) read() {
	defer p.Close()
	r := bufio.NewReaderSize(p.conn, readBuffer)
	var large []byte
	for {
		head, err := r.Peek(headerSize)
		if err != nil {
			return
		}
		n := int(binary.LittleEndian.Uint32(head))
		id := binary.LittleEndian.Uint64(head[4:])
		r.Discard(headerSize)
		if n <= r.Size() {
			payload, err := r.Peek(n)
			if err != nil {
				return
			}
			p.handle(id, payload)
			r.Discard(n)
			continue
		}
		if cap(large) < n {
			large = make([]byte, n)
		}
		if _, err := io.ReadFull(r, large[:n]); err != nil {
			return
		}
		p.handle(id, large[:n])
	}
}

// handle takes one message. payload is valid during the call.
func (p *Peer) handle(id uint64, payload []byte) {
	kind, id := id&^uint64(idMask), id&idMask
	switch kind {
	case kindCall:
		p.send(kindReply|id, payload)
	case kindAsk:
		p.send(kindReply|id, p.answer(payload))
	case kindReply:
		p.callsMu.Lock()
		c := p.calls[id]
		delete(p.calls, id)
		p.callsMu.Unlock()
		if c != nil {
			c.answer = append(c.answer[:0], payload...)
			c.done <- struct{}{}
		}
	default:
		p.handleStream(kind, id, payload)
	}
}
