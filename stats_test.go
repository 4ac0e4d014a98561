package grid

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// handlerStats finds the statistics of a handler; zero where there are none.
func handlerStats(all []HandlerStats, role Role, id HandlerID, subroute string) HandlerStats {
	for _, h := range all {
		if h.Role == role && h.ID == id && h.Subroute == subroute {
			return h
		}
	}
	return HandlerStats{}
}

func TestStatsCountCalls(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
		if string(b) == "fail" {
			return nil, NewRemoteErrString("no luck")
		}
		return b, nil
	}, "disks", "sda")
	request := func(from, to int, text string) {
		b, err := c.conn(from, to).Subroute("disks/sda").Request(t.Context(), testSingle, []byte(text))
		if (err != nil) != (text == "fail") {
			t.Errorf("%q: %v", text, err)
		}
		PutByteBuffer(b)
	}
	for range 10 {
		request(0, 1, "ok")
	}
	for range 4 {
		request(0, 2, "ok")
	}
	request(0, 1, "fail")
	c.waitIdle(t)

	client := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, testSingle, "")
	if client.Calls != 15 || client.Errors != failedWith(Unknown) || client.InFlight != 0 || client.Latency.Count() != 15 {
		t.Errorf("the caller counts %+v", client)
	}
	if client.Latency.Sum <= 0 || client.Latency.Quantile(0.5) <= 0 {
		t.Errorf("the caller's calls took no time: %+v", client.Latency)
	}
	for node, want := range map[int]HandlerStats{1: {Calls: 11, Errors: failedWith(Unknown)}, 2: {Calls: 4}} {
		all := c.nodes[node].Stats().Handlers
		got := handlerStats(all, RoleServer, testSingle, "disks/sda")
		if got.Calls != want.Calls || got.Errors != want.Errors || got.InFlight != 0 || got.Latency.Count() != want.Calls {
			t.Errorf("node %d counts %+v, want %+v", node, got, want)
		}
		if got.Name != testSingle.String() {
			t.Errorf("the handler's name is %q", got.Name)
		}
		if h := handlerStats(all, RoleClient, testSingle, ""); h.Calls != 0 {
			t.Errorf("node %d called nobody, and counts %+v", node, h)
		}
	}
	if got := handlerStats(c.conn(0, 2).HandlerStats(), RoleClient, testSingle, ""); got.Calls != 4 {
		t.Errorf("to the third node went %d calls, want 4", got.Calls)
	}
	if got := len(c.conn(1, 2).HandlerStats()); got != 0 {
		t.Errorf("%d handlers between nodes that do not call each other", got)
	}
}

// What one end sends is what the other gets, to the byte, although frames hold any number of
// messages.
func TestStatsOfTrafficAgree(t *testing.T) {
	var told [2]struct{ in, out atomic.Int64 }
	c := startCluster(t, 2, func(i int, o *ManagerOptions) {
		o.Incoming = func(n int64) { told[i].in.Add(n) }
		o.Outgoing = func(n int64) { told[i].out.Add(n) }
	})
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	const callers, calls = 20, 50
	payload := []byte(strings.Repeat("x", 1000))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range calls {
				b, err := c.conn(0, 1).Request(t.Context(), testSingle, payload)
				if err != nil {
					t.Error(err)
				}
				PutByteBuffer(b)
			}
		})
	}
	wg.Wait()
	here, there := c.conn(0, 1), c.conn(1, 0)
	agree := func() bool {
		a, b := here.Stats(), there.Stats()
		return a.Out == b.In && b.Out == a.In
	}
	eventually(t, "both ends to count the same", agree,
		func() string { return fmt.Sprintf("%+v and %+v", here.Stats(), there.Stats()) })
	for i, conn := range []*Connection{here, there} {
		same := func() bool {
			s := conn.Stats()
			return told[i].in.Load() == s.In.Bytes && told[i].out.Load() == s.Out.Bytes
		}
		eventually(t, "Incoming and Outgoing to be told what the statistics count", same, func() string {
			return fmt.Sprintf("%d and %d, not %+v", told[i].in.Load(), told[i].out.Load(), conn.Stats())
		})
	}
	s := here.Stats()
	for name, f := range map[string]FlowStats{"in": s.In, "out": s.Out} {
		if f.Messages < callers*calls || f.Bytes < callers*calls*1000 || f.Frames > f.Messages || f.MergedFrames > f.Frames {
			t.Errorf("%s: %+v", name, f)
		}
		if f.Frames < f.Messages && f.MergedFrames == 0 {
			t.Errorf("%s: %+v has no merged frames", name, f)
		}
	}
}

func TestStatsSurviveReconnect(t *testing.T) {
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.lacks = featureFacts }) // which come when they like
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	const calls = 100 // many more than there are pings, their answers, and the like
	call := func() {
		for range calls {
			if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
		}
	}
	counts := func(f FlowStats, n int64) bool {
		return f.Messages >= n && f.Messages < n+calls && f.Bytes > f.Messages
	}
	call()
	var first ConnectionStats
	eventually(t, "the calls to be counted", func() bool { // each once it is written
		first = c.conn(0, 1).Stats()
		return counts(first.In, calls) && counts(first.Out, calls)
	}, func() string { return fmt.Sprintf("%+v", first) })
	if first.Connects != 1 || first.Reconnects != 0 || first.State != StateConnected || first.Since.IsZero() || first.LastError != "" {
		t.Errorf("at first: %+v", first)
	}
	if other := c.conn(1, 0).Stats(); first.Dialed == other.Dialed || !first.Native || !other.Native {
		t.Errorf("who dialed: %+v and %+v", first, other)
	}
	c.cut()
	eventually(t, "a reconnect", func() bool {
		s, o := c.conn(0, 1).Stats(), c.conn(1, 0).Stats()
		return s.Connects == 2 && o.Connects == 2 && s.State == StateConnected && o.State == StateConnected
	})
	call()
	c.waitIdle(t)
	s := c.conn(0, 1).Stats()
	if s.Reconnects != 1 || s.LastError == "" || s.LastErrorTime.Before(first.Since) || !s.Since.After(first.Since) {
		t.Errorf("after the cut: %+v", s)
	}
	eventually(t, "the calls of both sessions to be counted", func() bool {
		s := c.conn(0, 1).Stats()
		return counts(s.In, 2*calls) && counts(s.Out, 2*calls) && s.In.Bytes > first.In.Bytes && s.Out.Bytes > first.Out.Bytes
	}, func() string { return fmt.Sprintf("%+v then %+v", first, c.conn(0, 1).Stats()) })
	if got := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, testSingle, ""); got.Calls != 2*calls {
		t.Errorf("%d calls, want %d", got.Calls, 2*calls)
	}
	found := false
	for _, e := range c.nodes[0].RecentErrors() {
		found = found || e.Peer == c.nodes[1].host && e.Handler == "" && e.Text == s.LastError && e.Count == 1
	}
	if !found {
		t.Errorf("%q is not among the recent errors %+v", s.LastError, c.nodes[0].RecentErrors())
	}
}

// Limits have their defaults, lines of the log are counted, and each peer has its own beginning.
func TestStatsOfTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxRequests = 7 })
		node := c.nodes[0]
		s := node.Stats()
		if l := s.Limits; l.MaxRequests != 7 || l.MaxQueuedBytes != new(Limits).withDefaults().MaxQueuedBytes {
			t.Errorf("limits are %+v", l)
		}
		if n := s.Logged["grid: connected"]; n != 1 {
			t.Errorf("%d connections were logged", n)
		}
		if !s.Peers[0].Added.Equal(s.Started) {
			t.Errorf("the first peer was added at %v, the start was at %v", s.Peers[0].Added, s.Started)
		}
		time.Sleep(time.Hour)
		if err := node.SetHosts(append(c.hosts(), "http://later:9000")); err != nil {
			t.Fatal(err)
		}
		s = node.Stats()
		if first, later := s.Peers[0].Added, s.Peers[1].Added; !first.Equal(s.Started) || later.Sub(first) < time.Hour {
			t.Errorf("peers were added at %v and %v", first, later)
		}
	})
}

// failedWith is what is counted of handlers that returned errors with codes.
func failedWith(codes ...Code) (s ErrorStats) {
	for _, code := range codes {
		s.Handler++
		s.Codes[code]++
	}
	return s
}

// Both ends count the errors of handlers by code, of requests and of streams of both kinds.
func TestErrorsAreCountedByCode(t *testing.T) {
	c := startPipes(t, 2, nil)
	serving := c.nodes[1].Manager
	err := errors.Join(
		serving.Handle("codes.Fail", func(_ context.Context, b []byte) ([]byte, error) {
			switch string(b) {
			case "plain":
				return nil, errors.New("no more soup")
			case "panic":
				panic("spilled soup")
			}
			return nil, NotFound
		}),
		serving.HandleStream("codes.Stream", func(context.Context, *RawStream) error { return Aborted }),
	)
	if err != nil {
		t.Fatal(err)
	}
	c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr {
		return NewRemoteErrString("no more soup")
	})
	conn := c.conn(0, 1)
	for _, text := range []string{"", "", "plain", "panic"} {
		if _, err := conn.Call(t.Context(), "codes.Fail", []byte(text)); err == nil {
			t.Errorf("%q succeeded", text)
		}
	}
	for _, open := range []func() (*Stream, error){
		func() (*Stream, error) { return conn.OpenStream(t.Context(), "codes.Stream", nil) },
		func() (*Stream, error) { return conn.NewStream(t.Context(), testStream, nil) },
	} {
		st, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); err == nil || err == io.EOF {
			t.Errorf("the stream ended with %v", err)
		}
	}
	c.waitIdle(t)
	for node, role := range []Role{RoleClient, RoleServer} {
		got := make(map[string]ErrorStats)
		for _, h := range c.nodes[node].Stats().Handlers {
			if h.Role == role && h.Calls > 0 {
				got[h.Name] = h.Errors
			}
		}
		want := map[string]ErrorStats{
			"codes.Fail":        failedWith(NotFound, NotFound, Unknown, Internal),
			"codes.Stream":      failedWith(Aborted),
			testStream.String(): failedWith(Unknown),
		}
		if !maps.Equal(got, want) {
			t.Errorf("%v: counted %v, want %v", role, got, want)
		}
	}
}

func TestCodesAreCountedByNameInJSON(t *testing.T) {
	for _, test := range []struct {
		s          CodeStats
		json, text string
	}{
		{CodeStats{}, `{}`, ""},
		{CodeStats{NotFound: 3, Internal: 1, Unknown: 2}, `{"Internal":1,"NotFound":3,"Unknown":2}`, "Unknown 2, NotFound 3, Internal 1"},
		{CodeStats{Unauthenticated: 1}, `{"Unauthenticated":1}`, "Unauthenticated 1"},
	} {
		b, err := json.Marshal(test.s)
		if err != nil || string(b) != test.json || test.s.String() != test.text {
			t.Errorf("%v is %s, %v", test.s, b, err)
		}
		back := CodeStats{OK: 1}
		if err := json.Unmarshal(b, &back); err != nil || back != test.s {
			t.Errorf("%s was read as %v, %v", b, back, err)
		}
	}
	var s CodeStats
	if err := json.Unmarshal([]byte(`{"Unknown":1,"OfTomorrow":2}`), &s); err != nil || s != (CodeStats{Unknown: 3}) {
		t.Errorf("an unknown name was read as %v, %v", s, err)
	}
	if err := json.Unmarshal([]byte(`[1]`), &s); err == nil {
		t.Error("a list was read")
	}
}

func TestStatsTellErrorsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, func(ctx context.Context, b []byte) ([]byte, error) {
			if string(b) == "panic" {
				panic("spilled soup")
			}
			<-ctx.Done()
			return nil, nil
		})
		c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for {
				select {
				case out <- nil:
				case <-ctx.Done():
					return NewRemoteErrString("canceled")
				}
			}
		})
		conn := c.conn(0, 1)
		deadline, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		conn.Request(deadline, testSingle, nil)
		conn.Request(t.Context(), testSingle, nil) // the default deadline
		canceled, giveUp := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { giveUp(errors.New("other plans")) })
		conn.Request(canceled, testSingle, nil)
		conn.Request(t.Context(), testSingle, []byte("panic"))
		conn.Request(t.Context(), 99, nil)
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range st.All() {
			break
		}
		go func() {
			time.Sleep(time.Second)
			c.cut()
		}()
		conn.Request(t.Context(), testSingle, nil)
		for range 3 {
			conn.Request(t.Context(), testSingle, nil) // not connected
		}
		synctest.Wait()
		all := c.nodes[0].Stats().Handlers
		for id, want := range map[HandlerID]struct {
			calls int64
			ErrorStats
		}{
			testSingle: {8, ErrorStats{Handler: 1, Codes: CodeStats{Internal: 1}, TimedOut: 2, Canceled: 1, Disconnected: 4}},
			testStream: {1, ErrorStats{Canceled: 1}},
			99:         {1, ErrorStats{UnknownHandler: 1}},
		} {
			got := handlerStats(all, RoleClient, id, "")
			if streams := id == testStream; got.EndedStreams > 0 != streams || got.EndedStreams > got.Calls {
				t.Errorf("%v: %d of %d calls were streams", id, got.EndedStreams, got.Calls)
			}
			if got.Calls != want.calls || got.Errors != want.ErrorStats || got.Errors.Total() != want.Total() {
				t.Errorf("%v: %d calls, %+v; want %+v", id, got.Calls, got.Errors, want)
			}
		}
		served := c.nodes[1].Stats().Handlers
		if got := handlerStats(served, RoleServer, testStream, ""); got.Calls != 1 || got.EndedStreams != 1 || got.Errors != (ErrorStats{Canceled: 1}) {
			t.Errorf("the stream's handler: %+v", got)
		}
		if got := handlerStats(served, RoleServer, testSingle, ""); got.Calls != 5 || got.Errors != (ErrorStats{Handler: 1, Codes: CodeStats{Internal: 1}, TimedOut: 2, Canceled: 1, Disconnected: 1}) {
			t.Errorf("the handler: %+v", got)
		}
		texts := fmt.Sprint(c.nodes[0].RecentErrors())
		for _, want := range []string{"spilled soup", "unknown handler", "deadline exceeded", "remote disconnected"} {
			if !strings.Contains(texts, want) {
				t.Errorf("%q is not among the recent errors %v", want, texts)
			}
		}
		if strings.Contains(texts, "other plans") {
			t.Errorf("a canceled call is among the errors %v", texts)
		}
	})
}

func TestLatency(t *testing.T) {
	for d, want := range map[time.Duration]int{
		-1: 0, 0: 0, 1: 0, 8192: 0, 8193: 1, 16384: 1, 16385: 2, time.Second: 17,
		1 << 36: LatencyBuckets - 2, 1<<36 + 1: LatencyBuckets - 1, math.MaxInt64: LatencyBuckets - 1,
	} {
		if got := latencyBucket(d); got != want {
			t.Errorf("%v is in bucket %d, want %d", d, got, want)
		}
	}
	for i := range LatencyBuckets {
		if d := LatencyBound(i); latencyBucket(d) != i || i < LatencyBuckets-1 && latencyBucket(d+1) != i+1 {
			t.Errorf("the bound of bucket %d is not %v", i, d)
		}
	}
	var l Latency
	if l.Quantile(0.5) != 0 || l.Mean() != 0 {
		t.Error("nothing took some time")
	}
	h := new(handlerCounters)
	for i := range 1000 {
		h.ended(time.Duration(i+1) * time.Millisecond)
	}
	var s HandlerStats
	h.addTo(&s)
	if s.Latency.Mean() != 500500*time.Microsecond || s.Latency.Count() != 1000 || s.Calls != 1000 {
		t.Errorf("%+v", s)
	}
	for q, want := range map[float64]time.Duration{
		0.1: 100 * time.Millisecond, 0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond, 1: time.Second,
	} {
		if got := s.Latency.Quantile(q); got < want/2 || got > 2*want {
			t.Errorf("quantile %v is %v, want %v by a factor of two", q, got, want)
		}
	}
	h.ended(time.Hour)
	h.addTo(&s)
	if got := s.Latency.Quantile(1); got != 1<<36 {
		t.Errorf("a quantile beyond the last bound is %v", got)
	}
}

// A sample of the client's calls stands for all of them.
func TestClientLatencyIsSampled(t *testing.T) {
	h := new(handlerCounters)
	const calls = 100_000
	timed := 0
	for i := range calls {
		w := h.begin()
		if w.weight > 0 {
			timed++
		} else if i < timedCalls {
			t.Fatalf("call %d is not timed", i)
		}
		h.end(w)
	}
	var s HandlerStats
	h.addTo(&s)
	// The deviation of the sample is about 100 calls, that of the estimate 8 times as much.
	if s.Calls != calls || timed > calls/sampleWeight+2000 || math.Abs(float64(s.Latency.Count()-calls)) > 10000 {
		t.Errorf("%d calls, %d of them timed, stand for %d", s.Calls, timed, s.Latency.Count())
	}
}

// Handlers have their counters to themselves, and a connection makes those that it needs only.
func TestCounterTable(t *testing.T) {
	var table counterTable
	if table.lookup(0) != nil || len(table.all()) != 0 {
		t.Error("a new table is not empty")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				table.get(i * 7 % 50).calls.Add(1)
			}
		})
	}
	wg.Wait()
	for i := range 50 {
		if n := table.lookup(i).calls.Load(); n != 16 {
			t.Errorf("counter %d is %d, want 16", i, n)
		}
	}
	var one counterTable
	last := one.get(254)
	if one.lookup(253) != nil || one.lookup(255) != nil || one.lookup(254) != last {
		t.Error("a table makes counters that nobody asked for")
	}
	if n := len(one.list.Load().counters); n != 1 {
		t.Errorf("a table has room for %d counters, and needs one", n)
	}
	first := one.get(250)
	all := one.all()
	if len(all) != 255 || all[254] != last || all[250] != first || all[252] != nil || one.get(254) != last || one.lookup(249) != nil {
		t.Errorf("after another: %v", all)
	}
	if size := reflect.TypeFor[handlerCounters]().Size(); size > 256 {
		t.Errorf("counters take %d bytes, more than four cache lines", size)
	}
}

func TestStatsAsJSON(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.conn(0, 1).Request(t.Context(), testSingle, nil)
	b, err := json.Marshal(c.nodes[0].Stats())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `"State":"Connected"`) {
		t.Errorf("no readable state in %s", b)
	}
	var back Stats
	if err := json.Unmarshal(b, &back); err != nil {
		t.Error(err)
	}
	if back.Peers[0].State != StateConnected {
		t.Errorf("read back %+v", back)
	}
	if len(back.Handlers) != 1 || back.Handlers[0].Role != RoleClient {
		t.Errorf("read back %+v", back.Handlers)
	}
	if err := new(Role).UnmarshalText([]byte("spy")); err == nil || !strings.Contains(err.Error(), "spy") {
		t.Errorf("got %v for a role that there is not", err)
	}
	if err := new(State).UnmarshalText([]byte("Confused")); err == nil || !strings.Contains(err.Error(), "Confused") {
		t.Errorf("got %v for a state that there is not", err)
	}
}

func TestNilManagerHasNoStats(t *testing.T) {
	var m *Manager
	if !reflect.DeepEqual(m.Stats(), Stats{}) || m.Open() != nil || m.RecentErrors() != nil || m.Traces() != nil {
		t.Error("a nil Manager has statistics")
	}
	if h := m.Health(t.Context()); !h.Shutdown || h.All() || h.Quorum() {
		t.Errorf("a nil Manager is in health: %+v", h)
	}
	if (*Connection)(nil).HandlerStats() != nil {
		t.Error("a nil Connection has statistics")
	}
}

func TestOpenListsWhatIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		release := make(chan struct{})
		wait := func(b []byte) ([]byte, *RemoteErr) { <-release; return b, nil }
		for _, n := range c.nodes {
			if err := n.RegisterSingleHandler(testSingle, wait, "plain"); err != nil {
				t.Fatal(err)
			}
			if err := n.RegisterSingleHandlerContext(testSingle, func(_ context.Context, b []byte) ([]byte, error) {
				return wait(b)
			}, "context"); err != nil {
				t.Fatal(err)
			}
		}
		c.stream(t, 0, 1, func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { <-release; return nil })
		if open := c.nodes[0].Open(); len(open) != 0 {
			t.Fatalf("at first %+v are open", open)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var wg sync.WaitGroup
		st, err := c.conn(0, 1).NewStream(ctx, testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range st.All() {
			}
		})
		time.Sleep(10 * time.Second)
		wg.Go(func() { c.conn(0, 1).Subroute("plain").Request(ctx, testSingle, nil) })
		time.Sleep(10 * time.Second)
		wg.Go(func() { c.conn(0, 1).Subroute("context").Request(ctx, testSingle, nil) })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for i, role := range []Role{RoleClient, RoleServer} {
			want := []OpenCall{
				{Stream: true, Handler: testStream, Age: 30 * time.Second},
				{Handler: testSingle, Subroute: "plain", Age: 20 * time.Second},
				{Handler: testSingle, Subroute: "context", Age: 10 * time.Second},
			}
			open := c.nodes[i].Open()
			if len(open) != len(want) {
				t.Fatalf("%d are open, want %d: %+v", len(open), len(want), open)
			}
			for k, o := range open {
				w := want[k]
				if off := (o.Age - w.Age).Abs(); off > c.nodes[0].node.Limits.tick() {
					t.Errorf("%v: age %v, want %v", o.Name, o.Age, w.Age)
				}
				w.Age, w.Role, w.Peer, w.Name, w.number = o.Age, role, c.nodes[1-i].host, w.Handler.String(), o.number
				if o != w {
					t.Errorf("%d: got %+v, want %+v", k, o, w)
				}
			}
			stats := c.nodes[i].Stats()
			if p := stats.Peers[0]; p.OutgoingRequests+p.IncomingRequests != 2 || p.OutgoingStreams+p.IncomingStreams != 1 {
				t.Errorf("%+v", p)
			}
			route := ""
			if role == RoleServer {
				route = "plain"
			}
			if h := handlerStats(stats.Handlers, role, testSingle, route); h.InFlight != 2-i || h.Streams != 0 || h.Calls != 0 {
				t.Errorf("%+v", h)
			}
			if h := handlerStats(stats.Handlers, role, testStream, ""); h.InFlight != 1 || h.Streams != 1 {
				t.Errorf("%+v", h)
			}
		}
		close(release)
		wg.Wait()
		synctest.Wait()
		for _, n := range c.nodes {
			if open := n.Open(); len(open) != 0 {
				t.Errorf("at last %+v are open", open)
			}
		}
	})
}

// Requests can be listed while they come and go.
func TestOpenWhileCallsRun(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil }, "context")
	for _, n := range c.nodes {
		if err := n.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := Requester(c.conn(0, 1))
			if i%2 == 0 {
				r = c.conn(0, 1).Subroute("context")
			}
			for range 300 {
				b, err := r.Request(t.Context(), testSingle, nil)
				if err != nil {
					t.Error(err)
				}
				PutByteBuffer(b)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, n := range c.nodes {
			for range 200 {
				for _, o := range n.Open() {
					if o.Handler != testSingle || o.Stream || o.Age < 0 || o.Age > time.Hour {
						t.Errorf("%+v is open", o)
					}
				}
				n.Stats()
			}
		}
	}()
	wg.Wait()
	<-done
	eventually(t, "nothing to be open", func() bool { return len(c.nodes[0].Open())+len(c.nodes[1].Open()) == 0 })
}

func TestErrorRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r errorRing
		if len(r.list()) != 0 {
			t.Error("a new ring is not empty")
		}
		for i := range 2 * recentErrors {
			time.Sleep(time.Second)
			r.add("peer", RoleServer, target{id: testSingle}, fmt.Sprintf("error %d", i))
		}
		time.Sleep(time.Second)
		r.add("peer", RoleServer, target{id: testSingle}, "error 100")
		r.add("peer", RoleClient, target{id: testSingle}, strings.Repeat("é", 1<<20))
		all := r.list()
		if len(all) != recentErrors {
			t.Fatalf("it has %d errors, want %d", len(all), recentErrors)
		}
		for _, e := range all {
			switch {
			case e.Role == RoleClient:
				if len(e.Text) > recentErrorLen || !strings.HasPrefix(e.Text, "éé") || strings.Contains(e.Text, "\uFFFD") {
					t.Errorf("%d bytes %q are kept of a long text", len(e.Text), e.Text)
				}
			case e.Text == "error 100":
				if e.Count != 2 || e.Time.Sub(e.First) != 28*time.Second {
					t.Errorf("a repeated error is %+v", e)
				}
			case e.Text < "error 65" && len(e.Text) == len("error 65"):
				t.Errorf("%q is still there", e.Text)
			}
		}
		if all[0].Time.Before(all[1].Time) || all[1].Time.Before(all[2].Time) {
			t.Errorf("not the newest first: %+v", all[:3])
		}
	})
}

// Who is not let in cannot push out what is known of peers, nor fill the list by many addresses.
func TestStrangersAmongRecentErrors(t *testing.T) {
	c := newPipes(1)
	n, _ := startForFake(t, c, func(o *ManagerOptions) {
		o.AuthRequest = func(r *http.Request) error { return errors.New("no token") }
	})
	n.node.recent.add("peer", RoleClient, noHandler, "lost")
	for i := range 3 * recentErrors {
		r := httptest.NewRequest("GET", RoutePath, nil)
		r.RemoteAddr = fmt.Sprintf("10.0.0.%d:%d", i, 1000+i)
		n.Handler()(httptest.NewRecorder(), r)
		r.RemoteAddr = fmt.Sprintf("[2001:db8::1]:%d", 1000+i)
		n.Handler()(httptest.NewRecorder(), r)
	}
	all := n.RecentErrors()
	if len(all) != 1+recentRejected {
		t.Errorf("%d errors, want %d", len(all), 1+recentRejected)
	}
	var lost bool
	var repeated int64
	for _, e := range all {
		lost = lost || e.Peer == "peer"
		if e.Peer == "2001:db8::1" && e.Text == "refused: no token" {
			repeated = e.Count
		}
	}
	if !lost || repeated != 3*recentErrors {
		t.Errorf("%+v", all)
	}
}
