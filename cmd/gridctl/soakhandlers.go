package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/gridmesh/grid"
)

// The handlers that only the nodes of a soak have.
const (
	handlerSoakRaw = handlerStay + 1 + iota
	handlerSoakTyped
	handlerSoakContext
	handlerSoakDown
	handlerSoakBoth
	handlerSoakPairs
	handlerSoakUnknown // which nobody has
)

const (
	soakKey    = "soak-call" // of the metadata
	routeParts = 2
)

var (
	soakRoutes   = [routeParts]string{"soak", "route"}
	soakRequest  = grid.NewSingleHandler[*grid.Bytes, *grid.Bytes](handlerSoakTyped, grid.NewBytes, grid.NewBytes)
	soakExchange = grid.NewStream[*grid.Bytes, *grid.Bytes, *grid.Bytes](handlerSoakPairs, grid.NewBytes, grid.NewBytes, grid.NewBytes).
			WithInCapacity(4).WithOutCapacity(8)
)

// register registers the handlers of a soak on the node of a number.
func (s *soak) register(node int, m *grid.Manager) error {
	single := func(kind soakKind) grid.SingleHandlerFn {
		return func(payload []byte) ([]byte, *grid.RemoteErr) {
			return s.answer(context.Background(), node, kind, payload)
		}
	}
	return errors.Join(
		grid.NameHandler(handlerSoakRaw, "soak"),
		grid.NameHandler(handlerSoakTyped, "soak typed"),
		grid.NameHandler(handlerSoakContext, "soak context"),
		grid.NameHandler(handlerSoakDown, "soak down"),
		grid.NameHandler(handlerSoakBoth, "soak both"),
		grid.NameHandler(handlerSoakPairs, "soak pairs"),
		m.RegisterSingleHandler(handlerSoakRaw, single(soakRaw)),
		m.RegisterSingleHandler(handlerSoakRaw, single(soakRoute), soakRoutes[:]...),
		soakRequest.Register(m, func(req *grid.Bytes) (*grid.Bytes, *grid.RemoteErr) {
			b, err := s.answer(context.Background(), node, soakTyped, *req)
			return grid.NewBytesWith(b), err
		}),
		m.RegisterSingleHandlerContext(handlerSoakContext, func(ctx context.Context, payload []byte) ([]byte, *grid.RemoteErr) {
			return s.answer(ctx, node, soakContext, payload)
		}),
		m.RegisterStreamingHandler(handlerSoakDown, grid.StreamHandler{OutCapacity: 8, Handle: s.rawStream(node, soakDown)}),
		m.RegisterStreamingHandler(handlerSoakBoth, grid.StreamHandler{InCapacity: 4, OutCapacity: 8, Handle: s.rawStream(node, soakBoth)}),
		soakExchange.Register(m, func(ctx context.Context, payload *grid.Bytes, in <-chan *grid.Bytes, out chan<- *grid.Bytes) *grid.RemoteErr {
			receive := func() ([]byte, bool) {
				b, ok := <-in
				if !ok {
					return nil, false
				}
				return *b, true
			}
			return s.serve(ctx, node, soakPairs, *payload, receive, func(b []byte) bool {
				select {
				case out <- grid.NewBytesWith(b):
					return true
				case <-ctx.Done():
					return false
				}
			})
		}),
	)
}

func (s *soak) rawStream(node int, kind soakKind) func(context.Context, []byte, <-chan []byte, chan<- []byte) *grid.RemoteErr {
	return func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
		receive := func() ([]byte, bool) {
			b, ok := <-in
			return b, ok
		}
		return s.serve(ctx, node, kind, payload, receive, func(b []byte) bool {
			select {
			case out <- b:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}
}

// arrive finds out what a handler is called for and checks that it is for that node.
func (s *soak) arrive(ctx context.Context, node int, kind soakKind, payload []byte) (*soakPlan, error) {
	id, _, _, err := parseSoak(payload)
	if err != nil {
		return nil, err
	}
	if err := s.ran.run(id); err != nil {
		return nil, err
	}
	p := s.planner.plan(id)
	if err := p.verify(payload, sideAsk, 0, p.ask); err != nil {
		return nil, err
	}
	if p.to != node || p.kind != kind {
		return nil, fmt.Errorf("%v arrived at node %d, handler of %v", &p, node, kind)
	}
	if !kind.hasContext() {
		return &p, nil
	}
	if caller := grid.GetCaller(ctx); caller == nil || caller.Name != soakHost(p.from) {
		return nil, fmt.Errorf("%v: the caller is %v", &p, caller)
	}
	want := ""
	if p.expectMetadata {
		want = strconv.FormatUint(id, 10)
	}
	if got := grid.MetadataFrom(ctx).Get(soakKey); got != want {
		return nil, fmt.Errorf("%v: metadata has %q, want %q", &p, got, want)
	}
	return &p, nil
}

// answer is the handler of single requests.
func (s *soak) answer(ctx context.Context, node int, kind soakKind, payload []byte) ([]byte, *grid.RemoteErr) {
	s.handlers.Add(1)
	defer s.handlers.Add(-1)
	p, err := s.arrive(ctx, node, kind, payload)
	if err != nil {
		s.broken.add("a handler: %v", err)
		return nil, grid.NewRemoteErr(err)
	}
	if !sleepOr(ctx, p.handlerPause) {
		return nil, grid.NewRemoteErrString(p.abandoned())
	}
	if rerr := p.finish(ctx); rerr != nil {
		return nil, rerr
	}
	return p.message(sideAnswer, 0, p.answer), nil
}

// finish ends a handler as planned.
func (p *soakPlan) finish(ctx context.Context) *grid.RemoteErr {
	switch p.end {
	case endWithError:
		return grid.NewRemoteErrString(p.failure())
	case endWithPanic:
		panic(p.panicText())
	case endWithCaller:
		<-ctx.Done()
		return grid.NewRemoteErrString(p.abandoned())
	}
	return nil
}

// serve is the handler of streams: it answers each message, or sends as many as planned.
func (s *soak) serve(ctx context.Context, node int, kind soakKind, payload []byte, receive func() ([]byte, bool), send func([]byte) bool) *grid.RemoteErr {
	s.handlers.Add(1)
	defer s.handlers.Add(-1)
	p, err := s.arrive(ctx, node, kind, payload)
	if err != nil {
		s.broken.add("a handler: %v", err)
		return grid.NewRemoteErr(err)
	}
	if !sleepOr(ctx, p.handlerPause) {
		return grid.NewRemoteErrString(p.abandoned())
	}
	for i := range p.down {
		if kind != soakDown && !s.receive(ctx, p, i, receive) || !send(p.message(sideDown, i, p.answer)) {
			return grid.NewRemoteErrString(p.abandoned())
		}
	}
	if kind != soakDown {
		if _, more := receive(); more {
			s.broken.add("%v: the handler got more than %d messages", p, p.up)
		}
		if ctx.Err() != nil {
			return grid.NewRemoteErrString(p.abandoned())
		}
	}
	return p.finish(ctx)
}

// receive takes the message of a number. It returns false when the stream was canceled.
func (s *soak) receive(ctx context.Context, p *soakPlan, n int, receive func() ([]byte, bool)) bool {
	b, ok := receive()
	if !ok {
		if ctx.Err() == nil {
			s.broken.add("%v: the handler's input ended after %d of %d messages", p, n, p.up)
		}
		return false
	}
	if err := p.verify(b, sideUp, n, p.answer); err != nil {
		s.broken.add("%v: the handler %v", p, err)
	}
	grid.PutByteBuffer(b)
	return true
}
