package grid

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pumpRequests carries requests to the handler until requests or ended is closed, nothing more can
// be sent, or adopt hands the pump another job.
func pumpRequests[T any](m *muxClient, requests <-chan T, ended <-chan struct{}, adopt <-chan func(), encode func(T) ([]byte, error)) {
	done, coding := false, false
	defer func() {
		switch {
		case done:
		case coding: // encode has ended the goroutine
			m.cancel(fmt.Errorf("grid: stream request: %w", errExitedGoroutine))
		default: // an observer has
			go pumpRequests(m, requests, ended, adopt, encode)
		}
	}()
	for !done {
		select {
		case <-m.done:
			done = true
		case <-ended:
			done = true
			m.endRequests()
		case job := <-adopt:
			done = true
			job()
		case v, ok := <-requests:
			if !ok {
				done = true
				m.endRequests()
				return
			}
			coding = true
			b, err := safely(encode, v)
			coding = false
			if err != nil {
				m.cancel(fmt.Errorf("grid: stream request: %w", err))
			}
			done = err != nil || !m.spend(len(b)) || !m.sendRequest(b, 0)
		}
	}
}

// serveStream starts a handler and the pump between it and the session. The reader makes what both
// need here: a goroutine that allocates has twice the stack of one that waits, and idle streams are
// mostly stacks.
func serveStream[In, Out any](m *muxServer, h *streamHandlerOf[In, Out], payload []byte) {
	p := &streamPump[In, Out]{muxServer: m, h: h, payload: payload, answers: make(chan Out, min(m.handler.outCapacity, maxOutBuffer))}
	if m.handler.inCapacity > 0 {
		p.requests = make(chan In)
	}
	go p.handle(p.requests, p.answers)
	go p.run()
}

// maxOutBuffer bounds how many messages a handler may be ahead of the pump.
const maxOutBuffer = 64

// streamPump stands between a handler and the session.
type streamPump[In, Out any] struct {
	*muxServer
	h       *streamHandlerOf[In, Out]
	payload []byte

	requests chan In // nil once closed, or if the handler takes no input
	head     In      // the next request, if ready
	size     int     // of head, in bytes
	ready    bool

	answers chan Out
	told    bool // tellReturned has told the caller
	endSent bool // the end of the stream is sent

	coding bool // the codec is running
	done   bool // run has finished
}

// handle runs the handler. It gets the channels as arguments because the pump changes its own.
func (p *streamPump[In, Out]) handle(in <-chan In, out chan<- Out) {
	result := &errExited // by runtime.Goexit
	defer func() { p.finished(result) }()
	result = p.h.call(p.muxServer, p.payload, in, out)
}

// run pumps until the handler has returned and the stream has ended.
func (p *streamPump[In, Out]) run() {
	defer p.resume()
	for p.step() {
	}
	cause := p.cause()
	p.abort(cause)
	for p.drain() {
	}
	p.closeInput()
	p.observed.end(p.outcome(cause))
	p.streamServed(p.handler.registration, time.Since(p.muxes.began)-p.began, p.result, cause)
	p.depart(cause)
	p.done = true
}

// resume carries on if a codec or an observer has ended the pump's goroutine.
func (p *streamPump[In, Out]) resume() {
	if p.done {
		return
	}
	if p.coding {
		p.coding = false
		p.fail(&libraryError{text: "stream message: " + errExitedGoroutine.Error()})
	}
	go p.run()
}

// cause returns what cut the stream short; nil if everything the handler sent, and the end of the
// stream, has gone out.
func (p *streamPump[In, Out]) cause() error {
	if p.endSent {
		return nil
	}
	p.mu.Lock()
	cut := p.cut
	p.mu.Unlock()
	if cut != nil {
		return cut
	}
	<-p.ctx.Done() // after a failed send, the stream or the session ends
	return context.Cause(p.ctx)
}

// drain discards what the handler of an ended stream still sends. It returns false once the handler
// has returned.
func (p *streamPump[In, Out]) drain() bool {
	p.closeInput()
	p.mu.Lock()
	returned := p.returned
	p.mu.Unlock()
	if returned {
		return false
	}
	select {
	case _, ok := <-p.answers:
		if !ok {
			p.answers = nil
		}
	case <-p.wake:
	}
	return true
}

// step moves one message. It returns false once the stream has ended.
func (p *streamPump[In, Out]) step() bool {
	credits, returned, ok := p.prepare()
	if !ok {
		return false
	}
	out := p.answers
	if credits <= 0 {
		out = nil
	}
	if returned {
		select {
		case v, ok := <-out:
			if ok {
				_, sent := p.send(v)
				return sent
			}
		default:
		}
		if credits > 0 || p.has(featureStreams) && len(p.answers) == 0 {
			p.finish()
			return false
		}
		p.tellReturned()
	}
	var in chan In
	if p.ready {
		in = p.requests
	} else {
		p.grantWaiting()
	}
	select {
	case in <- p.head:
		p.taken()
	case v, ok := <-out:
		if !ok {
			p.answers = nil // closed by the handler, which should not do so
			return true
		}
		cost, sent := p.send(v)
		return sent && p.sendMore(credits-cost)
	case <-p.wake:
	case <-p.ctx.Done():
		return false
	}
	return true
}

// sendMore sends further messages that the handler has ready, for as much credit. A plain receive
// is much faster than the select in step.
func (p *streamPump[In, Out]) sendMore(credits int) bool {
	for credits > 0 {
		select {
		case v, ok := <-p.answers:
			if !ok {
				p.answers = nil
				return true
			}
			cost, sent := p.send(v)
			if !sent {
				return false
			}
			credits -= cost
		default:
			return true
		}
	}
	return true
}

// prepare fetches the next request. It returns how many messages the caller lets the handler send,
// and whether the handler has returned. ok is false if the stream has ended.
func (p *streamPump[In, Out]) prepare() (credits int, returned, ok bool) {
	m := p.muxServer
	m.mu.Lock()
	if m.ended || m.cut != nil {
		m.mu.Unlock()
		return 0, false, false
	}
	credits, returned = m.credits, m.returned
	var b []byte
	fetch := p.requests != nil && !p.ready && m.queue.len() > 0 && !returned
	if fetch {
		b = m.queue.pop()
		m.pumped = held(b)
	}
	inputEnd := !fetch && m.inputEnd && m.queue.len() == 0
	m.mu.Unlock()
	if returned || inputEnd && !p.ready {
		p.closeInput()
	}
	if !fetch {
		return credits, returned, true
	}
	p.size = len(b)
	p.coding = true
	head, err := safely(p.decode, b)
	p.coding = false
	if err != nil {
		if errors.Is(err, errOverQuota) { // which has ended the stream
			return 0, false, false
		}
		m.fail(&libraryError{text: fmt.Sprintf("stream request: %v", err)})
		return 0, false, false
	}
	p.head, p.ready = head, true
	return credits, returned, true
}

func (p *streamPump[In, Out]) decode(b []byte) (In, error) {
	return p.h.decode(b, (*requestRoom)(p.muxServer))
}

// taken records that the handler has received a request, for which the caller gets credit.
func (p *streamPump[In, Out]) taken() {
	var none In
	p.head, p.ready = none, false
	p.mu.Lock()
	done := p.handled // the handler has finished with the one before
	p.handled, p.pumped = p.pumped, 0
	grant := p.inflow.consumed(p.cost(p.size), p.sender)
	p.mu.Unlock()
	p.streamQuota.free(done)
	p.grant(OpUnblockClMux, p.id, grant, &p.sent)
	p.observed.received(p.size)
}

// grantWaiting grants the caller what has to be granted before the pump waits for more.
func (p *streamPump[In, Out]) grantWaiting() {
	p.mu.Lock()
	grant := p.inflow.waits(p.sender)
	p.mu.Unlock()
	p.grant(OpUnblockClMux, p.id, grant, &p.sent)
}

// closeInput tells the handler that no more requests come.
func (p *streamPump[In, Out]) closeInput() {
	if p.requests != nil {
		close(p.requests)
		p.requests, p.ready = nil, false
	}
}

// send sends one answer of the handler. It returns what that costs of the credit.
func (p *streamPump[In, Out]) send(v Out) (cost int, sent bool) {
	p.coding = true
	b, err := safely(p.h.encode, v)
	p.coding = false
	if err != nil {
		p.fail(&libraryError{text: fmt.Sprintf("stream response: %v", err)})
		return 0, false
	}
	cost = p.cost(len(b))
	if err = p.transmit(message{Payload: b}, cost); err == nil {
		p.observed.sent(len(b))
	}
	PutByteBuffer(b)
	return cost, err == nil
}

// finish sends the end of the stream.
func (p *streamPump[In, Out]) finish() {
	p.endSent = p.transmit(p.last(), 0) == nil // a caller of the original is owed no more for the credit it costs
}

// last returns the message that the handler has returned, with its error if any.
func (p *streamPump[In, Out]) last() message {
	last := message{Flags: FlagEOF}
	if err := p.result; err != nil { // set before returned is
		last.Flags |= FlagPayloadIsErr
		last.Payload = p.errorText(string(*err))
	}
	return last
}

// tellReturned tells the caller, once, that the handler has returned. Otherwise a caller that sends
// everything before it reads would wait for credit that never comes.
func (p *streamPump[In, Out]) tellReturned() {
	if p.told || p.handler.inCapacity == 0 || !p.has(featureStreams) {
		return
	}
	p.told = true
	msg := p.last()
	msg.MuxID, msg.Op = p.id, OpUnblockClMux
	_ = p.outbox.send(p.ctx.Done(), nil, msg) // what ends the wait ends the stream
}

// outcome returns why the stream ended, for observers.
func (p *streamPump[In, Out]) outcome(cause error) error {
	switch {
	case cause != nil:
		return cause
	case p.result != nil:
		return p.result
	}
	return nil
}

func (p *streamPump[In, Out]) transmit(msg message, cost int) error {
	msg.MuxID = p.id
	msg.Op = OpMuxServerMsg
	p.mu.Lock()
	p.credits -= cost
	p.mu.Unlock()
	err := p.outbox.send(p.ctx.Done(), nil, msg)
	if errors.Is(err, ErrMessageTooLarge) {
		p.fail(&libraryError{ErrMessageTooLarge, err.Error()})
	}
	return err
}
