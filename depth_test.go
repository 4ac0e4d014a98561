package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/gridmesh/grid/internal/race"
	"github.com/tinylib/msgp/msgp"
)

// opaque is a payload that skips what it is given, as generated code does with a field that it does
// not know: by recursion.
type opaque struct {
	sent   []byte // what MarshalMsg appends
	before func() // UnmarshalMsg calls it
	read   int
}

func (o *opaque) Msgsize() int { return len(o.sent) }

func (o *opaque) MarshalMsg(b []byte) ([]byte, error) { return append(b, o.sent...), nil }

func (o *opaque) UnmarshalMsg(b []byte) ([]byte, error) {
	if o.before != nil {
		o.before()
	}
	o.read++
	return msgp.Skip(b)
}

// nested is arrays within each other, of one element each.
func nested(levels int) []byte { return append(bytes.Repeat([]byte{0x91}, levels), 1) }

func nestedJSON(levels int) string {
	return strings.Repeat("[", levels) + strings.Repeat("]", levels)
}

func TestWhatIsNestedTooDeeplyIsNotDecoded(t *testing.T) {
	decoded := new(atomic.Int32)
	newOpaque := func() *opaque { return &opaque{before: func() { decoded.Add(1) }} }
	send := func(levels int) *opaque { return &opaque{sent: nested(levels)} }

	c := startCluster(t, 2, nil)
	single := NewSingleHandler[*opaque, *opaque](testSingle, newOpaque, newOpaque)
	stream := NewStream[*opaque, *opaque, *opaque](testStream, newOpaque, newOpaque, newOpaque)
	few := NewSingleHandler[*opaque, *opaque](testSingle, newOpaque, newOpaque).WithMaxDepth(3)
	many := NewSingleHandler[*opaque, *opaque](testSingle, newOpaque, newOpaque).WithMaxDepth(3000)
	fewOnStream := NewStream[*opaque, *opaque, *opaque](testStream, newOpaque, newOpaque, newOpaque).WithMaxDepth(3)
	// A handler answers with as many levels as its request says.
	var answer atomic.Int32
	respond := func(*opaque) (*opaque, *RemoteErr) { return send(int(answer.Load())), nil }
	serve := func(_ context.Context, _ *opaque, in <-chan *opaque, out chan<- *opaque) *RemoteErr {
		for range in {
			out <- send(int(answer.Load()))
		}
		return nil
	}
	for _, n := range c.nodes {
		if err := errors.Join(
			single.Register(n.Manager, respond), few.Register(n.Manager, respond, "few"), many.Register(n.Manager, respond, "many"),
			stream.Register(n.Manager, serve), fewOnStream.Register(n.Manager, serve, "few"),
		); err != nil {
			t.Fatal(err)
		}
	}
	conn := c.conn(0, 1)
	call := func(h *SingleHandler[*opaque, *opaque], r Requester, request, response int) error {
		answer.Store(int32(response))
		_, err := h.Call(t.Context(), r, send(request))
		return err
	}
	open := func(h *StreamTypeHandler[*opaque, *opaque, *opaque], s Streamer, payload, request, response int) error {
		answer.Store(int32(response))
		st, err := h.Call(t.Context(), s, send(payload))
		if err != nil {
			return err
		}
		if err := st.Send(send(request)); err == nil {
			close(st.Requests)
		}
		return st.Results(nil)
	}
	for _, test := range []struct {
		name string
		most int
		run  func(levels int) error
	}{
		{"a request", 1000, func(n int) error { return call(single, conn, n, 1) }},
		{"a response", 1000, func(n int) error { return call(single, conn, 1, n) }},
		{"a request with an option", 3, func(n int) error { return call(few, conn.Subroute("few"), n, 1) }},
		{"a response with an option", 3, func(n int) error { return call(few, conn.Subroute("few"), 1, n) }},
		{"a request with a larger option", 3000, func(n int) error { return call(many, conn.Subroute("many"), n, 1) }},
		{"the payload of a stream", 1000, func(n int) error { return open(stream, conn, n, 1, 1) }},
		{"a request of a stream", 1000, func(n int) error { return open(stream, conn, 1, n, 1) }},
		{"a response of a stream", 1000, func(n int) error { return open(stream, conn, 1, 1, n) }},
		{"a request of a stream with an option", 3, func(n int) error { return open(fewOnStream, conn.Subroute("few"), 1, n, 1) }},
		{"a response of a stream with an option", 3, func(n int) error { return open(fewOnStream, conn.Subroute("few"), 1, 1, n) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			decoded.Store(0)
			if err := test.run(test.most); err != nil {
				t.Errorf("%d levels: %v", test.most, err)
			}
			all := decoded.Load()
			decoded.Store(0)
			for _, levels := range []int{test.most + 1, 200_000} {
				err := test.run(levels)
				if want := fmt.Sprintf("nested too deeply: more than %d levels", test.most); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%d levels: %v, want %q", levels, err, want)
				}
			}
			// What was before it in the call has been decoded.
			if got := decoded.Load(); got > 2*(all-1) {
				t.Errorf("%d values of two calls were decoded, of %d in each", got, all)
			}
		})
	}
	if got := conn.State(); got != StateConnected {
		t.Errorf("the connection is %v", got)
	}
}

// Methods bound what they decode in either direction, by default and as their option says, in
// MessagePack and in JSON. Another codec sees to that itself.
func TestMethodsBoundDepth(t *testing.T) {
	c := startCluster(t, 2, nil)
	serving, conn := c.nodes[1].Manager, c.conn(0, 1)
	type levels = opaque
	send := func(n int) *levels { return &levels{sent: nested(n)} }
	text := func(n int) *any {
		var v any
		for range n {
			v = []any{v}
		}
		return &v
	}
	var answer atomic.Int32 // how many levels a handler sends
	request := func(m *Method[levels, levels], name string) func(up, down int) error {
		if err := m.Handle(serving, func(context.Context, *levels) (*levels, error) { return send(int(answer.Load())), nil }, name); err != nil {
			t.Fatal(err)
		}
		return func(up, down int) error {
			answer.Store(int32(down))
			_, err := m.Call(t.Context(), conn.Subroute(name), send(up))
			return err
		}
	}
	json := func(m *Method[any, any], name string) func(up, down int) error {
		if err := m.Handle(serving, func(context.Context, *any) (*any, error) { return text(int(answer.Load())), nil }, name); err != nil {
			t.Fatal(err)
		}
		return func(up, down int) error {
			answer.Store(int32(down))
			_, err := m.Call(t.Context(), conn.Subroute(name), text(up))
			return err
		}
	}
	down := NewStreamMethod[levels, levels]("deep.Down").WithMaxDepth(3)
	up := NewUploadMethod[levels, levels]("deep.Up").WithMaxDepth(3)
	both := NewDuplexMethod[levels, levels]("deep.Both").WithMaxDepth(3)
	if err := errors.Join(
		down.Handle(serving, func(_ context.Context, _ *levels, out *Sender[levels]) error {
			return out.Send(send(int(answer.Load())))
		}),
		up.Handle(serving, func(_ context.Context, in iter.Seq2[*levels, error]) (*levels, error) {
			for _, err := range in {
				if err != nil {
					return nil, err
				}
			}
			return send(int(answer.Load())), nil
		}),
		both.Handle(serving, func(_ context.Context, st *ServerStream[levels, levels]) error {
			if _, err := st.Recv(); err != nil {
				return err
			}
			return st.Send(send(int(answer.Load())))
		}),
	); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		most int
		call func(up, down int) error
	}{
		{"the default", 1000, request(NewMethod[levels, levels]("deep.Call"), "default")},
		{"an option", 3, request(NewMethod[levels, levels]("deep.Call").WithMaxDepth(3), "few")},
		{"a larger option", 3000, request(NewMethod[levels, levels]("deep.Call").WithMaxDepth(3000), "many")},
		{"an option that is taken back", 1000, request(NewMethod[levels, levels]("deep.Call").WithMaxDepth(3).WithMaxDepth(0), "back")},
		{"JSON", 1000, json(NewMethodCodec[any, any]("deep.JSON", JSONCodec), "default")},
		{"JSON with an option", 3, json(NewMethodCodec[any, any]("deep.JSON", JSONCodec).WithMaxDepth(3), "few")},
		{"a stream from the handler", 3, func(up, answers int) error {
			answer.Store(int32(answers))
			for _, err := range down.Call(t.Context(), conn, send(up)) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"a stream to the handler", 3, func(levels, answers int) error {
			answer.Store(int32(answers))
			_, err := up.Call(t.Context(), conn, slices.Values([]*opaque{send(levels)}))
			return err
		}},
		{"a stream both ways", 3, func(up, answers int) error {
			answer.Store(int32(answers))
			st, err := both.Call(t.Context(), conn)
			if err != nil {
				return err
			}
			defer st.raw.Cancel(nil)
			if err := st.Send(send(up)); err != nil {
				return err
			}
			_, err = st.Recv()
			return err
		}},
	} {
		if err := test.call(test.most, test.most); err != nil {
			t.Errorf("%s: %d levels: %v", test.name, test.most, err)
		}
		want := fmt.Sprintf("nested too deeply: more than %d levels", test.most)
		for way, err := range map[string]error{"up": test.call(test.most+1, 1), "down": test.call(1, test.most+1)} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s, %s: %v, want %q", test.name, way, err, want)
			}
		}
	}
}

func TestNestedJSONIsNotDecoded(t *testing.T) {
	pool, few := NewJSONPool[any](), NewJSONPool[any]().WithMaxDepth(3)
	for _, test := range []struct {
		name string
		make func() *JSON[any]
		most int
	}{
		{"the default", pool.NewJSON, 1000},
		{"without a pool", func() *JSON[any] { return new(JSON[any]) }, 1000},
		{"an option", few.NewJSON, 3},
	} {
		for _, levels := range []int{test.most, test.most + 1, 9_999} {
			j := test.make()
			_, err := j.UnmarshalMsg(msgp.AppendBytes(nil, []byte(nestedJSON(levels))))
			switch {
			case levels <= test.most && err != nil:
				t.Errorf("%s: %d levels: %v", test.name, levels, err)
			case levels > test.most && (!errors.Is(err, mpack.ErrDepth) || j.Value() != nil):
				t.Errorf("%s: %d levels: %v", test.name, levels, err)
			}
		}
	}
	array := NewArrayOf(pool.NewJSON)
	b := msgp.AppendArrayHeader(nil, 40)
	for range 40 {
		b = msgp.AppendBytes(b, []byte(nestedJSON(500)))
	}
	a := array.New()
	if _, err := a.UnmarshalMsg(b); err != nil || len(a.Value()) != 40 {
		t.Errorf("%d values, %v", len(a.Value()), err)
	}
}

func TestNestedMessagesOfTheProtocolAreNotDecoded(t *testing.T) {
	within := func(levels int) []byte {
		b := msgp.AppendMapHeader(nil, 1)
		b = msgp.AppendString(b, "of a later version")
		return append(b, nested(levels-1)...)
	}
	for name, v := range map[string]msgp.Unmarshaler{
		"ping": new(pingMsg), "pong": new(pongMsg), "hello": new(connectReq), "answer": new(connectResp), "refusal": new(muxConnectError),
	} {
		if err := unmarshal(v, within(maxProtocolDepth)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, levels := range []int{maxProtocolDepth + 1, 90_000} {
			if err := unmarshal(v, within(levels)); !errors.Is(err, mpack.ErrDepth) {
				t.Errorf("%s: %d levels: %v", name, levels, err)
			}
		}
	}
	if err := several.checkMetadata(within(1000)); err == nil {
		t.Error("nested metadata passes")
	}
	for i := range messageFields { // in place of each field of a message
		b := append([]byte{0x90 | messageFields}, make([]byte, i)...)
		if err := new(message).parse(append(b, nested(100_000)...)); err == nil {
			t.Errorf("a message with nested arrays for its field %d passes", i)
		}
	}
}

// A goroutine keeps the stack that it once needed. So what is nested must not grow the stack of
// a handler, which may wait for long after it is decoded.
func TestNestedValuesTakeNoStackOfHandlers(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector makes larger stacks")
	}
	const handlers = 1000
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxRequestBytes = 1 << 30 }) // objects within each other count for much
	gate, waiting := make(chan struct{}), make(chan struct{}, 2*handlers)
	stay := func() { waiting <- struct{}{}; <-gate }
	msgpack := NewSingleHandler[*opaque, NoPayload](testSingle, func() *opaque { return new(opaque) }, NewNoPayload)
	pool := NewJSONPool[any]()
	text := NewSingleHandler[*JSON[any], NoPayload](testSingle, pool.NewJSON, NewNoPayload)
	for _, n := range c.nodes {
		if err := errors.Join(
			msgpack.Register(n.Manager, func(*opaque) (NoPayload, *RemoteErr) { stay(); return NoPayload{}, nil }),
			text.Register(n.Manager, func(*JSON[any]) (NoPayload, *RemoteErr) { stay(); return NoPayload{}, nil }, "json"),
		); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()                                     // new goroutines start with stacks as they were used at the last one
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection shrinks stacks
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(gate)
	call := func(r Requester, payload []byte) {
		if _, err := r.Request(t.Context(), testSingle, payload); err != nil {
			t.Errorf("a request failed: %v", err)
			waiting <- struct{}{}
		}
	}
	before := stackBytes()
	for range handlers {
		wg.Go(func() { call(c.conn(0, 1), nested(defaultMaxDepth)) })
		wg.Go(func() {
			call(c.conn(0, 1).Subroute("json"), msgp.AppendBytes(nil, []byte(nestedJSON(defaultMaxDepth))))
		})
	}
	for range 2 * handlers {
		<-waiting
	}
	each := (stackBytes() - before) / (2 * handlers)
	t.Logf("%d bytes of stacks for each handler and its caller", each)
	// A stack of 1,000 levels has 64 KiB or more.
	if each > 32<<10 {
		t.Errorf("%d bytes of stacks for each handler that waits", each)
	}
}

// stackBytes is what the stacks of goroutines take.
func stackBytes() int64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.StackInuse)
}

// 47 MiB of what is nested made 3.5 GiB of stacks.
func TestAnAttackWithNestedValuesTakesNoStacks(t *testing.T) {
	const requests, size = 500, 97 << 10
	c := startCluster(t, 2, nil)
	gate, ended := make(chan struct{}), make(chan bool, requests) // whether a request was refused
	h := NewSingleHandler[*opaque, NoPayload](testSingle, func() *opaque { return new(opaque) }, NewNoPayload)
	for _, n := range c.nodes {
		if err := h.Register(n.Manager, func(*opaque) (NoPayload, *RemoteErr) {
			ended <- false
			<-gate
			return NoPayload{}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := stackBytes()
	payload := nested(size)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(gate)
	for range requests {
		wg.Go(func() {
			_, err := c.conn(0, 1).Request(t.Context(), testSingle, payload)
			if IsRemoteErr(err) != nil && strings.Contains(err.Error(), "nested too deeply") {
				ended <- true
			} else if err != nil {
				t.Errorf("a request failed: %v", err)
				ended <- false
			}
		})
	}
	refused := 0
	for range requests {
		if <-ended {
			refused++
		}
	}
	if refused != requests {
		t.Errorf("%d of %d requests were refused", refused, requests)
	}
	if grown := stackBytes() - before; grown > requests*size {
		t.Errorf("%d bytes of stacks for %d bytes of requests", grown, requests*size)
	}
}

func TestADecoderMayPanicOrExit(t *testing.T) {
	for name, f := range map[string]func(){
		"panic": func() { panic("the decoder panics") },
		"exit":  runtime.Goexit,
	} {
		p := pool[*opaque]{newFn: func() *opaque { return &opaque{before: f} }}
		for range 2 * cap(deepPayloads) { // no place is lost
			if _, err := p.unmarshal(nested(maxSharedStack+1), nil); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	}
}
