package workload

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/gridmesh/grid"
)

var (
	errCanceled = errors.New("canceled by the workload")
	errLeft     = errors.New("left by the workload")
)

// metadataKey is of the metadata that goes with a call.
const metadataKey = "workload-call"

// Run makes the call from a node and takes note of its outcome. races are of the caller's node; nil
// where nothing races.
func (r *Record) Run(m *grid.Manager, races *Races) {
	r.begin()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	if r.Deadline > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, r.Deadline+r.Late)
		defer stop()
		ctx = lateContext{ctx, r.w.began.Add(r.Began + r.Deadline)}
	}
	if r.Cancel > 0 {
		timer := time.AfterFunc(r.Cancel, func() { cancel(errCanceled) })
		defer timer.Stop()
	}
	if r.Races && races != nil {
		defer races.enter(r, cancel)()
	}
	if r.Metadata {
		ctx = grid.WithMetadata(ctx, r.tag())
		var answer *grid.AnswerMetadata
		ctx, answer = grid.WithAnswerMetadata(ctx)
		defer func() { r.checkAnswer(answer) }()
	}
	if r.High {
		ctx = grid.WithPriority(ctx, grid.PriorityHigh)
	}
	c := m.Connection(r.w.config.Names[r.To])
	if r.Waits {
		if err := awaitConnection(ctx, c); err != nil {
			r.end(err)
			return
		}
	}
	r.end(r.make(ctx, c))
}

// tag is the metadata that goes with a call, and comes back with its answer as a header and a trailer.
func (c *Call) tag() grid.Metadata {
	id := strconv.FormatUint(c.ID, 10)
	return grid.Metadata{metadataKey: {id, "and", id}}
}

// tagged reports whether md is that metadata.
func (c *Call) tagged(md grid.Metadata) bool {
	return len(md) == 1 && slices.Equal(md.Values(metadataKey), c.tag().Values(metadataKey))
}

// checkAnswer checks the metadata that came with the answer: it is that of this call, and is there at
// the end of a call that has succeeded.
func (r *Record) checkAnswer(answer *grid.AnswerMetadata) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for side, md := range map[string]grid.Metadata{"header": answer.Header(), "trailer": answer.Trailer()} {
		whole := r.Notes.Outcomes > 0 && r.Notes.Err == nil && r.Kind != Request
		if md == nil && !whole {
			continue
		}
		if !r.tagged(md) {
			r.violate("the %s of the answer is %v, after %v", side, md, r.Notes.Err)
		}
	}
}

// lateContext is a context whose end comes behind its deadline, as on a busy machine.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// awaitConnection waits until c is up, and not for ever.
func awaitConnection(ctx context.Context, c *grid.Connection) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return c.WaitForConnect(ctx)
}

// Races are calls of a node that are canceled as soon as something comes in after their handler has
// returned, which is most likely the answer. The zero value is ready. Its Incoming belongs in
// ManagerOptions or, to be told before the node sees what came, into the network.
type Races struct {
	mu   sync.Mutex // Protects following.
	open map[*Record]context.CancelCauseFunc
}

// enter lets a call race. The returned function calls that off.
func (n *Races) enter(r *Record, cancel context.CancelCauseFunc) func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = make(map[*Record]context.CancelCauseFunc)
	}
	n.open[r] = cancel
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.open, r)
	}
}

// Incoming is told that bytes have come in.
func (n *Races) Incoming(int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for r, cancel := range n.open {
		if r.hasReturned() {
			cancel(errCanceled)
		}
	}
}

// make makes the call itself.
func (r *Record) make(ctx context.Context, c *grid.Connection) error {
	payload := Message(r.ID, SidePayload, 0, r.Size)
	defer func() {
		if err := Verify(payload, r.ID, SidePayload, 0, r.Size); err != nil {
			r.violate("the payload, which stays the caller's, has changed: %v", err)
		}
		grid.PutByteBuffer(payload)
	}()
	switch r.Kind {
	case Request:
		return r.request(ctx, c, handlerRequest, payload)
	case Context:
		return r.request(ctx, c, handlerContext, payload)
	case Subroute:
		return r.request(ctx, c.Subroute(outer).Subroute(inner), handlerSubrouted, payload)
	case Typed:
		return r.typedRequest(ctx, c, payload)
	case Unknown:
		return r.request(ctx, c, handlerNobodys, payload)
	case TooLarge:
		return r.request(ctx, c, handlerContext, make([]byte, max(r.w.config.MaxMessage, MaxMessage)+1))
	case OneWay:
		return r.stream(ctx, c.Subroute(oneWay), handlerStream, payload)
	case TwoWay:
		if r.Named {
			return r.namedStream(ctx, c, payload)
		}
		return r.stream(ctx, c.Subroute(twoWay), handlerStream, payload)
	case UnknownStream:
		return r.stream(ctx, c, handlerFirstsOnly, payload)
	case TypedStream:
		return r.typedStream(ctx, c, payload)
	}
	panic(fmt.Sprintf("no call of kind %d", r.Kind))
}

func (r *Record) request(ctx context.Context, c grid.Requester, h grid.HandlerID, payload []byte) error {
	resp, err := c.Request(ctx, h, payload)
	return r.response(resp, err)
}

func (r *Record) typedRequest(ctx context.Context, c grid.Requester, payload []byte) error {
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
func (r *Record) response(resp []byte, err error) error {
	if err != nil {
		if resp != nil {
			r.violate("an answer of %d bytes beside %v", len(resp), err)
		}
		return err
	}
	if err := Verify(resp, r.ID, SideAnswer, 0, r.Work.Size); err != nil {
		r.violate("the caller %v", err)
	}
	grid.PutByteBuffer(resp)
	return nil
}

// streamEnd is the caller's end of a stream, raw or typed.
type streamEnd struct {
	send    func(ctx context.Context, b []byte) error // b is given away with a nil error; nil where there is no input
	close   func()                                    // ends the input
	ended   chan struct{}                             // closed once the handler has ended its messages; nil where the input's end does not wait for that
	results func(next func(b []byte) error) error
	all     iter.Seq2[[]byte, error]
}

func (r *Record) stream(ctx context.Context, c grid.Streamer, h grid.HandlerID, payload []byte) error {
	st, err := c.NewStream(ctx, h, payload)
	if err != nil {
		return err
	}
	s := streamEnd{results: st.Results, all: st.All()}
	if st.Requests != nil {
		s.close, s.send = sending(r, st.Requests, st.CloseSend, st.Send, func(b []byte) []byte { return b })
	}
	return r.use(ctx, s)
}

func (r *Record) typedStream(ctx context.Context, c grid.Streamer, payload []byte) error {
	p := grid.Bytes(payload)
	st, err := r.w.typed.stream.Call(ctx, c, &p)
	if err != nil {
		return err
	}
	s := streamEnd{
		results: func(next func(b []byte) error) error {
			return st.Results(func(v *value) error { return next(v.Bytes) })
		},
		all: func(yield func([]byte, error) bool) {
			for v, err := range st.All() {
				if err != nil {
					yield(nil, err)
				} else if !yield(v.Bytes, nil) {
					return
				}
			}
		},
	}
	s.close, s.send = sending(r, st.Requests, st.CloseSend, st.Send, grid.NewBytesWith)
	return r.use(ctx, s)
}

// sending returns how the call ends its input and how it sends, by methods of the stream or by its
// channel.
func sending[T any](r *Record, requests chan<- T, closeSend func() error, send func(T) error, from func([]byte) T) (
	end func(), by func(context.Context, []byte) error,
) {
	end = func() { close(requests) }
	if r.Use.Calls {
		end = func() { _ = closeSend() }
	}
	if !r.Use.ByChannel {
		return end, func(_ context.Context, b []byte) error { return send(from(b)) }
	}
	return end, func(ctx context.Context, b []byte) error {
		select {
		case requests <- from(b):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// use sends and consumes as planned, and returns the stream's outcome.
func (r *Record) use(ctx context.Context, s streamEnd) error {
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
func (r *Record) feed(ctx context.Context, s streamEnd) {
	use := r.Use
	defer r.feeds()
	for range use.Send {
		ok := Sleep(ctx, use.Pause)
		if ok {
			ok = s.send(ctx, Message(r.ID, SideRequest, r.count(&r.Offered), use.Size)) == nil
		}
		if !ok {
			if use.Gives {
				s.close() // the handler may not take that for the end of its input
			}
			return
		}
		r.count(&r.Sent)
	}
	if s.ended != nil {
		select {
		case <-s.ended:
		case <-ctx.Done():
			if use.Gives {
				s.close()
			}
			return
		}
	}
	if use.Close {
		r.closesInput()
		s.close()
	}
}

// consume takes the results as planned.
func (r *Record) consume(ctx context.Context, s streamEnd) (err error) {
	use := r.Use
	switch use.Leave {
	case NeverRead:
		<-ctx.Done()
		return context.Cause(ctx)
	case LeaveByLoop:
		for b, err := range s.all {
			if err != nil {
				return err
			}
			if r.take(ctx, b) >= use.LeaveAt {
				return errLeft
			}
		}
		return nil
	}
	defer func() {
		if p := recover(); p == errLeft {
			err = errLeft
		} else if p != nil {
			panic(p)
		}
	}()
	return s.results(func(b []byte) error {
		if r.take(ctx, b) < use.LeaveAt {
			return nil
		}
		switch use.Leave {
		case LeaveByError:
			return errLeft
		case LeaveByPanic:
			panic(errLeft)
		case StopReading:
			<-ctx.Done()
		}
		return nil
	})
}

// take consumes a message, and returns its number.
func (r *Record) take(ctx context.Context, b []byte) int {
	n := r.count(&r.Got)
	if err := Verify(b, r.ID, SideResponse, n, r.Work.Size); err != nil {
		r.violate("the consumer %v", err)
	}
	grid.PutByteBuffer(b)
	Sleep(ctx, r.Use.Slow)
	return n
}

// Sleep waits for d. It returns false when ctx, which may be nil, ends first.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
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
