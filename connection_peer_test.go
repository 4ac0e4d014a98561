package grid

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// As soon as two nodes are connected, each knows all of the other; what changes is told, and what
// was known last is remembered.
func TestNodesKnowTheirPeers(t *testing.T) {
	zone := func(i int) map[string]string { return map[string]string{"zone": fmt.Sprint(i), "role": "storage"} }
	c := newTCPPair(t)
	c.start(t, func(i int, o *ManagerOptions) {
		o.Version = fmt.Sprintf("1.%d", i)
		o.Labels = zone(i)
	})
	before := c.conn(0, 1).Peer()
	if before.Name != c.nodes[1].host {
		t.Errorf("before the connection: %+v", before)
	}
	for i := range c.nodes {
		conn := c.conn(i, 1-i)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := conn.Peer()
		if p.Name != c.nodes[1-i].host || p.ID != c.nodes[1-i].ID || p.Version != fmt.Sprintf("1.%d", 1-i) || !maps.Equal(p.Labels, zone(1-i)) || p.Draining {
			t.Errorf("node %d knows %+v", i, p)
		}
		if p.LocalAddr == "" || p.RemoteAddr == "" || p.LocalAddr == p.RemoteAddr || time.Since(p.Since) > time.Minute {
			t.Errorf("node %d knows %+v", i, p)
		}
		if want := []string{"native", "metadata", "errors", "streams", "pieces", "windows", "priorities", "facts", "answers", "halves", "headers"}; !slices.Equal(p.Features, want) {
			t.Errorf("features %q", p.Features)
		}
		if s := conn.Stats(); s.Version != p.Version || s.Draining {
			t.Errorf("the statistics have %+v", s)
		}
		p.Labels["zone"] = "mine"
		if got := conn.Peer().Labels["zone"]; got == "mine" {
			t.Error("the labels are not a copy")
		}
	}
	labels := map[string]string{"zone": "b"}
	if err := c.nodes[1].SetLabels(labels); err != nil {
		t.Fatal(err)
	}
	labels["zone"] = "changed later"
	eventually(t, "the new labels", func() bool { return maps.Equal(c.conn(0, 1).Peer().Labels, map[string]string{"zone": "b"}) })
	if got := c.nodes[1].Stats(); got.Version != "1.1" || got.Labels["zone"] != "b" {
		t.Errorf("the statistics of the node have %+v", got)
	}
	if err := c.nodes[1].SetLabels(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no labels", func() bool { return len(c.conn(0, 1).Peer().Labels) == 0 })
	c.nodes[1].Close()
	eventually(t, "the loss", func() bool { return c.conn(0, 1).State() != StateConnected })
	if p := c.conn(0, 1).Peer(); p.ID != c.nodes[1].ID || p.Version != "1.1" || !p.Since.IsZero() {
		t.Errorf("of a peer that is gone, %+v is known", p)
	}
	if p := (*Connection)(nil).Peer(); p.Name != "" || p.ID != uuid.Nil {
		t.Errorf("%+v", p)
	}
}

// Options that would not be told are named.
func TestLabelsAreChecked(t *testing.T) {
	many := make(map[string]string)
	for i := range MaxLabels + 1 {
		many[fmt.Sprint(i)] = ""
	}
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Labels = map[string]string{"zone": "a"} })
	for _, test := range []struct {
		labels map[string]string
		want   string
	}{
		{map[string]string{"a": "", "": "x"}, `label "": its key is empty`},
		{map[string]string{"ok": "x", "rack\n": "x"}, `label "rack\n"`},
		{map[string]string{"ok": "x", "rack": "\xff"}, `label "rack": not UTF-8`},
		{map[string]string{"a": "x", "rack": strings.Repeat("x", MaxLabelsSize)}, `label "rack": together`},
		{many, "65 labels, at most 64"},
	} {
		o := playerOptions("http://a:1", "http://b:1")
		o.Labels = test.labels
		if _, err := NewManager(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "ManagerOptions.Labels") {
			t.Errorf("%q: got %v, want %s", test.labels, err, test.want)
		}
		if err := c.nodes[0].SetLabels(test.labels); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.labels, err, test.want)
		}
	}
	if got := c.nodes[0].Stats().Labels; got["zone"] != "a" {
		t.Errorf("the labels are %v", got)
	}
	o := playerOptions("http://a:1", "http://b:1")
	o.Version = strings.Repeat("1", MaxVersionSize+1)
	if _, err := NewManager(t.Context(), o); err == nil || !strings.Contains(err.Error(), "ManagerOptions.Version") {
		t.Error(err)
	}
	if err := (*Manager)(nil).SetLabels(nil); err == nil {
		t.Error("a nil Manager has labels")
	}
}

// A node that drains is not ready, and says so to whom it knows and to who comes later. Calls work.
func TestADrainingNodeSaysSo(t *testing.T) {
	c := newTCPPair(t)
	c.startNode(t, c.nodes[0], func(*ManagerOptions) {})
	c.nodes[0].Drain()
	c.startNode(t, c.nodes[1], func(*ManagerOptions) {})
	c.waitConnected(t)
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	there := c.conn(1, 0)
	status := func(probe string) int {
		w := httptest.NewRecorder()
		c.nodes[0].HealthHandler(HealthOptions{Timeout: time.Minute}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+probe, nil))
		return w.Code
	}
	check := func(draining bool) {
		t.Helper()
		ready := map[bool]int{true: 503, false: 200}[draining]
		if got := status("ready"); got != ready {
			t.Errorf("draining %v: ready is %d", draining, got)
		}
		if got := status("live"); got != 200 {
			t.Errorf("draining %v: live is %d", draining, got)
		}
		if h := c.nodes[0].Health(t.Context()); h.Draining != draining || !h.All() || !h.Quorum() {
			t.Errorf("draining %v: %+v", draining, h)
		}
		if h := c.nodes[1].Health(t.Context()); h.Draining || h.Peers[0].Draining != draining {
			t.Errorf("draining %v: its peer has %+v", draining, h)
		}
		if s := c.nodes[0].Stats(); s.Draining != draining {
			t.Errorf("draining %v: %+v", draining, s)
		}
		for i := range 2 {
			if got, err := c.conn(i, 1-i).Request(t.Context(), testSingle, []byte("soup")); err != nil || string(got) != "soup" {
				t.Errorf("draining %v: a call from node %d got %q, %v", draining, i, got, err)
			}
		}
	}
	if !there.Peer().Draining {
		t.Error("a peer that came later does not know")
	}
	check(true)
	for _, draining := range []bool{false, true, false} {
		for range 2 { // the second changes nothing
			if draining {
				c.nodes[0].Drain()
			} else {
				c.nodes[0].Undrain()
			}
		}
		eventually(t, "the peer to know", func() bool { return there.Peer().Draining == draining && there.Stats().Draining == draining })
		check(draining)
	}
	(*Manager)(nil).Drain()
}

// Events tell of hosts that drain, and of those that have taken it back, also where a host that
// drains comes back.
func TestEventsTellOfDrainingHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		ctx, cancel := context.WithCancel(t.Context())
		e := follow(ctx, c.nodes[0].Manager)
		e.expect(t, "added node1:9000", "connected node1:9000")
		c.nodes[1].Drain()
		e.expect(t, "draining node1:9000")
		c.nodes[1].SetLabels(map[string]string{"zone": "a"})
		e.expect(t)
		follow(ctx, c.nodes[0].Manager).expect(t, "added node1:9000", "connected node1:9000", "draining node1:9000")
		c.cut()
		e.take()
		time.Sleep(maxBackoff)
		e.expect(t, "connected node1:9000", "draining node1:9000")
		c.nodes[1].Undrain()
		e.expect(t, "undrained node1:9000")
		c.nodes[1].Drain()
		e.expect(t, "draining node1:9000")
		c.nodes[1].Undrain()
		e.expect(t, "undrained node1:9000")
		cancel()
		e.expect(t, "end")
	})
}

// Nothing that a process has said counts for the next, also if that is older and says nothing.
func TestANewProcessIsKnownAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.Version, o.Labels = "2", map[string]string{"zone": "a"} })
		c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		c.nodes[1].Drain()
		time.Sleep(time.Second)
		conn := c.conn(0, 1)
		if p := conn.Peer(); p.Version != "2" || !p.Draining || !conn.Handles(testSingle) || !conn.facts.Load().lacks(false, nameUnknown, nil) {
			t.Fatalf("%+v", p)
		}
		c.nodes[1].Close()
		c.startNode(t, c.nodes[1], func(o *ManagerOptions) { o.lacks = featureFacts })
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := conn.Peer()
		if p.ID != c.nodes[1].ID || p.Version != "" || len(p.Labels) > 0 || p.Draining || conn.Handles(testSingle) || conn.facts.Load().lacks(false, nameUnknown, nil) {
			t.Errorf("%+v", p)
		}
	})
}

// waitFinal waits until the peer at the other end of a connection has registered all its handlers.
func (c *Connection) waitFinal(t *testing.T) {
	t.Helper()
	eventually(t, "the end of registrations", func() bool { f := c.facts.Load(); return f != nil && f.final })
}

// Handles tells apart what a peer has, and what it has not, and knows of what is registered later.
func TestHandlersOfAPeerAreKnown(t *testing.T) {
	c := newTCPPair(t)
	c.start(t, nil)
	c.nodes[1].RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil })
	c.nodes[1].RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }, "disks", "sda")
	c.nodes[1].RegisterStreamingHandler(testStream, StreamHandler{Handle: endless, Subroute: "log"})
	newBytes := func() *Bytes { return new(Bytes) }
	typedSingle, typedOther := NewSingleHandler(testSingle, newBytes, newBytes), NewSingleHandler(testStream, newBytes, newBytes)
	typedStream := NewStream(testStream, newBytes, newBytes, newBytes)
	conn := c.conn(0, 1)
	if conn.State() != StateConnected && conn.Handles(testSingle) {
		t.Error("known before the connection is up")
	}
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn.waitFinal(t)
	for _, test := range []struct {
		got, want bool
		what      string
	}{
		{conn.Handles(testSingle), true, "a handler of requests"},
		{conn.Handles(testStream), false, "one of streams without its subroute"},
		{conn.Subroute("log").Handles(testStream), true, "one of streams"},
		{conn.Subroute("log").Handles(testSingle), false, "another on the same subroute"},
		{conn.Subroute("disks").Subroute("sda").Handles(testSingle), true, "one on a subroute"},
		{conn.Subroute("").Handles(testSingle), true, "one on no subroute"},
		{conn.Subroute("disks").Handles(testSingle), false, "one on another subroute"},
		{(*Connection)(nil).Handles(testSingle), false, "one of no connection"},
		{(*Subroute)(nil).Handles(testSingle), false, "one of no subroute"},
		{conn.Handles(0), false, "none"},
		{typedSingle.HandledBy(conn), true, "a typed handler"},
		{typedSingle.HandledBy(conn.Subroute("disks/sda")), true, "a typed handler on a subroute"},
		{typedSingle.HandledBy(conn.Subroute("disks")), false, "a typed handler on another"},
		{typedSingle.HandledBy(requester{}), false, "a handler of something else"},
		{typedOther.HandledBy(conn.Subroute("log")), false, "a typed handler of another kind"},
		{typedStream.HandledBy(conn.Subroute("log")), true, "a typed stream"},
		{typedStream.HandledBy(conn), false, "a typed stream without its subroute"},
	} {
		if test.got != test.want {
			t.Errorf("%s is known: %v", test.what, test.got)
		}
	}
	if err := c.nodes[1].RegisterSingleHandler(201, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err != nil {
		t.Fatal(err)
	}
	if f := conn.facts.Load(); f.lacks(false, 201, nil) {
		t.Error("the registration has not waited")
	}
	eventually(t, "the next handler", func() bool { return conn.Handles(201) })
	c.nodes[1].Close()
	eventually(t, "the loss", func() bool { return conn.State() != StateConnected })
	if conn.Handles(testSingle) {
		t.Error("known after the connection is lost")
	}
}

// requester makes requests of its own.
type requester struct{}

func (requester) Request(context.Context, HandlerID, []byte) ([]byte, error) { return nil, nil }

// A call of a handler that the peer is known not to have gets the same error as from the peer, and
// is not sent.
func TestACallOfAMissingHandlerFailsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { callMissingHandlers(t, startPipes(t, 2, nil)) })
}

func callMissingHandlers(t *testing.T, c *cluster) {
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	c.nodes[1].RegisterStreamingHandler(100, StreamHandler{Handle: endless})
	c.nodes[0].RegisterStreamingHandler(nameUnknown, StreamHandler{Handle: endless})
	conn := c.conn(0, 1)
	stream := func() error {
		st, err := conn.NewStream(t.Context(), nameUnknown, nil)
		if err != nil {
			return err
		}
		return st.Results(func([]byte) error { return nil })
	}
	calls := map[string]func() error{
		"a request":               func() error { _, err := conn.Request(t.Context(), nameUnknown, nil); return err },
		"a request on a subroute": func() error { _, err := conn.Subroute("a").Request(t.Context(), testSingle, nil); return err },
		"a request of a stream's": func() error { _, err := conn.Request(t.Context(), 100, nil); return err },
		"a stream":                stream,
	}
	forget := func(f func(*facts)) {
		known := *conn.facts.Load()
		f(&known)
		conn.facts.Store(&known)
	}
	time.Sleep(time.Second)
	for name, call := range calls {
		forget(func(f *facts) { f.final = false })
		theirs := call()
		forget(func(f *facts) { f.final = true })
		synctest.Wait()
		before, refused := conn.Stats().Out.Messages, len(c.nodes[1].RecentErrors())
		ours := call()
		synctest.Wait()
		if n := conn.Stats().Out.Messages - before; n != 0 {
			t.Errorf("%s: %d messages were sent", name, n)
		}
		if len(c.nodes[1].RecentErrors()) != refused {
			t.Errorf("%s: the peer has heard of it", name)
		}
		for _, err := range []error{theirs, ours} {
			if !errors.Is(err, ErrUnknownHandler) || Classify(t.Context(), err) != ErrorUnknownHandler || !strings.Contains(err.Error(), c.nodes[1].host) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if a, b := IsRemoteErr(theirs), IsRemoteErr(ours); theirs.Error() != ours.Error() || a == nil || b == nil || *a != *b {
			t.Errorf("%s: the peer says %v (%v), this node %v (%v)", name, theirs, a, ours, b)
		}
	}
	want := map[HandlerID]int64{nameUnknown: 4, testSingle: 2, 100: 2}
	for h, n := range want {
		if got := handlerStats(c.nodes[0].Stats().Handlers, RoleClient, h, "").Errors; got != (ErrorStats{UnknownHandler: n}) {
			t.Errorf("%v: the statistics have %+v", h, got)
		}
	}
	forget(func(f *facts) { f.handlers.more = true })
	synctest.Wait()
	before := conn.Stats().Out.Messages
	err := stream()
	synctest.Wait()
	if !errors.Is(err, ErrUnknownHandler) || conn.Stats().Out.Messages == before {
		t.Errorf("where there are more handlers: %v", err)
	}
	// What would keep it from being sent in any case comes first.
	forget(func(f *facts) { f.handlers.more = false })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := conn.Request(ctx, nameUnknown, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that was canceled: %v", err)
	}
	if _, err := conn.Request(WithMetadata(t.Context(), Metadata{"": {""}}), nameUnknown, nil); !errors.Is(err, ErrMetadata) {
		t.Errorf("a request with wrong metadata: %v", err)
	}
}

// A handler can be called as soon as its registration has returned, however late that was.
func TestALateHandlerIsNeverRefused(t *testing.T) {
	c := startCluster(t, 3, nil)
	for round := range 20 {
		for _, from := range []int{0, 2} {
			c.conn(from, 1).waitFinal(t)
		}
		route := fmt.Sprint(round)
		if err := c.nodes[1].RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }, route); err != nil {
			t.Fatal(err)
		}
		for _, from := range []int{0, 2} {
			if _, err := c.conn(from, 1).Subroute(route).Request(t.Context(), testSingle, nil); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
	}
}

// toldPeer is a fake peer that is told what a node says of itself.
type toldPeer struct {
	*fakePeer
	t *testing.T
	n *testNode

	mu   sync.Mutex // Protects following.
	told []message
}

// startTold starts a node with a peer that acknowledges nothing by itself, on pipes.
func startTold(t *testing.T) *toldPeer {
	t.Helper()
	c := newPipes(1)
	n, host := startForFake(t, c, nil)
	p := &toldPeer{fakePeer: c.knock(t, n), t: t, n: n}
	p.introduceAs(t, host, nativeFeatures)
	go p.each(t, func(m message) {
		if m.Op == OpFacts {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.told = append(p.told, m)
		}
	})
	return p
}

// last returns what the node has said last. It fails unless that was the nth, and final or not.
func (p *toldPeer) last(n int, final bool) (message, *facts) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.told) != n || (p.told[n-1].Flags&FlagEOF != 0) != final {
		p.t.Fatalf("told %d times, want %d: %+v", len(p.told), n, p.told)
	}
	m := p.told[n-1]
	f := new(facts)
	if m.Payload != nil {
		var err error
		if f, err = parseFacts(m.Payload); err != nil {
			p.t.Fatal(err)
		}
	}
	return m, f
}

func (p *toldPeer) ack(m message) {
	p.t.Helper()
	p.send(p.t, message{Seq: m.Seq, Op: OpAckFacts, Flags: FlagCRCxxh3})
	synctest.Wait()
}

// register registers a handler and returns a channel that is closed when that has returned.
func (p *toldPeer) register(h HandlerID) (returned chan struct{}) {
	returned = make(chan struct{})
	go func() {
		defer close(returned)
		if err := p.n.RegisterSingleHandler(h, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err != nil {
			p.t.Error(err)
		}
	}()
	synctest.Wait()
	return returned
}

func (p *toldPeer) end() {
	p.socket.Close()
	p.n.Close()
}

// A registration waits for a peer that trusts in the list: until it has acknowledged that the list
// goes on, is gone, or has had time enough.
func TestARegistrationWaitsForWhoTrustsInTheList(t *testing.T) {
	for name, end := range map[string]func(p *toldPeer, m message){
		"acknowledged": func(p *toldPeer, m message) { p.ack(m) },
		"gone":         func(p *toldPeer, _ message) { p.socket.Close() },
		"slow":         func(*toldPeer, message) { time.Sleep(defaultWriteTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := startTold(t)
				time.Sleep(registrationsEnd)
				m, _ := p.last(1, true)
				p.ack(m)
				first, second := p.register(200), p.register(201)
				m, f := p.last(2, false)
				if !f.handlers.singles.has(200, nil) {
					t.Errorf("told %+v", f)
				}
				if isClosed(first) || isClosed(second) {
					t.Error("it has not waited")
				}
				end(p, m)
				synctest.Wait()
				if name == "acknowledged" { // then all that is new
					m, f := p.last(3, false)
					if !f.handlers.singles.has(201, nil) {
						t.Errorf("told %+v", f)
					}
					if third := p.register(202); !isClosed(third) {
						t.Error("one waits that nobody believed to be missing")
					}
					p.ack(m)
				}
				if !isClosed(first) || !isClosed(second) {
					t.Error("it waits on")
				}
				if last := p.register(203); !isClosed(last) {
					t.Error("the next one waits too")
				}
				p.end()
			})
		})
	}
}

// A peer may be slower than registrations are quiet. It is waited for until it has the list with the
// handler, final or not, and again for the next one.
func TestARegistrationWaitsForASlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startTold(t)
		time.Sleep(registrationsEnd)
		m, _ := p.last(1, true)
		told := 1
		for i := range 5 {
			h := HandlerID(200 + i)
			returned := p.register(h)
			time.Sleep(2 * registrationsEnd)
			if isClosed(returned) {
				t.Fatalf("%v: not waited for", h)
			}
			p.ack(m) // of what was sent before
			told++
			var f *facts
			if m, f = p.last(told, true); !f.handlers.singles.has(h, nil) {
				t.Fatalf("told %+v", f)
			}
			if isClosed(returned) {
				t.Errorf("%v: not waited for to the end", h)
			}
			p.ack(m)
			if !isClosed(returned) {
				t.Errorf("%v: it waits for more", h)
			}
			if err := p.n.SetLabels(map[string]string{"i": fmt.Sprint(i)}); err != nil { // on its way as the next one comes
				t.Fatal(err)
			}
			told++
			m, _ = p.last(told, true)
		}
		p.end()
	})
}

// A peer that has not acknowledged the last is told no more, and then the newest.
func TestOnlyTheNewestIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduceAs(t, host, nativeFeatures)
		told := make(chan message, 100)
		go p.each(t, func(m message) {
			if m.Op == OpFacts {
				told <- m
			}
		})
		time.Sleep(time.Second)
		for i := range 1000 {
			n.SetLabels(map[string]string{"i": fmt.Sprint(i)})
		}
		synctest.Wait()
		if len(told) != 1 {
			t.Fatalf("told %d times", len(told))
		}
		for m := <-told; ; m = <-told {
			p.send(t, message{Seq: m.Seq, Op: OpAckFacts, Flags: FlagCRCxxh3})
			synctest.Wait()
			if len(told) > 0 {
				continue
			}
			f, err := parseFacts(m.Payload)
			if err != nil || f.labels["i"] != "999" || m.Flags&FlagEOF == 0 {
				t.Errorf("the last is %+v, %v", f, err)
			}
			break
		}
		p.socket.Close()
		n.Close()
	})
}

// What a peer says that breaks the rules ends the connection.
func TestFactsThatBreakTheRules(t *testing.T) {
	for name, test := range map[string]struct {
		features uint32
		m        message
		ends     bool
	}{
		"good ones":                    {nativeFeatures, noFacts, false},
		"a final list":                 {nativeFeatures, message{Op: OpFacts, Flags: FlagEOF | FlagCRCxxh3}, false},
		"malformed":                    {nativeFeatures, message{Op: OpFacts, Flags: FlagCRCxxh3, Payload: []byte{1}}, true},
		"without a checksum":           {nativeFeatures, message{Op: OpFacts, Payload: noFacts.Payload}, true},
		"an acknowledgment of none":    {nativeFeatures, message{Seq: 77, Op: OpAckFacts, Flags: FlagCRCxxh3}, true},
		"from one without the feature": {nativeFeatures &^ featureFacts, noFacts, true},
		"from an original":             {0, noFacts, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				p := c.knock(t, n)
				p.introduceAs(t, host, test.features)
				go p.each(t, func(message) {})
				if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.send(t, test.m)
				synctest.Wait()
				if ended := n.Connection(host).State() != StateConnected; ended != test.ends {
					t.Errorf("the connection has ended: %v\n%s", ended, n.log)
				}
				p.socket.Close()
				n.Close()
			})
		})
	}
}

// A peer that is silent, or says something else, before it has said what it is is not connected.
func TestAPeerThatDoesNotSayWhatItIs(t *testing.T) {
	for name, say := range map[string]func(t *testing.T, p *fakePeer){
		"silence":   func(*testing.T, *fakePeer) {},
		"a request": func(t *testing.T, p *fakePeer) { p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest}) },
		"malformed facts": func(t *testing.T, p *fakePeer) {
			p.send(t, message{Op: OpFacts, Flags: FlagCRCxxh3, Payload: []byte{1}})
		},
		"unchecked facts": func(t *testing.T, p *fakePeer) { p.send(t, message{Op: OpFacts, Payload: noFacts.Payload}) },
		"too large a message": func(t *testing.T, p *fakePeer) {
			writeHandshake(p.socket, message{Op: OpFacts, Payload: make([]byte, 2*maxFactsSize)}, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				p := c.knock(t, n)
				payload, _ := (&connectReq{Host: host, Grid: nativeFeatures}).MarshalMsg(nil)
				p.send(t, message{Op: OpConnect, Payload: payload})
				var came []message
				read := make(chan struct{})
				go func() {
					defer close(read)
					p.each(t, func(m message) { came = append(came, m) })
				}()
				start := time.Now()
				say(t, p)
				<-read
				if took := time.Since(start); took > defaultHandshakeTimeout {
					t.Errorf("it was held for %v", took)
				}
				if len(came) != 2 || came[0].Op != OpConnectResponse || came[1].Op != OpFacts {
					t.Errorf("%+v came", came)
				}
				if s := n.Connection(host).Stats(); s.Connects != 0 {
					t.Error("it was connected")
				}
				p.socket.Close()
				n.Close()
			})
		})
	}
}

// Nodes that do not know of it are told nothing, and calls of handlers are left to them.
func TestOlderPeersAreToldNothing(t *testing.T) {
	for older := range 2 {
		c := startCluster(t, 2, func(i int, o *ManagerOptions) {
			o.Version, o.Labels = "1", map[string]string{"zone": "a"}
			if i == older {
				o.lacks = featureFacts
			}
		})
		c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		for i := range 2 {
			conn := c.conn(i, 1-i)
			if p := conn.Peer(); p.ID != c.nodes[1-i].ID || p.Version != "" || p.Labels != nil || slices.Contains(p.Features, "facts") || conn.Handles(testSingle) {
				t.Errorf("%+v", p)
			}
			if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
				t.Error(err)
			}
			if _, err := conn.Request(t.Context(), nameUnknown, nil); !errors.Is(err, ErrUnknownHandler) {
				t.Error(err)
			}
		}
	}
}
