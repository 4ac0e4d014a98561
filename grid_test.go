package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// echo answers with its payload.
func echo(_ context.Context, payload []byte) ([]byte, error) { return payload, nil }

func TestTheTestGridConnectsEverybodyAndLeavesNothing(t *testing.T) {
	for _, n := range []int{1, 2, 4} {
		g, err := SetupTestGrid(n)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range g.Managers {
			if m.HostName() != g.Hosts[i] || len(m.Targets()) != n-1 {
				t.Errorf("node %d is %s with targets %v", i, m.HostName(), m.Targets())
			}
			if err := m.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err != nil {
				t.Fatal(err)
			}
		}
		for _, m := range g.Managers {
			for _, host := range m.Targets() {
				c := m.Connection(host)
				if got, want := c.String(), m.HostName()+"->"+host; got != want {
					t.Errorf("String is %q, want %q", got, want)
				}
				if got, want := c.StringReverse(), host+"->"+m.HostName(); got != want {
					t.Errorf("StringReverse is %q, want %q", got, want)
				}
				got, err := c.Request(t.Context(), testSingle, []byte("hello"))
				if err != nil || string(got) != "hello" {
					t.Errorf("%v: got %q, %v", c, got, err)
				}
			}
		}
		g.Cleanup()
		g.Cleanup()
		waitGoroutines(t, 0)
	}
	if _, err := SetupTestGrid(0); err == nil {
		t.Error("a grid without nodes was made")
	}
}

func TestPayloadsComeBackAsTheyWere(t *testing.T) {
	const limit = 8 << 20
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = limit })
	c.handle(t, echo)
	pattern := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7 >> 3)
		}
		return b
	}
	for _, test := range []struct {
		name    string
		payload []byte
	}{
		{"nil", nil},
		{"empty", []byte{}},
		{"one byte", []byte{0}},
		{"the largest short bin", pattern(255)},
		{"the smallest medium bin", pattern(256)},
		{"around a read buffer", pattern(4096)},
		{"as large as a shared frame", pattern(64 << 10)},
		{"larger than the send queue", pattern(1 << 20)},
		{"larger than the reserve for control messages", pattern(5 << 20)},
		{"the limit", pattern(limit - maxOverhead)},
	} {
		for i := range c.nodes {
			sent := bytes.Clone(test.payload)
			got, err := c.conn(i, 1-i).Request(t.Context(), testSingle, test.payload)
			if err != nil || !bytes.Equal(got, test.payload) || (got == nil) != (test.payload == nil) {
				t.Errorf("%s: got %d bytes (nil: %v), %v", test.name, len(got), got == nil, err)
			}
			if !bytes.Equal(sent, test.payload) {
				t.Errorf("%s: the caller's buffer was changed", test.name)
			}
			PutByteBuffer(got)
		}
	}
	t.Run("one byte over the limit is refused before it is sent", func(t *testing.T) {
		_, err := c.conn(0, 1).Request(t.Context(), testSingle, make([]byte, limit-maxOverhead+1))
		if !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("got %v", err)
		}
		if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
			t.Errorf("the connection was lost: %v", err)
		}
	})
}

func TestAnswersOverTheLimitBecomeErrors(t *testing.T) {
	const limit = 128 << 10
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = limit })
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		if string(payload) == "error" {
			return nil, NewRemoteErrString(strings.Repeat("x", 2*limit))
		}
		return make([]byte, 2*limit), nil
	})
	c.stream(t, 0, 1, func(_ context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		if string(payload) == "error" {
			return NewRemoteErrString(strings.Repeat("x", 2*limit))
		}
		out <- make([]byte, 2*limit)
		return nil
	})
	for _, payload := range []string{"error", "answer"} {
		within(t, "an answer that is too large", func() {
			_, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte(payload))
			if IsRemoteErr(err) == nil || !strings.Contains(err.Error(), "too large") {
				t.Errorf("%s: the caller got %.100v", payload, err)
			}
			st, err := c.conn(0, 1).NewStream(t.Context(), testStream, []byte(payload))
			if err != nil {
				t.Fatal(err)
			}
			err = st.Results(func([]byte) error { return nil })
			if IsRemoteErr(err) == nil || !strings.Contains(err.Error(), "too large") {
				t.Errorf("%s: the stream ended with %.100v", payload, err)
			}
		})
	}
	if st := c.conn(0, 1).State(); st != StateConnected {
		t.Errorf("the connection is %v", st)
	}
}

func TestSmallLimitsHoldForManyMessagesAtOnce(t *testing.T) {
	for _, limit := range []int{4 << 10, 16 << 10, 64 << 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = limit })
			c.handle(t, echo)
			var wg sync.WaitGroup
			for range 32 {
				wg.Go(func() {
					for range 20 {
						if _, err := c.conn(0, 1).Request(t.Context(), testSingle, make([]byte, 1000)); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestLargeMessagesLeaveControlMessagesTheirRoom(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, func(context.Context, []byte) ([]byte, error) { return nil, nil })
	c.stream(t, 4, 4, echoBack)
	conn := c.conn(0, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	st, err := conn.NewStream(ctx, testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	var stream, calls sync.WaitGroup
	stream.Go(func() {
		for st.Send([]byte("x")) == nil {
		}
	})
	stream.Go(func() {
		if err := st.Results(func([]byte) error { return nil }); err != enough {
			t.Errorf("the stream ended with %v", err)
		}
	})
	large := make([]byte, 6<<20)
	for range 3 {
		calls.Go(func() {
			for range 2 {
				if _, err := conn.Request(t.Context(), testSingle, large); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	cancel(enough)
	stream.Wait()
}

func TestErrorsOfHandlersMatchInEveryForm(t *testing.T) {
	c := startCluster(t, 2, nil)
	value := RemoteErr("out of soup")
	fail := func(context.Context, []byte) ([]byte, error) { return nil, &value }
	c.handle(t, fail)
	c.handle(t, fail, "kitchen", "stove")
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return &value })
	other := RemoteErr("out of bread")
	calls := map[string]func() error{
		"a request": func() error {
			_, err := c.conn(0, 1).Request(t.Context(), testSingle, nil)
			return err
		},
		"a request on a subroute": func() error {
			_, err := c.conn(0, 1).Subroute("kitchen").Subroute("stove").Request(t.Context(), testSingle, nil)
			return err
		},
		"a stream": func() error {
			st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
			if err != nil {
				return err
			}
			return st.Results(func([]byte) error { return nil })
		},
	}
	for name, call := range calls {
		err := call()
		if err == nil || err.Error() != string(value) {
			t.Fatalf("%s failed with %v", name, err)
		}
		for form, err := range map[string]error{"": err, " as a value": *IsRemoteErr(err), " wrapped": fmt.Errorf("cooking: %w", err)} {
			var asValue RemoteErr
			var asPointer *RemoteErr
			if !errors.Is(err, value) || !errors.Is(err, &value) || !errors.As(err, &asValue) || !errors.As(err, &asPointer) {
				t.Errorf("%s%s: not recognized", name, form)
			}
			if asValue != value || asPointer == nil || *asPointer != value {
				t.Errorf("%s%s: As gives %q and %v", name, form, asValue, asPointer)
			}
			if errors.Is(err, other) || errors.Is(err, &other) || errors.Is(err, ErrDisconnected) {
				t.Errorf("%s%s: taken for another error", name, form)
			}
		}
	}
}

func TestCallsOfUnknownHandlersSaySo(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, echo, "a", "b")
	if err := c.nodes[0].RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack}); err != nil {
		t.Fatal(err)
	}
	conn := c.conn(0, 1)
	request := func(r Requester, id HandlerID) error {
		_, err := r.Request(t.Context(), id, nil)
		return err
	}
	stream := func(s Streamer, id HandlerID) error {
		st, err := s.NewStream(t.Context(), id, nil)
		if err != nil {
			return err
		}
		return st.Results(func([]byte) error { return nil })
	}
	for _, test := range []struct {
		name string
		err  error
	}{
		{"a request that nobody serves", request(conn, testSingle)},
		{"handler 0", request(conn, handlerInvalid)},
		{"a part of a route", request(conn.Subroute("a"), testSingle)},
		{"a longer route", request(conn.Subroute("a").Subroute("b").Subroute("c"), testSingle)},
		{"a request for a stream", request(conn, testStream)},
		{"a stream that is not registered here", stream(conn, 125)},
		{"stream 0", stream(conn, handlerInvalid)},
		{"a stream that is not registered there", stream(conn, testStream)},
		{"a stream on a route that is not registered here", stream(conn.Subroute("a"), testStream)},
	} {
		if !errors.Is(test.err, ErrUnknownHandler) {
			t.Errorf("%s: got %v", test.name, test.err)
		}
	}
	if got, err := conn.Subroute("a/b").Request(t.Context(), testSingle, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("a route in one piece: %q, %v", got, err)
	}
	if got, err := conn.Subroute("").Subroute("a").Subroute("").Subroute("b").Request(t.Context(), testSingle, []byte("x")); err != nil || string(got) != "x" {
		t.Errorf("a route with empty parts: %q, %v", got, err)
	}
}

func TestHandlersAreRegisteredOnce(t *testing.T) {
	c := startCluster(t, 1, nil)
	m := c.nodes[0].Manager
	if err := NameHandler(200, "soup"); err != nil {
		t.Fatal(err)
	}
	single := func(id HandlerID, route ...string) error {
		return m.RegisterSingleHandler(id, func(b []byte) ([]byte, *RemoteErr) { return b, nil }, route...)
	}
	stream := func(id HandlerID, route string) error {
		return m.RegisterStreamingHandler(id, StreamHandler{Handle: echoBack, Subroute: route})
	}
	for _, test := range []struct {
		name string
		err  error
		want error
		text string
	}{
		{"a first registration", single(200), nil, ""},
		{"a second one", single(200), ErrHandlerAlreadyExists, "soup"},
		{"a stream with the number of a request", stream(200, ""), ErrHandlerAlreadyExists, "soup"},
		{"the same number on a route", single(200, "a", "b"), nil, ""},
		{"the same route in one piece", stream(200, "a/b"), ErrHandlerAlreadyExists, "a/b"},
		{"a number of the original", single(HandlerDiskInfo), nil, ""},
		{"a number of the original again", single(HandlerDiskInfo), ErrHandlerAlreadyExists, "DiskInfo"},
		{"the last number", stream(255, ""), nil, ""},
		{"handler 0", single(0), ErrUnknownHandler, ""},
		{"stream 0", stream(0, "a"), ErrUnknownHandler, ""},
	} {
		if !errors.Is(test.err, test.want) || test.want != nil && !strings.Contains(test.err.Error(), test.text) {
			t.Errorf("%s: got %v", test.name, test.err)
		}
	}
	for name, err := range map[string]error{
		"no function":       m.RegisterSingleHandler(201, nil),
		"no context func":   m.RegisterSingleHandlerContext(201, nil),
		"no stream func":    m.RegisterStreamingHandler(201, StreamHandler{}),
		"negative capacity": m.RegisterStreamingHandler(201, StreamHandler{Handle: echoBack, InCapacity: -1}),
	} {
		if err == nil {
			t.Errorf("%s was registered", name)
		}
	}
}

func TestHandlersKnowTheirCallerAndRoute(t *testing.T) {
	c := startCluster(t, 3, nil)
	who := func(ctx context.Context) []byte {
		return []byte(GetCaller(ctx).Name + " on " + GetSubroute(ctx))
	}
	routes := [][]string{nil, {"a"}, {"a", "b", "c"}}
	for _, route := range routes {
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) { return who(ctx), nil }, route...)
		for _, n := range c.nodes {
			n.RegisterStreamingHandler(testStream, StreamHandler{
				Subroute: strings.Join(route, "/"),
				Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
					ctx, cancel := context.WithCancel(ctx)
					defer cancel()
					out <- who(ctx)
					return nil
				},
			})
		}
	}
	for i := range c.nodes {
		for j := range c.nodes {
			if i == j {
				continue
			}
			for _, route := range routes {
				conn := c.conn(i, j)
				r, s := Requester(conn), Streamer(conn)
				if len(route) > 0 {
					sub := conn.Subroute(route[0])
					for _, part := range route[1:] {
						sub = sub.Subroute(part)
					}
					r, s = sub, sub
				}
				want := c.nodes[i].host + " on " + strings.Join(route, "/")
				got, err := r.Request(t.Context(), testSingle, nil)
				if err != nil || string(got) != want {
					t.Errorf("a request was seen from %q, %v; want %q", got, err, want)
				}
				st, err := s.NewStream(t.Context(), testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				err = st.Results(func(got []byte) error {
					if string(got) != want {
						t.Errorf("a stream was seen from %q, want %q", got, want)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		}
	}
	if GetCaller(t.Context()) != nil || GetSubroute(t.Context()) != "" {
		t.Error("a context of no handler has a caller")
	}
}

func TestRequestsEndWithTheirContext(t *testing.T) {
	impatience := errors.New("no patience")
	for name, test := range map[string]func(t *testing.T, conn *Connection, entered <-chan struct{}){
		"a canceled context gives its cause at once": func(t *testing.T, conn *Connection, entered <-chan struct{}) {
			ctx, cancel := context.WithCancelCause(t.Context())
			result := make(chan error, 1)
			go func() {
				_, err := conn.Request(ctx, testSingle, nil)
				result <- err
			}()
			<-entered
			cancel(impatience)
			if err := <-result; err != impatience {
				t.Errorf("got %v", err)
			}
		},
		"a deadline gives DeadlineExceeded": func(t *testing.T, conn *Connection, entered <-chan struct{}) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if _, err := conn.Request(ctx, testSingle, nil); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			<-entered
		},
		"a deadline with a cause gives the cause": func(t *testing.T, conn *Connection, entered <-chan struct{}) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, impatience)
			defer cancel()
			if _, err := conn.Request(ctx, testSingle, nil); err != impatience {
				t.Errorf("got %v", err)
			}
			<-entered
		},
		"a context that is over sends nothing": func(t *testing.T, conn *Connection, entered <-chan struct{}) {
			ctx, cancel := context.WithCancelCause(t.Context())
			cancel(impatience)
			if _, err := conn.Request(ctx, testSingle, nil); err != impatience {
				t.Errorf("a request got %v", err)
			}
			synctest.Wait()
			select {
			case <-entered:
				t.Error("the handler ran")
			default:
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where no deadline passes before a request is sent
				c := startPipes(t, 2, nil)
				entered, release := make(chan struct{}, 1), make(chan struct{})
				defer close(release)
				c.handle(t, func(context.Context, []byte) ([]byte, error) {
					entered <- struct{}{}
					<-release // whatever the context says
					return nil, nil
				})
				conn := c.conn(0, 1)
				test(t, conn, entered)
				eventually(t, "no call to wait", func() bool { return conn.active.running.Load() == 0 })
			})
		})
	}
}

func TestAHandlersContextFollowsItsCaller(t *testing.T) {
	c := startCluster(t, 2, nil)
	handlers := make(chan context.Context, 1)
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
		handlers <- ctx
		<-ctx.Done()
		return nil, NewRemoteErr(ctx.Err())
	})
	conn := c.conn(0, 1)
	call := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := conn.Request(ctx, testSingle, nil)
			done <- err
		}()
		return done
	}

	t.Run("it has the caller's deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		done := call(ctx)
		deadline, ok := (<-handlers).Deadline()
		if left := time.Until(deadline); !ok || left > time.Hour || left < time.Hour-time.Minute {
			t.Errorf("the handler has %v left (%v)", left, ok)
		}
		cancel()
		<-done
	})
	t.Run("it has the default of a minute", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := call(ctx)
		deadline, ok := (<-handlers).Deadline()
		if left := time.Until(deadline); !ok || left > time.Minute || left < 30*time.Second {
			t.Errorf("the handler has %v left (%v)", left, ok)
		}
		cancel()
		<-done
	})
	t.Run("it is canceled when the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := call(ctx)
		handler := <-handlers
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v", err)
		}
		<-handler.Done()
		if handler.Err() != context.Canceled {
			t.Errorf("the handler's context ended with %v", handler.Err())
		}
	})
	t.Run("it is canceled when the connection is lost", func(t *testing.T) {
		done := call(t.Context())
		handler := <-handlers
		c.cut()
		if err := <-done; !errors.Is(err, ErrDisconnected) {
			t.Errorf("the caller got %v", err)
		}
		<-handler.Done()
		if cause := context.Cause(handler); !errors.Is(cause, ErrDisconnected) {
			t.Errorf("the handler's context ended with %v", cause)
		}
	})
	c.waitIdle(t)
}

func TestARequestWithoutDeadlineEndsAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) {
			if string(payload) == "hang" {
				<-ctx.Done()
			}
			return nil, nil
		})
		for i := range c.nodes {
			start := time.Now()
			_, err := c.conn(i, 1-i).Request(t.Context(), testSingle, []byte("hang"))
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(start); took < time.Minute || took > time.Minute+5*time.Second {
				t.Errorf("it took %v", took)
			}
		}
		if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
			t.Errorf("the connection is not usable: %v", err)
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

func TestALateAnswerIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		handled := make(chan struct{})
		for _, n := range c.nodes {
			n.RegisterSingleHandler(testSingle, func([]byte) ([]byte, *RemoteErr) {
				time.Sleep(time.Second)
				defer close(handled)
				return []byte("late"), nil
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := c.conn(0, 1).Request(ctx, testSingle, nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 500*time.Millisecond {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		<-handled
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

func TestCallsFailAtOnceWithoutAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(2)
		block := make(chan struct{})
		c.start(t, func(_ int, o *ManagerOptions) { o.BlockConnect = block })
		c.handle(t, echo)
		c.stream(t, 0, 1, echoBack)
		for i := range c.nodes {
			conn := c.conn(i, 1-i)
			start := time.Now()
			if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a request got %v", err)
			}
			if _, err := conn.NewStream(t.Context(), testStream, nil); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a stream got %v", err)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("it took %v", took)
			}
			if conn.State() != StateUnconnected {
				t.Errorf("the state is %v", conn.State())
			}
		}
		time.Sleep(time.Minute)
		if c.dials != 0 {
			t.Errorf("%d dials before BlockConnect was closed", c.dials)
		}
		close(block)
		c.waitConnected(t)
	})
}

func TestALostServerEndsCallsAtOnce(t *testing.T) {
	for _, caller := range []int{0, 1} {
		c := startCluster(t, 2, nil)
		entered := make(chan struct{}, 3)
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			entered <- struct{}{}
			<-ctx.Done()
			return nil, nil
		})
		c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
			entered <- struct{}{}
			for range in {
			}
			return NewRemoteErr(context.Cause(ctx))
		})
		conn := c.conn(caller, 1-caller)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a request got %v", err)
			}
		})
		wg.Go(func() {
			st, err := conn.NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a stream got %v", err)
			}
			if err := st.Send(nil); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a sender got %v", err)
			}
		})
		<-entered
		<-entered
		c.nodes[1-caller].Close()
		within(t, "the loss of a connection", wg.Wait)
		c.nodes[caller].Close()
		waitGoroutines(t, 0)
	}
}

func TestPanicsAreAnsweredAndLogged(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, func(context.Context, []byte) ([]byte, error) { panic("spilled soup") })
	c.handle(t, func(context.Context, []byte) ([]byte, error) { runtime.Goexit(); return nil, nil }, "exit")
	for _, n := range c.nodes {
		n.RegisterSingleHandler(testSingle, func([]byte) ([]byte, *RemoteErr) { panic("spilled soup") }, "plain")
	}
	c.stream(t, 1, 1, func(_ context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		out <- []byte("one")
		if len(payload) > 0 {
			runtime.Goexit()
		}
		panic("spilled soup")
	})
	conn := c.conn(0, 1)
	stream := func(payload []byte) (got int, err error) {
		st, err := conn.NewStream(t.Context(), testStream, payload)
		if err != nil {
			return 0, err
		}
		err = st.Results(func([]byte) error { got++; return nil })
		return got, err
	}
	within(t, "the answer to a panic", func() {
		for name, r := range map[string]Requester{"with a context": conn, "without": conn.Subroute("plain")} {
			_, err := r.Request(t.Context(), testSingle, nil)
			if IsRemoteErr(err) == nil || !strings.Contains(err.Error(), "spilled soup") {
				t.Errorf("%s: the caller got %v", name, err)
			}
		}
		got, err := stream(nil)
		if IsRemoteErr(err) == nil || !strings.Contains(err.Error(), "spilled soup") || got != 1 {
			t.Errorf("the stream ended with %v after %d messages", err, got)
		}
		if _, err := conn.Subroute("exit").Request(t.Context(), testSingle, nil); IsRemoteErr(err) == nil {
			t.Errorf("a handler that exited its goroutine gave %v", err)
		}
		if got, err := stream([]byte("exit")); IsRemoteErr(err) == nil || got != 1 {
			t.Errorf("a stream handler that exited its goroutine gave %v after %d messages", err, got)
		}
	})
	if n := c.nodes[1].log.count("spilled soup"); n < 3 {
		t.Errorf("%d of 3 panics are in the log", n)
	}
	if !strings.Contains(c.nodes[1].log.String(), "grid_test.go") {
		t.Error("the log has no stack")
	}
	if conn.State() != StateConnected {
		t.Errorf("the connection is %v", conn.State())
	}
	c.waitIdle(t)
}

func TestStatsCountOpenStreamsOnly(t *testing.T) {
	c := startCluster(t, 2, nil)
	entered := make(chan struct{})
	release := make(chan struct{})
	wait := func() { entered <- struct{}{}; <-release }
	c.handle(t, func(context.Context, []byte) ([]byte, error) { wait(); return nil, nil })
	c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		entered <- struct{}{}
		<-ctx.Done()
		return nil
	})
	here, there := c.conn(0, 1), c.conn(1, 0)
	expect := func(what string, out, in ConnectionStats) {
		t.Helper()
		state := func() string { return fmt.Sprintf("%+v and %+v", here.Stats(), there.Stats()) }
		streams := func(s ConnectionStats) ConnectionStats {
			return ConnectionStats{OutgoingStreams: s.OutgoingStreams, IncomingStreams: s.IncomingStreams}
		}
		eventually(t, what, func() bool { return streams(here.Stats()) == out && streams(there.Stats()) == in }, state)
	}
	var wg sync.WaitGroup
	wg.Go(func() { here.Request(t.Context(), testSingle, nil) })
	<-entered
	expect("a single request not to count", ConnectionStats{}, ConnectionStats{})

	ctx, cancel := context.WithCancel(t.Context())
	for n := range 3 {
		if _, err := here.NewStream(ctx, testStream, nil); err != nil {
			t.Fatal(err)
		}
		<-entered
		expect("a stream to count", ConnectionStats{OutgoingStreams: n + 1}, ConnectionStats{IncomingStreams: n + 1})
	}
	cancel()
	expect("canceled streams not to count", ConnectionStats{}, ConnectionStats{})
	close(release)
	wg.Wait()
	c.waitIdle(t)
}

func TestManyCallersShareOneConnection(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, echo)
	shared := []byte("nobody may change this")
	var wg sync.WaitGroup
	for n := range 32 {
		conn := c.conn(n%2, 1-n%2)
		wg.Go(func() {
			for i := range 100 {
				want := fmt.Appendf(nil, "%d/%d", n, i)
				got, err := conn.Request(t.Context(), testSingle, want)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %q, %v; want %q", got, err, want)
					return
				}
				PutByteBuffer(got)
				if got, err := conn.Request(t.Context(), testSingle, shared); err != nil || !bytes.Equal(got, shared) {
					t.Errorf("got %q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.waitIdle(t)
}

func TestSynctestBubblesDoNotShareState(t *testing.T) {
	call := func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, echo)
		for range 10 {
			if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
		}
	}
	call(t)
	synctest.Test(t, call)
	synctest.Test(t, call)
	call(t)
}
