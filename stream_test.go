package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// number makes a message of a number, in a buffer that may go to the pool.
func number(n int) []byte {
	return binary.BigEndian.AppendUint64(GetByteBufferCap(8), uint64(n))
}

// expectNumbers is a consumer that wants 0, 1, 2 and so on, and counts them.
func expectNumbers(got *int) func([]byte) error {
	return func(b []byte) error {
		if n := int(binary.BigEndian.Uint64(b)); n != *got {
			return fmt.Errorf("got message %d, want %d", n, *got)
		}
		*got++
		PutByteBuffer(b)
		return nil
	}
}

// count sends as many numbers as its payload says.
func count(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
	for i := range int(binary.BigEndian.Uint64(payload)) {
		select {
		case out <- number(i):
		case <-ctx.Done():
			return NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

var windows = []int{1, 2, 64, 256}

func TestOneWayStreamsDeliverEverythingInOrder(t *testing.T) {
	for _, window := range windows {
		t.Run(fmt.Sprintf("window %d", window), func(t *testing.T) {
			c := startCluster(t, 2, nil)
			c.stream(t, 0, window, count)
			for _, messages := range []int{0, 1, 2, window - 1, window, window + 1, 1000} {
				for name, pause := range map[string]func(){
					"a fast consumer": func() {},
					"a slow consumer": func() {
						for range 20 {
							runtime.Gosched()
						}
					},
				} {
					var wg sync.WaitGroup
					for n := range 4 {
						wg.Go(func() {
							st, err := c.conn(n%2, 1-n%2).NewStream(t.Context(), testStream, number(messages))
							if err != nil {
								t.Error(err)
								return
							}
							if st.Requests != nil {
								t.Error("a one-way stream has Requests")
							}
							got := 0
							next := expectNumbers(&got)
							err = st.Results(func(b []byte) error {
								pause()
								return next(b)
							})
							if err != nil || got != messages {
								t.Errorf("%s got %d of %d messages and %v", name, got, messages, err)
							}
						})
					}
					wg.Wait()
				}
			}
			c.waitIdle(t)
		})
	}
}

func TestTwoWayStreamsDeliverEverythingInOrder(t *testing.T) {
	for _, in := range windows {
		for _, out := range windows {
			t.Run(fmt.Sprintf("windows %d and %d", in, out), func(t *testing.T) {
				c := startCluster(t, 2, nil)
				c.stream(t, in, out, echoBack)
				for _, messages := range []int{0, 1, 2, in + out + 1, 300} {
					var wg sync.WaitGroup
					for n := range 4 {
						wg.Go(func() {
							st, err := c.conn(n%2, 1-n%2).NewStream(t.Context(), testStream, nil)
							if err != nil {
								t.Error(err)
								return
							}
							wg.Go(func() {
								defer close(st.Requests)
								for i := range messages {
									if n < 2 {
										st.Requests <- number(i)
									} else if err := st.Send(number(i)); err != nil {
										t.Errorf("message %d was not sent: %v", i, err)
										return
									}
								}
							})
							got := 0
							if err := st.Results(expectNumbers(&got)); err != nil || got != messages {
								t.Errorf("got %d of %d messages and %v", got, messages, err)
							}
						})
					}
					within(t, "a stream", wg.Wait)
				}
				c.waitIdle(t)
			})
		}
	}
}

func TestAllThatWasSentBeforeTheEndArrives(t *testing.T) {
	c := startCluster(t, 2, nil)
	failure := NewRemoteErrString("enough")
	c.stream(t, 0, 64, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		if err := count(ctx, payload, in, out); err != nil {
			return err
		}
		return failure
	})
	for range 50 {
		for _, messages := range []int{0, 1, 63, 64, 65, 200} {
			st, err := c.conn(0, 1).NewStream(t.Context(), testStream, number(messages))
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			if err := st.Results(expectNumbers(&got)); !errors.Is(err, failure) || got != messages {
				t.Fatalf("got %d of %d messages and %v", got, messages, err)
			}
		}
	}
}

func TestMessagesThatWaitAreDeliveredAfterTheHandlersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.stream(t, 0, 64, count)
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, number(63))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the end is here before the consumer
		if stats := c.conn(0, 1).Stats(); stats.OutgoingStreams != 0 {
			t.Errorf("a stream that has ended counts: %+v", stats)
		}
		got := 0
		if err := st.Results(expectNumbers(&got)); err != nil || got != 63 {
			t.Errorf("got %d of 63 messages and %v", got, err)
		}
	})
}

func TestEmptyAndNilMessagesKeepTheirKind(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.stream(t, 2, 2, echoBack)
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	sent := [][]byte{nil, {}, []byte("x"), nil, {}}
	go func() {
		for _, b := range sent {
			st.Requests <- b
		}
		close(st.Requests)
	}()
	i := 0
	err = st.Results(func(b []byte) error {
		if i < len(sent) && (string(b) != string(sent[i]) || (b == nil) != (sent[i] == nil)) {
			t.Errorf("message %d is %#v, want %#v", i, b, sent[i])
		}
		i++
		return nil
	})
	if err != nil || i != len(sent) {
		t.Errorf("%d of %d messages and %v", i, len(sent), err)
	}
}

// talk sends until its context ends, and tells how that came.
func talk(ended chan<- error) StreamHandlerFn {
	return func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		defer func() { ended <- ctx.Err() }()
		for i := 0; ; i++ {
			select {
			case out <- number(i):
			case <-ctx.Done():
				if in != nil {
					for range in { // a canceled stream's input is closed
					}
				}
				return NewRemoteErr(ctx.Err())
			}
		}
	}
}

func TestWhoeverLeavesAStreamCancelsItsHandler(t *testing.T) {
	c := startCluster(t, 2, nil)
	ended := make(chan error, 1)
	c.stream(t, 1, 4, talk(ended))
	enough := errors.New("enough")
	never := func([]byte) error { return nil }
	for _, test := range []struct {
		name  string
		leave func(st *Stream, cancel context.CancelCauseFunc) error
		want  error
	}{
		{"an error of the callback", func(st *Stream, _ context.CancelCauseFunc) error {
			return st.Results(func([]byte) error { return enough })
		}, enough},
		{"a panic in the callback", func(st *Stream, _ context.CancelCauseFunc) (err error) {
			defer func() { err = recover().(error) }()
			return st.Results(func([]byte) error { panic(enough) })
		}, enough},
		{"a canceled context", func(st *Stream, cancel context.CancelCauseFunc) error {
			return st.Results(func([]byte) error { cancel(enough); return nil })
		}, enough},
		{"a context canceled before Results", func(st *Stream, cancel context.CancelCauseFunc) error {
			cancel(enough)
			return st.Results(never)
		}, enough},
		{"the end of a loop over All", func(st *Stream, _ context.CancelCauseFunc) error {
			for _, err := range st.All() {
				if err != nil {
					return err
				}
				break
			}
			return nil
		}, nil},
		{"a panic in a loop over All", func(st *Stream, _ context.CancelCauseFunc) (err error) {
			defer func() { err = recover().(error) }()
			for range st.All() {
				panic(enough)
			}
			return nil
		}, enough},
		{"a context canceled in a loop over All", func(st *Stream, cancel context.CancelCauseFunc) (last error) {
			for b, err := range st.All() {
				if last != nil || err != nil && b != nil {
					t.Error("the error is not the last element, or not alone")
				}
				last = err
				cancel(enough)
			}
			return last
		}, enough},
	} {
		t.Run(test.name, func(t *testing.T) {
			within(t, test.name, func() {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := test.leave(st, cancel); err != test.want {
					t.Errorf("the stream ended with %v, want %v", err, test.want)
				}
				if err := <-ended; err != context.Canceled {
					t.Errorf("the handler's context ended with %v", err)
				}
				if err := st.Send([]byte("too late")); err == nil {
					t.Error("a message was sent after the end")
				}
				if err := st.Results(never); err == nil {
					t.Error("results could be read twice")
				}
				c.waitIdle(t)
			})
		})
	}
	c.nodes[0].Close()
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}

func TestAllDeliversEverything(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.stream(t, 0, 4, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		count(ctx, payload, in, out)
		if len(payload) > 8 {
			return NewRemoteErrString("at the end")
		}
		return nil
	})
	for _, want := range []string{"", "at the end"} {
		payload := number(20)
		if want != "" {
			payload = append(payload, 1)
		}
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, payload)
		if err != nil {
			t.Fatal(err)
		}
		got, failure := 0, ""
		next := expectNumbers(&got)
		for b, err := range st.All() {
			if err != nil {
				failure = err.Error()
			} else if err := next(b); err != nil {
				t.Error(err)
			}
		}
		if got != 20 || failure != want {
			t.Errorf("got %d messages and error %q, want 20 and %q", got, failure, want)
		}
	}
}

func TestAStreamEndsWithItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ended := make(chan error, 1)
		c.stream(t, 0, 1, talk(ended))
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		start := time.Now()
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = st.Results(func([]byte) error { time.Sleep(time.Millisecond); return nil })
		if err != context.DeadlineExceeded || time.Since(start) > 3*time.Second+time.Millisecond {
			t.Errorf("it ended with %v after %v", err, time.Since(start))
		}
		if err := <-ended; err == nil {
			t.Error("the handler's context did not end")
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

func TestLongQuietStreamsStayOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.stream(t, 1, 1, echoBack)
		far, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		for name, ctx := range map[string]context.Context{"without a deadline": t.Context(), "with a far deadline": far} {
			st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(time.Hour)
				st.Requests <- number(0)
				close(st.Requests)
			}()
			got := 0
			if err := st.Results(expectNumbers(&got)); err != nil || got != 1 {
				t.Errorf("%s: got %d messages and %v", name, got, err)
			}
		}
		if n := c.nodes[0].log.count("lost"); n != 0 {
			t.Errorf("the connection was lost:\n%s", c.nodes[0].log)
		}
	})
}

func TestAConsumerThatStopsReadingHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ended := make(chan error, 1)
		c.stream(t, 1, 8, talk(ended))
		c.handle(t, echo)
		for _, n := range c.nodes {
			n.RegisterStreamingHandler(125, StreamHandler{Handle: count, OutCapacity: 4})
		}
		for i := range c.nodes {
			conn := c.conn(i, 1-i)
			ctx, cancel := context.WithCancel(t.Context())
			stuck, err := conn.NewStream(ctx, testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			resume := make(chan struct{})
			result := make(chan error, 1)
			go func() {
				result <- stuck.Results(func([]byte) error { <-resume; return nil })
			}()
			start := atomic.LoadInt64(&conn.LastPong)
			time.Sleep(5 * time.Minute)
			if pong := atomic.LoadInt64(&conn.LastPong); pong-start < int64(4*time.Minute) {
				t.Errorf("the pings have stopped")
			}
			if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
				t.Errorf("a request got %v", err)
			}
			st, err := conn.NewStream(t.Context(), 125, number(100))
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			if err := st.Results(expectNumbers(&got)); err != nil || got != 100 {
				t.Errorf("another stream got %d messages and %v", got, err)
			}
			cancel()
			if err := <-ended; err != context.Canceled {
				t.Errorf("the handler's context ended with %v", err)
			}
			close(resume)
			if err := <-result; err != context.Canceled {
				t.Errorf("the stream ended with %v", err)
			}
			synctest.Wait()
			if left := c.idle(); left != "" {
				t.Error(left)
			}
		}
	})
}

// The consumer is told only if it waits, and then of each message.
func TestAConsumerThatWaitsIsToldOfEachMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		send := make(chan int)
		c.stream(t, 0, 8, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for n := range send {
				for range n {
					out <- GetByteBuffer()[:1]
				}
			}
			return nil
		})
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		took := make(chan bool, 1)
		next := func() {
			_, more, _ := st.mux.next(true, nil)
			took <- more
		}
		tookOne := func(want bool) {
			t.Helper()
			synctest.Wait()
			select {
			case more := <-took:
				if more != want {
					t.Errorf("the consumer got a message: %t, want %t", more, want)
				}
			default:
				t.Fatal("the consumer waits")
			}
		}
		for range 3 {
			for range 3 {
				go next()
				synctest.Wait()
				send <- 1
				tookOne(true)
			}
			go next()
			synctest.Wait()
			send <- 4
			for range 3 { // what came while nobody waited
				tookOne(true)
				go next()
			}
			tookOne(true)
		}
		go next()
		synctest.Wait()
		close(send)
		tookOne(false)
	})
}

func TestAStuckConsumerDoesNotHoldUpAReconnect(t *testing.T) {
	c := startCluster(t, 2, nil)
	ended := make(chan error, 20)
	c.stream(t, 1, 8, talk(ended))
	c.handle(t, echo)
	resume := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 20 {
		st, err := c.conn(n%2, 1-n%2).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			err := st.Results(func([]byte) error { <-resume; return nil })
			if !errors.Is(err, ErrDisconnected) {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
	eventually(t, "all handlers to run", func() bool {
		return c.conn(0, 1).Stats().IncomingStreams == 10 && c.conn(1, 0).Stats().IncomingStreams == 10
	})
	c.cut()
	for range 20 {
		within(t, "the end of a handler", func() { <-ended })
	}
	eventually(t, "a new connection", func() bool {
		_, err := c.conn(0, 1).Request(t.Context(), testSingle, nil)
		return err == nil
	})
	close(resume)
	wg.Wait()
	c.waitIdle(t)
}

func TestHandlersMayBehaveBadly(t *testing.T) {
	c := startCluster(t, 2, nil)
	goOn := make(chan struct{})
	handlers := map[string]StreamHandlerFn{
		"it returns without reading its input": func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			out <- number(0)
			return nil
		},
		"it returns after one request": func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
			<-in
			out <- number(0)
			return nil
		},
		"it goes on sending after the cancellation": func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			<-ctx.Done()
			for i := range 1000 {
				out <- number(i)
			}
			return nil
		},
		"it outlives the cancellation": func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			<-ctx.Done()
			<-goOn
			return nil
		},
		"it closes its output": func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			out <- number(0)
			close(out)
			return nil
		},
		"it fails at once": func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr {
			return NewRemoteErrString("no")
		},
	}
	for name, h := range handlers {
		for _, n := range c.nodes {
			err := n.RegisterStreamingHandler(testStream, StreamHandler{Handle: h, Subroute: name, InCapacity: 2, OutCapacity: 2})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for name := range handlers {
		t.Run(name, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					st, err := c.conn(0, 1).Subroute(name).NewStream(ctx, testStream, nil)
					if err != nil {
						t.Error(err)
						return
					}
					wg.Go(func() {
						for i := 0; ; i++ {
							if st.Send(number(i)) != nil {
								return
							}
							if i == 2 { // as many as a handler that does not read lets through
								cancel()
							}
						}
					})
					st.Results(func([]byte) error { return nil })
				})
			}
			within(t, "the callers' side", wg.Wait)
		})
	}
	close(goOn)
	c.waitIdle(t)
	c.nodes[0].Close()
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}

func TestRequestsMayBeClosedAtAnyTime(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.stream(t, 4, 4, func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		n := 0
		for range in {
			n++
		}
		out <- number(n)
		return nil
	})
	for _, test := range []struct {
		name  string
		send  int
		early bool
	}{
		{"at once", 0, true},
		{"within the window", 3, true},
		{"behind a full window", 50, true},
	} {
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range test.send {
			if err := st.Send(number(i)); err != nil {
				t.Error(err)
			}
		}
		close(st.Requests)
		if err := st.Send(nil); err == nil {
			t.Errorf("closed %s: a message was sent after the end", test.name)
		}
		within(t, "a stream without input", func() {
			err = st.Results(func(b []byte) error {
				if n := int(binary.BigEndian.Uint64(b)); n != test.send {
					t.Errorf("closed %s: the handler got %d of %d requests", test.name, n, test.send)
				}
				return nil
			})
		})
		if err != nil {
			t.Errorf("closed %s: %v", test.name, err)
		}
	}
	t.Run("late", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := st.Results(func([]byte) error { return nil }); err != context.Canceled {
			t.Error(err)
		}
		close(st.Requests)
		if err := st.Send(nil); err != context.Canceled {
			t.Errorf("a late message got %v", err)
		}
	})
	c.waitIdle(t)
}

func TestSendAfterTheHandlersEndFails(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.stream(t, 1, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil })
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Results(func([]byte) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := st.Send(number(0)); err == nil {
		t.Error("a message was sent to a handler that has returned")
	}
}

// A consumer may learn of the end before those are told who wait for it.
func TestSendFailsFromTheEndOn(t *testing.T) {
	requests := make(chan []byte, 1) // somebody would take the message
	st := &Stream{mux: &muxClient{inbox: inbox{ended: true}, done: make(chan struct{})}, requests: requests}
	if err := st.Send(number(0)); err != errHandlerReturned {
		t.Errorf("a message was sent on a stream that has ended: %v", err)
	}
}

func TestAStreamNeedsFewGoroutines(t *testing.T) {
	c := startCluster(t, 2, nil)
	wait := func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		<-ctx.Done()
		return nil
	}
	for _, n := range c.nodes {
		n.RegisterStreamingHandler(testStream, StreamHandler{Handle: wait, Subroute: "two-way", InCapacity: 4, OutCapacity: 4})
		n.RegisterStreamingHandler(testStream, StreamHandler{Handle: wait, Subroute: "one-way", OutCapacity: 4})
	}
	for route, each := range map[string]int{"two-way": 3, "one-way": 2} {
		eventually(t, "the session's goroutines", func() bool { return len(ownGoroutines()) == perConnection })
		before := perConnection
		ctx, cancel := context.WithCancel(t.Context())
		const streams = 20
		for range streams {
			if _, err := c.conn(0, 1).Subroute(route).NewStream(ctx, testStream, nil); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all handlers", func() bool { return c.conn(1, 0).Stats().IncomingStreams == streams })
		eventually(t, "no more goroutines than streams need", func() bool { // one may be about to tell the peer of the handlers
			return len(ownGoroutines())-before <= streams*each
		}, func() string {
			return fmt.Sprintf("%d %s streams take %d", streams, route, len(ownGoroutines())-before)
		})
		cancel()
		c.waitIdle(t)
		waitGoroutines(t, before)
	}
}

func TestAMessageOverTheLimitEndsItsStreamOnly(t *testing.T) {
	const limit = 128 << 10
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = limit })
	c.stream(t, 1, 1, echoBack)
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(make([]byte, limit)); err != nil {
		t.Fatal(err)
	}
	within(t, "the end of the stream", func() {
		if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("it ended with %v", err)
		}
	})
	if _, err := c.conn(0, 1).NewStream(t.Context(), testStream, make([]byte, limit)); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("a stream with a payload over the limit gave %v", err)
	}
	c.waitIdle(t)
	if n := c.nodes[0].log.count("lost"); n != 0 {
		t.Errorf("the connection was lost:\n%s", c.nodes[0].log)
	}
}
