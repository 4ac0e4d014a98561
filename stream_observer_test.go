package grid

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// watched counts what an observer is told about all streams of a node.
type watched struct {
	opened, sent, received, sentBytes, receivedBytes atomic.Int64

	ends  chan error // of streams, in the order of their ends
	after atomic.Int64
}

func newWatched() *watched { return &watched{ends: make(chan error, 10000)} }

func (w *watched) observer() StreamObserver {
	w.opened.Add(1)
	var over atomic.Bool
	return StreamObserver{
		OnSend: func(n int) { w.sent.Add(1); w.sentBytes.Add(int64(n)) },
		OnReceive: func(n int) {
			if over.Load() {
				w.after.Add(1)
			}
			w.received.Add(1)
			w.receivedBytes.Add(int64(n))
		},
		OnEnd: func(err error) {
			if over.Swap(true) {
				w.after.Add(1)
			}
			w.ends <- err
		},
	}
}

func (w *watched) interceptor() Interceptor {
	return Interceptor{
		ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			info.Observe(w.observer())
			info.Observe(StreamObserver{}) // is told nothing
			st, err := next(ctx, payload)
			if err != nil {
				w.opened.Add(-1)
			}
			info.Observe(w.observer()) // too late
			w.opened.Add(-1)
			return st, err
		},
		ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
			info.Observe(w.observer())
			info.Observe(StreamObserver{})
			return next(ctx, payload)
		},
	}
}

// counts are the messages sent and received, with their bytes.
func (w *watched) counts() [4]int64 {
	return [4]int64{w.sent.Swap(0), w.sentBytes.Swap(0), w.received.Swap(0), w.receivedBytes.Swap(0)}
}

func TestObserversSeeWhatGoesOverStreams(t *testing.T) {
	here, there := newWatched(), newWatched()
	c := intercepted(t, []Interceptor{here.interceptor()}, []Interceptor{there.interceptor()})
	c.stream(t, 2, 3, func(ctx context.Context, p []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		for b := range in {
			out <- append(b, "!!"...)
		}
		if len(p) > 0 {
			return NewRemoteErrString(string(p))
		}
		return nil
	})
	typed := NewStream[NoPayload, *Bytes, *Bytes](testStream, nil, NewBytes, NewBytes)
	for _, n := range c.nodes {
		err := typed.RegisterNoPayload(n.Manager, func(ctx context.Context, in <-chan *Bytes, out chan<- *Bytes) *RemoteErr {
			for b := range in {
				*b = append(*b, "!!"...)
				out <- b
			}
			return nil
		}, "typed")
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		end  string
		call func() error
		size int64 // of a request on the wire
	}{
		{"a stream", "", func() error { return sendAndDrain(t, c.conn(0, 1), nil, 5) }, 10},
		{"a stream with an error", "out of soup", func() error { return sendAndDrain(t, c.conn(0, 1), []byte("out of soup"), 5) }, 10},
		{"a typed stream", "", func() error {
			st, err := typed.Call(t.Context(), c.conn(0, 1).Subroute("typed"), NewNoPayload())
			if err != nil {
				return err
			}
			go func() {
				defer close(st.Requests)
				for range 5 {
					st.Send(NewBytesWith(make([]byte, 10)))
				}
			}()
			return st.Results(func(*Bytes) error { return nil })
		}, 12},
	} {
		if err := test.call(); errorText(err) != test.end {
			t.Errorf("%s: got %v", test.name, err)
		}
		for side, w := range map[string]*watched{"here": here, "there": there} {
			if err := <-w.ends; errorText(err) != test.end {
				t.Errorf("%s: ended %s with %v", test.name, side, err)
			}
			request, response := 5*test.size, 5*(test.size+2)
			want := [4]int64{5, request, 5, response}
			if w == there {
				want = [4]int64{5, response, 5, request}
			}
			if got := w.counts(); got != want {
				t.Errorf("%s: seen %s: %v, want %v", test.name, side, got, want)
			}
		}
	}
}

// sendAndDrain sends n messages of 10 bytes and reads the stream to its end.
func sendAndDrain(t *testing.T, c Streamer, payload []byte, n int) error {
	st, err := c.NewStream(t.Context(), testStream, payload)
	if err != nil {
		return err
	}
	go func() {
		defer close(st.Requests)
		for range n {
			st.Send(make([]byte, 10))
		}
	}()
	return drain(st, nil)
}

// However a stream ends, its observers are told once, with the reason.
func TestObserversAreToldOfEveryEnd(t *testing.T) {
	here, there := newWatched(), newWatched()
	c := intercepted(t, []Interceptor{here.interceptor()}, []Interceptor{there.interceptor()})
	enough := errors.New("enough")
	finish := make(chan struct{})
	c.stream(t, 1, 8, func(ctx context.Context, p []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		for range p {
			out <- []byte("message")
		}
		if len(p) == 4 {
			return nil
		}
		select {
		case <-ctx.Done():
			return NewRemoteErr(context.Cause(ctx))
		case <-finish:
			return nil
		}
	})
	open := func(ctx context.Context, messages int) *Stream {
		t.Helper()
		st, err := c.conn(0, 1).NewStream(ctx, testStream, make([]byte, messages))
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	ended := func(t *testing.T, st *Stream) {
		t.Helper()
		select {
		case <-st.mux.done:
		case <-time.After(20 * time.Second):
			t.Fatal("the stream does not end")
		}
	}
	for _, test := range []struct {
		name     string
		run      func(t *testing.T, ctx context.Context, cancel context.CancelCauseFunc)
		want     error
		received int64
	}{
		{"read to its end", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			drain(open(ctx, 4), nil)
		}, nil, 4},
		{"ended, then read", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			st := open(ctx, 4)
			ended(t, st)
			if len(here.ends) > 0 {
				t.Error("told of the end before it was read")
			}
			drain(st, nil)
		}, nil, 4},
		{"ended and left unread, until the context ended", func(t *testing.T, ctx context.Context, cancel context.CancelCauseFunc) {
			st := open(ctx, 4)
			ended(t, st)
			cancel(enough)
			if err := <-here.ends; err != nil {
				t.Errorf("ended with %v", err)
			}
			here.ends <- nil
			if err := drain(st, nil); err != nil {
				t.Errorf("read afterwards: %v", err)
			}
		}, nil, 0},
		{"ended without messages, and not read", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			open(ctx, 0)
			finish <- struct{}{}
		}, nil, 0},
		{"canceled and not read", func(t *testing.T, ctx context.Context, cancel context.CancelCauseFunc) {
			open(ctx, 2)
			cancel(enough)
		}, enough, 0},
		{"canceled while it is read", func(t *testing.T, ctx context.Context, cancel context.CancelCauseFunc) {
			n := 0
			open(ctx, 2).Results(func([]byte) error {
				if n++; n == 2 {
					cancel(enough)
				}
				return nil
			})
		}, enough, 2},
		{"given up by its consumer", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			open(ctx, 2).Results(func([]byte) error { return enough })
		}, enough, 1},
		{"left by its consumer", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			for range open(ctx, 2).All() {
				break
			}
		}, errResultsLeft, 1},
		{"with a consumer that panics", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			defer func() { recover() }()
			open(ctx, 2).Results(func([]byte) error { panic("oops") })
		}, errResultsLeft, 1},
		{"disconnected", func(t *testing.T, ctx context.Context, _ context.CancelCauseFunc) {
			handlers := there.opened.Load()
			open(ctx, 0)
			eventually(t, "the handler", func() bool { return there.opened.Load() > handlers })
			c.cut()
			c.waitConnected(t)
		}, ErrDisconnected, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			here.counts()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			test.run(t, ctx, cancel)
			select {
			case err := <-here.ends:
				if err != test.want && !errors.Is(err, test.want) {
					t.Errorf("ended with %v, want %v", err, test.want)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("never told")
			}
			cancel(nil)
			<-there.ends // at the latest now
			c.waitIdle(t)
			if got := here.counts(); got[2] != test.received {
				t.Errorf("%d messages received, want %d", got[2], test.received)
			}
		})
	}
	if len(here.ends)+len(there.ends) != 0 || here.after.Load()+there.after.Load() != 0 {
		t.Errorf("told of more than the end: %d here, %d there", len(here.ends), len(there.ends))
	}
}

func TestAStreamThatDoesNotOpenHasNoEnd(t *testing.T) {
	w := newWatched()
	c := intercepted(t, []Interceptor{w.interceptor()}, nil)
	c.stream(t, 0, 1, echoBack)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.conn(0, 1).NewStream(ctx, testStream, nil); err != context.Canceled {
		t.Errorf("got %v", err)
	}
	if _, err := c.conn(0, 1).NewStream(t.Context(), testStream, make([]byte, defaultMaxMessageSize)); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := c.conn(0, 1).NewStream(t.Context(), 99, nil); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	c.waitIdle(t)
	if n := len(w.ends); n != 0 {
		t.Errorf("told of %d ends", n)
	}
}

// An observer is told of the end also where an interceptor behind it never calls the handler.
func TestObserversAreToldOfStreamsThatAreRefused(t *testing.T) {
	there := newWatched()
	c := intercepted(t, nil, []Interceptor{there.interceptor(), {
		ServerStream: func(_ context.Context, _ *StreamInfo, payload []byte, _ ServeStreamFunc) error {
			if len(payload) > 0 {
				panic("oops")
			}
			return NewRemoteErrString("not you")
		},
	}})
	c.stream(t, 1, 1, echoBack)
	for payload, want := range map[string]string{"": "not you", "panic": "handler " + testStream.String() + " panicked: oops"} {
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, []byte(payload))
		if err := drain(st, err); errorText(err) != want {
			t.Errorf("the caller got %v", err)
		}
		if err := <-there.ends; errorText(err) != want {
			t.Errorf("the observer was told %v", err)
		}
	}
}

func TestPanicsOfObserversAreLogged(t *testing.T) {
	bad := StreamObserver{
		OnSend:    func(int) { panic("on send") },
		OnReceive: func(int) { panic("on receive") },
		OnEnd:     func(error) { panic("on end") },
	}
	there := newWatched()
	both := Interceptor{
		ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
			info.Observe(bad)
			return next(ctx, payload)
		},
		ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
			info.Observe(bad)
			info.Observe(there.observer())
			return next(ctx, payload)
		},
	}
	c := intercepted(t, []Interceptor{both}, []Interceptor{both})
	c.stream(t, 1, 1, echoBack)
	if err := sendAndDrain(t, c.conn(0, 1), nil, 3); err != nil {
		t.Error(err)
	}
	<-there.ends
	for i, n := range c.nodes {
		for what, want := range map[string]int{"on send": 3, "on receive": 3, "on end": 1} {
			if got := n.log.count(`panic="` + what + `"`); got != want {
				t.Errorf("node %d has logged %q %d times, want %d", i, what, got, want)
			}
		}
	}
	c.waitIdle(t)
}

// Streams that end in all ways at once: each opened one is told of, each end once.
func TestObserversUnderStress(t *testing.T) {
	here, there := newWatched(), newWatched()
	c := intercepted(t, []Interceptor{here.interceptor()}, []Interceptor{there.interceptor()})
	c.stream(t, 2, 2, func(ctx context.Context, p []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		if len(p) == 1 {
			return nil // at once, without taking anything
		}
		return echoBack(ctx, p, in, out)
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			for range 60 {
				func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					st, err := c.conn(0, 1).NewStream(ctx, testStream, make([]byte, random.IntN(2)))
					if err != nil {
						return
					}
					go func() {
						defer close(st.Requests)
						for range 5 {
							st.Send([]byte("x"))
						}
					}()
					leave := random.IntN(10)
					if leave == 9 {
						return // unread
					}
					n := 0
					st.Results(func([]byte) error {
						switch n++; {
						case n == leave && leave%2 == 0:
							cancel()
						case n == leave:
							return errors.New("enough")
						}
						return nil
					})
				}()
				if random.IntN(100) == 0 {
					c.cut()
				}
			}
		})
	}
	wg.Wait()
	c.waitIdle(t)
	told := func() string {
		return fmt.Sprintf("%d of %d here, %d of %d there", len(here.ends), here.opened.Load(), len(there.ends), there.opened.Load())
	}
	eventually(t, "all ends", func() bool {
		return len(here.ends) == int(here.opened.Load()) && len(there.ends) == int(there.opened.Load())
	}, told)
	if here.after.Load()+there.after.Load() != 0 {
		t.Errorf("%d things are told after the end here, %d there", here.after.Load(), there.after.Load())
	}
	waitGoroutines(t, perConnection)
}
