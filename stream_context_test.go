package grid

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// patient is either end of a stream.
type patient interface {
	receiver
	RecvContext(ctx context.Context) ([]byte, error)
	Send(b []byte) error
	SendCopy(ctx context.Context, b []byte) error
}

// patients calls f with both ends of a stream, once with each of them as the first, whose messages
// end ends: with and without observers.
func patients(t *testing.T, f func(t *testing.T, c *cluster, one, other patient, end func())) {
	for _, observed := range []bool{false, true} {
		for _, caller := range []bool{true, false} {
			name := map[bool]string{true: "caller", false: "handler"}[caller]
			if observed {
				name += ", observed"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := startPipes(t, 2, func(_ int, o *ManagerOptions) {
						if observed {
							o.Interceptors = []Interceptor{observeAll}
						}
					})
					handled := make(chan *RawStream)
					done := make(chan struct{})
					c.raw(t, func(_ context.Context, st *RawStream) error {
						handled <- st
						<-done
						return nil
					})
					st := c.mustOpenRaw(t.Context(), t)
					raw := <-handled
					if caller {
						f(t, c, st, raw, func() { _ = st.CloseSend() })
					} else {
						f(t, c, raw, st, raw.CloseSend)
					}
					close(done)
					recvEnds(t, st, io.EOF)
					c.idleAfter(t, 0)
				})
			})
		}
	}
}

// observeAll observes all streams.
var observeAll = Interceptor{
	ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, next NewStreamFunc) (*Stream, error) {
		info.Observe(StreamObserver{OnReceive: func(int) {}})
		return next(ctx, payload)
	},
	ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error {
		info.Observe(StreamObserver{OnReceive: func(int) {}})
		return next(ctx, payload)
	},
}

func TestRecvContextGivesUpAndLosesNothing(t *testing.T) {
	patients(t, func(t *testing.T, _ *cluster, one, other patient, end func()) {
		errEnough := errors.New("enough")
		for i := range 100 {
			ctx, cancel := context.WithCancelCause(t.Context())
			received := make(chan []byte, 1)
			go func() {
				b, err := other.RecvContext(ctx)
				if err != nil && (err != errEnough || b != nil) {
					t.Errorf("RecvContext: %q, %v", b, err)
				}
				received <- b
			}()
			if i%2 == 0 {
				synctest.Wait()
			}
			go cancel(errEnough) // at the same time as the message, every other time
			if err := one.Send(number(i)); err != nil {
				t.Fatal(err)
			}
			b := <-received
			if b == nil {
				recvWant(t, other, string(number(i)))
			} else if string(b) != string(number(i)) {
				t.Errorf("received %q in place of %q", b, number(i))
			}
		}
		end()
		if b, err := other.RecvContext(t.Context()); err != io.EOF {
			t.Errorf("at the end: %q, %v", b, err)
		}
	})
}

func TestSendCopyGivesUpWithoutTheMessage(t *testing.T) {
	patients(t, func(t *testing.T, _ *cluster, one, other patient, end func()) {
		errEnough := errors.New("enough")
		var mu sync.Mutex
		sent := 0
		buffer := make([]byte, 4000) // the same for all
		for range 100 {
			ctx, cancel := context.WithCancelCause(t.Context())
			var senders sync.WaitGroup
			for range 3 { // one waits for credit, the others for their turn
				senders.Go(func() {
					for {
						mu.Lock()
						sent++
						b := slices.Clone(buffer)
						mu.Unlock()
						b[0] = 'm'
						err := one.SendCopy(ctx, b)
						clear(b)
						if err != nil {
							if err != errEnough {
								t.Errorf("SendCopy: %v", err)
							}
							mu.Lock()
							sent--
							mu.Unlock()
							return
						}
					}
				})
			}
			synctest.Wait()
			cancel(errEnough)
			senders.Wait()
			before := sent
			if before == 0 {
				t.Fatal("the credit is spent in vain")
			}
			for ; sent > 0; sent-- {
				if b, err := other.Recv(); err != nil || len(b) != len(buffer) || b[0] != 'm' {
					t.Fatalf("%d of %d are left: %d bytes, %v", sent, before, len(b), err)
				}
			}
		}
		end()
		if b, err := other.Recv(); err != io.EOF {
			t.Errorf("at the end: %q, %v", b, err)
		}
		if err := one.SendCopy(t.Context(), buffer); err == nil {
			t.Error("SendCopy sends behind the end")
		}
	})
}

// A session that shuts down takes no more messages a while before its streams end. Nobody waits for that
// who has given up.
func TestSendCopyGivesUpInAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		handled := make(chan *RawStream)
		err := n.HandleStream("soup.Eat", func(ctx context.Context, st *RawStream) error {
			handled <- st
			<-ctx.Done()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		st, err := conn.OpenStream(t.Context(), "soup.Eat", nil)
		if err != nil {
			t.Fatal(err)
		}
		p.send(t, message{MuxID: p.next(t).MuxID, Op: OpAckMux, DeadlineMS: 1 << 20})
		p.openNamed(t, 1003, "soup.Eat")
		raw := <-handled
		p.openNamed(t, 1005, "soup.Eat")
		other := <-handled
		for range 10 { // nobody reads
			if err := raw.Send(make([]byte, 10<<10)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		conn.current.Load().batch.CloseAfterFlush(nil)
		errEnough := errors.New("enough")
		for name, send := range map[string]func(ctx context.Context) error{
			"a caller's message":  func(ctx context.Context) error { return st.SendCopy(ctx, []byte("hi")) },
			"a handler's message": func(ctx context.Context) error { return raw.SendCopy(ctx, []byte("hi")) },
			"a handler's header":  func(ctx context.Context) error { return other.mux.sendHeader(ctx, nil) },
		} {
			start := time.Now()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errEnough)
			if err := send(ctx); err != errEnough || time.Since(start) != time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			cancel()
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}

func TestRecvContextAndSendCopyNeedAContext(t *testing.T) {
	patients(t, func(t *testing.T, _ *cluster, one, _ patient, _ func()) {
		var none context.Context
		if _, err := one.RecvContext(none); err != errNilContext {
			t.Errorf("RecvContext: %v", err)
		}
		if err := one.SendCopy(none, nil); err != errNilContext {
			t.Errorf("SendCopy: %v", err)
		}
	})
	var none *Stream
	if _, err := none.RecvContext(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Errorf("RecvContext: %v", err)
	}
	if err := none.SendCopy(t.Context(), nil); !errors.Is(err, ErrDisconnected) {
		t.Errorf("SendCopy: %v", err)
	}
}

func TestSendCopySendsToRequestsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.raw(t, echoRaw)
		err := c.nodes[0].RegisterStreamingHandler(testStream, StreamHandler{
			Handle:     func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil },
			InCapacity: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		if st.Requests == nil {
			t.Fatal("the stream has no Requests")
		}
		b := []byte("one")
		if err := st.SendCopy(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		copy(b, "two")
		recvWant(t, st, "one")
		_ = st.CloseSend()
		recvEnds(t, st, io.EOF)
	})
}
