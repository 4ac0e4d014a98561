package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
)

// soakCaller makes one call after another.
type soakCaller struct {
	soak *soak
	open atomic.Pointer[openSoak] // the call that runs; nil for none
}

// openSoak is a call that has not returned yet.
type openSoak struct {
	soakPlan
	began    time.Time
	reported atomic.Bool // as overdue
}

// run calls until ctx ends. A call that runs then is finished.
func (c *soakCaller) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.call()
		if rest := c.soak.config.rest; rest > 0 {
			sleepOr(ctx, time.Duration(rand.Int64N(2*int64(rest)+1)))
		}
	}
}

// call makes one call and judges how it ended.
func (c *soakCaller) call() {
	s := c.soak
	o := soakOutcome{soakPlan: s.planner.plan(s.ran.next())}
	open := &openSoak{soakPlan: o.soakPlan, began: time.Now()}
	c.open.Store(open)
	ctx, cancel := o.context()
	o.err = s.make(ctx, &o)
	cancel()
	o.took = time.Since(open.began)
	c.open.Store(nil)
	s.tally.calls[o.kind].Add(1)
	from, to := s.nodes[o.from], s.nodes[o.to]
	o.ran = s.ran.hasRun(o.id)
	o.stopped = from.stops.touches(open.began) || to.stops.touches(open.began)
	o.lost = s.pair(o.from, o.to).trouble.touches(open.began)
	problem := o.judge(s.config.allowance)
	if problem != "" && !open.reported.Load() {
		s.broken.add("%v: ended after %v with %v: %s", &o.soakPlan, o.took, o.err, problem)
	}
	if o.err != nil {
		s.tally.count(s.tally.errors, errorKind(&o))
	}
	if o.kind != soakUnknown && errors.Is(o.err, grid.ErrDisconnected) {
		sleepOr(context.Background(), retryPause) // a caller that is told so at once would only count such errors
	}
}

// context returns the context of the call.
func (p *soakPlan) context() (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(context.Background())
	if p.cancelAfter > 0 {
		t := time.AfterFunc(p.cancelAfter, func() { end(errSoakCanceled) })
		context.AfterFunc(ctx, func() { t.Stop() })
	}
	release := func() { end(nil) }
	if p.deadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.deadline)
		release = func() { cancel(); end(nil) }
	}
	if p.expectMetadata {
		ctx = grid.WithMetadata(ctx, grid.Metadata{soakKey: strconv.FormatUint(p.id, 10)})
	}
	return ctx, release
}

// make makes the call of o, and says what came of it.
func (s *soak) make(ctx context.Context, o *soakOutcome) error {
	c := s.nodes[o.from].now.Load().Connection(s.nodes[o.to].host)
	ask := o.message(sideAsk, 0, o.ask)
	switch o.kind {
	case soakRoute:
		return o.request(ctx, c.Subroute(soakRoutes[0]).Subroute(soakRoutes[1]), handlerSoakRaw, ask)
	case soakTyped:
		resp, err := soakRequest.Call(ctx, c, grid.NewBytesWith(ask))
		if err != nil {
			return err
		}
		defer soakRequest.PutResponse(resp)
		return o.right(*resp, sideAnswer, 0)
	case soakContext:
		return o.request(ctx, c, handlerSoakContext, ask)
	case soakDown:
		return o.stream(ctx, c, handlerSoakDown, ask)
	case soakBoth:
		return o.stream(ctx, c, handlerSoakBoth, ask)
	case soakPairs:
		return o.exchange(ctx, c, ask)
	case soakUnknown:
		return o.request(ctx, c, handlerSoakUnknown, ask)
	}
	return o.request(ctx, c, handlerSoakRaw, ask)
}

// right checks a message that has come. What it was sent for belongs to errSoakWrong.
func (o *soakOutcome) right(b []byte, side soakSide, n int) error {
	if err := o.verify(b, side, n, o.answer); err != nil {
		return fmt.Errorf("%w: %w", errSoakWrong, err)
	}
	return nil
}

func (o *soakOutcome) request(ctx context.Context, c grid.Requester, h grid.HandlerID, ask []byte) error {
	before := bytes.Clone(ask[:soakHeader])
	b, err := c.Request(ctx, h, ask)
	if err == nil {
		err = o.right(b, sideAnswer, 0)
		grid.PutByteBuffer(b)
	}
	if !bytes.Equal(before, ask[:soakHeader]) {
		return fmt.Errorf("%w: the payload, which stays the caller's, has changed", errSoakWrong)
	}
	grid.PutByteBuffer(ask)
	return err
}

// stream opens a stream, sends all its messages where it takes any, and receives what comes.
func (o *soakOutcome) stream(ctx context.Context, c grid.Streamer, h grid.HandlerID, ask []byte) error {
	st, err := c.NewStream(ctx, h, ask)
	if err != nil {
		return err
	}
	if st.Requests != nil {
		fed := make(chan struct{})
		go func() {
			defer close(fed)
			for i := range o.up {
				if st.Send(o.message(sideUp, i, o.answer)) != nil {
					return // Results says why
				}
			}
			close(st.Requests)
		}()
		defer func() { <-fed }()
	}
	return st.Results(func(b []byte) error {
		defer grid.PutByteBuffer(b)
		return o.next(ctx, b)
	})
}

// exchange is stream with typed values.
func (o *soakOutcome) exchange(ctx context.Context, c grid.Streamer, ask []byte) error {
	st, err := soakExchange.Call(ctx, c, grid.NewBytesWith(ask))
	if err != nil {
		return err
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		for i := range o.up {
			if st.Send(grid.NewBytesWith(o.message(sideUp, i, o.answer))) != nil {
				return
			}
		}
		close(st.Requests)
	}()
	defer func() { <-fed }()
	return st.Results(func(b *grid.Bytes) error {
		defer soakExchange.PutResponse(b)
		return o.next(ctx, *b)
	})
}

// next takes the next message of a stream.
func (o *soakOutcome) next(ctx context.Context, b []byte) error {
	if o.got == o.leaveAfter {
		return errSoakLeft
	}
	if err := o.right(b, sideDown, o.got); err != nil {
		return err
	}
	o.got++
	sleepOr(ctx, o.consumerPause)
	return nil
}

// errorKind is under what an error is counted.
func errorKind(o *soakOutcome) string {
	remote := grid.IsRemoteErr(o.err)
	switch err := o.err; {
	case errors.Is(err, errSoakLeft), errors.Is(err, errSoakCanceled), errors.Is(err, errSoakWrong):
		for _, known := range []error{errSoakLeft, errSoakCanceled, errSoakWrong} {
			if errors.Is(err, known) {
				return known.Error()
			}
		}
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline exceeded"
	case errors.Is(err, grid.ErrDisconnected):
		return "disconnected"
	case errors.Is(err, grid.ErrShutdown):
		return "shutting down"
	case errors.Is(err, grid.ErrUnknownHandler):
		return "unknown handler"
	case remote != nil && string(*remote) == o.failure():
		return "the handler fails"
	case remote != nil && string(*remote) == o.abandoned():
		return "the handler was canceled"
	case remote != nil && o.end == endWithPanic:
		return "the handler panics"
	}
	return "others"
}

// watch reports calls that should have returned, once each.
func (s *soak) watch(now time.Time) {
	for _, c := range s.callers {
		o := c.open.Load()
		if o == nil {
			continue
		}
		if limit, took := o.limit()+s.config.allowance, now.Sub(o.began); took > limit && o.reported.CompareAndSwap(false, true) {
			s.broken.add("%v: has not returned after %v, which is %v more than it may take", &o.soakPlan, took, took-o.limit())
		}
	}
}
