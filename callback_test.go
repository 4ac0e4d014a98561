package grid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// misbehaves are what the application's code can do in place of returning. Each does it once.
var misbehaves = map[string]func(){
	"panics": func() { panic("misbehaved") },
	"exits":  runtime.Goexit,
}

// onItsOwn calls f on a goroutine that may end, and waits for that.
func onItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { recover() }()
		f()
	}()
	<-done
}

// checkLeftNothing looks whether two nodes are idle, still connected, and end in good order.
func checkLeftNothing(t *testing.T, c *cluster) {
	t.Helper()
	c.waitIdle(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, n := range c.nodes {
		if err := n.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	}
}

func TestObserversThatMisbehave(t *testing.T) {
	for how, misbehave := range misbehaves {
		for _, where := range []string{"OnSend", "OnReceive", "OnEnd"} {
			for node := range 2 {
				t.Run(fmt.Sprintf("%s of node %d %s", where, node, how), func(t *testing.T) {
					var told, ends atomic.Int64
					once := func() {
						if told.Add(1) == 1 {
							misbehave()
						}
					}
					var o StreamObserver
					switch where {
					case "OnSend":
						o.OnSend = func(int) { once() }
					case "OnReceive":
						o.OnReceive = func(int) { once() }
					case "OnEnd":
						o.OnEnd = func(error) { once() }
					}
					next := StreamObserver{OnEnd: func(error) { ends.Add(1) }}
					watch := Interceptor{
						ClientStream: func(ctx context.Context, info *StreamInfo, payload []byte, open NewStreamFunc) (*Stream, error) {
							info.Observe(o)
							info.Observe(next)
							return open(ctx, payload)
						},
						ServerStream: func(ctx context.Context, info *StreamInfo, payload []byte, serve ServeStreamFunc) error {
							info.Observe(o)
							info.Observe(next)
							return serve(ctx, payload)
						},
					}
					if node == 0 {
						watch.ServerStream = nil
					} else {
						watch.ClientStream = nil
					}
					c := startCluster(t, 2, func(_ int, opt *ManagerOptions) { opt.Interceptors = []Interceptor{watch} })
					c.stream(t, 1, 1, echoBack)
					got := 0
					onItsOwn(func() {
						st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
						if err != nil {
							t.Error(err)
							return
						}
						sent := make(chan error, 1)
						go func() {
							defer st.CloseSend()
							for range 3 {
								if err := st.Send([]byte("x")); err != nil {
									sent <- err
									return
								}
							}
							sent <- nil
						}()
						err = st.Results(func([]byte) error { got++; return nil })
						if err := errors.Join(err, <-sent); err != nil {
							t.Error(err)
						}
					})
					// A consumer whose own observer ends its goroutine gets no more.
					if mine := node == 0 && where == "OnReceive" && how == "exits"; !mine && got != 3 {
						t.Errorf("%d messages came back, want 3", got)
					}
					checkLeftNothing(t, c) // the end of a stream may be told after its results have been read
					if told.Load() == 0 {
						t.Error("the observer was not told")
					}
					if ends.Load() != 1 {
						t.Errorf("the next observer was told of %d ends, want 1", ends.Load())
					}
				})
			}
		}
	}
}

// badValue is a payload whose methods can misbehave.
type badValue struct {
	marshal, unmarshal, size, recycle func()
}

func (v *badValue) MarshalMsg(b []byte) ([]byte, error) {
	callIfSet(v.marshal)
	return msgp.AppendInt(b, 1), nil
}

func (v *badValue) UnmarshalMsg(b []byte) ([]byte, error) {
	callIfSet(v.unmarshal)
	_, rest, err := msgp.ReadIntBytes(b)
	return rest, err
}

func (v *badValue) Msgsize() int {
	callIfSet(v.size)
	return msgp.IntSize
}

func (v *badValue) Recycle() { callIfSet(v.recycle) }

func callIfSet(f func()) {
	if f != nil {
		f()
	}
}

// What a payload's methods do costs the call that it belongs to, at either end.
func TestPayloadsThatMisbehave(t *testing.T) {
	good := func() *badValue { return new(badValue) }
	for how, misbehave := range misbehaves {
		kinds := map[string]func() *badValue{
			"MarshalMsg":   func() *badValue { return &badValue{marshal: misbehave} },
			"UnmarshalMsg": func() *badValue { return &badValue{unmarshal: misbehave} },
			"Msgsize":      func() *badValue { return &badValue{size: misbehave} },
			"Recycle":      func() *badValue { return &badValue{recycle: misbehave} },
			"the function that makes one": func() *badValue {
				misbehave()
				return nil
			},
		}
		for kind, bad := range kinds {
			for _, who := range []string{"request", "response"} {
				t.Run(fmt.Sprintf("%s of a %s %s", kind, who, how), func(t *testing.T) {
					req, resp, sent := good, good, good
					if who == "response" {
						resp = bad
					} else if req = bad; kind != "the function that makes one" {
						sent = bad
					}
					c := startCluster(t, 2, nil)
					single := NewSingleHandler(testSingle, req, resp)
					stream := NewStream[*badValue](testStream, good, req, resp)
					stream.InCapacity = 1
					stream.WithPayload = false
					for _, n := range c.nodes {
						if err := single.Register(n.Manager, func(*badValue) (*badValue, *RemoteErr) { return resp(), nil }); err != nil {
							t.Fatal(err)
						}
						err := stream.Register(n.Manager, func(_ context.Context, _ *badValue, in <-chan *badValue, out chan<- *badValue) *RemoteErr {
							for range in {
								out <- resp()
							}
							return nil
						})
						if err != nil {
							t.Fatal(err)
						}
					}
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					onItsOwn(func() { single.Call(ctx, c.conn(0, 1), sent()) })
					onItsOwn(func() {
						st, err := stream.Call(ctx, c.conn(0, 1), nil)
						if err != nil {
							t.Error(err)
							return
						}
						defer close(st.Requests)
						go onItsOwn(func() { st.Send(sent()) })
						st.Results(func(*badValue) error { return errResultsLeft })
					})
					if ctx.Err() != nil {
						t.Error("a call had to wait for its deadline")
					}
					checkLeftNothing(t, c)
				})
			}
		}
	}
}

// A subscriber's filter costs its own subscriber the item, or the goroutine that it ends its call.
func TestTraceFiltersThatMisbehave(t *testing.T) {
	for how, misbehave := range misbehaves {
		t.Run(how, func(t *testing.T) {
			c := startCluster(t, 2, nil)
			c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
				<-ctx.Done()
				return nil
			})
			done := make(chan struct{})
			defer close(done)
			err := c.nodes[0].Traces().Subscribe(TraceInternode, make(chan TraceInfo, 10), done, func(TraceInfo) bool {
				misbehave()
				return true
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			onItsOwn(func() { c.conn(0, 1).Request(ctx, testSingle, nil) })
			onItsOwn(func() {
				st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
				if err != nil || how == "exits" {
					t.Errorf("got a stream %v, %v", st != nil, err)
					return
				}
				cancel()
				st.Results(func([]byte) error { return nil })
			})
			checkLeftNothing(t, c)
		})
	}
}

// What is told of bytes may be stuck, misbehave, and call the peer or end the Manager: the
// connection goes on.
func TestByteCallbacksThatMisbehave(t *testing.T) {
	for name, set := range map[string]func(*ManagerOptions, func(int64)){
		"Incoming": func(o *ManagerOptions, f func(int64)) { o.Incoming = f },
		"Outgoing": func(o *ManagerOptions, f func(int64)) { o.Outgoing = f },
	} {
		kinds := map[string]func(c *cluster){
			"panics":   func(*cluster) { panic("misbehaved") },
			"exits":    func(*cluster) { runtime.Goexit() },
			"is stuck": func(*cluster) { select {} },
			"calls the peer": func(c *cluster) {
				c.conn(0, 1).Request(context.Background(), testSingle, nil)
			},
			"closes": func(c *cluster) { c.nodes[0].Close() },
		}
		for how, misbehave := range kinds {
			t.Run(name+" "+how, func(t *testing.T) {
				c := newTCPPair(t)
				var told, sum atomic.Int64
				started, release := make(chan struct{}), make(chan struct{})
				defer close(release)
				c.start(t, func(i int, o *ManagerOptions) {
					if i == 0 {
						set(o, func(n int64) {
							<-started
							sum.Add(n)
							if told.Add(1) != 1 {
								return
							}
							if how == "is stuck" {
								<-release
								return
							}
							misbehave(c)
						})
					}
				})
				c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
				close(started)
				if how == "closes" {
					eventually(t, "the end", func() bool { return c.nodes[0].Manager.node.ended() })
					c.nodes[0].Close()
					return
				}
				c.waitConnected(t)
				for range 3 {
					if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
						t.Error(err)
					}
				}
				checkLeftNothing(t, c)
				stats := c.conn(0, 1).Stats()
				want := stats.In.Bytes
				if name == "Outgoing" {
					want = stats.Out.Bytes
				}
				if got := sum.Load(); how != "is stuck" && got != want {
					t.Errorf("told of %d bytes, want %d", got, want)
				}
				if n := c.nodes[0].log.count("callback panicked"); (n == 1) != (how == "panics") {
					t.Errorf("logged %d times", n)
				}
			})
		}
	}
}

// Whatever the application does in its code, it may call back into the library there.
func TestTheApplicationsCodeMayCallBack(t *testing.T) {
	for name, set := range map[string]func(o *ManagerOptions, f func()){
		"AuthRequest": func(o *ManagerOptions, f func()) { o.AuthRequest = func(*http.Request) error { f(); return nil } },
		"VerifyPeer": func(o *ManagerOptions, f func()) {
			o.VerifyPeer = func(*http.Request, string) error { f(); return nil }
		},
		"AddAuth": func(o *ManagerOptions, f func()) { o.AddAuth = func(string) string { f(); return "" } },
		"Logger":  func(o *ManagerOptions, f func()) { o.Logger = slog.New(hookHandler{handle: func(slog.Record) { f() }}) },
		"Dialer": func(o *ManagerOptions, f func()) {
			o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
				f()
				return new(net.Dialer).DialContext(ctx, network, address)
			}
		},
		"ClientRequest": func(o *ManagerOptions, f func()) {
			o.Interceptors = []Interceptor{{ClientRequest: func(ctx context.Context, _ *CallInfo, req []byte, next RequestFunc) ([]byte, error) {
				f()
				return next(ctx, req)
			}}}
		},
		"ServerRequest": func(o *ManagerOptions, f func()) {
			o.Interceptors = []Interceptor{{ServerRequest: func(ctx context.Context, _ *CallInfo, b []byte, next ServeRequestFunc) ([]byte, error) {
				f()
				return next(ctx, b)
			}}}
		},
		"ClientStream": func(o *ManagerOptions, f func()) {
			o.Interceptors = []Interceptor{{ClientStream: func(ctx context.Context, info *StreamInfo, b []byte, next NewStreamFunc) (*Stream, error) {
				info.Observe(StreamObserver{OnSend: func(int) { f() }, OnReceive: func(int) { f() }, OnEnd: func(error) { f() }})
				f()
				return next(ctx, b)
			}}}
		},
		"ServerStream": func(o *ManagerOptions, f func()) {
			o.Interceptors = []Interceptor{{ServerStream: func(ctx context.Context, info *StreamInfo, b []byte, next ServeStreamFunc) error {
				info.Observe(StreamObserver{OnSend: func(int) { f() }, OnReceive: func(int) { f() }, OnEnd: func(error) { f() }})
				f()
				return next(ctx, b)
			}}}
		},
		"handlers": func(*ManagerOptions, func()) {}, // always do
	} {
		for _, last := range []string{"goes on", "closes"} {
			t.Run(name+" "+last, func(t *testing.T) {
				c := newTCPPair(t)
				started := make(chan struct{})
				var called atomic.Int64
				inside := make([]atomic.Bool, 2) // f calls the library, which may call f
				f := func(i int) {
					<-started
					if !inside[i].CompareAndSwap(false, true) {
						return
					}
					defer inside[i].Store(false)
					called.Add(1)
					n, conn := c.nodes[i], c.conn(i, 1-i)
					n.Stats()
					n.RecentErrors()
					conn.State()
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					n.Health(ctx)
					n.RegisterSingleHandler(testSingle+1, func(b []byte) ([]byte, *RemoteErr) { return b, nil })
					conn.Request(ctx, testSingle+1, nil)
					if ctx.Err() != nil {
						t.Error("what it called hangs")
					}
					if last == "closes" {
						n.Close()
					}
				}
				c.start(t, func(i int, o *ManagerOptions) { set(o, func() { f(i) }) })
				c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { f(1); return b, nil })
				c.stream(t, 1, 1, func(ctx context.Context, b []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
					f(1)
					return echoBack(ctx, b, in, out)
				})
				close(started)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if last == "goes on" {
					c.waitConnected(t)
				} else {
					eventually(t, "a connection, or an end", func() bool {
						return c.conn(0, 1).State() == StateConnected || c.nodes[0].Manager.node.ended() || c.nodes[1].Manager.node.ended()
					})
				}
				_, err := c.conn(0, 1).Request(ctx, testSingle, nil)
				err = errors.Join(err, sendAndDrain(t, c.conn(0, 1), nil, 2))
				if last == "goes on" {
					if err != nil {
						t.Error(err)
					}
					checkLeftNothing(t, c)
				}
				if ctx.Err() != nil {
					t.Error("a call hangs")
				}
				if called.Load() == 0 {
					t.Error("it was not called")
				}
			})
		}
	}
}

// Handlers, interceptors around them and consumers cost their own call.
func TestHandlersAndInterceptorsThatMisbehave(t *testing.T) {
	for how, misbehave := range misbehaves {
		for _, where := range []string{"ClientRequest", "ClientStream", "ServerRequest", "ServerStream", "handler", "next"} {
			for _, when := range []string{"before", "after"} {
				t.Run(fmt.Sprintf("%s %s %s", where, how, when), func(t *testing.T) {
					at := func(here, moment string) {
						if here == where && moment == when {
							misbehave()
						}
					}
					i := Interceptor{
						ClientRequest: func(ctx context.Context, _ *CallInfo, b []byte, next RequestFunc) ([]byte, error) {
							at("ClientRequest", "before")
							defer at("ClientRequest", "after")
							return next(ctx, b)
						},
						ClientStream: func(ctx context.Context, _ *StreamInfo, b []byte, next NewStreamFunc) (*Stream, error) {
							at("ClientStream", "before")
							defer at("ClientStream", "after")
							return next(ctx, b)
						},
						ServerRequest: func(ctx context.Context, _ *CallInfo, b []byte, next ServeRequestFunc) ([]byte, error) {
							at("ServerRequest", "before")
							defer at("ServerRequest", "after")
							return next(ctx, b)
						},
						ServerStream: func(ctx context.Context, _ *StreamInfo, b []byte, next ServeStreamFunc) error {
							at("ServerStream", "before")
							defer at("ServerStream", "after")
							return next(ctx, b)
						},
					}
					c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Interceptors = []Interceptor{i} })
					c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
						at("handler", "before")
						return b, nil
					})
					c.stream(t, 1, 1, func(ctx context.Context, b []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
						at("handler", "before")
						defer at("handler", "after")
						return echoBack(ctx, b, in, out)
					})
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					defer cancel()
					onItsOwn(func() { c.conn(0, 1).Request(ctx, testSingle, nil) })
					onItsOwn(func() {
						st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
						if err != nil {
							return
						}
						go func() {
							st.Send([]byte("x"))
							st.CloseSend()
						}()
						st.Results(func([]byte) error { at("next", when); return nil })
					})
					if ctx.Err() != nil {
						t.Error("a call had to wait for its deadline")
					}
					checkLeftNothing(t, c)
				})
			}
		}
	}
}
