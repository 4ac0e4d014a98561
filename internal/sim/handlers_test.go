package sim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/gridmesh/grid"
)

// The handlers of the simulation.
const (
	simRequest grid.HandlerID = grid.HandlerUserFirst + 60 + iota
	simContext
	simSubrouted
	simTypedRequest
	simStream
	simTypedStream
	simNobodys
	simFirstsOnly // a stream that only the first node has
)

// Subroutes.
const (
	simSub, simSubSub = "outer", "inner"
	simOneWay         = "one-way"
	simTwoWay         = "two-way"
)

// The streaming handlers, as indexes of their windows.
const (
	routeOneWay = iota
	routeTwoWay
	routeTyped
	simRoutes
)

// simTyped are the typed handlers.
type simTyped struct {
	request *grid.SingleHandler[*grid.Bytes, *grid.Bytes]
	stream  *grid.StreamTypeHandler[*grid.Bytes, *grid.Bytes, *simValue]
}

// simValue takes a while to be encoded, as a large value does.
type simValue struct {
	grid.Bytes
	takes time.Duration
}

// MarshalMsg encodes it.
func (v *simValue) MarshalMsg(b []byte) ([]byte, error) {
	time.Sleep(v.takes)
	return v.Bytes.MarshalMsg(b)
}

func newSimTyped(s *scenario) simTyped {
	w := s.streams[routeTyped]
	return simTyped{
		request: grid.NewSingleHandler(simTypedRequest, grid.NewBytes, grid.NewBytes),
		stream: grid.NewStream(simTypedStream, grid.NewBytes, grid.NewBytes, func() *simValue { return new(simValue) }).
			WithInCapacity(w.in).WithOutCapacity(w.out),
	}
}

// register gives a node its handlers.
func (w *world) register(i int, m *grid.Manager) error {
	caller := func(ctx context.Context, route string, r *record) {
		want := w.nodes[r.plan.from].name
		if got := grid.GetCaller(ctx); got == nil || got.Name != want {
			r.violate("the handler's caller is %v", got)
		}
		if got := grid.GetSubroute(ctx); got != route {
			r.violate("the handler's subroute is %q", got)
		}
		r.checkDeadline(ctx)
		if r.plan.to != i {
			r.violate("runs on node %d", i)
		}
	}
	single := func(route string) grid.SingleHandlerContextFn {
		return func(ctx context.Context, payload []byte) ([]byte, *grid.RemoteErr) {
			return w.answer(ctx, payload, func(r *record) { caller(ctx, route, r) })
		}
	}
	stream := func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
		r, err := w.recordOf(payload)
		if err != nil {
			return w.stray(err)
		}
		caller(ctx, grid.GetSubroute(ctx), r)
		if (in == nil) != (r.plan.kind == callOneWay) {
			r.violate("the handler's input is %v", in)
		}
		return w.serve(ctx, r, &rawPipe{in, out})
	}
	var err error
	add := func(e error) { err = errors.Join(err, e) }
	add(m.RegisterSingleHandler(simRequest, func(payload []byte) ([]byte, *grid.RemoteErr) {
		var none context.Context // what a handler has that is not given one
		return w.answer(none, payload, func(*record) {})
	}))
	add(m.RegisterSingleHandlerContext(simContext, single("")))
	add(m.RegisterSingleHandlerContext(simSubrouted, single(simSub+"/"+simSubSub), simSub, simSubSub))
	add(w.typed.request.RegisterContext(m, func(ctx context.Context, req *grid.Bytes) (*grid.Bytes, *grid.RemoteErr) {
		b, rerr := w.answer(ctx, *req, func(r *record) { caller(ctx, "", r) })
		if rerr != nil {
			return nil, rerr
		}
		return grid.NewBytesWith(b), nil
	}))
	for route, win := range map[string]window{simOneWay: w.streams[routeOneWay], simTwoWay: w.streams[routeTwoWay]} {
		add(m.RegisterStreamingHandler(simStream, grid.StreamHandler{Handle: stream, Subroute: route, InCapacity: win.in, OutCapacity: win.out}))
	}
	if i == 0 {
		add(m.RegisterStreamingHandler(simFirstsOnly, grid.StreamHandler{Handle: stream}))
	}
	add(w.typed.stream.Register(m, func(ctx context.Context, payload *grid.Bytes, in <-chan *grid.Bytes, out chan<- *simValue) *grid.RemoteErr {
		r, err := w.recordOf(*payload)
		if err != nil {
			return w.stray(err)
		}
		caller(ctx, "", r)
		return w.serve(ctx, r, &typedPipe{in, out, w})
	}))
	return err
}

// checkDeadline checks that a handler has at least the time that its caller waits.
func (r *record) checkDeadline(ctx context.Context) {
	if r.plan.deadline == 0 {
		return
	}
	r.mu.Lock()
	caller := r.began + r.plan.deadline
	r.mu.Unlock()
	if handler, ok := ctx.Deadline(); !ok || handler.Sub(r.w.began) < caller {
		r.violate("the caller's deadline is at %v, the handler's at %v", caller, handler.Sub(r.w.began))
	}
}

// stray takes note of a handler that runs for no call.
func (w *world) stray(err error) *grid.RemoteErr {
	w.violate("a handler got %v", err)
	return grid.NewRemoteErr(err)
}

// answer is the handler of single requests. ctx is nil where it has none.
func (w *world) answer(ctx context.Context, payload []byte, check func(r *record)) ([]byte, *grid.RemoteErr) {
	r, err := w.recordOf(payload)
	if err != nil {
		return nil, w.stray(err)
	}
	r.arrive()
	defer r.leave()
	check(r)
	work := r.plan.work
	if !sleepOr(ctx, work.pause) {
		return nil, r.returns(grid.NewRemoteErrf("call %d: %v", r.plan.id, context.Cause(ctx)))
	}
	if rerr := r.finish(ctx); rerr != nil {
		return nil, rerr
	}
	return newMessage(r.plan.id, sideAnswer, 0, work.size), nil
}

// finish ends a handler as planned.
func (r *record) finish(ctx context.Context) *grid.RemoteErr {
	switch r.plan.work.end {
	case endFailing:
		return r.returns(r.plan.failure())
	case endPanicking:
		text := fmt.Sprintf("panic of call %d", r.plan.id)
		r.returns(grid.NewRemoteErrString(text))
		panic(text)
	case endExiting:
		r.returns(grid.NewRemoteErrString("handler exited without a result"))
		runtime.Goexit()
	case endWithCall:
		<-ctx.Done()
		return r.returnsCut("call %d ended: %v", r.plan.id, context.Cause(ctx))
	}
	return r.returns(nil)
}

// librarysOwn are errors that a handler's text can be mistaken for.
var librarysOwn = []error{grid.ErrDisconnected, grid.ErrShutdown, grid.ErrOverloaded}

// failure is the error of a handler that fails: one of its own, or one that it hands on, with the text of
// an error that the library could have told its caller.
func (p *callPlan) failure() *grid.RemoteErr {
	if i := p.id % 6; i < uint64(len(librarysOwn)) {
		return grid.NewRemoteErr(librarysOwn[i])
	}
	return grid.NewRemoteErrf("call %d fails", p.id)
}

// sleep waits for d. It returns false when ctx, which may be nil, ends first.
func sleepOr(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return ctx == nil || ctx.Err() == nil
	}
	if ctx == nil {
		time.Sleep(d)
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// pipeEnd is what a streaming handler receives from and sends to.
type pipeEnd interface {
	// receive returns false when the input has ended.
	receive() ([]byte, bool)
	// put takes b back.
	put(b []byte)
	// send sends b; a nil done is never over. It returns false when done was over first.
	send(b []byte, done <-chan struct{}) bool
	// takesInput says whether there is any.
	takesInput() bool
}

type rawPipe struct {
	in  <-chan []byte
	out chan<- []byte
}

func (p *rawPipe) receive() ([]byte, bool) {
	b, ok := <-p.in
	return b, ok
}

func (p *rawPipe) put(b []byte)     { grid.PutByteBuffer(b) }
func (p *rawPipe) takesInput() bool { return p.in != nil }

func (p *rawPipe) send(b []byte, done <-chan struct{}) bool {
	select {
	case p.out <- b:
		return true
	case <-done:
		return false
	}
}

type typedPipe struct {
	in  <-chan *grid.Bytes
	out chan<- *simValue
	w   *world
}

func (p *typedPipe) receive() ([]byte, bool) {
	b, ok := <-p.in
	if !ok {
		return nil, false
	}
	return *b, true
}

func (p *typedPipe) put(b []byte)     { p.w.typed.stream.PutRequest(grid.NewBytesWith(b)) }
func (p *typedPipe) takesInput() bool { return p.in != nil }

func (p *typedPipe) send(b []byte, done <-chan struct{}) bool {
	select {
	case p.out <- &simValue{Bytes: b, takes: p.w.encodes}:
		return true
	case <-done:
		return false
	}
}

// serve is the handler of all streams.
func (w *world) serve(ctx context.Context, r *record, p pipeEnd) *grid.RemoteErr {
	r.arrive()
	defer r.leave()
	work := r.plan.work
	if p.takesInput() && !r.read(ctx, p) {
		return r.returnsCut("call %d canceled: %v", r.plan.id, context.Cause(ctx))
	}
	for range work.send {
		if !sleepOr(ctx, work.pause) || !r.respond(ctx, p) {
			return r.returnsCut("call %d canceled: %v", r.plan.id, context.Cause(ctx))
		}
	}
	return r.finish(ctx)
}

// read takes as much of the input as is planned. It returns false when the stream was canceled meanwhile.
func (r *record) read(ctx context.Context, p pipeEnd) bool {
	work := r.plan.work
	for i := 0; work.read == readAll || work.read == readEcho || work.read == readSome && i < work.some; i++ {
		b, ok := p.receive()
		if !ok {
			return r.inputEnded(ctx)
		}
		if err := verify(b, r.plan.id, sideRequest, r.count(&r.received), r.plan.use.size); err != nil {
			r.violate("the handler %v", err)
		}
		p.put(b)
		if work.read == readEcho && !r.respond(ctx, p) {
			return false
		}
	}
	return true
}

// inputEnded checks that the caller has ended the input, unless the stream is canceled.
func (r *record) inputEnded(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	r.mu.Lock()
	whole := r.closedInput && r.received == r.sent
	received, sent := r.received, r.sent
	r.mu.Unlock()
	if !whole {
		r.violate("the handler's input ended after %d of %d messages", received, sent)
	}
	return true
}

// respond sends the next message. It returns false when the stream was canceled first.
func (r *record) respond(ctx context.Context, p pipeEnd) bool {
	done := ctx.Done()
	if r.plan.work.plain {
		done = nil
	}
	b := newMessage(r.plan.id, sideResponse, r.count(&r.answering), r.plan.work.size)
	if !p.send(b, done) {
		return false
	}
	r.count(&r.answered)
	return true
}
