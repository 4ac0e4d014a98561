package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
)

func TestZeroLimitsAreTheDefaults(t *testing.T) {
	want := Limits{
		MaxMessageSize:        64 << 20,
		MaxMetadataSize:       8 << 10,
		MaxHandshakeSize:      64 << 10,
		MaxHandshakes:         1024,
		MaxGuests:             16384,
		MaxRequests:           65536,
		MaxStreams:            16384,
		MaxRequestBytes:       256 << 20,
		MaxStreamBytes:        256 << 20,
		MaxStreamWindow:       16 << 20,
		MaxQueuedBytes:        256 << 10,
		MaxQueuedControlBytes: 4 << 20,
		DialTimeout:           2 * time.Second,
		HandshakeTimeout:      10 * time.Second,
		WriteTimeout:          3 * time.Second,
		PingInterval:          10 * time.Second,
		PeerTimeout:           20 * time.Second,
	}
	if got := (Limits{}).withDefaults(); got != want {
		t.Errorf("got %+v", got)
	}
	for name, test := range map[string]struct{ set, want Limits }{
		"bytes follow the message size":  {Limits{MaxMessageSize: 1 << 30}, Limits{MaxRequestBytes: 1<<30 + 64, MaxStreamBytes: 1<<30 + 64}},
		"the silence follows the pings":  {Limits{PingInterval: time.Minute}, Limits{PeerTimeout: 2 * time.Minute}},
		"short pings leave it as it is":  {Limits{PingInterval: time.Second}, Limits{PeerTimeout: 20 * time.Second}},
		"what is set stays as it is set": {Limits{MaxStreams: 1, WriteTimeout: time.Hour}, Limits{MaxStreams: 1, WriteTimeout: time.Hour}},
	} {
		got, want := reflect.ValueOf(test.set.withDefaults()), reflect.ValueOf(test.want)
		for i := range want.NumField() {
			if w := want.Field(i); !w.IsZero() && !w.Equal(got.Field(i)) {
				t.Errorf("%s: %s is %v, want %v", name, want.Type().Field(i).Name, got.Field(i), w)
			}
		}
		if err := test.set.check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLimitsOutOfTheirRangeAreNamed(t *testing.T) {
	ranges := map[string]struct{ least, most int64 }{
		"MaxMessageSize":        {4 << 10, 1 << 30},
		"MaxMetadataSize":       {256, 1 << 20},
		"MaxHandshakeSize":      {1 << 10, 1 << 20},
		"MaxHandshakes":         {1, 1 << 16},
		"MaxGuests":             {1, 1 << 20},
		"MaxRequests":           {1, 1 << 22},
		"MaxStreams":            {1, 1 << 22},
		"MaxRequestBytes":       {64<<20 + 64, math.MaxInt & (1<<38 - 1)},
		"MaxStreamBytes":        {64<<20 + 64, math.MaxInt & (1<<38 - 1)},
		"MaxStreamWindow":       {4 << 10, 1 << 30},
		"MaxQueuedBytes":        {4 << 10, 1 << 30},
		"MaxQueuedControlBytes": {64 << 10, 1 << 30},
		"DialTimeout":           {int64(time.Millisecond), int64(time.Hour)},
		"HandshakeTimeout":      {int64(time.Millisecond), int64(time.Hour)},
		"WriteTimeout":          {int64(time.Millisecond), int64(time.Hour)},
		"PingInterval":          {int64(time.Millisecond), int64(time.Hour)},
		"PeerTimeout":           {int64(20 * time.Second), int64(2 * time.Hour)},
	}
	fields := reflect.TypeFor[Limits]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		r, ok := ranges[name]
		if !ok {
			t.Errorf("%s has no range", name)
			continue
		}
		check := func(value int64) error {
			var l Limits
			reflect.ValueOf(&l).Elem().Field(i).SetInt(value)
			return l.check()
		}
		for _, value := range []int64{r.least, r.most, 0} {
			if err := check(value); err != nil {
				t.Errorf("%s: %d: %v", name, value, err)
			}
		}
		for _, value := range []int64{r.least - 1, r.most + 1, -1, math.MinInt32} {
			if value == 0 || int64(int(value)) != value {
				continue
			}
			if err := check(value); err == nil || !strings.Contains(err.Error(), "Limits."+name+":") {
				t.Errorf("%s: %d: got %v", name, value, err)
			}
		}
	}
}

// limited starts two nodes over TCP, of which the first has limits, and returns the connection of
// the second to it.
func limited(t *testing.T, l Limits, lacks ...uint32) (*cluster, *Connection) {
	t.Helper()
	c := startCluster(t, 2, func(i int, o *ManagerOptions) {
		if i == 0 {
			o.Limits = l
			for _, feature := range lacks {
				o.lacks |= feature
			}
		}
	})
	return c, c.conn(1, 0)
}

// gate is a handler that runs until it is opened.
type gate struct {
	entered chan struct{} // has room for all
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan struct{}, 1000), make(chan struct{})} }

func (g *gate) single(_ context.Context, payload []byte) ([]byte, error) {
	g.entered <- struct{}{}
	<-g.open
	return payload, nil
}

func (g *gate) stream(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr {
	g.entered <- struct{}{}
	<-g.open
	return nil
}

// openStream opens a stream, reads it to its end and returns why it ended.
func openStream(ctx context.Context, c *Connection, payload []byte) error {
	st, err := c.NewStream(ctx, testStream, payload)
	if err != nil {
		return err
	}
	return st.Results(func(b []byte) error {
		PutByteBuffer(b)
		return nil
	})
}

func TestWhatRunsIsLimited(t *testing.T) {
	small := make([]byte, 100)
	large := make([]byte, 64<<10-maxOverhead) // takes a buffer of 64 KiB
	one := 64 + 64<<10
	limits := Limits{MaxMessageSize: 64 << 10}
	for _, test := range []struct {
		name   string
		set    func(l *Limits)
		stream bool
		first  [][]byte // run
		over   []byte   // does not
	}{
		{"requests", func(l *Limits) { l.MaxRequests = 3 }, false, [][]byte{small, nil, small}, nil},
		{"streams", func(l *Limits) { l.MaxStreams = 3 }, true, [][]byte{small, nil, small}, nil},
		{"bytes of requests", func(l *Limits) { l.MaxRequestBytes = 2*one + 64 }, false, [][]byte{large, large, nil}, nil},
		{"bytes of a large request", func(l *Limits) { l.MaxRequestBytes = 3*one - 1 }, false, [][]byte{large, large, nil}, large},
		{"bytes of streams", func(l *Limits) { l.MaxStreamBytes = 2*one + 64 }, true, [][]byte{large, large, nil}, nil},
		{"bytes of a large stream", func(l *Limits) { l.MaxStreamBytes = 3*one - 1 }, true, [][]byte{large, large, nil}, large},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := limits
			test.set(&l)
			c, conn := limited(t, l)
			g := newGate()
			c.handle(t, g.single)
			c.stream(t, 0, 1, g.stream)
			call := func(payload []byte) error {
				if test.stream {
					return openStream(t.Context(), conn, payload)
				}
				_, err := conn.Request(t.Context(), testSingle, payload)
				return err
			}
			var running sync.WaitGroup
			for _, payload := range test.first {
				running.Go(func() {
					if err := call(payload); err != nil {
						t.Error(err)
					}
				})
				<-g.entered
			}
			for range 3 {
				err := call(test.over)
				if !errors.Is(err, ErrOverloaded) || IsRemoteErr(err) == nil {
					t.Errorf("over the limit: %v", err)
				}
			}
			if len(g.entered) != 0 {
				t.Error("a handler over the limit ran")
			}
			if n := c.nodes[0].log.count("overloaded"); n != 1 {
				t.Errorf("it was logged %d times:\n%s", n, c.nodes[0].log)
			}
			close(g.open)
			running.Wait()
			if err := call(test.over); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			c.waitIdle(t)
		})
	}
}

// A peer that never has more open than the limit is never refused: what has been answered does not
// count.
func TestAPeerWithinTheLimitIsNeverRefused(t *testing.T) {
	const most, calls = 4, 300
	c, conn := limited(t, Limits{MaxRequests: most, MaxStreams: most})
	c.handle(t, echo)
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return nil })
	var callers sync.WaitGroup
	for range most {
		callers.Go(func() {
			for range calls {
				if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
		callers.Go(func() {
			for range calls {
				if err := openStream(t.Context(), conn, nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	c.waitIdle(t)
}

// What a peer left running counts for it also when it comes back.
func TestHandlersCountBeyondTheirSession(t *testing.T) {
	c, conn := limited(t, Limits{MaxRequests: 1, MaxStreams: 1})
	g := newGate()
	c.handle(t, g.single)
	c.stream(t, 0, 1, g.stream)
	lost := make(chan error, 2)
	go func() {
		_, err := conn.Request(t.Context(), testSingle, nil)
		lost <- err
	}()
	go func() { lost <- openStream(t.Context(), conn, nil) }()
	<-g.entered
	<-g.entered
	c.cut()
	for range cap(lost) {
		if err := <-lost; !errors.Is(err, ErrDisconnected) {
			t.Errorf("a lost call got %v", err)
		}
	}
	eventually(t, "refusals after the reconnect", func() bool {
		_, err := conn.Request(t.Context(), testSingle, nil)
		return errors.Is(err, ErrOverloaded)
	})
	eventually(t, "the stream's refusal", func() bool { return errors.Is(openStream(t.Context(), conn, nil), ErrOverloaded) })
	close(g.open)
	eventually(t, "the handlers to return", func() bool {
		_, err := conn.Request(t.Context(), testSingle, nil)
		return err == nil
	})
	c.waitIdle(t)
}

// An original is answered with what it knows.
func TestARefusalIsAMuxConnectError(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits = Limits{MaxRequests: 1, MaxStreams: 1} })
	g := newGate()
	defer close(g.open)
	c.handle(t, g.single)
	c.stream(t, 0, 1, g.stream)
	p := c.knock(t, n)
	p.introduce(t, host)
	for _, op := range []Op{OpRequest, OpConnectMux} {
		m := message{Handler: testSingle, Op: op, Flags: FlagEOF | FlagCRCxxh3}
		if op == OpConnectMux {
			m.Handler = testStream
		}
		m.MuxID = 2 * uint64(op)
		p.send(t, m)
		<-g.entered
		if op == OpConnectMux {
			if got := p.next(t); got.Op != OpAckMux {
				t.Errorf("got %v", got.Op)
			}
		}
		m.MuxID++
		p.send(t, m)
		got := p.next(t)
		var refused muxConnectError
		if err := unmarshal(&refused, got.Payload); err != nil {
			t.Fatal(err)
		}
		if got.Op != OpMuxConnectError || got.MuxID != m.MuxID || refused.Error != "grid: node is overloaded" {
			t.Errorf("%v of mux %d was answered with %v of mux %d, %q", op, m.MuxID, got.Op, got.MuxID, refused.Error)
		}
	}
}

// Where streams hold too much, the one with the most waiting ends, and no other.
func TestASlowConsumerLosesItsOwnStream(t *testing.T) {
	const window = 100
	payload := make([]byte, 64<<10-maxOverhead)
	limits := Limits{MaxMessageSize: 64 << 10, MaxStreamBytes: 20 * (64 + 64<<10)}
	live := func(t *testing.T, conn *Connection, rounds int) (finish func()) {
		st, err := conn.Subroute("live").NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		next, stop := pull(st)
		for range rounds {
			if err := st.Send(bytes.Clone(payload)); err != nil {
				t.Fatal(err)
			}
			if _, err := next(); err != nil {
				t.Fatal(err)
			}
		}
		return func() {
			if err := st.Send(bytes.Clone(payload)); err != nil {
				t.Errorf("the live stream ended with %v", err)
			} else if _, err := next(); err != nil {
				t.Errorf("the live stream ended with %v", err)
			}
			stop()
		}
	}
	register := func(t *testing.T, c *cluster, h StreamHandler) {
		for _, n := range c.nodes {
			if err := n.RegisterStreamingHandler(testStream, h); err != nil {
				t.Fatal(err)
			}
			if err := n.RegisterStreamingHandler(testStream, StreamHandler{Subroute: "live", InCapacity: 1, OutCapacity: 1, Handle: echoBack}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("a handler", func(t *testing.T) {
		c, conn := limited(t, limits, featureWindows)
		ended := make(chan error, 1)
		register(t, c, StreamHandler{
			InCapacity: window, OutCapacity: 1,
			Handle: func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil
			},
		})
		finish := live(t, conn, 3)
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for st.Send(bytes.Clone(payload)) == nil {
			}
		}()
		if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrOverloaded) {
			t.Errorf("the caller got %v", err)
		}
		if err := <-ended; !errors.Is(err, ErrOverloaded) {
			t.Errorf("the handler's context ended with %v", err)
		}
		finish()
		c.waitIdle(t)
	})
	t.Run("a caller", func(t *testing.T) {
		c, conn := limited(t, limits, featureWindows)
		ended := make(chan error, 1)
		register(t, c, StreamHandler{
			OutCapacity: window,
			Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
				for {
					select {
					case out <- bytes.Clone(payload):
					case <-ctx.Done():
						ended <- context.Cause(ctx)
						return nil
					}
				}
			},
		})
		finish := live(t, conn, 3)
		st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil) // the first node has the limits
		if err != nil {
			t.Fatal(err)
		}
		<-ended // nothing was read
		if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrOverloaded) {
			t.Errorf("the caller got %v", err)
		}
		finish()
		c.waitIdle(t)
	})
}

// pull returns the results of a stream one by one.
func pull(st *Stream) (next func() ([]byte, error), stop func()) {
	results, left, done := make(chan []byte), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- st.Results(func(b []byte) error {
			select {
			case results <- b:
				return nil
			case <-left:
				return errors.New("enough")
			}
		})
	}()
	next = func() ([]byte, error) {
		select {
		case b := <-results:
			return b, nil
		case err := <-done:
			return nil, fmt.Errorf("the stream has ended: %w", err)
		}
	}
	return next, func() {
		close(left)
		st.mux.cancel(errors.New("enough"))
	}
}

func TestMessagesOverTheLimitCloseTheConnection(t *testing.T) {
	const limit = 100 << 10
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits.MaxMessageSize = limit })
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) { return payload[:1], nil })
	p := c.knock(t, n)
	p.introduce(t, host)
	m := message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF | FlagCRCxxh3, Payload: make([]byte, limit/2)}
	m.Payload = make([]byte, limit-(m.size()-len(m.Payload))-2) // the head of the payload is longer by 2
	for ; m.size() < limit; m.Payload = append(m.Payload, 0) {
	}
	if m.size() != limit {
		t.Fatalf("made a message of %d bytes", m.size())
	}
	p.send(t, m)
	if got := p.next(t); got.Op != OpResponse {
		t.Fatalf("a message of the limit was answered with %v", got.Op)
	}
	m.MuxID, m.Payload = 2, append(m.Payload, 0)
	p.send(t, m)
	var closed *wsframe.CloseError
	for {
		_, err := p.frames.Next()
		if err == nil {
			continue // a ping
		}
		if !errors.As(err, &closed) || closed.Code != ws.StatusMessageTooBig {
			t.Errorf("one byte more ended with %v", err)
		}
		break
	}
	const reason = "message too large: 102401 bytes, and the limit is 102400"
	if closed != nil && closed.Reason != reason {
		t.Errorf("the reason is %q", closed.Reason)
	}
	p.socket.Close()
	eventually(t, "the log of who refused it", func() bool { return n.log.count("protocol error: "+reason) == 1 }, n.log.String)
}

// A node that does not know its peer's limit, as that of an original, says what it ran into.
func TestWhoSendsTooMuchIsToldTheSizeAndTheLimit(t *testing.T) {
	const limit = 100 << 10
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	p := c.knock(t, n)
	p.frames = wsframe.NewReader(p.socket, nil, wsframe.Config{Client: true, MaxMessage: limit})
	p.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := conn.Request(t.Context(), testSingle, make([]byte, 2*limit))
		failed <- err
	}()
	for {
		_, err := p.frames.Next()
		if broken, ok := errors.AsType[*wsframe.ProtocolError](err); ok {
			p.socket.Write(wsframe.AppendClose(nil, broken.Code, broken.Text, true, newMask()))
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	io.Copy(io.Discard, p.socket) // or TCP would reset the connection, and the close frame be lost
	p.socket.Close()
	if err := <-failed; !errors.Is(err, ErrDisconnected) {
		t.Errorf("the call ended with %v", err)
	}
	told := regexp.MustCompile(`peer closed the connection: 1009 message too large: 204\d{3} bytes, and the limit is 102400`)
	eventually(t, "the loss", func() bool { return n.log.count("connection lost") == 1 }, n.log.String)
	if got := conn.Stats().LastError; !told.MatchString(got) {
		t.Errorf("LastError is %q", got)
	}
	if !told.MatchString(n.log.String()) {
		t.Errorf("the log says\n%s", n.log)
	}
}

func TestTheHandshakesSizeIsLimited(t *testing.T) {
	const limit = 4 << 10
	introduction := func(t *testing.T, host string, size int) message {
		req := connectReq{Host: host, Time: time.Now(), Token: strings.Repeat("x", size/2)}
		m := message{Op: OpConnect, Payload: encoded(t, &req)}
		req.Token += strings.Repeat("x", size-m.size())
		m.Payload = encoded(t, &req)
		if m.size() != size {
			t.Fatalf("made a message of %d bytes, not %d", m.size(), size)
		}
		return m
	}
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits.MaxHandshakeSize = limit })
	for _, size := range []int{limit, limit + 1} {
		p := c.knock(t, n)
		p.send(t, introduction(t, host, size))
		var resp connectResp
		if err := readHandshake(p.frames, OpConnectResponse, &resp); err != nil {
			t.Fatal(err)
		}
		if resp.Accepted != (size == limit) || !resp.Accepted && !strings.Contains(resp.RejectedReason, "too large") {
			t.Errorf("%d bytes were answered with %+v", size, resp)
		}
	}
	// The accepted connection takes larger messages.
	p := c.knock(t, n)
	p.introduce(t, host)
	c.handle(t, echo)
	p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: make([]byte, 2*limit)})
	if got := p.next(t); got.Op != OpResponse || len(got.Payload) != 2*limit {
		t.Errorf("a large request got %v", got.Op)
	}
}

func TestSendersWaitFromTheLimitOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const queued, reserve = 32 << 10, 64 << 10
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{MaxQueuedBytes: queued, MaxQueuedControlBytes: reserve, WriteTimeout: time.Hour, PeerTimeout: time.Hour}
		})
		p := c.knock(t, n)
		p.introduce(t, host) // and reads nothing from here on
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		call := func() { conn.Request(ctx, testSingle, make([]byte, 1000)) }
		callers.Go(call)
		synctest.Wait() // until it is being written: what is queued from now on stays queued
		for range 100 {
			callers.Go(call)
		}
		synctest.Wait()
		s := conn.current.Load()
		if got := s.batch.Queued(); got < queued || got > queued+2000 {
			t.Errorf("%d bytes are queued, want %d", got, queued)
		}
		// Refusals of requests cannot wait. Beyond their limit the peer, which does not read them,
		// is dropped.
		for sent := 0; ; sent++ {
			if writeHandshake(p.socket, message{MuxID: 2, Handler: 3, Op: OpRequest, Flags: FlagEOF}, true) != nil {
				break
			}
			synctest.Wait()
			if got := s.batch.Queued(); got > queued+2000+reserve+2000 {
				t.Fatalf("%d bytes are queued after %d requests", got, sent)
			}
		}
		if n.log.count("does not read") != 1 {
			t.Errorf("the log says %s", n.log)
		}
		cancel()
		callers.Wait()
	})
}

func TestTimesAreThoseOfTheLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits = Limits{
				WriteTimeout: 700 * time.Millisecond, HandshakeTimeout: 300 * time.Millisecond,
				PingInterval: 4 * time.Second, PeerTimeout: 40 * time.Second,
			}
		})
		conn := n.Connection(host)
		start := time.Now()
		since := func(what string, want, slack time.Duration) {
			t.Helper()
			if got := time.Since(start); got < want || got > want+slack {
				t.Errorf("%s took %v, want %v", what, got, want)
			}
			start = time.Now()
		}

		p := c.knock(t, n)
		readToEnd(p)
		since("the handshake", 300*time.Millisecond, 0)

		p = c.knock(t, n)
		p.introduce(t, host)
		pings := 0
		for {
			b, err := p.frames.Next()
			if err != nil {
				break
			}
			for _, m := range parseAll(t, bytes.Clone(b)) {
				if m.Op == OpPing {
					pings++
				}
			}
		}
		since("silence", 35*time.Second, 5*time.Second) // the last eighth of PeerTimeout
		if pings != 10 {
			t.Errorf("%d pings", pings)
		}

		p = c.knock(t, n)
		p.introduce(t, host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		start = time.Now()
		if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
			t.Errorf("a request got %v", err)
		}
		since("a write", 700*time.Millisecond, 0)
	})
}

// readToEnd reads what a node sends until it hangs up.
func readToEnd(p *fakePeer) {
	for {
		if _, err := p.frames.Next(); err != nil {
			return
		}
	}
}

func TestEmptyTablesShrinkAfterABurst(t *testing.T) {
	c, conn := limited(t, Limits{})
	g := newGate()
	c.handle(t, g.single)
	const burst = callShards * keptCalls * 2
	g.entered = make(chan struct{}, burst)
	var callers sync.WaitGroup
	for range burst {
		callers.Go(func() {
			if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range burst {
		<-g.entered
	}
	close(g.open)
	callers.Wait()
	c.waitIdle(t)
	s := conn.current.Load()
	s.callClient.table.eachShard(func(sh *callShard) {
		if sh.calls != nil {
			t.Errorf("a shard keeps a table that held %d calls", sh.most)
		}
	})
	if s := c.conn(0, 1).current.Load(); s.callServer.running.calls != nil {
		t.Errorf("the table of running requests held %d and is kept", s.callServer.running.most)
	}
	if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
		t.Fatal(err)
	}
}

// aheadOfItself is a context whose deadline has passed while it has not ended.
type aheadOfItself struct{ context.Context }

func (aheadOfItself) Deadline() (time.Time, bool) { return time.Now().Add(-1), true }

func TestADeadlineThatHasJustPassedHasItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.stream(t, 0, 1, count)
		conn := c.conn(0, 1)
		late := errors.New("late")
		for name, call := range map[string]func(ctx context.Context) error{
			"a request": func(ctx context.Context) error { _, err := conn.Request(ctx, testSingle, nil); return err },
			"a stream":  func(ctx context.Context) error { _, err := conn.NewStream(ctx, testStream, nil); return err },
		} {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(time.Millisecond, func() { cancel(late) })
			if err := call(aheadOfItself{ctx}); err != late {
				t.Errorf("%s got %v", name, err)
			}
			if err := call(aheadOfItself{t.Context()}); err != context.DeadlineExceeded {
				t.Errorf("%s whose context does not end got %v", name, err)
			}
		}
	})
}
