package grid

import (
	"context"
	"errors"
	"io"
	"time"
)

// rawHandler is a handler of streams that gets a RawStream.
type rawHandler struct {
	to     target
	handle func(ctx context.Context, m *muxServer, payload []byte) error

	// intercept runs a handler of a stream within the interceptors of the node; nil where it has
	// none.
	intercept func(m *muxServer, payload []byte, handle ServeStreamFunc) error
}

// call runs the handler, within the interceptors. Its error is what the caller is told.
func (h *rawHandler) call(m *muxServer, payload []byte) (err error) {
	defer m.recovered(m.ctx, h.to, &err)
	if labels := m.handler.labels; labels != nil {
		defer profiled(labels, h.to)()
	}
	if h.intercept == nil {
		return told(h.handle(m.ctx, m, payload))
	}
	return told(h.intercept(m, payload, func(ctx context.Context, payload []byte) error {
		returned := false
		defer keepOnPanic(ctx, &returned)
		err := h.handle(ctx, m, payload)
		returned = true
		return whole(ctx, ofHandler(err))
	}))
}

// serve runs the handler on a goroutine of its own, which also ends the stream.
func (h *rawHandler) serve(m *muxServer, payload []byte) {
	go func() {
		result := error(errExited) // by runtime.Goexit
		defer func() { m.conclude(result) }()
		result = h.call(m, payload)
	}()
}

// conclude ends a stream whose handler has returned.
func (m *muxServer) conclude(result error) {
	m.finished(result)
	cause := m.conclusion()
	m.abort(cause)
	defer func() { // an observer may end the goroutine
		took := time.Since(m.muxes.began) - m.began
		m.streamServed(m.handler.target, took, result, cause)
		m.depart(cause)
		m.traceServed(m.handler.target, took, 0, 0, m.outcome(cause))
	}()
	m.observed.end(m.outcome(cause))
}

// conclusion sends the end of a stream whose handler has returned. It returns what cut the stream
// short instead, or nil.
func (m *muxServer) conclusion() error {
	m.mu.Lock()
	cut := m.cut
	m.mu.Unlock()
	if cut != nil {
		return cut
	}
	if m.out.last(!m.has(featureStreams), m.ctx.Done()) {
		header, trailer := m.answer.takeEnd()
		if m.transmit(m.last(header, trailer), nil, nil) == nil {
			return nil
		}
	}
	<-m.ctx.Done() // after a failed send, the stream or the session ends
	return context.Cause(m.ctx)
}

// send sends one message to the caller. The buffer belongs to the handler again on return. It may be
// called by several goroutines. It gives up once also is closed, and with errCanceled once giveUp
// is.
func (m *muxServer) send(b []byte, also, giveUp <-chan struct{}) error {
	if err := m.fits(&message{Payload: b}); err != nil {
		return err
	}
	if isClosed(also) { // who never has to wait would not see it, and go on forever
		return errSendOver
	}
	cost := m.cost(len(b))
	if err := m.out.enter(cost, m.ctx.Done(), also, giveUp); err != nil {
		return err
	}
	if err := m.transmitHeaded(b, also, giveUp); err != nil {
		m.out.refund(cost)
		m.out.leave()
		if err == errCanceled || errors.Is(err, ErrMessageTooLarge) { // the stream goes on
			return err
		}
		return m.awaitOver(also, giveUp)
	}
	if m.observed == nil {
		m.out.leave()
		return nil
	}
	defer m.out.leave() // an observer may end the goroutine
	m.observed.sent(len(b))
	return nil
}

// transmitHeaded is transmit for a message of the handler, of which the first takes the header along.
// One that the header makes too large is not sent: it fails alone, as any other that is too large.
func (m *muxServer) transmitHeaded(b []byte, also, giveUp <-chan struct{}) error {
	header, first := m.answerHeader(m.answer)
	msg := message{Payload: b, metadata: header}
	err := m.fits(&msg)
	if err == nil {
		err = m.transmit(msg, also, giveUp)
	}
	if err != nil && first {
		m.answer.returnHeader() // also if nothing was set: now it may be
	}
	return err
}

// awaitOver waits for what the failure of a message announces: the end of the stream, which may take a
// while in a shutdown.
func (m *muxServer) awaitOver(also, giveUp <-chan struct{}) error {
	select {
	case <-m.ctx.Done():
	case <-also:
	case <-giveUp:
		return errCanceled
	}
	return errSendOver
}

// sendHeader is SendHeader for a handler with ctx. A peer that does not know of headers ahead of the
// messages gets it with the first of them.
func (m *muxServer) sendHeader(ctx context.Context, md Metadata) error {
	err := m.answer.setHeader(md, true)
	switch {
	case err != nil:
		return err
	case m.ctx.Err() != nil:
		return context.Cause(m.ctx)
	case !m.has(featureHeaders):
		return nil
	case !m.handler.direct:
		signal(m.wake) // the pump sends it
		return nil
	}
	if err := m.out.takeTurn(m.ctx.Done(), ctx.Done(), nil); err != nil {
		return m.why(ctx, err)
	}
	err = m.transmitHeader(ctx.Done())
	m.out.leave()
	if err != nil && err != errCanceled {
		err = m.awaitOver(nil, ctx.Done())
	}
	if err == errCanceled {
		return contextCause(ctx)
	}
	return m.why(ctx, err)
}

// transmitHeader sends the header by itself, unless a message has taken it along. It belongs to whose
// turn it is to send. It fails with errCanceled once giveUp is closed; then the next message takes the
// header along.
func (m *muxServer) transmitHeader(giveUp <-chan struct{}) error {
	header, first := m.answer.takeHeader()
	if !first {
		return nil
	}
	msg := message{MuxID: m.id, Op: OpMuxServerHeader, metadata: (&answerPart{header: header}).encode()}
	err := m.out.send(giveUp, m.ctx.Done(), nil, msg)
	if err == errCanceled {
		m.answer.returnHeader()
	}
	return err
}

// next waits for the caller's next message. It fails with io.EOF once there are no more, with
// errSendOver once the stream has ended or also is closed, and with errCanceled once giveUp is.
func (m *muxServer) next(also, giveUp <-chan struct{}) ([]byte, error) {
	if isClosed(also) { // as for send
		return nil, errSendOver
	}
	b, more := m.quick()
	for !more {
		var grant int
		var v verdict
		b, grant, v = m.look(m.sender, false)
		if grant > 0 {
			m.grant(OpUnblockClMux, m.id, grant, &m.sent)
		}
		switch v {
		case noneYet:
			select {
			case <-m.arrived:
			case <-m.ctx.Done():
				return nil, errSendOver
			case <-also:
				return nil, errSendOver
			case <-giveUp:
				return nil, errCanceled
			}
			continue
		case noMore:
			return nil, m.inputOver()
		}
		more = true
	}
	m.observed.received(len(b))
	return b, nil
}

// closeSend ends the messages of the handler.
func (m *muxServer) closeSend() { m.out.close() }

// done returns a channel that is closed when the stream has ended before its handler has returned.
func (m *muxServer) done() <-chan struct{} { return m.ctx.Done() }

// why returns what the handler, which got ctx, is told of an error of send or next.
func (m *muxServer) why(ctx context.Context, err error) error {
	switch {
	case err != errSendClosed && err != errSendOver:
		return err
	case m.hasReturned(): // the end of its context is only what follows
		return errHandlerReturned
	case err == errSendClosed:
		return errMessagesEnded
	case m.ctx.Err() != nil:
		return context.Cause(m.ctx)
	}
	return context.Cause(ctx)
}

// hasReturned reports whether the handler has returned.
func (m *muxServer) hasReturned() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.returned
}

// inputOver returns why there are no more messages of the caller.
func (m *muxServer) inputOver() error {
	m.mu.Lock()
	ended, returned, dropped := m.ended, m.returned, m.shut.Load()
	m.mu.Unlock()
	switch {
	case returned:
		return errHandlerReturned
	case ended, dropped:
		return context.Cause(m.ctx)
	}
	m.dropReady()
	return io.EOF
}

var errMessagesEnded = errors.New("grid: the messages of the stream's handler have been ended")
