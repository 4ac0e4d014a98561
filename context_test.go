package grid

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// oddContext is a context whose methods can be replaced.
type oddContext struct {
	context.Context
	deadline time.Time
	done     func() <-chan struct{}
	err      func() error
	value    func(any) any
}

func (c oddContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c oddContext) Done() <-chan struct{} {
	if c.done == nil {
		return c.Context.Done()
	}
	return c.done()
}

func (c oddContext) Err() error {
	if c.err == nil {
		return c.Context.Err()
	}
	return c.err()
}

func (c oddContext) Value(key any) any {
	if c.value == nil {
		return c.Context.Value(key)
	}
	return c.value(key)
}

// waiting returns two connected nodes whose handlers wait for the end of their calls, and what
// calls them.
func waiting(t *testing.T) (*cluster, map[string]func(context.Context) error) {
	c := startPipes(t, 2, nil)
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, nil
	})
	c.stream(t, 1, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		<-ctx.Done()
		return nil
	})
	conn := c.conn(0, 1)
	single := NewSingleHandler[*Bytes, *Bytes](testSingle, NewBytes, NewBytes)
	stream := NewStream[*Bytes, *Bytes, *Bytes](testStream, NewBytes, NewBytes, NewBytes)
	return c, map[string]func(context.Context) error{
		"Request": func(ctx context.Context) error {
			_, err := conn.Request(ctx, testSingle, nil)
			return err
		},
		"Results": func(ctx context.Context) error {
			st, err := conn.NewStream(ctx, testStream, nil)
			if err != nil {
				return err
			}
			return st.Results(func([]byte) error { return nil })
		},
		"typed request": func(ctx context.Context) error {
			_, err := single.Call(ctx, conn, new(Bytes))
			return err
		},
		"typed stream": func(ctx context.Context) error {
			st, err := stream.Call(ctx, conn, nil)
			if err != nil {
				return err
			}
			return st.Results(func(*Bytes) error { return nil })
		},
	}
}

// The deadline of a context ends a call, and whatever else takes one, also where the context never
// says so.
func TestADeadlineCountsWithoutDone(t *testing.T) {
	const left = 300 * time.Millisecond
	kinds := map[string]struct {
		never bool
		most  time.Duration // after which the deadline counts
	}{
		"nil Done":                 {false, left},
		"a Done that never closes": {true, left + deadlineGrace + 4*maxTick},
	}
	for kind, k := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, calls := waiting(t)
				var never chan struct{}
				if k.never {
					never = make(chan struct{})
				}
				done := func() <-chan struct{} { return never }
				check := func(what string, call func(context.Context) error) {
					began := time.Now()
					err := call(oddContext{Context: context.Background(), deadline: began.Add(left), done: done})
					took := time.Since(began)
					if !errors.Is(err, context.DeadlineExceeded) || took < left || took > k.most {
						t.Errorf("%s: %v after %v, want the deadline's error after %v to %v", what, err, took, left, k.most)
					}
				}
				for what, call := range calls {
					check(what, call)
				}
				c.waitIdle(t)
				c.nodes[1].Close()
				synctest.Wait()
				check("WaitForConnect", c.conn(0, 1).WaitForConnect)
			})
		})
	}
}

// A silent peer does not hold Health beyond such a deadline either, nor what runs Shutdown.
func TestHealthAndShutdownEndAtADeadlineWithoutDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		c.handle(t, func(context.Context, []byte) ([]byte, error) {
			time.Sleep(5 * time.Second)
			return nil, nil
		})
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		synctest.Wait()
		inTime := func() context.Context {
			return oddContext{
				Context:  context.Background(),
				deadline: time.Now().Add(300 * time.Millisecond),
				done:     func() <-chan struct{} { return nil },
			}
		}
		began := time.Now()
		h := n.Health(inTime())
		if took := time.Since(began); took != 300*time.Millisecond || h.Peers[0].Error != context.DeadlineExceeded.Error() {
			t.Errorf("Health after %v: %+v", took, h.Peers)
		}
		p.send(t, message{MuxID: 1, Op: OpRequest, Handler: testSingle, Flags: FlagEOF})
		synctest.Wait()
		began = time.Now()
		if err := n.Shutdown(inTime()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(began); took > 300*time.Millisecond+shutdownGrace {
			t.Errorf("Shutdown took %v", took)
		}
		time.Sleep(10 * time.Second)
	})
}

// Contexts that break the rules cost their own call, and nothing stays behind of it.
func TestOddContexts(t *testing.T) {
	closed := make(chan struct{})
	close(closed)
	fail := func() error { panic("odd") }
	kinds := map[string]struct {
		ctx  func() context.Context
		want error // nil: any error, or a panic on the caller's goroutine
	}{
		"done without an error": {want: context.Canceled, ctx: func() context.Context {
			return oddContext{Context: context.Background(), done: func() <-chan struct{} { return closed }}
		}},
		"done without an error, later": {want: context.Canceled, ctx: func() context.Context {
			done := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(done) })
			return oddContext{Context: context.Background(), done: func() <-chan struct{} { return done }}
		}},
		"done without an error at its deadline": {want: context.DeadlineExceeded, ctx: func() context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			time.AfterFunc(time.Minute, cancel)
			deadline, _ := ctx.Deadline()
			return oddContext{Context: ctx, deadline: deadline, err: func() error { return nil }, value: func(any) any { return nil }}
		}},
		"Err panics": {ctx: func() context.Context {
			return oddContext{Context: context.Background(), err: fail}
		}},
		"Err panics once it is done": {ctx: func() context.Context {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			return oddContext{Context: ctx, value: func(any) any { return nil }, err: func() error {
				if ctx.Err() != nil {
					panic("odd")
				}
				return nil
			}}
		}},
		"Value panics": {ctx: func() context.Context {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			time.AfterFunc(time.Minute, cancel)
			return oddContext{Context: ctx, value: func(any) any { panic("odd") }}
		}},
		"Done panics": {ctx: func() context.Context {
			deadline := time.Now().Add(time.Second)
			return oddContext{Context: context.Background(), deadline: deadline, done: func() <-chan struct{} { panic("odd") }}
		}},
		"a nil pointer": {ctx: func() context.Context { return (*oddContext)(nil) }},
	}
	for kind, k := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, calls := waiting(t)
				calls["Health"] = func(ctx context.Context) error { c.nodes[0].Health(ctx); return k.want }
				for what, call := range calls {
					err := func() (err error) {
						defer func() {
							if r := recover(); r != nil {
								err = errors.New("it panicked")
							}
						}()
						return call(k.ctx())
					}()
					if err == nil && what != "Health" || k.want != nil && !errors.Is(err, k.want) {
						t.Errorf("%s: %v, want %v", what, err, k.want)
					}
				}
				c.waitIdle(t)
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				for _, n := range c.nodes {
					if err := n.Shutdown(ctx); err != nil {
						t.Errorf("Shutdown: %v", err)
					}
				}
				time.Sleep(2 * time.Minute)
			})
		})
	}
}

// A nil context is an error or context.Background, but it never ends the process.
func TestNilContexts(t *testing.T) {
	c := startCluster(t, 2, nil)
	conn := c.conn(0, 1)
	var none context.Context
	h := c.nodes[0].Health(none)
	if len(h.Peers) != 1 || h.Peers[0].Reachable || h.Peers[0].Error != errNilContext.Error() {
		t.Errorf("Health: %+v", h)
	}
	errs := map[string]func() error{
		"NewManager":     func() error { _, err := NewManager(none, playerOptions("http://127.0.0.1:1")); return err },
		"Request":        func() error { _, err := conn.Request(none, testSingle, nil); return err },
		"NewStream":      func() error { _, err := conn.NewStream(none, testStream, nil); return err },
		"WaitForConnect": func() error { return conn.WaitForConnect(none) },
		"Subroute.Request": func() error {
			_, err := conn.Subroute("a").Request(none, testSingle, nil)
			return err
		},
		"Subroute.NewStream": func() error {
			_, err := conn.Subroute("a").NewStream(none, testStream, nil)
			return err
		},
		"typed request": func() error {
			_, err := NewSingleHandler[*Bytes, *Bytes](testSingle, NewBytes, NewBytes).Call(none, conn, new(Bytes))
			return err
		},
		"typed stream": func() error {
			_, err := NewStream[*Bytes, *Bytes, *Bytes](testStream, NewBytes, NewBytes, NewBytes).Call(none, conn, nil)
			return err
		},
	}
	for what, call := range errs {
		if err := call(); !errors.Is(err, errNilContext) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if GetCaller(none) != nil || GetSubroute(none) != "" || MetadataFrom(none) != nil || OutgoingMetadata(none) != nil {
		t.Error("a nil context has something in it")
	}
	md := Metadata{"a": {"b"}}
	if got := OutgoingMetadata(WithMetadata(none, md)); got.Get("a") != "b" {
		t.Errorf("WithMetadata: %v", got)
	}
	if got := MetadataFrom(WithIncomingMetadata(none, md)); got.Get("a") != "b" {
		t.Errorf("WithIncomingMetadata: %v", got)
	}
	if WithMetadata(none, nil) == nil {
		t.Error("WithMetadata without any returns nil")
	}
	ch := make(chan []byte, 1)
	if n, err := WriterToChannel(none, ch).Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("WriterToChannel: %d, %v", n, err)
	}
	if ErrorNone != Classify(none, nil) || Classify(none, context.Canceled) != ErrorCanceled {
		t.Error("Classify")
	}
	for _, n := range c.nodes {
		if err := n.Shutdown(none); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
}
