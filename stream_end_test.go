package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowNote takes a while to be encoded.
type slowNote struct{ Bytes }

// MarshalMsg encodes it.
func (n *slowNote) MarshalMsg(b []byte) ([]byte, error) {
	time.Sleep(2 * time.Millisecond)
	return n.Bytes.MarshalMsg(b)
}

func TestAStreamThatItsDeadlineCutNeverLooksWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		c := startPipes(t, 2, func(i int, o *ManagerOptions) {
			o.Interceptors = []Interceptor{{ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
				info.Observe(StreamObserver{OnEnd: func(err error) { ended <- err }})
				return next(ctx, payload)
			}}}
		})
		h := NewStream[NoPayload, *Bytes](testStream, nil, nil, func() *slowNote { return new(slowNote) }).WithOutCapacity(4)
		for _, n := range c.nodes {
			err := h.RegisterNoPayload(n.Manager, func(ctx context.Context, _ <-chan *Bytes, out chan<- *slowNote) *RemoteErr {
				for {
					select {
					case out <- &slowNote{Bytes("row")}:
					case <-ctx.Done():
						return nil
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			start := time.Now()
			late, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
			st, err := h.Call(lateContext{late, start.Add(20 * time.Millisecond)}, c.conn(0, 1), NewNoPayload())
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Results(nil); err != context.DeadlineExceeded || time.Since(start) != 30*time.Millisecond {
				t.Errorf("it ended with %v after %v", err, time.Since(start))
			}
			if err := <-ended; err != context.DeadlineExceeded {
				t.Errorf("the handler's observer was told %v", err)
			}
			cancel()
		}
		synctest.Wait()
		got := handlerStats(c.nodes[1].Stats().Handlers, RoleServer, testStream, "")
		if got.Calls != 20 || got.Errors != (ErrorStats{TimedOut: 20}) {
			t.Errorf("the handler's statistics: %+v", got)
		}
	})
}

// The end of a stream from a node that may say it of one that was cut short is believed only before
// the deadline.
func TestTheEndThatComesAfterTheDeadlineIsBelievedOfSomeOnly(t *testing.T) {
	cause := errors.New("too slow")
	for _, test := range []struct {
		name     string
		features uint32
		after    time.Duration
		last     message
		want     error
	}{
		{"an original's in time", 0, 99 * time.Millisecond, message{Op: OpMuxServerMsg, Flags: FlagEOF}, nil},
		{"an original's", 0, 100 * time.Millisecond, message{Op: OpMuxServerMsg, Flags: FlagEOF}, cause},
		{"one of a node from before", featureNative, 100 * time.Millisecond, message{Op: OpMuxServerMsg, Flags: FlagEOF}, cause},
		{"one of a node like this", nativeFeatures, 100 * time.Millisecond, message{Op: OpMuxServerMsg, Flags: FlagEOF}, nil},
		{"the loss of a stream in time", nativeFeatures, 99 * time.Millisecond, message{Op: OpDisconnectClientMux}, ErrDisconnected},
		{"the loss of a stream", nativeFeatures, 100 * time.Millisecond, message{Op: OpDisconnectClientMux}, cause},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				c.stream(t, 0, 4, count)
				p := c.knock(t, n)
				p.introduceAs(t, host, test.features)
				if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
					t.Fatal(err)
				}
				late, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
				defer cancel()
				st, err := n.Connection(host).NewStream(lateContext{late, time.Now().Add(100 * time.Millisecond)}, testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				open := p.next(t)
				time.Sleep(test.after)
				p.send(t, message{MuxID: open.MuxID, Op: OpAckMux})
				last := test.last
				last.MuxID = open.MuxID
				if last.Op.counted() {
					last.Seq = 1
				}
				p.send(t, last)
				p.send(t, message{MuxID: open.MuxID, Op: OpDisconnectClientMux}) // follows each end
				go readToEnd(p)
				if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, test.want) {
					t.Errorf("it ended with %v, want %v", err, test.want)
				}
				p.socket.Close()
				n.Close()
				synctest.Wait()
			})
		})
	}
}

// lazyContext is a context that tells of its end later than it has ended.
type lazyContext struct {
	context.Context // never ends
	done            chan struct{}
	tell            func()
}

func (c *lazyContext) Done() <-chan struct{} { return c.done }

func (c *lazyContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// AfterFunc is how the context package is told of functions to call at the end.
func (c *lazyContext) AfterFunc(f func()) (stop func() bool) {
	c.tell = f
	return func() bool { return true }
}

func TestACanceledCallersEndOfInputIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ended := make(chan error, 1)
		c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
			for range in {
			}
			ended <- ctx.Err()
			return nil
		})
		for name, end := range map[string]func(st *Stream){
			"by closing Requests": func(st *Stream) { close(st.Requests) },
			"by CloseSend":        func(st *Stream) { st.CloseSend() },
		} {
			ctx := &lazyContext{Context: context.Background(), done: make(chan struct{})}
			st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := st.Send([]byte("half of it")); err != nil {
				t.Fatal(err)
			}
			close(ctx.done)
			end(st)
			if err := <-ended; err != context.Canceled {
				t.Errorf("%s: the handler's input ended, and its context: %v", name, err)
			}
			if err := st.Results(func([]byte) error { return nil }); err != context.Canceled {
				t.Errorf("%s: the stream ended with %v", name, err)
			}
			ctx.tell()
		}
	})
}

// A handler that returns because its request was canceled has no answer.
func TestACanceledRequestIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		c.handle(t, func(ctx context.Context, payload []byte) ([]byte, error) {
			if len(payload) == 0 {
				<-ctx.Done()
			}
			return payload, nil
		})
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		p.send(t, message{MuxID: 1, Op: OpRequest, Handler: testSingle, Flags: FlagEOF})
		synctest.Wait()
		p.send(t, message{MuxID: 1, Op: OpDisconnectServerMux})
		synctest.Wait()
		p.send(t, message{MuxID: 3, Op: OpRequest, Handler: testSingle, Flags: FlagEOF, Payload: []byte("soup")})
		if m := p.next(t); m.Op != OpResponse || m.MuxID != 3 {
			t.Errorf("got %v of mux %d", m.Op, m.MuxID)
		}
		got := handlerStats(n.Stats().Handlers, RoleServer, testSingle, "")
		if got.Calls != 2 || got.Errors != (ErrorStats{Canceled: 1}) {
			t.Errorf("the statistics: %+v", got)
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}

// An interceptor may give a handler less time than its caller has.
func TestAHandlerThatAnInterceptorCutShortHasNotSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, func(i int, o *ManagerOptions) {
			o.Interceptors = []Interceptor{{
				ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
					ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("house rules"))
					defer cancel()
					return next(ctx, payload)
				},
				ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
					ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("house rules"))
					defer cancel()
					return next(ctx, payload)
				},
			}}
		})
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
			<-ctx.Done()
			return nil
		})
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, nil
		})
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Results(func([]byte) error { return nil }); fmt.Sprint(err) != "house rules" {
			t.Errorf("the stream ended with %v", err)
		}
		if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); fmt.Sprint(err) != "house rules" {
			t.Errorf("the request ended with %v", err)
		}
	})
}

// Send fails as soon as the handler has returned, however little of what that has sent was read,
// and all of it can still be read.
func TestSendFailsOnceTheHandlerHasReturned(t *testing.T) {
	const window = 4
	for _, messages := range []int{0, 1, window - 1, window, window + 1, 2 * window} {
		for _, failure := range []*RemoteErr{nil, NewRemoteErrString("disk full")} {
			t.Run(fmt.Sprintf("%d messages and error %v", messages, failure), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startPipes(t, 2, nil)
					c.stream(t, 1, window, func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
						<-in
						for i := range messages {
							out <- number(i)
						}
						return failure
					})
					st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
					if err != nil {
						t.Fatal(err)
					}
					if err := st.Err(); err != nil {
						t.Errorf("an open stream has the error %v", err)
					}
					for err == nil {
						err = st.Send([]byte("chunk"))
					}
					want := errHandlerReturned
					if failure != nil {
						want = failure
					}
					if !errors.Is(err, want) {
						t.Errorf("Send failed with %v, want %v", err, want)
					}
					<-st.Done()
					if err := st.Err(); (err == nil) != (failure == nil) || failure != nil && !errors.Is(err, failure) {
						t.Errorf("the error of the stream is %v", err)
					}
					if err := st.CloseSend(); (err == nil) != (failure == nil) {
						t.Errorf("CloseSend returned %v", err)
					}
					got := 0
					err = st.Results(expectNumbers(&got))
					if got != messages || (err == nil) != (failure == nil) || failure != nil && !errors.Is(err, failure) {
						t.Errorf("got %d of %d messages and %v", got, messages, err)
					}
					synctest.Wait()
					if left := c.idle(); left != "" {
						t.Error(left)
					}
				})
			})
		}
	}
}

// What a caller is told of a handler that has returned, and when, depends on what it understands.
func TestTheEndOfAStreamNeedsACreditAtAnOriginalOnly(t *testing.T) {
	type told struct {
		op    Op
		flags Flags
		text  string
	}
	one, last := told{OpMuxServerMsg, 0, "x"}, told{OpMuxServerMsg, FlagEOF | FlagPayloadIsErr, "disk full"}
	for name, test := range map[string]struct {
		features uint32
		want     [][]told // at first, and after each further credit
	}{
		"an original":               {0, [][]told{{{op: OpAckMux}, one}, {one}, {last}}},
		"a native node from before": {featureNative, [][]told{{{op: OpAckMux}, one}, {one}, {last}}},
		"a node that counts messages": {nativeFeatures &^ featureWindows, [][]told{
			{{op: OpAckMux}, one, {OpUnblockClMux, FlagEOF | FlagPayloadIsErr, "disk full"}},
			{one, last},
		}},
		"a node like this": {nativeFeatures, [][]told{
			{{op: OpAckMux}, one, {OpUnblockClMux, FlagEOF | FlagPayloadIsErr, "disk full"}},
			{one, last},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				c.stream(t, 2, 1, func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
					out <- []byte("x")
					out <- []byte("x")
					return NewRemoteErrString("disk full")
				})
				p := c.knock(t, n)
				p.introduceAs(t, host, test.features)
				p.send(t, message{MuxID: 1, Seq: 1, Op: OpConnectMux, Handler: testStream})
				for credits, want := range test.want {
					if credits > 0 {
						credit := message{MuxID: 1, Seq: uint32(credits), Op: OpUnblockSrvMux}
						if test.features&featureWindows != 0 {
							credit.DeadlineMS = messageFootprint + uint32(len("x"))
						}
						p.send(t, credit)
					}
					for _, want := range want {
						m := p.next(t)
						if got := (told{m.Op, m.Flags &^ FlagCRCxxh3, string(m.Payload)}); got != want {
							t.Errorf("after %d credits: got %+v, want %+v", credits, got, want)
						}
					}
				}
				if m := p.next(t); m.Op != OpDisconnectClientMux {
					t.Errorf("the last message is %v", m.Op)
				}
				p.socket.Close()
				n.Close()
				synctest.Wait()
			})
		})
	}
}

func TestCloseSendEndsTheInputBehindAllThatWasSent(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.stream(t, 4, 1, func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		n := 0
		for range in {
			n++
		}
		out <- number(n)
		return nil
	})
	for range 50 {
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		var sent atomic.Int64
		enough := make(chan struct{})
		var senders sync.WaitGroup
		for range 4 {
			senders.Go(func() {
				for {
					err := st.Send([]byte("soup"))
					switch {
					case err == nil:
						if sent.Add(1) == 10 {
							close(enough)
						}
					case err != errRequestsEnded && err != errHandlerReturned:
						t.Errorf("Send beside CloseSend returned %v", err)
						return
					default:
						return
					}
				}
			})
		}
		for range 3 {
			senders.Go(func() {
				<-enough
				if err := st.CloseSend(); err != nil {
					t.Errorf("CloseSend returned %v", err)
				}
				if err := st.Send(nil); err != errRequestsEnded && err != errHandlerReturned {
					t.Errorf("Send after CloseSend returned %v", err)
				}
			})
		}
		got := 0
		err = st.Results(func(b []byte) error {
			got = int(binary.BigEndian.Uint64(b))
			return nil
		})
		senders.Wait()
		if err != nil || got != int(sent.Load()) {
			t.Errorf("the handler got %d of %d messages, and the stream ended with %v", got, sent.Load(), err)
		}
		<-st.Done()
		if err := st.Err(); err != nil {
			t.Errorf("the stream that has succeeded has the error %v", err)
		}
	}
	c.waitIdle(t)
}

func TestTypedStreamsHaveCloseSendDoneAndErr(t *testing.T) {
	c := startCluster(t, 2, nil)
	h := newNoteStream()
	for _, n := range c.nodes {
		if err := h.Register(n.Manager, upper); err != nil {
			t.Fatal(err)
		}
	}
	st, err := h.Call(t.Context(), c.conn(0, 1), &note{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(&note{Text: "soup"}); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
	}
	if err := st.Send(&note{}); err != errRequestsEnded && err != errHandlerReturned {
		t.Errorf("Send after CloseSend returned %v", err)
	}
	got, err := texts(h, st)
	if err != nil || len(got) != 2 || got[1] != "SOUP" {
		t.Errorf("got %q and %v", got, err)
	}
	<-st.Done()
	if err := st.Err(); err != nil {
		t.Error(err)
	}
	var none *TypedStream[*note, *note]
	<-none.Done()
	if none.Err() == nil || none.CloseSend() == nil {
		t.Error("a nil stream has no error")
	}
	var nothing *Stream
	<-nothing.Done()
	if nothing.Err() == nil || nothing.CloseSend() == nil {
		t.Error("a nil stream has no error")
	}
}

func TestDoneAndErrTellOfACancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.stream(t, 0, 1, talk(make(chan error, 1)))
		cause := errors.New("other plans")
		ctx, cancel := context.WithCancelCause(t.Context())
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.CloseSend(); err != nil {
			t.Errorf("CloseSend where there is no input returned %v", err)
		}
		select {
		case <-st.Done():
			t.Error("an open stream is done")
		default:
		}
		cancel(cause)
		<-st.Done()
		if st.Err() != cause || st.CloseSend() != cause || st.Results(func([]byte) error { return nil }) != cause {
			t.Errorf("the stream's error is %v", st.Err())
		}
	})
}

// lateContext is a context whose end comes behind its deadline, as on a busy machine.
type lateContext struct {
	context.Context
	deadline time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.deadline, true }

// A handler whose input has ended looks at its context to see whether that is all of it. So the
// context ends first, however long that takes.
func TestTheContextOfACanceledHandlerEndsBeforeItsInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		seen := make(chan error, 1)
		c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
			for range in {
			}
			seen <- ctx.Err()
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		open := c.conn(1, 0).current.Load().muxes.servers.all()
		if len(open) != 1 {
			t.Fatalf("%d streams are open, want 1", len(open))
		}
		stop := open[0].stop
		open[0].stop = func(cause error) {
			time.Sleep(time.Second)
			stop(cause)
		}
		cancel()
		if err := st.Results(func([]byte) error { return nil }); err != context.Canceled {
			t.Errorf("the stream ended with %v", err)
		}
		if err := <-seen; err != context.Canceled {
			t.Errorf("the handler's input ended, and the error of its context was %v", err)
		}
	})
}
