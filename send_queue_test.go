package grid

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/race"
)

// Callers who wait for room go in the order in which they came.
func TestCallersGetTheSameShare(t *testing.T) {
	const callers, each = 1000, 20 // on average
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxQueuedBytes = 4 << 10 })
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	var left atomic.Int64
	left.Store(callers * each)
	calls := make([]int, callers)
	payload := make([]byte, 512)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				b, err := c.conn(0, 1).Request(t.Context(), testSingle, payload)
				if err != nil {
					t.Error(err)
					return
				}
				PutByteBuffer(b)
				calls[i]++
			}
		})
	}
	wg.Wait()
	if least := slices.Min(calls); least < each/10 {
		t.Errorf("one caller made %d calls, %d on average", least, each)
	}
	c.waitIdle(t)
}

// What a node tells its peer of its own accord does not use up what is kept for answers to one that
// does not read.
func TestGivingUpManyCallsKeepsTheConnection(t *testing.T) {
	const calls = 20_000
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxQueuedControlBytes = 64 << 10 })
	var running atomic.Int64
	c.handle(t, func(ctx context.Context, b []byte) ([]byte, error) {
		if len(b) > 0 {
			return b, nil
		}
		running.Add(1)
		<-ctx.Done()
		return nil, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if _, err := c.conn(0, 1).Request(ctx, testSingle, nil); err != context.Canceled {
				t.Errorf("a call that was given up ended with %v", err)
			}
		})
	}
	eventually(t, "the handlers", func() bool { return running.Load() == calls })
	cancel()
	wg.Wait()
	checkStillThere(t, c)
}

func TestRefusingManyCallsKeepsTheConnection(t *testing.T) {
	const calls = 20_000
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		o.Limits.MaxQueuedControlBytes, o.Limits.MaxRequests = 64<<10, 1
	})
	entered, finish := make(chan struct{}), make(chan struct{})
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
		if len(b) == 0 {
			close(entered)
			<-finish
		}
		return b, nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { c.conn(0, 1).Request(t.Context(), testSingle, nil) })
	<-entered
	for range calls {
		wg.Go(func() {
			if _, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte("x")); !errors.Is(err, ErrOverloaded) {
				t.Errorf("a call that was refused ended with %v", err)
			}
		})
	}
	eventually(t, "the refusals", func() bool { return c.conn(1, 0).Stats().Refused.MaxRequests == calls })
	close(finish)
	wg.Wait()
	checkStillThere(t, c)
}

// checkStillThere checks that the connection between two nodes is the first one.
func checkStillThere(t *testing.T, c *cluster) {
	t.Helper()
	c.waitIdle(t)
	if _, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte("x")); err != nil {
		t.Error(err)
	}
	for _, conn := range []*Connection{c.conn(0, 1), c.conn(1, 0)} {
		if s := conn.Stats(); s.Connects != 1 {
			t.Errorf("%v has connected %d times; the last error is %q", conn, s.Connects, s.LastError)
		}
	}
}

// A stream with the most waiting is found without a look at all of them for each message.
func TestTheHeaviestStreamIsFoundWithFewLooks(t *testing.T) {
	const streams = 10_000
	looks := 0
	all := make([]holder, streams)
	for i := range all {
		all[i] = &weight{bytes: i + 1, looks: &looks}
	}
	get := func() []holder { return all }
	var h heaviest
	for i := range 1000 {
		most, ok := h.get(get).(*weight)
		if want := streams - i; !ok || most.bytes != want {
			t.Fatalf("after %d: got %v, want one of %d", i, most, want)
		}
		most.overload()
	}
	if limit := 1000 * (2*heaviestKept + streams/heaviestKept + 1) * 2; looks > limit {
		t.Errorf("%d looks for 1000 streams that were ended", looks)
	}
	looks = 0
	for range 100_000 { // none of which ends one
		h.get(get)
	}
	if limit := 100_000 * 2 * heaviestKept; looks > limit {
		t.Errorf("%d looks for 100,000 messages", looks)
	}
	for _, one := range all {
		one.(*weight).bytes = 0
	}
	if most := h.get(get); most != nil {
		t.Errorf("got %v where nothing waits", most)
	}
}

// weight is a stream with something waiting.
type weight struct {
	bytes int
	looks *int
}

func (w *weight) waiting() int { *w.looks++; return w.bytes }
func (w *weight) overload()    { w.bytes = 0 }

// rateLimited is the receiving end of a network that carries so many bytes a second.
type rateLimited struct {
	net.Conn
	rate int
}

func (c *rateLimited) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 8<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}

// slowPath lets the bytes of the node that dials through at a rate, with little room in front of
// the slow place.
func slowPath(t *testing.T, target string, rate int) string {
	t.Helper()
	config := net.ListenConfig{}
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			in.(*net.TCPConn).SetReadBuffer(32 << 10) // with less than a segment of the loopback device, the kernel waits for its probes
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			go func() {
				io.Copy(out, &rateLimited{in, rate})
				out.Close()
			}()
			go func() {
				io.Copy(in, out)
				in.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// A connection over which bytes leave is kept, however slowly they do, and however large the
// message is.
func TestASlowLinkKeepsItsConnection(t *testing.T) {
	if race.Enabled || testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, test := range []struct {
		name       string
		rate, size int
		timeout    time.Duration
	}{
		{"100 KiB/s", 100 << 10, 2 << 20, 0},
		{"400 KiB/s", 400 << 10, 6 << 20, 0},
		{"1000 KiB/s", 1000 << 10, 12 << 20, 0},
		{"40 KiB/s in a second", 40 << 10, 1 << 20, time.Second}, // less than the kernel keeps before it takes more
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newTCPPair(t)
			from := 0
			if !shouldDial(c.nodes[0].host, c.nodes[1].host) {
				from = 1
			}
			if test.timeout > 0 && runtime.GOOS != "linux" {
				t.Skip("what the kernel passes on does not show")
			}
			c.start(t, func(i int, o *ManagerOptions) {
				o.Limits.WriteTimeout = test.timeout
				o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, slowPath(t, address, test.rate))
				}
			})
			c.waitConnected(t)
			c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return nil, nil })
			if _, err := c.conn(from, 1-from).Request(t.Context(), testSingle, make([]byte, test.size)); err != nil {
				t.Error(err)
			}
			if s := c.conn(from, 1-from).Stats(); s.Connects != 1 {
				t.Errorf("connected %d times; the last error is %q", s.Connects, s.LastError)
			}
		})
	}
}

// A stream whose opening waits for room is not pinged: the peer does not know it yet, and the ping
// would take the first number of the stream. Nor is the peer's silence about it a reason to end it.
func TestAStreamThatWaitsToBeOpenedIsNotPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits.WriteTimeout, o.Limits.PeerTimeout = 3*time.Minute, 5*time.Minute
		})
		c.stream(t, 1, 1, echoBack)
		p := c.knock(t, n)
		p.introduce(t, host) // and reads nothing for a while
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 3 { // one is being written, one fills the queue, one waits in line
			all.Go(func() { conn.Request(ctx, testSingle, make([]byte, defaultMaxQueuedBytes)) })
			synctest.Wait()
		}
		all.Go(func() {
			st, err := conn.NewStream(ctx, testStream, nil)
			if err != nil {
				t.Errorf("the stream that waited: %v", err)
				return
			}
			st.Results(func([]byte) error { return nil })
		})
		time.Sleep(2*time.Minute + time.Second)
		for m := p.next(t); m.Op != OpConnectMux; m = p.next(t) {
			if m.Op != OpRequest {
				t.Errorf("%v came before the opening of the stream", m.Op)
				break
			}
		}
		go func() {
			for {
				if _, err := p.frames.Next(); err != nil {
					return
				}
			}
		}()
		cancel()
		all.Wait()
		p.socket.Close()
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// What has found no room is sent all the same before a node leaves: the answers of handlers that
// have returned, and messages of streams. Requests are not: their answers would come too late. The
// peer is told that the node leaves behind all of that, as it reads no longer than WriteTimeout
// from then on.
func TestAnswersThatWaitForRoomSurviveAShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answers, streams, size = 50, 5, 2 << 10
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, size), nil })
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			out <- make([]byte, size)
			<-ctx.Done()
			return nil
		})
		p := c.knock(t, n)
		p.greet(t, &connectReq{Host: host, Time: time.Now(), Grid: nativeFeatures})
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(answers) {
			p.send(t, message{MuxID: 2*i + 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
		}
		for i := range uint64(streams) {
			p.send(t, message{MuxID: 2*(answers+i) + 1, Seq: 1, Handler: testStream, Op: OpConnectMux, Flags: FlagEOF})
		}
		synctest.Wait()
		var late sync.WaitGroup
		late.Go(func() {
			if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
				t.Errorf("a request that waited got %v", err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		left := make(chan error, 1)
		go func() { left <- n.Shutdown(ctx) }()
		synctest.Wait()
		came := make(map[Op]int)
		var last Op
		p.each(t, func(m message) {
			if m.Op == OpMuxServerMsg && len(m.Payload) != size {
				return
			}
			came[m.Op]++
			last = m.Op
		})
		p.socket.Close()
		if came[OpResponse] != answers || came[OpMuxServerMsg] != streams || came[OpRequest] != 0 {
			t.Errorf("%d answers of %d, %d stream messages of %d, %d requests", came[OpResponse], answers, came[OpMuxServerMsg], streams, came[OpRequest])
		}
		if came[OpDisconnect] != 1 || last != OpDisconnect {
			t.Errorf("%v is the last message; %v", last, came)
		}
		late.Wait()
		if err := <-left; err != context.Canceled {
			t.Errorf("Shutdown: %v", err)
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// A peer that reads nothing holds a shutdown no longer than it may take, however much waits for
// room.
func TestAnswersThatWaitForRoomHoldUpNoShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const answers = 50
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, 2<<10), nil })
		p := c.knock(t, n)
		p.introduce(t, host)
		if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(answers) {
			p.send(t, message{MuxID: i + 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
		}
		synctest.Wait()
		hurry := errors.New("hurry")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, hurry)
		defer cancel()
		start := time.Now()
		if err := n.Shutdown(ctx); err != hurry {
			t.Errorf("Shutdown: %v", err)
		}
		if took := time.Since(start); took < 5*time.Second || took > 5*time.Second+shutdownGrace {
			t.Errorf("it took %v", took)
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// BytesQueued has what waits in line for room, also while the queue itself is empty as it is being
// written. A peer is healthy all the same once its answer to a ping comes: a ping waits for no
// room.
func TestBytesQueuedHasWhatWaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, size = 10, 8 << 10
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		p := c.knock(t, n)
		p.introduce(t, host)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for waiting := range callers { // the first is being written
			all.Go(func() { conn.Request(ctx, testSingle, make([]byte, size)) })
			synctest.Wait()
			if got := conn.Stats().BytesQueued; got < waiting*size || got > waiting*(size+maxOverhead) {
				t.Errorf("%d bytes are queued where %d messages of %d wait", got, waiting, size)
			}
		}
		health := make(chan PeerHealth, 1)
		go func() { health <- n.Health(t.Context()).Peers[0] }()
		synctest.Wait()
		for asked := 0; asked < 2; { // when the first is written, the next is, and the ping with it
			b, err := p.frames.Next()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range parseAll(t, bytes.Clone(b)) {
				switch m.Op {
				case OpRequest:
					asked++
				case OpPing:
					payload, _ := (&pongMsg{}).MarshalMsg(nil)
					p.send(t, message{Op: OpPong, Payload: payload})
					asked = 2
				}
			}
		}
		synctest.Wait()
		if got := conn.Stats().BytesQueued; got < (callers-4)*size {
			t.Errorf("%d bytes are queued while most messages wait", got)
		}
		if h := <-health; !h.Reachable {
			t.Errorf("a peer that answers, with a full queue: %+v", h)
		}
		cancel()
		all.Wait()
		p.socket.Close()
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// waitingNode is a node with little room in its send queue, all of which is taken until the peer
// reads.
func waitingNode(t *testing.T) (*cluster, *Connection, *fakePeer) {
	t.Helper()
	c := newPipes(1)
	n, host := startForFake(t, c, func(o *ManagerOptions) {
		o.Limits = Limits{MaxQueuedBytes: 4 << 10, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
	})
	c.stream(t, 0, 1, echoBack)
	p := c.knock(t, n)
	p.introduceAs(t, host, nativeFeatures&^featureFacts) // which would add messages about handlers
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.frames.Next(); err != nil { // the session's first ping
		t.Fatal(err)
	}
	for range 2 { // one is being written, one fills the queue
		go conn.Request(t.Context(), testSingle, make([]byte, 8<<10))
		synctest.Wait()
	}
	return c, conn, p
}

// readFor returns what comes within a time, but for pings.
func (p *fakePeer) readFor(t *testing.T, d time.Duration) (all []message) {
	t.Helper()
	p.socket.SetReadDeadline(time.Now().Add(d))
	p.each(t, func(m message) {
		if m.Op != OpPing {
			all = append(all, m)
		}
	})
	return all
}

// What waits for room has the deadline that is left when it is sent, rounded up.
func TestTheWaitForRoomIsTakenOffTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const deadline, waits = 10 * time.Second, 4*time.Second + 300*time.Microsecond
		_, conn, p := waitingNode(t)
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		go conn.Request(ctx, testSingle, nil)
		go conn.NewStream(ctx, testStream, nil)
		go conn.Request(t.Context(), testSingle, []byte("default"))
		go conn.NewStream(t.Context(), testStream, []byte("none"))
		synctest.Wait()
		time.Sleep(waits)
		for _, m := range p.readFor(t, time.Second) {
			want := (deadline - waits + time.Millisecond - 1) / time.Millisecond
			switch {
			case len(m.Payload) > 100:
				want = defaultDeadline / time.Millisecond
			case string(m.Payload) == "default":
				want = (defaultDeadline - waits + time.Millisecond - 1) / time.Millisecond
			case string(m.Payload) == "none":
				want = 0
			}
			if time.Duration(m.DeadlineMS) != want {
				t.Errorf("%v %q has a deadline of %d ms, want %d", m.Op, m.Payload[:min(len(m.Payload), 10)], m.DeadlineMS, want)
			}
		}
		p.socket.Close()
	})
}

// Of a call whose deadline passes while its request waits for room the peer never hears: neither
// the request nor that it is given up, whoever finds that the deadline has passed.
func TestARequestThatWaitsBeyondItsDeadlineIsNotSent(t *testing.T) {
	for name, waits := range map[string]time.Duration{
		"the sweep comes first":     2 * time.Minute,
		"the turn comes first":      defaultDeadline + time.Millisecond,
		"a deadline of the context": 5 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, conn, p := waitingNode(t)
				ctx := t.Context()
				if waits < defaultDeadline {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, waits)
					defer cancel()
				}
				before := conn.current.Load().nextMuxID()
				ended := make(chan error, 2)
				go func() {
					_, err := conn.Request(ctx, testSingle, []byte("late"))
					ended <- err
				}()
				if waits < defaultDeadline {
					go func() {
						_, err := conn.NewStream(ctx, testStream, []byte("late"))
						ended <- err
					}()
				} else {
					ended <- context.DeadlineExceeded
				}
				synctest.Wait()
				time.Sleep(waits)
				for _, m := range p.readFor(t, 2*time.Minute) {
					if string(m.Payload) == "late" || m.Op == OpDisconnectServerMux && m.MuxID > before {
						t.Errorf("the peer got %v of mux %d, %q", m.Op, m.MuxID, m.Payload)
					}
				}
				for range cap(ended) {
					if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("a call that was late got %v", err)
					}
				}
				p.socket.Close()
				synctest.Wait()
				if left := c.idle(); left != "" {
					t.Error(left)
				}
			})
		})
	}
}

// A message that was about to wait, and need not or cannot, is not held on to: a call that is used
// again would keep the payload of an earlier one.
func TestABerthIsEmptyUnlessItsMessageWaits(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(w *batch.Writer) // between the look for room and the wait
		want      error
	}{
		"room":      {func(w *batch.Writer) { w.Run() }, nil},
		"an end":    {func(w *batch.Writer) { w.Close() }, batch.ErrClosed},
		"no change": {func(*batch.Writer) {}, batch.ErrQueued},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				here, there := net.Pipe()
				defer here.Close()
				go io.Copy(io.Discard, there)
				w := batch.New(here, batch.Config{Limit: 1000, Reserve: 1000, Large: 1 << 20, Timeout: time.Second})
				slot, err := w.Begin(batch.Normal)
				if err != nil {
					t.Fatal(err)
				}
				slot.Commit(append(slot.Open(1000), make([]byte, 1000)...))
				c := &call{answered: make(chan struct{}, 1)}
				slot, err = c.begin(&sender{batch: w}, c, &message{Op: OpRequest, Payload: []byte("payload")}, func() {
					go test.meanwhile(w)
					synctest.Wait()
				})
				if err == nil {
					slot.Abort()
				}
				if waits := c.m.Payload != nil; err != test.want || waits != (err == batch.ErrQueued) {
					t.Errorf("got %v, want %v; the message is kept: %v", err, test.want, waits)
				}
				w.Close()
			})
		})
	}
}
