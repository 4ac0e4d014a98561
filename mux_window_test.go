package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/simnet"
)

// startFar starts two nodes with a long way between them. All time is that of the bubble.
func startFar(t *testing.T, roundTrip time.Duration, edit func(i int, o *ManagerOptions)) *cluster {
	t.Helper()
	network := simnet.New(1)
	far := simnet.Link{Delay: roundTrip / 2, Buffer: 64 << 20}
	network.SetLink("node0", "node1", far)
	network.SetLink("node1", "node0", far)
	c := newPipes(2)
	for i, n := range c.nodes {
		l, err := network.Listen(fmt.Sprintf("node%d:9000", i))
		if err != nil {
			t.Fatal(err)
		}
		n.listener = l
	}
	c.start(t, func(i int, o *ManagerOptions) {
		dial := network.Dialer(fmt.Sprintf("node%d", i))
		o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				c.mu.Lock()
				c.open = append(c.open, conn)
				c.mu.Unlock()
			}
			return conn, err
		}
		if edit != nil {
			edit(i, o)
		}
	})
	c.waitConnected(t)
	time.Sleep(2 * roundTrip) // the first ping is answered
	return c
}

// pour sends messages of a size until the stream ends.
func pour(size int) StreamHandlerFn {
	return func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		for {
			select {
			case out <- make([]byte, size):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// openStream opens a stream from the first node to the second, and returns its other end too.
func (c *cluster) openStream(t *testing.T) (*Stream, *muxServer) {
	t.Helper()
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	var server *muxServer
	eventually(t, "the stream to arrive", func() bool {
		server, _ = c.conn(1, 0).current.Load().muxes.servers.get(st.mux.id)
		return server != nil
	}, nil)
	return st, server
}

// idleAfter reports what is left some time later.
func (c *cluster) idleAfter(t *testing.T, d time.Duration) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if left := c.idle(); left != "" {
		t.Error(left)
	}
}

// window returns a copy of the receiving end of each direction.
func (m *muxClient) window() inflow { m.mu.Lock(); defer m.mu.Unlock(); return m.inflow }
func (m *muxServer) window() inflow { m.mu.Lock(); defer m.mu.Unlock(); return m.inflow }

// Whatever the messages, no side waits for credit that never comes, and both ends count the same.
func TestBothEndsOfAWindowCountTheSame(t *testing.T) {
	for name, test := range map[string]struct {
		window int
		lacks  uint32
	}{
		"the smallest window":              {4 << 10, 0},
		"the usual one":                    {0, 0},
		"the smallest, without pieces":     {4 << 10, featurePieces},
		"with a node that counts messages": {4 << 10, featureWindows},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(i int, o *ManagerOptions) {
					o.Limits.MaxStreamWindow = test.window
					if i == 0 {
						o.lacks = test.lacks
					}
				})
				c.stream(t, 3, 5, echoBack)
				st, server := c.openStream(t)
				var want [][]byte
				for range 3 {
					for _, n := range []int{0, 1, 1000, 4<<10 - messageFootprint, 4<<10 - messageFootprint + 1, 5 << 10, 40 << 10, 64 << 10, 1 << 20, 2} {
						want = append(want, bytes.Repeat([]byte{byte(len(want))}, n))
					}
					want = append(want, nil)
				}
				var sender sync.WaitGroup
				defer sender.Wait()
				sender.Go(func() {
					for _, b := range want {
						if err := st.Send(slices.Clone(b)); err != nil {
							t.Error(err)
						}
					}
				})
				late := time.AfterFunc(time.Minute, func() { st.Cancel(errors.New("it has stood still")) })
				defer late.Stop()
				next, stop := pull(st)
				for i, b := range want {
					got, err := next()
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, b) || (got == nil) != (b == nil) {
						t.Errorf("message %d: %d bytes, want %d", i, len(got), len(b))
					}
				}
				sender.Wait()
				synctest.Wait()
				st.mux.mu.Lock()
				server.mu.Lock()
				if sends, grants := st.mux.out.credits, server.inflow.credit; sends != grants {
					t.Errorf("the caller may send %d, and the handler's side has granted %d", sends, grants)
				}
				if sends, grants := server.budget+server.credits, st.mux.inflow.credit; sends != grants {
					t.Errorf("the handler may send %d, and the caller's side has granted %d", sends, grants)
				}
				for _, f := range []*inflow{&st.mux.inflow, &server.inflow} {
					if f.credit+f.owed != f.size {
						t.Errorf("%d and %d are not the window of %d", f.credit, f.owed, f.size)
					}
				}
				server.mu.Unlock()
				st.mux.mu.Unlock()
				stop()
				c.idleAfter(t, 0)
			})
		})
	}
}

// The sender is never further ahead than the window and one message.
func TestAWindowHoldsASenderBack(t *testing.T) {
	const window = 4 << 10
	for _, size := range []int{0, 100, window, 100 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxStreamWindow = window })
				c.stream(t, 1, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
					return pour(size)(ctx, nil, nil, out)
				})
				st, server := c.openStream(t)
				go func() {
					for st.Send(make([]byte, size)) == nil {
					}
				}()
				synctest.Wait()
				cost := messageFootprint + size
				want := (window + cost - 1) / cost
				st.mux.mu.Lock()
				client := st.mux.queue.len()
				st.mux.mu.Unlock()
				server.mu.Lock()
				served := server.queue.len()
				if server.pumped > 0 {
					served++ // the pump holds one
				}
				server.mu.Unlock()
				if client != want || served != want {
					t.Errorf("%d messages wait at the caller and %d at the handler, want %d", client, served, want)
				}
				st.Cancel(errors.New("enough"))
				c.idleAfter(t, 0)
			})
		})
	}
}

func TestWindowsGrowOverALongWay(t *testing.T) {
	const roundTrip = 100 * time.Millisecond
	const total = 8 << 20 // 128 round trips with a window of 64 KiB
	for _, size := range []int{512, 20 << 10, 64 << 10} {
		t.Run(fmt.Sprintf("%d bytes to the caller", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startFar(t, roundTrip, nil)
				c.stream(t, 0, 16, pour(size))
				st, _ := c.openStream(t)
				began, got := time.Now(), 0
				for b, err := range st.All() {
					if err != nil {
						t.Fatal(err)
					}
					if got += len(b); got >= total {
						break
					}
				}
				if took := time.Since(began); took > 60*roundTrip {
					t.Errorf("%d bytes took %v", got, took)
				}
				c.idleAfter(t, 2*roundTrip)
			})
		})
		t.Run(fmt.Sprintf("%d bytes to the handler", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startFar(t, roundTrip, nil)
				c.stream(t, 16, 1, func(_ context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
					for range in {
					}
					return nil
				})
				st, _ := c.openStream(t)
				began := time.Now()
				for range total / size {
					if err := st.Send(make([]byte, size)); err != nil {
						t.Fatal(err)
					}
				}
				st.CloseSend()
				if err := st.Results(func([]byte) error { return nil }); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 60*roundTrip {
					t.Errorf("%d bytes took %v", total, took)
				}
				c.idleAfter(t, 2*roundTrip)
			})
		})
	}
}

func TestWindowsOfSlowConsumersDoNotGrow(t *testing.T) {
	for _, roundTrip := range []time.Duration{0, 50 * time.Millisecond} {
		t.Run(fmt.Sprint(roundTrip), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 1 << 10
				c := startFar(t, roundTrip, nil)
				c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
					go pour(size)(ctx, nil, nil, out)
					for range in {
						time.Sleep(max(roundTrip, nearby) / 16) // a window takes four round trips
					}
					return nil
				})
				st, server := c.openStream(t)
				go func() {
					for st.Send(make([]byte, size)) == nil {
					}
				}()
				got := 0
				for range st.All() {
					time.Sleep(max(roundTrip, nearby) / 16)
					if got++; got == 1000 {
						break
					}
					for _, f := range []inflow{st.mux.window(), server.window()} {
						if f.size != minStreamWindow {
							t.Fatalf("after %d messages there is a window of %d", got, f.size)
						}
					}
				}
				c.idleAfter(t, roundTrip+time.Second)
			})
		})
	}
}

func TestWindowsBetweenNearNodesStaySmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams = 8
		c := startFar(t, farAway/4, nil)
		c.stream(t, 0, 16, pour(512))
		var all []*Stream
		var readers sync.WaitGroup
		for range streams {
			st, _ := c.openStream(t)
			all = append(all, st)
			readers.Go(func() {
				for range st.All() {
				}
			})
		}
		time.Sleep(5 * farAway)
		grown := 0
		for _, st := range all {
			size := st.mux.window().size
			if size > nearWindow {
				t.Errorf("a window has %d bytes", size)
			}
			grown += size - minStreamWindow
		}
		if grown < nearGrowth/2 || grown > nearGrowth {
			t.Errorf("%d windows have grown by %d bytes", streams, grown)
		}
		for _, st := range all {
			st.Cancel(errors.New("enough"))
		}
		readers.Wait()
		c.idleAfter(t, time.Second)
	})
}

// Windows grow by half of MaxStreamBytes together, and give that back however their streams end.
func TestWhatWindowsGrowByIsGivenBack(t *testing.T) {
	const streams, size, most = 6, 8 << 10, 1 << 20
	const roundTrip = 100 * time.Millisecond
	for name, end := range map[string]func(c *cluster, all []*Stream, handlers chan struct{}){
		"the callers leave":                       func(_ *cluster, all []*Stream, _ chan struct{}) { leave(all) },
		"the callers leave before their handlers": nil,
		"the handlers return":                     func(_ *cluster, _ []*Stream, handlers chan struct{}) { close(handlers) },
		"the connection is lost":                  func(c *cluster, _ []*Stream, _ chan struct{}) { c.cut() },
		"a message has the wrong number": func(_ *cluster, all []*Stream, _ chan struct{}) {
			for _, st := range all {
				st.mux.reply(message{MuxID: st.mux.id, Seq: 1 << 31, Op: OpMuxClientMsg}, nil)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := startFar(t, roundTrip, func(_ int, o *ManagerOptions) {
					o.Limits.MaxMessageSize = 64 << 10
					o.Limits.MaxStreamBytes = most
				})
				returns, stay := make(chan struct{}), make(chan struct{})
				c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
					if end == nil {
						defer func() { <-stay }()
					}
					for {
						select {
						case out <- make([]byte, size):
						case _, ok := <-in:
							if !ok {
								in = nil
							}
						case <-returns:
							return nil
						case <-ctx.Done():
							return nil
						}
					}
				})
				var all []*Stream
				var servers []*muxServer
				var users sync.WaitGroup
				for range streams {
					st, server := c.openStream(t)
					all, servers = append(all, st), append(servers, server)
					users.Go(func() {
						for st.Send(make([]byte, size)) == nil {
						}
					})
					users.Go(func() { st.Results(func(b []byte) error { return nil }) })
				}
				time.Sleep(12 * roundTrip)
				for i := range c.nodes {
					here, sum := c.conn(i, 1-i), 0
					for k := range all {
						f := all[k].mux.window()
						if i == 1 {
							f = servers[k].window()
						}
						sum += f.size - minStreamWindow
					}
					grown := here.grown.Load()
					if grown != int64(sum) || sum > most/2 || sum < most/4 {
						t.Errorf("node %d: windows have grown by %d, and %d is counted", i, sum, grown)
					}
				}
				if end == nil {
					leave(all)
				} else {
					end(c, all, returns)
				}
				users.Wait()
				time.Sleep(2 * roundTrip)
				synctest.Wait()
				for i := range c.nodes {
					if grown := c.conn(i, 1-i).grown.Load(); grown != 0 {
						t.Errorf("node %d: %d is counted in the end", i, grown)
					}
				}
				close(stay)
				c.idleAfter(t, time.Minute)
			})
		})
	}
}

func leave(all []*Stream) {
	for _, st := range all {
		st.Cancel(errors.New("enough"))
	}
}

// Where windows are in bytes, capacities may differ: no message is lost for that.
func TestDataGoesBothWaysBetweenDifferentCapacities(t *testing.T) {
	for _, capacities := range [][4]int{{1, 1, 64, 64}, {64, 64, 1, 1}, {1, 64, 64, 1}} {
		t.Run(fmt.Sprint(capacities), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const messages = 2000
				c := startPipes(t, 2, nil)
				for i, n := range c.nodes {
					err := n.RegisterStreamingHandler(testStream, StreamHandler{
						InCapacity: capacities[2*i], OutCapacity: capacities[2*i+1], Handle: echoBack,
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				st, _ := c.openStream(t)
				go func() {
					for i := range messages {
						if err := st.Send(number(i)); err != nil {
							t.Error(err)
						}
					}
					st.CloseSend()
				}()
				got := 0
				if err := st.Results(expectNumbers(&got)); err != nil || got != messages {
					t.Errorf("%d messages and %v", got, err)
				}
				c.idleAfter(t, 0)
			})
		})
	}
}

// A peer that sends without credit loses its stream and nothing else, in both directions.
func TestAMessageWithoutCreditEndsItsStream(t *testing.T) {
	for _, size := range []int{0, 4 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const window = 4 << 10
				c := newPipes(1)
				n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits.MaxStreamWindow = window })
				c.stream(t, 1, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
					<-ctx.Done()
					return nil
				})
				p := c.knock(t, n)
				p.introduceAs(t, host, nativeFeatures)
				conn := n.Connection(host)
				if err := conn.WaitForConnect(t.Context()); err != nil {
					t.Fatal(err)
				}
				fits := (window + size + messageFootprint - 1) / (size + messageFootprint)
				p.send(t, message{MuxID: 1, Op: OpConnectMux, Handler: testStream, Seq: 1})
				if m := p.next(t); m.Op != OpAckMux || m.DeadlineMS != window {
					t.Fatalf("got %+v", m)
				}
				st, err := conn.NewStream(t.Context(), testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				open := p.next(t)
				refused := make(chan message, 1)
				go p.each(t, func(m message) {
					if m.Op == OpMuxServerMsg {
						refused <- m
					}
				})
				p.send(t, message{MuxID: open.MuxID, Op: OpAckMux, DeadlineMS: 1})
				for i := range fits {
					p.send(t, message{MuxID: 1, Op: OpMuxClientMsg, Seq: uint32(1 + i), Payload: make([]byte, size)})
					p.send(t, message{MuxID: open.MuxID, Op: OpMuxServerMsg, Seq: uint32(1 + i), Payload: make([]byte, size)})
				}
				synctest.Wait()
				if s := conn.Stats(); s.IncomingStreams != 1 || s.OutgoingStreams != 1 {
					t.Fatalf("%d and %d streams are open", s.IncomingStreams, s.OutgoingStreams)
				}
				p.send(t, message{MuxID: 1, Op: OpMuxClientMsg, Seq: uint32(1 + fits), Payload: make([]byte, size)})
				p.send(t, message{MuxID: open.MuxID, Op: OpMuxServerMsg, Seq: uint32(1 + fits), Payload: make([]byte, size)})
				if m := <-refused; m.Flags&FlagPayloadIsErr == 0 || string(m.Payload) != "handler blocked" {
					t.Errorf("got %+v", m)
				}
				synctest.Wait() // else reading might grant it
				if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, errCredit) {
					t.Errorf("the caller got %v", err)
				}
				c.idleAfter(t, 0)
				if conn.State() != StateConnected {
					t.Errorf("the connection is lost: %s", n.log)
				}
			})
		})
	}
}

func TestCreditDoesNotOverflow(t *testing.T) {
	for _, features := range []uint32{nativeFeatures, nativeFeatures &^ featureWindows, 0} {
		s := &sender{agreement: agreement{features: features}}
		messages := math.MaxInt32
		credit := s.addCredit(s.granted(math.MaxUint32, messages), maxGrant, messages)
		if credit = s.addCredit(credit, maxGrant, messages); credit != math.MaxInt32 {
			t.Errorf("with features %#x, %d", features, credit)
		}
		if credit = s.addCredit(-maxGrant, maxGrant, messages); credit != 0 {
			t.Errorf("with features %#x, %d", features, credit)
		}
	}
}

// More than fits a message is granted in several.
func TestWhatIsGrantedArrives(t *testing.T) {
	for _, n := range []int{1, 2, maxGrant, maxGrant + 1, 1<<30 + messageFootprint + 1<<14} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				node, host := startForFake(t, c, nil)
				p := c.knock(t, node)
				p.introduceAs(t, host, nativeFeatures)
				conn := node.Connection(host)
				if err := conn.WaitForConnect(t.Context()); err != nil {
					t.Fatal(err)
				}
				conn.current.Load().muxes.grant(OpUnblockClMux, 1, n, new(sequence))
				for got := 0; got < n; {
					m := p.next(t)
					if m.Op != OpUnblockClMux {
						t.Fatalf("got %v", m.Op)
					}
					if got += m.credits(); got > n {
						t.Errorf("%d is granted, want %d", got, n)
					}
				}
			})
		})
	}
}
