package grid

import (
	"context"
	"errors"
	"fmt"
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
			o.Interceptors = []Interceptor{{ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) *RemoteErr {
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

// The end of a stream from a node that may say it of one that was cut short is believed only before the deadline.
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
		c.handle(t, func(ctx context.Context, payload []byte) ([]byte, *RemoteErr) {
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
				ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) *RemoteErr {
					ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("house rules"))
					defer cancel()
					return next(ctx, payload)
				},
				ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next SingleHandlerContextFn) ([]byte, *RemoteErr) {
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
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, *RemoteErr) {
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
