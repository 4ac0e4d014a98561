package grid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/race"
)

// steps notes what happens, in order.
type steps struct {
	mu   sync.Mutex // Protects following.
	list []string
}

func (s *steps) add(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf(format, a...))
}

// take returns the steps since the last time.
func (s *steps) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return strings.Join(list, ", ")
}

// noting is an interceptor that notes when it is entered and left.
func (s *steps) noting(name string) Interceptor {
	return Interceptor{
		ClientRequest: func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
			s.add("%s>", name)
			defer s.add("<%s", name)
			return next(ctx, req)
		},
		ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			s.add("%s>", name)
			defer s.add("<%s", name)
			return next(ctx, payload)
		},
		ServerRequest: func(ctx context.Context, info *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			s.add("[%s", name)
			defer s.add("%s]", name)
			return next(ctx, payload)
		},
		ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
			s.add("[%s", name)
			defer s.add("%s]", name)
			return next(ctx, payload)
		},
	}
}

// intercepted starts two nodes; calls go from node 0, with the interceptors of client, to node 1,
// with those of server.
func intercepted(t *testing.T, client, server []Interceptor) *cluster {
	t.Helper()
	return startCluster(t, 2, func(i int, o *ManagerOptions) { o.Interceptors = [][]Interceptor{client, server}[i] })
}

// drain reads a stream to its end.
func drain(st *Stream, err error) error {
	if err != nil {
		return err
	}
	return st.Results(func(b []byte) error { PutByteBuffer(b); return nil })
}

func TestTheFirstInterceptorIsOutermost(t *testing.T) {
	var s steps
	both := []Interceptor{s.noting("a"), {ClientRequest: s.noting("b").ClientRequest}, s.noting("c")}
	c := intercepted(t, both, []Interceptor{s.noting("x"), s.noting("y")})
	c.handle(t, func(_ context.Context, p []byte) ([]byte, error) { s.add("handler"); return p, nil })
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { s.add("handler"); return nil })
	if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := s.take(), "a>, b>, c>, [x, [y, handler, y], x], <c, <b, <a"; got != want {
		t.Errorf("a request goes %s, want %s", got, want)
	}
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err := drain(st, err); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(s.take(), ", ")
	server := slices.DeleteFunc(slices.Clone(got), func(step string) bool { return strings.ContainsAny(step, "<>") })
	client := slices.DeleteFunc(got, func(step string) bool { return !strings.ContainsAny(step, "<>") })
	if fmt.Sprint(client) != "[a> c> <c <a]" || fmt.Sprint(server) != "[[x [y handler y] x]]" {
		t.Errorf("a stream goes %v here and %v there", client, server)
	}
	if _, err := c.conn(1, 0).Request(t.Context(), testSingle, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := s.take(), "x>, y>, [a, [c, handler, c], a], <y, <x"; got != want {
		t.Errorf("a request the other way goes %s, want %s", got, want)
	}
}

func TestInterceptorsKnowTheCall(t *testing.T) {
	var client, server sync.Map // to CallInfo
	note := func(m *sync.Map, info CallInfo) { m.Store(info, true) }
	c := intercepted(t, []Interceptor{{
		ClientRequest: func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
			note(&client, *info)
			return next(ctx, req)
		},
		ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			note(&client, info.CallInfo)
			return next(ctx, payload)
		},
	}}, []Interceptor{{
		ServerRequest: func(ctx context.Context, info *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			note(&server, *info)
			return next(ctx, payload)
		},
		ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
			note(&server, info.CallInfo)
			return next(ctx, payload)
		},
	}})
	for way, call := range metadataCalls(t, c) {
		if _, err := call(t.Context(), c.conn(0, 1)); err != nil {
			t.Fatalf("%s: %v", way, err)
		}
	}
	here, there := c.nodes[0].host, c.nodes[1].host
	for _, want := range []CallInfo{
		{Handler: testSingle},
		{Handler: testSingle, Subroute: "a/b"},
		{Handler: testSingle, Subroute: "typed"},
		{Handler: testStream},
		{Handler: testStream, Subroute: "typed/stream"},
	} {
		want.Local, want.Remote, want.Method = here, there, want.Handler.String()
		want.RemoteAddr = c.conn(0, 1).Peer().RemoteAddr
		if _, ok := client.LoadAndDelete(want); !ok {
			t.Errorf("no interceptor of the caller has seen %+v", want)
		}
		want.Local, want.Remote, want.RemoteAddr = there, here, c.conn(1, 0).Peer().RemoteAddr
		if _, ok := server.LoadAndDelete(want); !ok {
			t.Errorf("no interceptor of the handler has seen %+v", want)
		}
	}
	client.Range(func(k, _ any) bool { t.Errorf("also seen: %+v", k); return true })
	server.Range(func(k, _ any) bool { t.Errorf("also seen: %+v", k); return true })
}

func TestInterceptorsAnswerAndRewrite(t *testing.T) {
	errHere, errThere := errors.New("not from here"), RemoteErr("not there")
	client := Interceptor{
		ClientRequest: func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
			switch string(req) {
			case "answer here":
				return []byte("answered here"), nil
			case "refuse here":
				return nil, errHere
			case "again":
				first, err := next(ctx, []byte("first"))
				if err != nil {
					return nil, err
				}
				defer PutByteBuffer(first)
				second, err := next(ctx, append(first, "+second"...))
				return second, err
			case "no context":
				return next(nil, req)
			}
			b, err := next(ctx, req)
			if err != nil {
				err = fmt.Errorf("rewritten: %w", err)
			}
			return b, err
		},
		ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			switch string(payload) {
			case "refuse here":
				return nil, errHere
			case "nothing here":
				return nil, nil
			case "no context":
				return next(nil, payload)
			}
			return next(ctx, payload)
		},
	}
	server := Interceptor{
		ServerRequest: func(ctx context.Context, info *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			switch string(payload) {
			case "answer there":
				return []byte("answered there"), nil
			case "refuse there":
				return nil, &errThere
			}
			b, err := next(ctx, append(payload, '!'))
			if err != nil {
				return nil, NewRemoteErrf("there: %v", err)
			}
			return append(b, '?'), nil
		},
		ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
			switch string(payload) {
			case "refuse there":
				return &errThere
			case "twice":
				next(ctx, payload)
				return next(ctx, payload)
			}
			if err := next(ctx, payload); err != nil {
				return NewRemoteErrf("there: %v", err)
			}
			return nil
		},
	}
	c := intercepted(t, []Interceptor{client}, []Interceptor{server})
	var handled atomic.Int64
	for _, n := range c.nodes { // a handler without a context
		err := n.RegisterSingleHandler(testSingle, func(p []byte) ([]byte, *RemoteErr) {
			handled.Add(1)
			if string(p) == "fail!" {
				return nil, NewRemoteErrString("failed")
			}
			return p, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.stream(t, 0, 1, func(_ context.Context, p []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		handled.Add(1)
		if string(p) == "fail" {
			return NewRemoteErrString("failed")
		}
		out <- p
		return nil
	})
	for _, test := range []struct {
		req, want string
		handled   int64
		err       string
	}{
		{"hello", "hello!?", 1, ""},
		{"answer here", "answered here", 0, ""},
		{"refuse here", "", 0, "not from here"},
		{"again", "first!?+second!?", 2, ""},
		{"answer there", "answered there", 0, ""},
		{"refuse there", "", 0, "rewritten: not there"},
		{"fail", "", 1, "rewritten: there: failed"},
		{"no context", "", 0, errNilContext.Error()},
	} {
		handled.Store(0)
		got, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte(test.req))
		if string(got) != test.want || errorText(err) != test.err || handled.Load() != test.handled {
			t.Errorf("%s: got %q, %v, handled %d times", test.req, got, err, handled.Load())
		}
	}
	for _, test := range []struct {
		payload string
		handled int64
		err     string
	}{
		{"hello", 1, ""},
		{"refuse here", 0, "not from here"},
		{"nothing here", 0, errNoStream.Error()},
		{"refuse there", 0, "not there"},
		{"fail", 1, "there: failed"},
		{"twice", 1, errServedTwice.Error()},
		{"no context", 0, errNilContext.Error()},
	} {
		handled.Store(0)
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, []byte(test.payload))
		err = drain(st, err)
		if errorText(err) != test.err || handled.Load() != test.handled {
			t.Errorf("stream, %s: got %v, handled %d times", test.payload, err, handled.Load())
		}
	}
	c.waitIdle(t)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPanicsOfInterceptors(t *testing.T) {
	opened := make(chan *Stream, 10)
	client := Interceptor{
		ClientRequest: func(ctx context.Context, _ *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
			b, err := next(ctx, req)
			if string(req) == "panic here" {
				panic("oops")
			}
			return b, err
		},
		ClientStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			st, err := next(ctx, payload)
			if err == nil {
				opened <- st
			}
			switch string(payload) {
			case "panic here":
				panic("oops")
			case "error here":
				return nil, errors.New("changed its mind")
			case "another":
				return next(ctx, []byte("stay"))
			}
			return st, err
		},
	}
	server := Interceptor{
		ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			if string(payload) == "panic there" {
				panic("oops")
			}
			return next(ctx, payload)
		},
		ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
			if string(payload) == "panic there" {
				panic("oops")
			}
			return next(ctx, payload)
		},
	}
	c := intercepted(t, []Interceptor{client}, []Interceptor{server})
	c.handle(t, echo)
	stay := make(chan struct{})
	c.stream(t, 0, 1, func(ctx context.Context, p []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		if string(p) == "stay" {
			select {
			case <-stay:
				return nil
			case <-ctx.Done():
				return NewRemoteErrString("canceled")
			}
		}
		<-ctx.Done()
		return nil
	})
	conn := c.conn(0, 1)
	recovered := func(f func()) (r any) {
		defer func() { r = recover() }()
		f()
		return nil
	}
	if r := recovered(func() { conn.Request(t.Context(), testSingle, []byte("panic here")) }); r != "oops" {
		t.Errorf("the caller of a request recovers %v", r)
	}
	// The context goes on: only the interceptor's end can have canceled these.
	if r := recovered(func() { conn.NewStream(t.Context(), testStream, []byte("panic here")) }); r != "oops" {
		t.Errorf("the caller of a stream recovers %v", r)
	}
	if _, err := conn.NewStream(t.Context(), testStream, []byte("error here")); errorText(err) != "changed its mind" {
		t.Errorf("got %v", err)
	}
	st, err := conn.NewStream(t.Context(), testStream, []byte("another"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := drain(<-opened, nil); err != errNotReturned {
			t.Errorf("a stream that was not returned ended with %v", err)
		}
	}
	close(stay)
	if err := drain(st, nil); err != nil {
		t.Errorf("the stream that was returned ended with %v", err)
	}
	if _, err := conn.Request(t.Context(), testSingle, []byte("panic there")); !strings.Contains(errorText(err), "panicked: oops") {
		t.Errorf("got %v", err)
	}
	st, err = conn.NewStream(t.Context(), testStream, []byte("panic there"))
	if err := drain(st, err); !strings.Contains(errorText(err), "panicked: oops") {
		t.Errorf("got %v", err)
	}
	if n := c.nodes[1].log.count("handler panicked"); n != 2 {
		t.Errorf("%d panics are in the log:\n%s", n, c.nodes[1].log)
	}
	if b, err := conn.Request(t.Context(), testSingle, []byte("hi")); err != nil || string(b) != "hi" {
		t.Errorf("afterwards got %q, %v", b, err)
	}
	c.waitIdle(t)
}

func TestInterceptorsHandMetadataOn(t *testing.T) {
	type userKey struct{}
	outer := Interceptor{
		ClientRequest: func(ctx context.Context, _ *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
			return next(WithMetadata(ctx, Metadata{"hop": {OutgoingMetadata(ctx).Get("hop") + "a"}}), req)
		},
		ClientStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			return next(WithMetadata(ctx, Metadata{"hop": {OutgoingMetadata(ctx).Get("hop") + "a"}}), payload)
		},
	}
	read := func(ctx context.Context) context.Context {
		md := MetadataFrom(ctx).Clone()
		ctx = context.WithValue(ctx, userKey{}, md.Get("hop"))
		md.Set("hop", md.Get("hop")+"x")
		return WithIncomingMetadata(ctx, md)
	}
	server := Interceptor{
		ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			return next(read(ctx), payload)
		},
		ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
			return next(read(ctx), payload)
		},
	}
	c := intercepted(t, []Interceptor{outer, outer}, []Interceptor{server, server})
	for way, call := range metadataCalls(t, c) {
		ctx := WithMetadata(t.Context(), Metadata{"hop": {"0"}, "user": {"anna"}})
		got, err := call(ctx, c.conn(0, 1))
		if want := "map[hop:[0aaxx] user:[anna]]"; err != nil || got != want {
			t.Errorf("%s: the handler sees %q, %v, want %q", way, got, err, want)
		}
		if got := OutgoingMetadata(ctx).Get("hop"); got != "0" {
			t.Errorf("the caller's context carries %q", got)
		}
	}
	for _, n := range c.nodes {
		err := n.RegisterSingleHandlerContext(testSingle, func(ctx context.Context, _ []byte) ([]byte, error) {
			user, _ := ctx.Value(userKey{}).(string)
			return fmt.Append(nil, user, GetCaller(ctx).Name, GetSubroute(ctx)), nil
		}, "value")
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.conn(0, 1).Subroute("value").Request(t.Context(), testSingle, nil)
	if want := "aax" + c.nodes[0].host + "value"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// An interceptor of a handler without a context has one all the same, with all that is in it.
func TestHandlersWithoutContextHaveOneForInterceptors(t *testing.T) {
	waits, ended := make(chan struct{}), make(chan error, 1)
	var caller atomic.Value
	c := intercepted(t, nil, []Interceptor{{
		ServerRequest: func(ctx context.Context, info *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
			deadline, ok := ctx.Deadline()
			caller.Store(fmt.Sprint(GetCaller(ctx).Name, GetSubroute(ctx), ok && time.Until(deadline) < time.Minute+time.Second))
			if len(payload) > 0 {
				close(waits)
				<-ctx.Done()
				ended <- context.Cause(ctx)
			}
			return next(ctx, payload)
		},
	}})
	for _, n := range c.nodes {
		if err := n.RegisterSingleHandler(testSingle, func(p []byte) ([]byte, *RemoteErr) { return p, nil }, "x"); err != nil {
			t.Fatal(err)
		}
	}
	conn := c.conn(0, 1).Subroute("x")
	if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint(c.nodes[0].host, "x", true); caller.Load() != want {
		t.Errorf("the interceptor's context says %v, want %v", caller.Load(), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := conn.Request(ctx, testSingle, []byte("wait"))
		done <- err
	}()
	<-waits
	cancel()
	if err := <-done; err != context.Canceled {
		t.Errorf("the caller got %v", err)
	}
	if err := <-ended; err != context.Canceled {
		t.Errorf("the interceptor's context ended with %v", err)
	}
	c.waitIdle(t)
}

func TestInterceptorsOfHandlersAreForRegisteredOnesOnly(t *testing.T) {
	var s steps
	c := intercepted(t, []Interceptor{s.noting("a")}, []Interceptor{s.noting("x")})
	if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	if _, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	if _, err := c.conn(0, 1).Request(t.Context(), 0, nil); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	if _, err := (*Connection)(nil).Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
		t.Errorf("got %v", err)
	}
	if got := s.take(); got != "a>, <a, a>, <a" {
		t.Errorf("unknown handlers go %s", got)
	}
}

func TestAnInterceptorWithoutAFunctionIsAnError(t *testing.T) {
	_, err := NewManager(t.Context(), ManagerOptions{
		Local:        "http://a",
		Hosts:        []string{"http://a"},
		AuthRequest:  func(*http.Request) error { return nil },
		Interceptors: []Interceptor{new(steps).noting("a"), {}},
	})
	if errorText(err) != "grid: ManagerOptions.Interceptors[1]: no function is set" {
		t.Errorf("got %v", err)
	}
}

// What a call costs where no interceptor is set.
func TestCallsWithoutInterceptorsAllocateNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("sync.Pool drops values at random under the race detector")
	}
	c := startCluster(t, 2, nil)
	typed := NewSingleHandler[*Bytes, *Bytes](testSingle, NewBytes, NewBytes)
	for _, n := range c.nodes {
		err := errors.Join(
			n.RegisterSingleHandler(testSingle, func(p []byte) ([]byte, *RemoteErr) { return p, nil }),
			typed.Register(n.Manager, func(req *Bytes) (*Bytes, *RemoteErr) {
				resp := typed.NewResponse()
				*resp = append((*resp)[:0], *req...)
				return resp, nil
			}, "typed"))
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, conn, payload := context.Background(), c.conn(0, 1), make([]byte, 512)
	route, req := conn.Subroute("typed"), NewBytesWith(payload)
	for name, test := range map[string]struct {
		most float64
		call func() error
	}{
		"raw": {0, func() error {
			b, err := conn.Request(ctx, testSingle, payload)
			PutByteBuffer(b)
			return err
		}},
		"typed, on a subroute": {1, func() error {
			resp, err := typed.Call(ctx, route, req)
			typed.PutResponse(resp)
			return err
		}},
	} {
		n := testing.AllocsPerRun(2000, func() {
			if err := test.call(); err != nil {
				t.Fatal(err)
			}
		})
		if n > test.most {
			t.Errorf("%s: %v allocations a call, at most %v", name, n, test.most)
		}
	}
}

// BenchmarkInterceptors is a request with n interceptors on each side that only call next.
func BenchmarkInterceptors(b *testing.B) {
	for _, n := range []int{0, 1, 3} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			g := benchGrid(b, 2)
			pass := Interceptor{
				ClientRequest: func(ctx context.Context, _ *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
					return next(ctx, req)
				},
				ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
					return next(ctx, payload)
				},
			}
			all := newInterceptors(slices.Repeat([]Interceptor{pass}, n))
			for _, m := range g.Managers {
				m.interceptors = all
				if err := m.RegisterSingleHandler(benchEcho, func(p []byte) ([]byte, *RemoteErr) { return p, nil }, "bench"); err != nil {
					b.Fatal(err)
				}
			}
			conn := g.Managers[0].Connection(g.Hosts[1]).Subroute("bench")
			b.ReportAllocs()
			for b.Loop() {
				resp, err := conn.Request(context.Background(), benchEcho, benchBytes)
				if err != nil {
					b.Fatal(err)
				}
				PutByteBuffer(resp)
			}
		})
	}
}
