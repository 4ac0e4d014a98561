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
			m.out.close()
		case job := <-adopt:
			done = true
			job()
		case v, ok := <-requests:
			if !ok {
				done = true
				m.out.close()
				return
			}
			coding = true
			b, err := safely(encode, v)
			coding = false
			if err != nil {
				m.cancel(fmt.Errorf("grid: stream request: %w", err))
			}
			done = err != nil || !m.pumpOne(b)
		}
	}
}

// pumpOne sends a message from the pump. It returns false once nothing more can be sent.
func (m *muxClient) pumpOne(b []byte) bool {
	err := m.send(b, nil)
	PutByteBuffer(b)
	if errors.Is(err, ErrMessageTooLarge) {
		m.cancel(err)
	}
	return err == nil
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
	result := error(errExited) // by runtime.Goexit
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
	took := time.Since(p.muxes.began) - p.began
	p.streamServed(p.handler.target, took, p.result, cause)
	p.depart(cause)
	p.done = true
	p.traceServed(p.handler.target, took, 0, 0, p.outcome(cause))
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
	returned, ok := p.prepare()
	if !ok {
		return false
	}
	if p.answer.headerDue() && p.has(featureHeaders) && p.transmitHeader(nil) != nil {
		return false
	}
	out := p.answers
	if p.budget <= 0 {
		out = nil
	}
	if returned {
		select {
		case v, ok := <-out:
			if ok {
				return p.send(v)
			}
		default:
		}
		if p.budget > 0 || p.has(featureStreams) && len(p.answers) == 0 {
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
		return p.send(v) && p.sendMore()
	case <-p.wake:
	case <-p.ctx.Done():
		return false
	}
	return true
}

// sendMore sends further messages that the handler has ready. A plain receive is much faster than
// the select in step.
func (p *streamPump[In, Out]) sendMore() bool {
	for p.budget > 0 {
		select {
		case v, ok := <-p.answers:
			if !ok {
				p.answers = nil
				return true
			}
			if !p.send(v) {
				return false
			}
		default:
			return true
		}
	}
	return true
}

// prepare fetches the next request, and the credit that the caller has given meanwhile. It returns
// whether the handler has returned. ok is false if the stream has ended.
func (p *streamPump[In, Out]) prepare() (returned, ok bool) {
	m := p.muxServer
	m.mu.Lock()
	if m.ended || m.cut != nil {
		m.mu.Unlock()
		return false, false
	}
	m.budget, m.credits = m.addCredit(m.budget, m.credits, m.handler.outCapacity), 0
	returned = m.returned
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
		return returned, true
	}
	p.size = len(b)
	p.coding = true
	head, err := safely(p.decode, b)
	p.coding = false
	if err != nil {
		if errors.Is(err, errOverQuota) { // which has ended the stream
			return false, false
		}
		m.fail(&libraryError{text: fmt.Sprintf("stream request: %v", err)})
		return false, false
	}
	p.head, p.ready = head, true
	return returned, true
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
	if p.inflow.bytes { // which never changes
		return
	}
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

// send sends one answer of the handler, at the expense of the budget.
func (p *streamPump[In, Out]) send(v Out) (sent bool) {
	p.coding = true
	b, err := safely(p.h.encode, v)
	p.coding = false
	if err != nil {
		p.fail(&libraryError{text: fmt.Sprintf("stream response: %v", err)})
		return false
	}
	p.budget -= p.cost(len(b))
	header, _ := p.answerHeader(p.answer)
	if err = p.transmit(message{Payload: b, metadata: header}, nil, nil); err == nil {
		p.observed.sent(len(b))
	}
	PutByteBuffer(b)
	return err == nil
}

// finish sends the end of the stream.
func (p *streamPump[In, Out]) finish() {
	header, trailer := p.answer.takeEnd()
	p.endSent = p.transmit(p.last(header, trailer), nil, nil) == nil // a caller of the original is owed no more for the credit it costs
}

// tellReturned tells the caller, once, that the handler has returned. Otherwise a caller that sends
// everything before it reads would wait for credit that never comes.
func (p *streamPump[In, Out]) tellReturned() {
	if p.told || p.handler.inCapacity == 0 || !p.has(featureStreams) {
		return
	}
	p.told = true
	msg := p.last(nil, nil)
	msg.MuxID, msg.Op = p.id, OpUnblockClMux
	_ = p.out.send(p.ctx.Done(), nil, nil, msg) // what ends the wait ends the stream
}
