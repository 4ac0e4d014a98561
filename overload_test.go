package grid

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/race"
)

// scaled is a number of callers or streams, a tenth of it under the race detector.
func scaled(n int) int {
	if race.Enabled {
		return n / 10
	}
	return n
}

// What a handler's goroutine and the tables take, in bytes, by the documentation of Limits.
const (
	perRequest = 4 << 10
	perStream  = 16 << 10
)

// worstCase is what one peer can make a node hold, by the documentation of Limits.
func worstCase(l Limits) int {
	l = l.withDefaults()
	return 6*l.MaxMessageSize + 4*(2*l.MaxMessageSize+l.MaxQueuedBytes+64<<10+l.MaxQueuedControlBytes) +
		l.MaxRequestBytes + l.MaxStreamBytes + l.MaxRequests*perRequest + l.MaxStreams*perStream
}

func TestTheWorstCaseIsAsDocumented(t *testing.T) {
	if got := worstCase(Limits{}) >> 20; got < 1900 || got > 2100 {
		t.Errorf("%d MiB with the defaults, which the documentation calls 2 GiB", got)
	}
}

// before is what a test must find again afterwards.
type before struct {
	goroutines, memory int
}

func takeNote(t *testing.T) before {
	t.Helper()
	eventually(t, "the handshake to end", func() bool { return len(ownGoroutines()) == perConnection })
	return before{perConnection, memory()}
}

// checkSame fails unless all is as before: goroutines, tables, memory but for noise.
func (b before) checkSame(t *testing.T, c *cluster) {
	t.Helper()
	c.waitIdle(t)
	waitGoroutines(t, b.goroutines)
	for _, n := range c.nodes {
		for _, host := range n.Targets() {
			s := n.Connection(host).current.Load()
			if s == nil {
				t.Fatalf("%v was lost: %s", n.Connection(host), n.log)
			}
			if n := s.muxes.clients.len() + s.muxes.servers.len(); n > 0 {
				t.Errorf("%d streams in the tables", n)
			}
			s.callClient.table.eachShard(func(sh *callShard) {
				if sh.most > keptCalls {
					t.Errorf("a table of %d calls is kept", sh.most)
				}
			})
			if s.callServer.running.most > keptCalls {
				t.Errorf("a table of %d running requests is kept", s.callServer.running.most)
			}
		}
	}
	const noise = 12 << 20 // the runtime keeps half a kilobyte of each goroutine that ever ran
	eventually(t, "the memory to be given back", func() bool { return memory() < b.memory+noise }, func() string {
		return fmt.Sprintf("%d bytes more than before", memory()-b.memory)
	})
}

// waitPings returns when a node has heard two more answers to its pings.
func waitPings(t *testing.T, c *Connection) {
	t.Helper()
	for range 2 {
		last := atomic.LoadInt64(&c.LastPong)
		eventually(t, "a pong", func() bool { return atomic.LoadInt64(&c.LastPong) != last })
	}
}

// outcomes counts how calls end.
type outcomes struct{ done, overloaded atomic.Int64 }

func (o *outcomes) add(t *testing.T, err error) {
	switch {
	case err == nil:
		o.done.Add(1)
	case errors.Is(err, ErrOverloaded):
		o.overloaded.Add(1)
	default:
		t.Errorf("a call ended with %v", err)
	}
}

func TestTenThousandCallersAtOnce(t *testing.T) {
	callers := scaled(10000)
	c := startCluster(t, 2, nil)
	c.handle(t, echo)
	b := takeNote(t)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range callers {
		all.Go(func() {
			<-start
			payload := number(i)
			for range 3 {
				got, err := c.conn(0, 1).Request(t.Context(), testSingle, payload)
				if err != nil || string(got) != string(payload) {
					t.Errorf("caller %d got %x, %v", i, got, err)
				}
			}
		})
	}
	close(start)
	within(t, "the calls", all.Wait)
	b.checkSame(t, c)
}

func TestMoreCallersThanMayRun(t *testing.T) {
	callers, most := scaled(10000), scaled(1000)
	l := Limits{
		MaxRequests: most, MaxStreams: 1, PingInterval: 20 * time.Millisecond,
		MaxMessageSize: 64 << 10, MaxRequestBytes: 4 << 20, MaxStreamBytes: 1 << 20,
	}
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits = l })
	g := newGate()
	g.entered = make(chan struct{}, callers)
	c.handle(t, g.single)
	conn := c.conn(0, 1)
	b := takeNote(t)
	var all sync.WaitGroup
	var o outcomes
	for range callers {
		all.Go(func() {
			_, err := conn.Request(t.Context(), testSingle, make([]byte, 1000))
			o.add(t, err)
		})
	}
	for range most {
		<-g.entered
	}
	refused := int64(callers - most)
	eventually(t, "the others to be refused", func() bool { return o.overloaded.Load() == refused }, func() string {
		return fmt.Sprint(o.overloaded.Load(), " were")
	})
	// The handlers hold; all else goes on.
	waitPings(t, conn)
	waitPings(t, c.conn(1, 0))
	callersMemory := most * (8 << 10)
	if took := memory() - b.memory; !race.Enabled && took > worstCase(l)+callersMemory {
		t.Errorf("%d bytes are held, the worst case is %d", took, worstCase(l)+callersMemory)
	}
	close(g.open)
	within(t, "the calls", all.Wait)
	if done := o.done.Load(); done != int64(most) {
		t.Errorf("%d calls were answered, %d may run", done, most)
	}
	b.checkSame(t, c)
}

// Handlers that are slower than what comes in: callers get an answer or hear of the overload, again
// and again.
func TestHandlersSlowerThanTheirCallers(t *testing.T) {
	callers := scaled(2000)
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxRequests = callers / 10 })
	turn := make(chan struct{}, 2)
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		turn <- struct{}{}
		for range 20 {
			runtime.Gosched()
		}
		<-turn
		return payload, nil
	})
	b := takeNote(t)
	var all sync.WaitGroup
	var o outcomes
	for range callers {
		all.Go(func() {
			for range 5 {
				_, err := c.conn(0, 1).Request(t.Context(), testSingle, make([]byte, 100))
				o.add(t, err)
			}
		})
	}
	within(t, "the calls", all.Wait)
	t.Logf("%d answered, %d refused", o.done.Load(), o.overloaded.Load())
	if o.done.Load() < int64(callers/10) {
		t.Errorf("%d calls were answered", o.done.Load())
	}
	b.checkSame(t, c)
}

func TestAThousandStreams(t *testing.T) {
	const window, messages = 16, 40
	streams := scaled(1000)
	c := startCluster(t, 2, nil)
	c.stream(t, window, window, echoBack)
	b := takeNote(t)
	var all sync.WaitGroup
	for range streams {
		all.Go(func() {
			st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Error(err)
				return
			}
			all.Go(func() {
				defer close(st.Requests)
				for i := range messages {
					if err := st.Send(number(i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			got := 0
			if err := st.Results(expectNumbers(&got)); err != nil || got != messages {
				t.Errorf("%d messages, then %v", got, err)
			}
		})
	}
	within(t, "the streams", all.Wait)
	b.checkSame(t, c)
}

// More streams than may run, whose consumers and handlers do not take what is sent.
func TestMoreStreamsThanMayRun(t *testing.T) {
	const window, size = 32, 4000
	streams, most := scaled(1000), scaled(600)
	l := Limits{
		MaxRequests: 10, MaxStreams: most, PingInterval: 20 * time.Millisecond,
		MaxMessageSize: 64 << 10, MaxRequestBytes: 1 << 20, MaxStreamBytes: 2 << 20,
	}
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits = l })
	open := make(chan struct{})
	var runs atomic.Int64
	c.stream(t, window, window, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		runs.Add(1)
		select { // takes nothing until then
		case <-open:
		case <-ctx.Done():
		}
		return echoBack(ctx, payload, in, out)
	})
	c.handle(t, echo)
	conn := c.conn(0, 1)
	b := takeNote(t)
	var all sync.WaitGroup
	var o outcomes
	for range streams {
		all.Go(func() {
			st, err := conn.NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Error(err)
				return
			}
			all.Go(func() {
				defer close(st.Requests)
				for range window + 1 {
					if st.Send(make([]byte, size)) != nil {
						return
					}
				}
			})
			select { // nor does its consumer
			case <-open:
			case <-st.mux.done:
			}
			o.add(t, st.Results(func(b []byte) error {
				PutByteBuffer(b)
				return nil
			}))
		})
	}
	// 2 MiB are less than what the streams that may run would queue: refusals and ends until it
	// fits.
	eventually(t, "the streams to settle", func() bool {
		left := streams - int(o.overloaded.Load())
		s := conn.current.Load()
		return s != nil && s.muxes.clients.len() == left && c.conn(1, 0).Stats().IncomingStreams == left && left < most && int(runs.Load()) >= left
	}, func() string {
		return fmt.Sprintf("%d refused, %+v, %+v", o.overloaded.Load(), conn.Stats(), c.conn(1, 0).Stats())
	})
	waitPings(t, conn)
	waitPings(t, c.conn(1, 0))
	if got, err := conn.Request(t.Context(), testSingle, []byte("hello")); err != nil || string(got) != "hello" {
		t.Errorf("a request got %q, %v", got, err)
	}
	if used := c.conn(1, 0).streamQuota.used.Load(); used>>quotaShift > int64(most) || used&quotaBytes > int64(l.MaxStreamBytes) {
		t.Errorf("%d streams hold %d bytes", used>>quotaShift, used&quotaBytes)
	}
	callersMemory := streams * (32<<10 + size)
	if took := memory() - b.memory; !race.Enabled && took > worstCase(l)+callersMemory {
		t.Errorf("%d bytes are held, the worst case is %d", took, worstCase(l)+callersMemory)
	}
	close(open)
	within(t, "the streams", all.Wait)
	t.Logf("%d done, %d ended by the overload", o.done.Load(), o.overloaded.Load())
	if o.done.Load() == 0 || o.done.Load()+o.overloaded.Load() != int64(streams) {
		t.Errorf("%d done, %d ended by the overload", o.done.Load(), o.overloaded.Load())
	}
	b.checkSame(t, c)
}

// A peer that sends without end and reads nothing is held to the limits while it may be slow, and
// is then dropped.
func TestAPeerThatReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limits{
			MaxRequests: 500, MaxStreams: 200, MaxQueuedBytes: 64 << 10, MaxQueuedControlBytes: 256 << 10,
			MaxMessageSize: 64 << 10, MaxRequestBytes: 2 << 20, MaxStreamBytes: 2 << 20,
		}
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits = l })
		c.handle(t, echo)
		c.stream(t, 10, 10, echoBack)
		conn := n.Connection(host)
		start := memory()
		for round := range 2 {
			p := c.knock(t, n)
			p.introduce(t, host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := conn.current.Load()
			sent := 0
			most := 0
			for id := uint64(4); ; id++ {
				m := message{MuxID: id, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: make([]byte, 3000)}
				switch id % 4 {
				case 0:
					m.Handler, m.Op, m.Flags = testStream, OpConnectMux, 0
				case 1:
					m.MuxID, m.Op, m.Flags, m.Seq = id-1, OpMuxClientMsg, 0, 1
				}
				if writeHandshake(p.socket, m, true) != nil {
					break
				}
				sent++
				if sent%500 == 0 {
					synctest.Wait()
					most = max(most, memory()-start)
					if queued := s.batch.Queued(); queued > l.MaxQueuedBytes+l.MaxQueuedControlBytes+l.MaxMessageSize {
						t.Fatalf("%d bytes are queued", queued)
					}
					checkQuota(t, "requests", conn.requestQuota)
					checkQuota(t, "streams", conn.streamQuota)
				}
			}
			if !race.Enabled && most > worstCase(l) {
				t.Errorf("%d bytes are held, the worst case is %d", most, worstCase(l))
			}
			t.Logf("round %d: %d messages, %d bytes of %d", round, sent, most, worstCase(l))
			synctest.Wait()
			if conn.State() == StateConnected {
				t.Error("it is still connected")
			}
			if left := c.idle(); left != "" {
				t.Error(left)
			}
		}
		if took := memory() - start; took > 8<<20 {
			t.Errorf("%d bytes are left", took)
		}
	})
}

func checkQuota(t *testing.T, what string, q *quota) {
	t.Helper()
	if used := q.used.Load(); used>>quotaShift > q.most || used&quotaBytes > q.maxHeld {
		t.Fatalf("%d %s with %d bytes, over %d with %d", used>>quotaShift, what, used&quotaBytes, q.most, q.maxHeld)
	}
}

// Two nodes that overload each other, with queues that are always full, do not wait for each other.
func TestNodesThatOverloadEachOtherGoOn(t *testing.T) {
	callers := scaled(100)
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits = Limits{MaxQueuedBytes: 4 << 10, MaxRequests: callers, MaxStreams: callers}
	})
	c.handle(t, echo)
	c.stream(t, 2, 2, echoBack)
	b := takeNote(t)
	var all sync.WaitGroup
	var o outcomes
	for i := range c.nodes {
		conn := c.conn(i, 1-i)
		for range callers {
			all.Go(func() {
				for range 5 {
					got, err := conn.Request(t.Context(), testSingle, make([]byte, 20000))
					PutByteBuffer(got)
					o.add(t, err)
				}
			})
		}
		for range callers / 4 {
			all.Go(func() {
				st, err := conn.NewStream(t.Context(), testStream, make([]byte, 1000))
				if err != nil {
					t.Error(err)
					return
				}
				all.Go(func() {
					defer close(st.Requests)
					for range 10 {
						if st.Send(make([]byte, 10000)) != nil {
							return
						}
					}
				})
				o.add(t, st.Results(func(b []byte) error {
					PutByteBuffer(b)
					return nil
				}))
			})
		}
	}
	within(t, "the calls", all.Wait)
	if o.overloaded.Load() != 0 {
		t.Errorf("%d calls were refused within the limits", o.overloaded.Load())
	}
	b.checkSame(t, c)
}

// What a request and a stream take beside their payloads is what the documentation of Limits counts
// for them.
func TestWhatRunsTakesLittle(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector takes memory of its own")
	}
	const n = 2000
	for _, op := range []Op{OpRequest, OpConnectMux} {
		c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
		node, host := startForFake(t, c, nil)
		g := newGate()
		g.entered = make(chan struct{}, n)
		c.handle(t, g.single)
		c.stream(t, 4, 4, g.stream)
		p := c.knock(t, node)
		p.introduce(t, host)
		go readToEnd(p)
		m := message{Handler: testSingle, Op: op, DeadlineMS: 60000}
		want := perRequest
		if op == OpConnectMux {
			m.Handler, want = testStream, perStream
		}
		start := memory()
		for id := range uint64(n) {
			m.MuxID = id + 1
			p.send(t, m)
		}
		for range n {
			<-g.entered
		}
		each := (memory() - start) / n
		t.Logf("%v: %d bytes", op, each)
		if each > want {
			t.Errorf("%v takes %d bytes", op, each)
		}
		close(g.open)
		c.waitIdle(t)
	}
}
