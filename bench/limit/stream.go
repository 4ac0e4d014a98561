package limit

import (
	"context"
	"encoding/binary"
	"sync/atomic"
)

// Order says what the other end sends on a stream: Messages of Size bytes, or
// without end if Messages is 0. With Hold it does not end the stream after them.
type Order struct {
	Messages int
	Size     int
	Window   int // messages that may be on their way, at least 1
	Hold     bool
}

// stream is a stream that was opened here.
type stream struct {
	messages chan []byte
	spare    chan []byte // buffers to use again
}

// source is a stream that the other end has opened.
type source struct {
	credit   atomic.Int64
	more     chan struct{}
	canceled chan struct{}
}

// Stream opens a stream and gives each message to use, until the stream ends,
// use returns false, or ctx ends. Messages must not be kept.
func (p *Peer) Stream(ctx context.Context, o Order, use func(message []byte) bool) error {
	st := &stream{messages: make(chan []byte, o.Window), spare: make(chan []byte, o.Window)}
	p.callsMu.Lock()
	p.lastID++
	id := p.lastID
	p.streams[id] = st
	p.callsMu.Unlock()
	p.send(kindOpen|id, o.encode())
	taken, credit := 0, [4]byte{}
	for {
		select {
		case b, ok := <-st.messages:
			if !ok {
				return nil
			}
			if !use(b) {
				p.cancel(id)
				return nil
			}
			select {
			case st.spare <- b:
			default:
			}
			if taken++; taken >= (o.Window+1)/2 {
				binary.LittleEndian.PutUint32(credit[:], uint32(taken))
				p.send(kindCredit|id, credit[:])
				taken = 0
			}
		case <-ctx.Done():
			p.cancel(id)
			return context.Cause(ctx)
		}
	}
}

func (p *Peer) cancel(id uint64) {
	p.callsMu.Lock()
	delete(p.streams, id)
	p.callsMu.Unlock()
	p.send(kindCancel|id, nil)
}

// produce sends what was ordered.
func (p *Peer) produce(id uint64, s *source, o Order) {
	message := make([]byte, o.Size)
	for i := 0; i < o.Messages || o.Messages == 0; i++ {
		if !s.take() {
			return
		}
		p.send(kindData|id, message)
	}
	if o.Hold {
		<-s.canceled
		return
	}
	p.callsMu.Lock()
	delete(p.sources, id)
	p.callsMu.Unlock()
	p.send(kindEnd|id, nil)
}

// take waits for the right to send one message. It returns false once the stream is canceled.
func (s *source) take() bool {
	for s.credit.Load() == 0 {
		select {
		case <-s.more:
		case <-s.canceled:
			return false
		}
	}
	s.credit.Add(-1)
	return true
}

func (p *Peer) handleStream(kind, id uint64, payload []byte) {
	p.callsMu.Lock()
	defer p.callsMu.Unlock()
	switch kind {
	case kindOpen:
		o := decodeOrder(payload)
		s := &source{more: make(chan struct{}, 1), canceled: make(chan struct{})}
		s.credit.Store(int64(o.Window))
		p.sources[id] = s
		go p.produce(id, s, o)
	case kindData:
		if st := p.streams[id]; st != nil {
			var b []byte
			select {
			case b = <-st.spare:
			default:
			}
			st.messages <- append(b[:0], payload...) // has room: there was credit for it
		}
	case kindEnd:
		if st := p.streams[id]; st != nil {
			delete(p.streams, id)
			close(st.messages)
		}
	case kindCredit:
		if s := p.sources[id]; s != nil {
			s.credit.Add(int64(binary.LittleEndian.Uint32(payload)))
			select {
			case s.more <- struct{}{}:
			default:
			}
		}
	case kindCancel:
		if s := p.sources[id]; s != nil {
			delete(p.sources, id)
			close(s.canceled)
		}
	}
}

func (o Order) encode() []byte {
	hold := uint32(0)
	if o.Hold {
		hold = 1
	}
	var b []byte
	for _, v := range []uint32{uint32(o.Messages), uint32(o.Size), uint32(o.Window), hold} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func decodeOrder(b []byte) Order {
	at := func(i int) int { return int(binary.LittleEndian.Uint32(b[4*i:])) }
	return Order{Messages: at(0), Size: at(1), Window: at(2), Hold: at(3) == 1}
}
