package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/gridmesh/grid"
)

// The handlers.
const (
	handlerRequest grid.HandlerID = grid.HandlerUserFirst + 60 + iota
	handlerContext
	handlerSubrouted
	handlerTyped
	handlerStream
	handlerTypedStream
	handlerNobodys
	handlerFirstsOnly // a stream that only the first node has
)

// Nobodys is a handler that no node has.
const Nobodys = handlerNobodys

// Subroutes.
const (
	outer, inner = "outer", "inner"
	oneWay       = "one-way"
	twoWay       = "two-way"
)

// The streaming handlers, as indexes of their windows.
const (
	routeOneWay = iota
	routeTwoWay
	routeTyped
	Routes
)

// Window is the capacities of a streaming handler, in messages.
type Window struct{ In, Out int }

// typed are the typed handlers.
type typed struct {
	request *grid.SingleHandler[*grid.Bytes, *grid.Bytes]
	stream  *grid.StreamTypeHandler[*grid.Bytes, *grid.Bytes, *value]
}

// value takes a while to be encoded, as a large value does.
type value struct {
	grid.Bytes
	takes time.Duration
}

// MarshalMsg encodes it.
func (v *value) MarshalMsg(b []byte) ([]byte, error) {
	time.Sleep(v.takes)
	return v.Bytes.MarshalMsg(b)
}

func newTyped(w Window) typed {
	return typed{
		request: grid.NewSingleHandler(handlerTyped, grid.NewBytes, grid.NewBytes),
		stream: grid.NewStream(handlerTypedStream, grid.NewBytes, grid.NewBytes, func() *value { return new(value) }).
			WithInCapacity(w.In).WithOutCapacity(w.Out),
	}
}

// Register gives a node its handlers.
func (w *Workload) Register(node int, m *grid.Manager) error {
	single := func(kind Kind, route string) grid.SingleHandlerContextFn {
		return func(ctx context.Context, payload []byte) ([]byte, error) {
			id := callOf(payload)
			b, rerr := w.answer(ctx, node, kind, route, payload)
			return b, w.coded(id, rerr)
		}
	}
	stream := func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
		kind := TwoWay
		if in == nil {
			kind = OneWay
		}
		return w.serve(ctx, node, kind, grid.GetSubroute(ctx), payload, &rawPipe{in, out})
	}
	windows := w.config.Windows
	errs := []error{
		m.RegisterSingleHandler(handlerRequest, func(payload []byte) ([]byte, *grid.RemoteErr) {
			var none context.Context // what a handler has that is not given one
			return w.answer(none, node, Request, "", payload)
		}),
		m.RegisterSingleHandlerContext(handlerContext, single(Context, "")),
		m.RegisterSingleHandlerContext(handlerSubrouted, single(Subroute, outer+"/"+inner), outer, inner),
		w.typed.request.RegisterContext(m, func(ctx context.Context, req *grid.Bytes) (*grid.Bytes, error) {
			id := callOf(*req)
			b, rerr := w.answer(ctx, node, Typed, "", *req)
			if err := w.coded(id, rerr); err != nil {
				return nil, err
			}
			return grid.NewBytesWith(b), nil
		}),
		m.RegisterStreamingHandler(handlerStream, grid.StreamHandler{
			Handle: stream, Subroute: oneWay, OutCapacity: windows[routeOneWay].Out,
		}),
		m.RegisterStreamingHandler(handlerStream, grid.StreamHandler{
			Handle: stream, Subroute: twoWay, InCapacity: windows[routeTwoWay].In, OutCapacity: windows[routeTwoWay].Out,
		}),
		m.HandleStream(method, func(ctx context.Context, st *grid.RawStream) error {
			id := callOf(st.Payload())
			return w.coded(id, w.serve(ctx, node, TwoWay, "", st.Payload(), w.newNamedPipe(id, st)))
		}),
		w.typed.stream.Register(m, func(ctx context.Context, payload *grid.Bytes, in <-chan *grid.Bytes, out chan<- *value) *grid.RemoteErr {
			return w.serve(ctx, node, TypedStream, "", *payload, &typedPipe{in, out, w})
		}),
	}
	if node == 0 {
		errs = append(errs, m.RegisterStreamingHandler(handlerFirstsOnly, grid.StreamHandler{Handle: stream}))
	}
	return errors.Join(errs...)
}

// arrive finds the call that a handler runs for, and checks that it is the handler's. ctx is nil
// where it has none. The caller has to call leave.
func (w *Workload) arrive(ctx context.Context, node int, kind Kind, route string, payload []byte) (*Record, *grid.RemoteErr) {
	id := callOf(payload)
	r := w.Record(id)
	if r == nil && id != 0 && w.config.Redraw != nil {
		r = w.Add(w.config.Redraw(id))
		r.orphan, r.checked = true, true
	}
	if r == nil {
		w.violate("a handler got a payload of %d bytes, of no call", len(payload))
		return nil, grid.NewRemoteErrString("a payload of no call")
	}
	r.arrive()
	if err := Verify(payload, r.ID, SidePayload, 0, r.Size); err != nil {
		r.violate("the handler %v", err)
	}
	if r.To != node || r.Kind != kind {
		r.violate("runs at %s, as a %v", w.config.Names[node], kind)
	}
	if ctx != nil {
		r.checkContext(ctx, route)
	}
	return r, nil
}

// checkContext checks what a handler's context says of the call.
func (r *Record) checkContext(ctx context.Context, route string) {
	if got := grid.GetCaller(ctx); got == nil || got.Name != r.w.config.Names[r.From] {
		r.violate("the handler's caller is %v", got)
	}
	if got := grid.GetSubroute(ctx); got != route {
		r.violate("the handler's subroute is %q", got)
	}
	if got := grid.MetadataFrom(ctx); r.Metadata && !r.tagged(got) || !r.Metadata && got != nil {
		r.violate("the handler's metadata is %v", got)
	}
	if err := errors.Join(grid.SetHeader(ctx, r.tag()), grid.SetTrailer(ctx, r.tag())); err != nil {
		r.violate("the answer takes no metadata: %v", err)
	}
	if r.Work.Early {
		if err := grid.SendHeader(ctx, nil); err != nil && ctx.Err() == nil {
			r.violate("the header is not sent: %v", err)
		}
	}
	if r.Deadline == 0 {
		return
	}
	caller := r.Snapshot().Began + r.Deadline // the handler has at least the time that its caller waits
	if handler, ok := ctx.Deadline(); !ok || handler.Sub(r.w.began) < caller {
		r.violate("the caller's deadline is at %v, the handler's at %v", caller, handler.Sub(r.w.began))
	}
}

// answer is the handler of single requests.
func (w *Workload) answer(ctx context.Context, node int, kind Kind, route string, payload []byte) ([]byte, *grid.RemoteErr) {
	r, stray := w.arrive(ctx, node, kind, route, payload)
	if stray != nil {
		return nil, stray
	}
	defer r.leave()
	if !Sleep(ctx, r.Work.Pause) {
		return nil, r.returnsCut(ctx)
	}
	if rerr := r.finish(ctx); rerr != nil {
		return nil, rerr
	}
	return Message(r.ID, SideAnswer, 0, r.Work.Size), nil
}

// coded returns the error of a handler that can return one with a code: with that of the call if it
// fails as planned.
func (w *Workload) coded(id uint64, rerr *grid.RemoteErr) error {
	if rerr == nil {
		return nil
	}
	if r := w.Record(id); r != nil && r.Work.End == EndFailing {
		return grid.NewError(r.code(), rerr.Error()).WithDetails(strconv.AppendUint(nil, id, 10))
	}
	return rerr
}

// finish ends a handler as planned.
func (r *Record) finish(ctx context.Context) *grid.RemoteErr {
	switch r.Work.End {
	case EndFailing:
		return r.returns(r.failure())
	case EndPanicking:
		text := fmt.Sprintf("panic of call %d", r.ID)
		_ = r.returns(grid.NewRemoteErrString(text))
		panic(text)
	case EndExiting:
		_ = r.returns(grid.NewRemoteErrString("handler exited without a result"))
		runtime.Goexit()
	case EndWithCall:
		<-ctx.Done()
		return r.returnsCut(ctx)
	}
	return r.returns(nil)
}

// pipeEnd is what a streaming handler receives from and sends to.
type pipeEnd interface {
	// receive fails with io.EOF when the input has ended, and with errClosed when that or the stream
	// has.
	receive() ([]byte, error)
	// put takes b back.
	put(b []byte)
	// send sends b; a nil done is never over. It returns false when done was over first.
	send(b []byte, done <-chan struct{}) bool
	// takesInput reports whether there is any.
	takesInput() bool
}

type rawPipe struct {
	in  <-chan []byte
	out chan<- []byte
}

// errClosed says that a channel is.
var errClosed = errors.New("closed")

func (p *rawPipe) receive() ([]byte, error) {
	b, ok := <-p.in
	if !ok {
		return nil, errClosed
	}
	return b, nil
}

func (p *rawPipe) put(b []byte)                             { grid.PutByteBuffer(b) }
func (p *rawPipe) takesInput() bool                         { return p.in != nil }
func (p *rawPipe) send(b []byte, done <-chan struct{}) bool { return sendOr(done, p.out, b) }

type typedPipe struct {
	in  <-chan *grid.Bytes
	out chan<- *value
	w   *Workload
}

func (p *typedPipe) receive() ([]byte, error) {
	b, ok := <-p.in
	if !ok {
		return nil, errClosed
	}
	return *b, nil
}

func (p *typedPipe) put(b []byte)     { p.w.typed.stream.PutRequest(grid.NewBytesWith(b)) }
func (p *typedPipe) takesInput() bool { return p.in != nil }
func (p *typedPipe) send(b []byte, done <-chan struct{}) bool {
	return sendOr(done, p.out, &value{Bytes: b, takes: p.w.config.Encodes})
}

func sendOr[T any](done <-chan struct{}, out chan<- T, v T) bool {
	select {
	case out <- v:
		return true
	case <-done:
		return false
	}
}

// serve is the handler of all streams.
func (w *Workload) serve(ctx context.Context, node int, kind Kind, route string, payload []byte, p pipeEnd) *grid.RemoteErr {
	r, stray := w.arrive(ctx, node, kind, route, payload)
	if stray != nil {
		return stray
	}
	defer r.leave()
	half, named := p.(*namedPipe)
	if named != r.Named {
		r.violate("runs as a stream to a method: %v", named)
	}
	var whole bool
	if named && r.Work.Half {
		whole = r.send(ctx, p) && half.end(r) && r.read(ctx, p)
	} else {
		whole = (!p.takesInput() || r.read(ctx, p)) && r.send(ctx, p)
	}
	if !whole {
		return r.returnsCut(ctx)
	}
	return r.finish(ctx)
}

// send sends what is planned. It returns false when the stream was canceled first.
func (r *Record) send(ctx context.Context, p pipeEnd) bool {
	for range r.Work.Send {
		if !Sleep(ctx, r.Work.Pause) || !r.respond(ctx, p) {
			return false
		}
	}
	return true
}

// read takes as much of the input as is planned. It returns false when the stream was canceled
// meanwhile.
func (r *Record) read(ctx context.Context, p pipeEnd) bool {
	work := r.Work
	for i := 0; work.Read == ReadAll || work.Read == ReadEcho || work.Read == ReadSome && i < work.Some; i++ {
		b, err := p.receive()
		switch {
		case err == errClosed && ctx.Err() != nil:
			return false
		case err == errClosed, err == io.EOF:
			r.inputEnded()
			return true
		case err != nil:
			if ctx.Err() == nil {
				r.violate("the handler's input ended with %v", err)
			}
			return false
		}
		if err := Verify(b, r.ID, SideRequest, r.count(&r.Received), r.Use.Size); err != nil {
			r.violate("the handler %v", err)
		}
		p.put(b)
		if work.Read == ReadEcho && !work.Half && !r.respond(ctx, p) {
			return false
		}
	}
	return true
}

// inputEnded checks that the caller has ended the input.
func (r *Record) inputEnded() {
	if n := r.Snapshot(); !r.orphan && !(n.ClosedInput && n.Received == n.Sent) {
		r.violate("the handler's input ended after %d of %d messages", n.Received, n.Sent)
	}
}

// respond sends the next message. It returns false when the stream was canceled first.
func (r *Record) respond(ctx context.Context, p pipeEnd) bool {
	done := ctx.Done()
	if r.Work.Plain {
		done = nil
	}
	if !p.send(Message(r.ID, SideResponse, r.count(&r.Answering), r.Work.Size), done) {
		return false
	}
	r.count(&r.Answered)
	return true
}
