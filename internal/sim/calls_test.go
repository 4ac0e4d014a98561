package sim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

var (
	errSimCanceled = errors.New("canceled by the simulation")
	errSimLeft     = errors.New("left by the simulation")
)

// call makes a planned call and takes note of its outcome.
func (w *world) call(r *record) {
	p := r.plan
	m := w.nodes[p.from].manager.Load()
	if m == nil {
		return // not started yet
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if p.deadline > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, p.deadline+p.late)
		defer stop()
		ctx = lateContext{ctx, time.Now().Add(p.deadline)}
	}
	if p.cancel > 0 {
		timer := time.AfterFunc(p.cancel, func() { cancel(errSimCanceled) })
		defer timer.Stop()
	}
	if p.races {
		defer w.nodes[p.from].race(r, cancel)()
	}
	r.begin(p.until())
	c := m.Connection(w.nodes[p.to].name)
	if p.waits {
		if err := w.awaitConnection(ctx, c); err != nil {
			r.end(err)
			return
		}
	}
	r.end(w.make(ctx, c, r))
}

// lateContext is a context whose end comes behind its deadline, as on a busy machine.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// awaitConnection waits until c is up, and not for ever.
func (w *world) awaitConnection(ctx context.Context, c *grid.Connection) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.WaitForConnect(ctx)
}

// race cancels a call as soon as something comes in at the node after its
// handler has returned, which is most likely the answer. The returned function calls that off.
func (n *simNode) race(r *record, cancel context.CancelCauseFunc) func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.races[r] = cancel
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.races, r)
	}
}

// incoming is told by the connections' readers that a frame has come in. They dispatch it afterwards.
func (n *simNode) incoming(int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for r, cancel := range n.races {
		if r.hasReturned() {
			cancel(errSimCanceled)
		}
	}
}

// make makes the call itself.
func (w *world) make(ctx context.Context, c *grid.Connection, r *record) error {
	p := r.plan
	payload := newMessage(p.id, sidePayload, 0, p.size)
	defer grid.PutByteBuffer(payload)
	sub := c.Subroute(simSub).Subroute(simSubSub)
	switch p.kind {
	case callRequest:
		return r.request(ctx, c, simRequest, payload)
	case callContext:
		return r.request(ctx, c, simContext, payload)
	case callSubroute:
		return r.request(ctx, sub, simSubrouted, payload)
	case callTyped:
		return r.typedRequest(ctx, c, payload)
	case callUnknown:
		return r.request(ctx, c, simNobodys, payload)
	case callTooLarge:
		return r.request(ctx, c, simContext, make([]byte, simMaxMessage+1))
	case callOneWay:
		return r.stream(ctx, c.Subroute(simOneWay), simStream, payload)
	case callTwoWay:
		return r.stream(ctx, c.Subroute(simTwoWay), simStream, payload)
	case callUnknownStream:
		return r.stream(ctx, c, simFirstsOnly, payload)
	case callTypedStream:
		return r.typedStream(ctx, c, payload)
	}
	panic(fmt.Sprintf("no call of kind %d", p.kind))
}

func (r *record) request(ctx context.Context, c grid.Requester, h grid.HandlerID, payload []byte) error {
	resp, err := c.Request(ctx, h, payload)
	return r.response(resp, err)
}

func (r *record) typedRequest(ctx context.Context, c grid.Requester, payload []byte) error {
	req := grid.Bytes(payload)
	resp, err := r.w.typed.request.Call(ctx, c, &req)
	if err != nil {
		return err
	}
	err = r.response(*resp, nil)
	*resp = nil // response has given it back
	return err
}

// response checks the answer to a request.
func (r *record) response(resp []byte, err error) error {
	if err != nil {
		if resp != nil {
			r.violate("an answer of %d bytes beside %v", len(resp), err)
		}
		return err
	}
	if err := verify(resp, r.plan.id, sideAnswer, 0, r.plan.work.size); err != nil {
		r.violate("the caller %v", err)
	}
	grid.PutByteBuffer(resp)
	return nil
}

// streamEnd is the caller's end of a stream, raw or typed.
type streamEnd struct {
	send    func(ctx context.Context, b []byte) error // b is given away with a nil error; nil where there is no input
	close   func()                                    // ends the input
	results func(next func(b []byte) error) error
	all     func() iter.Seq2[[]byte, error]
}

func (r *record) stream(ctx context.Context, c grid.Streamer, h grid.HandlerID, payload []byte) error {
	st, err := c.NewStream(ctx, h, payload)
	if err != nil {
		return err
	}
	s := streamEnd{results: st.Results, all: st.All}
	if st.Requests != nil {
		s.close = func() { close(st.Requests) }
		if r.plan.use.calls {
			s.close = func() { st.CloseSend() }
		}
		s.send = func(_ context.Context, b []byte) error { return st.Send(b) }
		if r.plan.use.byChannel {
			s.send = func(ctx context.Context, b []byte) error { return sendOn(ctx, st.Requests, b) }
		}
	}
	return r.use(ctx, s)
}

func (r *record) typedStream(ctx context.Context, c grid.Streamer, payload []byte) error {
	p := grid.Bytes(payload)
	st, err := r.w.typed.stream.Call(ctx, c, &p)
	if err != nil {
		return err
	}
	s := streamEnd{
		results: func(next func(b []byte) error) error {
			return st.Results(func(v *simValue) error { return next(v.Bytes) })
		},
		all: func() iter.Seq2[[]byte, error] {
			return func(yield func([]byte, error) bool) {
				for v, err := range st.All() {
					if err != nil {
						yield(nil, err)
					} else if !yield(v.Bytes, nil) {
						return
					}
				}
			}
		},
		close: func() { close(st.Requests) },
		send:  func(_ context.Context, b []byte) error { return st.Send(grid.NewBytesWith(b)) },
	}
	if r.plan.use.calls {
		s.close = func() { st.CloseSend() }
	}
	if r.plan.use.byChannel {
		s.send = func(ctx context.Context, b []byte) error { return sendOn(ctx, st.Requests, grid.NewBytesWith(b)) }
	}
	return r.use(ctx, s)
}

// sendOn sends as one does without Send.
func sendOn[T any](ctx context.Context, requests chan<- T, v T) error {
	select {
	case requests <- v:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// use sends and consumes as planned, and returns the stream's outcome.
func (r *record) use(ctx context.Context, s streamEnd) error {
	sending, stop := context.WithCancel(ctx)
	var sender sync.WaitGroup
	if s.send != nil {
		sender.Go(func() { r.feed(sending, s) })
	}
	err := r.consume(ctx, s)
	stop()
	sender.Wait()
	return err
}

// feed sends what is planned, until the stream ends.
func (r *record) feed(ctx context.Context, s streamEnd) {
	use := r.plan.use
	defer r.feeds()
	giveUp := func() {
		if use.gives {
			s.close() // the handler may not take that for the end of its input
		}
	}
	for range use.send {
		if !sleepOr(ctx, use.pause) {
			giveUp()
			return
		}
		b := newMessage(r.plan.id, sideRequest, r.count(&r.offered), use.size)
		if s.send(ctx, b) != nil {
			giveUp()
			return
		}
		r.count(&r.sent)
	}
	if use.close {
		r.closesInput()
		s.close()
	}
}

// consume takes the results as planned.
func (r *record) consume(ctx context.Context, s streamEnd) (err error) {
	use := r.plan.use
	switch use.leave {
	case neverRead:
		<-ctx.Done()
		return context.Cause(ctx)
	case leaveByLoop:
		for b, err := range s.all() {
			if err != nil {
				return err
			}
			if r.take(ctx, b) >= use.leaveAt {
				return errSimLeft
			}
		}
		return nil
	}
	defer func() {
		if p := recover(); p == errSimLeft {
			err = errSimLeft
		} else if p != nil {
			panic(p)
		}
	}()
	return s.results(func(b []byte) error {
		if r.take(ctx, b) < use.leaveAt {
			return nil
		}
		switch use.leave {
		case leaveByError:
			return errSimLeft
		case leaveByPanic:
			panic(errSimLeft)
		case stopReading:
			<-ctx.Done()
		}
		return nil
	})
}

// take consumes a message, and returns its number.
func (r *record) take(ctx context.Context, b []byte) int {
	n := r.count(&r.got)
	if err := verify(b, r.plan.id, sideResponse, n, r.plan.work.size); err != nil {
		r.violate("the consumer %v", err)
	}
	grid.PutByteBuffer(b)
	sleepOr(ctx, r.plan.use.slow)
	return n
}

// greet makes a request and a stream that have to succeed.
func (w *world) greet(from, to int) {
	ctx, cancel := contextFor(simSettles)
	defer cancel()
	c := w.nodes[from].manager.Load().Connection(w.nodes[to].name)
	for _, kind := range []callKind{callContext, callTwoWay} {
		r := w.extraCall(&callPlan{
			from: from,
			to:   to,
			kind: kind,
			size: 100,
			work: workPlan{size: 100, read: readEcho},
			use:  usePlan{send: 10, size: 100, close: true},
		})
		r.begin(simSettles)
		err := w.make(ctx, c, r)
		r.end(err)
		if err != nil {
			r.violate("a call after everything was repaired: %v", err)
		}
	}
}
