package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// raw registers a handler that gets a RawStream at the second node alone.
func (c *cluster) raw(t *testing.T, h func(ctx context.Context, st *RawStream) error) {
	t.Helper()
	if err := c.nodes[1].registerRaw(target{id: testStream}, h); err != nil {
		t.Fatal(err)
	}
}

// openRaw opens a stream from the first node to the second, which alone knows its handler.
func (c *cluster) openRaw(ctx context.Context, payload []byte) (*Stream, error) {
	return c.conn(0, 1).openStream(ctx, testStream, nil, payload, true)
}

// mustOpenRaw is openRaw for a stream that is to be open.
func (c *cluster) mustOpenRaw(ctx context.Context, t *testing.T) *Stream {
	t.Helper()
	st, err := c.openRaw(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// echoRaw sends everything back.
func echoRaw(_ context.Context, st *RawStream) error {
	for b, err := range st.All() {
		if err != nil {
			return err
		}
		if err := st.Send(b); err != nil {
			return err
		}
	}
	return nil
}

// receiver is either end of a stream.
type receiver interface{ Recv() ([]byte, error) }

// recvAll receives to the end.
func recvAll(st receiver) (all [][]byte, err error) {
	for {
		b, err := st.Recv()
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
}

// recvWant receives one message.
func recvWant(t *testing.T, st receiver, want string) {
	t.Helper()
	if b, err := st.Recv(); err != nil || string(b) != want {
		t.Errorf("received %.20q, %v, want %q", b, err, want)
	}
}

// recvEnds receives the end of a stream, more than once.
func recvEnds(t *testing.T, st receiver, want error) {
	t.Helper()
	for range 3 {
		if b, err := st.Recv(); !errors.Is(err, want) {
			t.Errorf("received %.20q, %v, want %v", b, err, want)
		}
	}
}

func TestRecvDeliversEverythingInOrder(t *testing.T) {
	for peer, lacks := range map[string]uint32{
		"a node like this":                   0,
		"a node that knows no half-close":    featureHalves,
		"a node that counts messages":        featureWindows,
		"a native node of long ago":          featureWindows | featureStreams,
		"a node of the original":             nativeFeatures,
		"a node that takes no pieces either": featureWindows | featurePieces,
	} {
		for size, n := range map[int]int{0: 100, 8: 3000, 500: 1000, 100_000: 50} {
			t.Run(fmt.Sprintf("%d bytes, %s", size, peer), func(t *testing.T) {
				c := startCluster(t, 2, func(i int, o *ManagerOptions) {
					if i == 1 {
						o.lacks = lacks
					}
				})
				c.raw(t, func(ctx context.Context, st *RawStream) error {
					if string(st.Payload()) != "opening" || st.Context() != ctx || GetCaller(ctx) == nil {
						t.Errorf("the handler got %q and %v", st.Payload(), ctx)
					}
					return echoRaw(ctx, st)
				})
				st, err := c.openRaw(t.Context(), []byte("opening"))
				if err != nil {
					t.Fatal(err)
				}
				message := func(i int) []byte { return append(slices.Clone(number(i)), make([]byte, size)...) }
				sent := make(chan error, 1)
				go func() {
					for i := range n {
						if err := st.Send(message(i)); err != nil {
							sent <- err
							return
						}
					}
					sent <- st.CloseSend()
				}()
				for i := range n {
					b, err := st.Recv()
					if err != nil || !bytes.Equal(b, message(i)) {
						t.Fatalf("message %d: got %d bytes, %v", i, len(b), err)
					}
					PutByteBuffer(b)
				}
				recvEnds(t, st, io.EOF)
				if err := <-sent; err != nil {
					t.Error(err)
				}
				if err := st.Err(); err != nil {
					t.Error(err)
				}
				c.waitIdle(t)
				for i, held := range []int64{c.conn(0, 1).streamQuota.used.Load(), c.conn(1, 0).streamQuota.used.Load()} {
					if held != 0 {
						t.Errorf("node %d still counts %#x", i, held)
					}
				}
			})
		}
	}
}

func TestAHandlerMayEndItsMessagesAndGoOnReceiving(t *testing.T) {
	for name, test := range map[string]struct {
		lacks  uint32
		result error
	}{
		"no error":                 {0, nil},
		"an error":                 {0, errors.New("disk full")},
		"a caller that knows none": {featureHalves, errors.New("disk full")},
		"an original":              {nativeFeatures, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					if i == 0 {
						o.lacks = test.lacks
					}
				})
				got := make(chan string, 1)
				c.raw(t, func(_ context.Context, st *RawStream) error {
					st.Send([]byte("a"))
					st.Send([]byte("b"))
					st.CloseSend()
					st.CloseSend()
					if err := st.Send([]byte("c")); err != errMessagesEnded {
						t.Errorf("after CloseSend, Send returned %v", err)
					}
					all, err := recvAll(st)
					if err != io.EOF {
						t.Errorf("the handler received to %v", err)
					}
					got <- string(bytes.Join(all, nil))
					return test.result
				})
				st := c.mustOpenRaw(t.Context(), t)
				recvWant(t, st, "a")
				recvWant(t, st, "b")
				if test.lacks&featureHalves == 0 {
					recvEnds(t, st, io.EOF)
					if isClosed(st.Done()) || st.Err() != nil {
						t.Errorf("the stream has ended with %v", st.Err())
					}
				}
				for _, s := range []string{"1", "2", "3"} {
					if err := st.Send([]byte(s)); err != nil {
						t.Error(err)
					}
				}
				for range 2 {
					if err := st.CloseSend(); err != nil && errorText(err) != errorText(test.result) { // it may have ended by then
						t.Error(err)
					}
				}
				if err := st.Send(nil); err == nil {
					t.Error("a message was sent after CloseSend")
				}
				if s := <-got; s != "123" {
					t.Errorf("the handler received %q", s)
				}
				if test.lacks&featureStreams != 0 { // the end costs credit
					recvEnds(t, st, io.EOF)
				}
				<-st.Done()
				synctest.Wait()
				want := io.EOF
				if test.result != nil {
					want = NewRemoteErr(test.result)
					if errorText(st.Err()) != test.result.Error() {
						t.Errorf("the stream ended with %v", st.Err())
					}
				}
				if _, err := st.Recv(); errorText(err) != errorText(want) {
					t.Errorf("received %v, want %v", err, want)
				}
				c.idleAfter(t, 0)
			})
		})
	}
}

func TestResultsWaitForTheHandlerAndNotForTheEndOfItsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.raw(t, func(_ context.Context, st *RawStream) error {
			st.Send([]byte("a"))
			st.CloseSend()
			_, err := st.Recv()
			return err
		})
		st := c.mustOpenRaw(t.Context(), t)
		recvWant(t, st, "a")
		recvEnds(t, st, io.EOF)
		done := make(chan error, 1)
		go func() { done <- st.Results(func([]byte) error { t.Error("a message"); return nil }) }()
		synctest.Wait()
		if _, err := st.Recv(); err != errResultsTaken {
			t.Errorf("while Results reads, Recv returned %v", err)
		}
		select {
		case err := <-done:
			t.Fatalf("Results returned %v", err)
		default:
		}
		st.CloseSend()
		if err := <-done; errorText(err) != io.EOF.Error() {
			t.Errorf("Results returned %v", err)
		}
		if _, err := st.Recv(); errorText(err) != io.EOF.Error() || err == io.EOF {
			t.Errorf("after the end, Recv returned %v", err)
		}
		c.idleAfter(t, 0)
	})
}

func TestRecvAndSendEndWithTheirContexts(t *testing.T) {
	errEnough := errors.New("enough")
	for name, test := range map[string]struct {
		handler func(st *RawStream) error // blocks
		caller  func(st *Stream) error    // blocks
	}{
		"both receive": {
			func(st *RawStream) error { _, err := st.Recv(); return err },
			func(st *Stream) error { _, err := st.Recv(); return err },
		},
		"both send": {
			func(st *RawStream) error { return fill(st.Send) },
			func(st *Stream) error { return fill(st.Send) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, nil)
				ended := make(chan error, 1)
				c.raw(t, func(ctx context.Context, st *RawStream) error {
					err := test.handler(st)
					if !isClosed(st.Done()) || ctx.Err() == nil {
						t.Errorf("with %v, the stream has not ended", err)
					}
					ended <- err
					return err
				})
				ctx, cancel := context.WithCancelCause(t.Context())
				st := c.mustOpenRaw(ctx, t)
				result := make(chan error, 1)
				go func() { result <- test.caller(st) }()
				synctest.Wait()
				cancel(errEnough)
				if err := <-result; err != errEnough {
					t.Errorf("the caller got %v", err)
				}
				if err := <-ended; err != context.Canceled {
					t.Errorf("the handler got %v", err)
				}
				c.idleAfter(t, 0)
				if err := st.Send(nil); err != errEnough {
					t.Errorf("after the end, Send returned %v", err)
				}
				recvEnds(t, st, errEnough)
				if err := st.CloseSend(); err != errEnough {
					t.Errorf("after the end, CloseSend returned %v", err)
				}
			})
		})
	}
}

// fill sends until that fails.
func fill(send func([]byte) error) error {
	for {
		if err := send(make([]byte, 1000)); err != nil {
			return err
		}
	}
}

func TestADeadlineEndsRecvAndSendOfAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ended := make(chan error, 3)
		c.raw(t, func(ctx context.Context, st *RawStream) error {
			var sender sync.WaitGroup
			sender.Go(func() { ended <- fill(st.Send) })
			sender.Go(func() { ended <- fill(st.Send) })
			_, err := st.Recv()
			ended <- err
			sender.Wait()
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		st := c.mustOpenRaw(ctx, t)
		for range 3 {
			if err := <-ended; err != context.DeadlineExceeded && err != context.Canceled {
				t.Errorf("the handler got %v", err)
			}
		}
		synctest.Wait()
		recvEnds(t, st, context.DeadlineExceeded)
		c.idleAfter(t, 0)
	})
}

// A handler that does not look at its context is in no table anymore once its deadline has passed,
// also if the caller says nothing.
func TestTheJanitorForgetsAStreamPastItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		release := make(chan struct{})
		if err := n.registerRaw(target{id: testStream}, func(context.Context, *RawStream) error { <-release; return nil }); err != nil {
			t.Fatal(err)
		}
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		go p.each(t, func(message) {})
		p.send(t, message{MuxID: 1, Seq: 1000, DeadlineMS: 10, Op: OpConnectMux, Handler: testStream})
		p.send(t, message{MuxID: 1, Seq: 1, Op: OpMuxClientMsg, Payload: []byte("unread")})
		synctest.Wait()
		conn := n.Connection(host)
		if _, streams := conn.current.Load().muxes.count(); streams != 1 {
			t.Fatalf("%d streams", streams)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if _, streams := conn.current.Load().muxes.count(); streams != 0 {
			t.Errorf("%d streams are left", streams)
		}
		close(release)
		synctest.Wait()
		if used := conn.streamQuota.used.Load(); used != 0 {
			t.Errorf("the quota counts %#x", used)
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}

func TestSeveralSendersShareAStream(t *testing.T) {
	const senders, each = 8, 200
	c := startCluster(t, 2, nil)
	spread := func(send func([]byte) error) {
		var all sync.WaitGroup
		for s := range senders {
			all.Go(func() {
				for i := range each {
					size := 10
					if i%50 == 0 {
						size = pieceThreshold + 1
					}
					b := make([]byte, size)
					b[0], b[1], b[2] = byte(s), byte(i), byte(i>>8)
					if err := send(b); err != nil {
						t.Errorf("sender %d, message %d: %v", s, i, err)
						return
					}
				}
			})
		}
		all.Wait()
	}
	check := func(side string, st receiver) {
		var next [senders]int
		all, err := recvAll(st)
		if err != io.EOF {
			t.Errorf("%s: %v", side, err)
		}
		for _, b := range all {
			s := b[0]
			if i := int(b[1]) | int(b[2])<<8; i != next[s] {
				t.Fatalf("%s: sender %d: message %d in place of %d", side, s, i, next[s])
			}
			next[s]++
		}
		if len(all) != senders*each {
			t.Errorf("%s: %d messages", side, len(all))
		}
	}
	c.raw(t, func(_ context.Context, st *RawStream) error {
		var sending sync.WaitGroup
		sending.Go(func() { spread(st.Send); st.CloseSend() })
		check("handler", st)
		sending.Wait()
		return nil
	})
	st := c.mustOpenRaw(t.Context(), t)
	var sending sync.WaitGroup
	sending.Go(func() {
		spread(st.Send)
		if err := st.CloseSend(); err != nil {
			t.Error(err)
		}
	})
	check("caller", st)
	sending.Wait()
	c.waitIdle(t)
}

// What Send has returned nil for arrives in front of the end of the messages; everything else fails.
func TestCloseSendAmongSenders(t *testing.T) {
	for range 20 {
		c := startCluster(t, 2, nil)
		closeAmong := func(send func([]byte) error, end func()) (sent int) {
			var mu sync.Mutex
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					size := 10
					if i == 0 {
						size = 4 * pieceThreshold // which takes its time
					}
					for send(make([]byte, size)) == nil {
						mu.Lock()
						sent++
						mu.Unlock()
					}
				})
			}
			for range 2 {
				all.Go(end)
			}
			all.Wait()
			return sent
		}
		both := make(chan [2]int, 1)
		c.raw(t, func(_ context.Context, st *RawStream) error {
			var sent int
			var sending sync.WaitGroup
			sending.Go(func() { sent = closeAmong(st.Send, st.CloseSend) })
			all, err := recvAll(st)
			if err != io.EOF {
				t.Errorf("the handler received %v", err)
			}
			sending.Wait()
			both <- [2]int{sent, len(all)}
			return nil
		})
		st := c.mustOpenRaw(t.Context(), t)
		var sent int
		var sending sync.WaitGroup
		sending.Go(func() { sent = closeAmong(st.Send, func() { st.CloseSend() }) })
		all, err := recvAll(st)
		if err != io.EOF {
			t.Errorf("the caller received %v", err)
		}
		sending.Wait()
		if there := <-both; there != [2]int{len(all), sent} {
			t.Errorf("the handler has sent and received %v, the caller %d and %d", there, sent, len(all))
		}
		c.waitIdle(t)
		for _, n := range c.nodes {
			n.Close()
		}
	}
}

func TestRawHandlersMayBehaveBadly(t *testing.T) {
	for name, test := range map[string]struct {
		handle func(ctx context.Context, st *RawStream) error
		want   string
	}{
		"a panic": {func(context.Context, *RawStream) error { panic("soup") }, "handler HandlerID(126) panicked: soup"},
		"an exit": {func(context.Context, *RawStream) error { runtime.Goexit(); return nil }, "handler exited without a result"},
		"a panic in All": {func(_ context.Context, st *RawStream) error {
			for range st.All() {
				panic("soup")
			}
			return nil
		}, "handler HandlerID(126) panicked: soup"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t, 2, nil)
			c.raw(t, test.handle)
			st := c.mustOpenRaw(t.Context(), t)
			st.Send(nil)
			_, err := st.Recv()
			var said *RemoteErr
			if !errors.As(err, &said) || said.Error() != test.want {
				t.Errorf("got %v", err)
			}
			c.waitIdle(t)
		})
	}
}

// Goroutines that a handler leaves behind do not disturb what comes after it.
func TestAStreamIsOverOnceItsHandlerHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		left := make(chan error, 3)
		kept := make(chan *RawStream, 1)
		c.raw(t, func(_ context.Context, st *RawStream) error {
			go func() { _, err := st.Recv(); left <- err }()
			go func() { left <- fill(st.Send) }()
			go func() { left <- fill(st.Send) }()
			synctest.Wait()
			kept <- st
			return errors.New("disk full")
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		st := c.mustOpenRaw(ctx, t)
		for range 3 {
			if err := <-left; err != errHandlerReturned {
				t.Errorf("who was left behind got %v", err)
			}
		}
		n, errDone := 0, error(nil)
		for ; errDone == nil; n++ {
			_, errDone = st.Recv()
		}
		if errorText(errDone) != "disk full" || n < 2 {
			t.Errorf("after %d messages: %v", n, errDone)
		}
		synctest.Wait()
		past := <-kept
		if err := past.Send(nil); err == nil {
			t.Error("a message was sent after the handler has returned")
		}
		recvEnds(t, past, errHandlerReturned)
		past.CloseSend()
		c.idleAfter(t, 0)
	})
}

func TestAStreamHasOneReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		there := make(chan *RawStream, 1)
		c.raw(t, func(_ context.Context, st *RawStream) error {
			there <- st
			_, err := st.Recv()
			return err
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		st := c.mustOpenRaw(ctx, t)
		done := make(chan error)
		go func() { _, err := st.Recv(); done <- err }()
		synctest.Wait()
		recvEnds(t, <-there, errResultsTaken)
		recvEnds(t, st, errResultsTaken)
		if err := st.Results(func([]byte) error { return nil }); err != errResultsTaken {
			t.Errorf("Results returned %v", err)
		}
		st.CloseSend()
		if err := <-done; errorText(err) != io.EOF.Error() {
			t.Errorf("got %v", err)
		}
		c.idleAfter(t, 0)
	})
}

func TestRawStreamsNeedOneGoroutine(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.raw(t, func(_ context.Context, st *RawStream) error { _, err := st.Recv(); return err })
	eventually(t, "the session's goroutines", func() bool { return len(ownGoroutines()) == perConnection })
	ctx, cancel := context.WithCancel(t.Context())
	const streams = 20
	for range streams {
		c.mustOpenRaw(ctx, t)
	}
	eventually(t, "all handlers", func() bool { return c.conn(1, 0).Stats().IncomingStreams == streams })
	eventually(t, "no more goroutines than streams need", func() bool {
		return len(ownGoroutines())-perConnection <= streams
	}, func() string { return fmt.Sprintf("%d streams take %d", streams, len(ownGoroutines())-perConnection) })
	cancel()
	c.waitIdle(t)
	waitGoroutines(t, perConnection)
}

// The caller of a stream that knows nothing of its handler finds out whether it takes messages.
func TestStreamsToHandlersThatAreNotKnownHere(t *testing.T) {
	for name, test := range map[string]struct {
		in    int
		lacks uint32
		want  error
	}{
		"input":                       {in: 3},
		"no input":                    {want: errNoInput},
		"input, in messages":          {in: directCapacity, lacks: featureWindows},
		"other capacities":            {in: 3, lacks: featureWindows, want: errCapacity},
		"an original's capacities":    {in: directCapacity, lacks: nativeFeatures},
		"no input, known half-closes": {lacks: featureHalves, want: errNoInput},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					if i == 1 {
						o.lacks = test.lacks
					}
				})
				err := c.nodes[1].RegisterStreamingHandler(testStream, StreamHandler{
					InCapacity: test.in, OutCapacity: directCapacity,
					Handle: func(_ context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
						n := 0
						if in != nil {
							for range in {
								n++
							}
						}
						out <- number(n)
						return nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				st := c.mustOpenRaw(t.Context(), t)
				sent := st.Send(nil)
				for range 5 {
					sent = errors.Join(sent, st.Send(nil))
				}
				if !errors.Is(sent, test.want) {
					t.Errorf("Send returned %v, want %v", sent, test.want)
				}
				st.CloseSend()
				if test.want == errCapacity {
					recvEnds(t, st, errCapacity)
				} else {
					n := 6
					if test.in == 0 {
						n = 0
					}
					recvWant(t, st, string(number(n)))
					recvEnds(t, st, io.EOF)
				}
				c.idleAfter(t, 0)
			})
		})
	}
	c := startCluster(t, 2, nil)
	st := c.mustOpenRaw(t.Context(), t)
	recvEnds(t, st, ErrUnknownHandler)
	if err := st.Send(nil); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("Send returned %v", err)
	}
	c.waitIdle(t)
}

// Handlers that get a RawStream also serve callers that have registered them in the original's way.
func TestRawHandlersServeCallersOfEveryKind(t *testing.T) {
	for _, in := range []int{0, directCapacity} {
		for _, lacks := range []uint32{0, featureWindows, nativeFeatures} {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					if i == 0 {
						o.lacks = lacks
					}
				})
				c.raw(t, func(_ context.Context, st *RawStream) error {
					all, err := recvAll(st)
					if err != io.EOF {
						t.Errorf("the handler received %v", err)
					}
					return st.Send(number(len(all)))
				})
				err := c.nodes[0].RegisterStreamingHandler(testStream, StreamHandler{InCapacity: in, OutCapacity: directCapacity, Handle: echoBack})
				if err != nil {
					t.Fatal(err)
				}
				if in == 0 && lacks == featureWindows {
					return // it would be told that there is input
				}
				st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for ; n < 20*in; n++ {
					if err := st.Send(nil); err != nil {
						t.Fatal(err)
					}
				}
				st.CloseSend()
				recvWant(t, st, string(number(n)))
				recvEnds(t, st, io.EOF)
				c.idleAfter(t, 0)
			})
		}
	}
}

func TestAnInterceptorsContextEndsRecvAndSend(t *testing.T) {
	errEnough := errors.New("enough")
	for name, wait := range map[string]func(st *RawStream) error{
		"Recv": func(st *RawStream) error { _, err := st.Recv(); return err },
		"Send": func(st *RawStream) error { return fill(st.Send) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					o.Interceptors = []Interceptor{{ServerStream: func(_ context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
						ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, errEnough)
						defer cancel()
						return next(ctx, payload)
					}}}
				})
				c.raw(t, func(_ context.Context, st *RawStream) error {
					err := wait(st)
					if err != errEnough {
						t.Errorf("got %v", err)
					}
					return err
				})
				st := c.mustOpenRaw(t.Context(), t)
				time.Sleep(2 * time.Second)
				for {
					if _, err := st.Recv(); err != nil {
						if errorText(err) != errEnough.Error() {
							t.Errorf("the caller got %v", err)
						}
						break
					}
				}
				c.idleAfter(t, 0)
			})
		})
	}
}

// hurried gives handlers of streams less time than their callers have.
func hurried(d time.Duration, cause error) Interceptor {
	return Interceptor{ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
		ctx, cancel := context.WithTimeoutCause(ctx, d, cause)
		defer cancel()
		return next(ctx, payload)
	}}
}

// Also while a message has credit and waits for room.
func TestAnInterceptorsContextEndsSendWithoutRoom(t *testing.T) {
	errEnough := errors.New("enough")
	for name, send := range map[string]func(ctx context.Context, st *RawStream) error{
		"Send":     func(_ context.Context, st *RawStream) error { return st.Send([]byte("hi")) },
		"SendCopy": func(_ context.Context, st *RawStream) error { return st.SendCopy(context.Background(), []byte("hi")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := startUnread(t, hurried(time.Second, errEnough))
				ended := make(chan error, 1)
				err := c.nodes[0].HandleStream("soup.Eat", func(ctx context.Context, st *RawStream) error {
					err := send(ctx, st)
					ended <- err
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				p.openNamed(t, 1003, "soup.Eat")
				time.Sleep(2 * time.Second)
				synctest.Wait()
				select {
				case err := <-ended:
					if err != errEnough {
						t.Errorf("got %v", err)
					}
				default:
					t.Error("it waits for room")
				}
				if m := p.nextOf(t, 1003); m.Flags&FlagPayloadIsErr == 0 || string(m.Payload) != errEnough.Error() {
					t.Errorf("the node sent %v %v %q", m.Op, m.Flags, m.Payload)
				}
				p.socket.Close()
				c.nodes[0].Close()
				synctest.Wait()
			})
		})
	}
}

// Also if nothing ever has to be waited for.
func TestAnInterceptorsContextEndsABusyStream(t *testing.T) {
	errEnough := errors.New("enough")
	for name, step := range map[string]func(st *RawStream) error{
		"Recv":        func(st *RawStream) error { _, err := st.Recv(); return err },
		"RecvContext": func(st *RawStream) error { _, err := st.RecvContext(context.Background()); return err },
		"Send":        func(st *RawStream) error { return st.Send([]byte("hi")) },
		"SendCopy":    func(st *RawStream) error { return st.SendCopy(context.Background(), []byte("hi")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(_ int, o *ManagerOptions) {
					o.Interceptors = []Interceptor{hurried(time.Second, errEnough)}
				})
				c.raw(t, func(_ context.Context, st *RawStream) error {
					for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(10 * time.Millisecond) {
						if err := step(st); err != nil {
							return err
						}
					}
					return nil
				})
				start := time.Now()
				st := c.mustOpenRaw(t.Context(), t)
				var sender sync.WaitGroup
				sender.Go(func() { _ = fill(st.Send) })
				if _, err := recvAll(st); errorText(err) != errEnough.Error() || time.Since(start) > 2*time.Second {
					t.Errorf("the stream ended after %v with %v", time.Since(start), err)
				}
				sender.Wait()
				c.idleAfter(t, 0)
			})
		})
	}
}

func TestAMessageOverTheLimitFailsAlone(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = 64 << 10 })
	large := make([]byte, 64<<10)
	c.raw(t, func(ctx context.Context, st *RawStream) error {
		if err := st.Send(large); !errors.Is(err, ErrMessageTooLarge) {
			t.Errorf("the handler got %v", err)
		}
		return echoRaw(ctx, st)
	})
	st := c.mustOpenRaw(t.Context(), t)
	if err := st.Send(large); !errors.Is(err, ErrMessageTooLarge) {
		t.Errorf("the caller got %v", err)
	}
	if err := st.Send([]byte("small")); err != nil {
		t.Error(err)
	}
	st.CloseSend()
	recvWant(t, st, "small")
	recvEnds(t, st, io.EOF)
	c.waitIdle(t)
}

func TestAStreamMayBeCanceledWithoutItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ended := make(chan error, 1)
		err := c.nodes[1].HandleStream("test.Wait", func(ctx context.Context, _ *RawStream) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		why := errors.New("enough")
		for given, want := range map[error]error{why: why, nil: context.Canceled} {
			st, err := c.conn(0, 1).OpenStream(t.Context(), "test.Wait", nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			st.Cancel(given)
			st.Cancel(errors.New("again"))
			if _, err := st.Recv(); !errors.Is(err, want) || !errors.Is(st.Err(), want) {
				t.Errorf("got %v and %v, want %v", err, st.Err(), want)
			}
			<-ended
		}
		(*Stream)(nil).Cancel(why)
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

func TestWhatAHandlerLeavesDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		read := make(chan struct{})
		c.raw(t, func(_ context.Context, st *RawStream) error {
			<-read
			_, err := st.Recv() // one of those that it could have
			return err
		})
		st := c.mustOpenRaw(t.Context(), t)
		for range 20 {
			if err := st.Send(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		close(read)
		recvEnds(t, st, io.EOF)
		c.idleAfter(t, 0)
		if held := c.conn(1, 0).streamQuota.used.Load(); held != 0 {
			t.Errorf("the quota still counts %#x", held)
		}
	})
}
