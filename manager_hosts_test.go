package grid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// strangers starts n nodes over pipes that know only themselves.
func strangers(t *testing.T, n int, edit func(i int, o *ManagerOptions)) *cluster {
	t.Helper()
	c := newPipes(n)
	c.start(t, func(i int, o *ManagerOptions) {
		o.Hosts = nil
		if edit != nil {
			edit(i, o)
		}
	})
	return c
}

// acquaint tells nodes of all hosts.
func (c *cluster) acquaint(t *testing.T, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		if err := c.nodes[i].SetHosts(c.hosts()); err != nil {
			t.Fatal(err)
		}
	}
}

// dialerOf returns which of two nodes dials, and the other one.
func (c *cluster) dialerOf(i, j int) (dialer, dialed int) {
	if shouldDial(c.nodes[i].host, c.nodes[j].host) {
		return i, j
	}
	return j, i
}

// eitherDials runs test with node 0 as the one that dials node 1, and as the one that is dialed. The
// two nodes do not know each other yet.
func eitherDials(t *testing.T, edit func(i int, o *ManagerOptions), test func(t *testing.T, c *cluster, here, there int)) {
	for _, dials := range []bool{true, false} {
		t.Run(fmt.Sprintf("dials=%v", dials), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := strangers(t, 2, edit)
				here, there := c.dialerOf(0, 1)
				if !dials {
					here, there = there, here
				}
				test(t, c, here, there)
			})
		})
	}
}

// What a node reports follows its hosts, and nodes connect as soon as both know each other.
func TestHostsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 4, nil)
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return []byte("ok"), nil })
		reports := func(others ...int) {
			t.Helper()
			var want []string
			for _, i := range others {
				want = append(want, c.nodes[i].host)
			}
			m := c.nodes[0].Manager
			var stats, health []string
			for _, p := range m.Stats().Peers {
				stats = append(stats, p.Remote)
			}
			h := m.Health(t.Context())
			for _, p := range h.Peers {
				health = append(health, p.Peer)
			}
			if got := m.Targets(); !slices.Equal(got, want) || !slices.Equal(stats, want) || !slices.Equal(health, want) {
				t.Errorf("targets %v, statistics %v, health %v, want %v", got, stats, health, want)
			}
			if !h.All() || !h.Quorum() {
				t.Errorf("not all of %v are reachable: %+v", want, h)
			}
			for _, i := range others {
				if got, err := c.conn(0, i).Request(t.Context(), testSingle, nil); err != nil || string(got) != "ok" {
					t.Errorf("a call got %q, %v", got, err)
				}
			}
		}
		reports()
		c.acquaint(t, 0, 1, 2, 3)
		c.waitConnected(t)
		reports(1, 2, 3)
		held := c.conn(0, 2)
		others := []string{c.nodes[3].host, c.nodes[1].host}
		if err := c.nodes[0].SetHosts(others); err != nil {
			t.Fatal(err)
		}
		others[0] = "the slice is the caller's"
		reports(3, 1)
		if c.conn(0, 2) != nil {
			t.Error("there is a connection to a host that was removed")
		}
		if _, err := held.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) || Classify(t.Context(), err) != ErrorRemoved {
			t.Errorf("a request on a connection that was kept got %v", err)
		}
		if _, err := held.NewStream(t.Context(), testStream, nil); err == nil {
			t.Error("a stream was opened on a connection that was kept")
		}
		if err := held.WaitForConnect(t.Context()); err != error(ErrRemoved) {
			t.Errorf("a wait for a host that was removed got %v", err)
		}
		synctest.Wait()
		if held.State() != StateShutdown {
			t.Errorf("nothing runs, and the state is %v", held.State())
		}
		c.acquaint(t, 0)
		c.waitConnected(t)
		reports(1, 2, 3)
		if c.conn(0, 2) == held {
			t.Error("a host that was added again has its old connection")
		}
		if _, err := held.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
			t.Errorf("a request on the old connection got %v", err)
		}
		if err := c.nodes[0].SetHosts(nil); err != nil {
			t.Fatal(err)
		}
		reports()
	})
}

func TestHostsThatAreNotValidChangeNothing(t *testing.T) {
	c := startCluster(t, 2, nil)
	m := c.nodes[0].Manager
	before := m.Connection(c.nodes[1].host)
	for _, test := range []struct {
		hosts []string
		names string
	}{
		{[]string{"http://a:1", "b:1"}, `SetHosts[1]: "b:1" does not start with`},
		{[]string{"http://a:1", "http://a:1"}, `SetHosts[1]: "http://a:1" is there twice`},
		{[]string{""}, "SetHosts[0]: empty host name"},
		{[]string{"http://a:1/x"}, "http://a:1/x"},
	} {
		if err := m.SetHosts(test.hosts); err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%q: got %v", test.hosts, err)
		}
	}
	if m.Connection(c.nodes[1].host) != before || before.State() != StateConnected || len(m.Targets()) != 1 {
		t.Error("something has changed")
	}
	if err := (*Manager)(nil).SetHosts(nil); err == nil {
		t.Error("a nil Manager took hosts")
	}
	m.Close()
	if err := m.SetHosts(nil); err != error(ErrShutdown) {
		t.Errorf("after the end got %v", err)
	}
}

// Calls that run when a host is removed finish, new ones fail at both ends, and the connection ends
// as soon as nothing runs.
func TestCallsWithARemovedHostMayFinish(t *testing.T) {
	eitherDials(t, nil, func(t *testing.T, c *cluster, here, there int) {
		release, entered := make(chan struct{}), make(chan struct{}, 4)
		c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
			entered <- struct{}{}
			<-release
			return b, nil
		})
		c.stream(t, 1, 1, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			entered <- struct{}{}
			<-release
			out <- []byte("done")
			return nil
		})
		c.acquaint(t, 0, 1)
		c.waitConnected(t)
		a, b := c.conn(here, there), c.conn(there, here)
		var calls sync.WaitGroup
		for _, conn := range []*Connection{a, b} {
			calls.Go(func() {
				if got, err := conn.Request(t.Context(), testSingle, []byte("done")); err != nil || string(got) != "done" {
					t.Errorf("%v: a request that ran got %q, %v", conn, got, err)
				}
			})
			calls.Go(func() {
				if got, err := streamOnce(t.Context(), conn); err != nil || got != "done" {
					t.Errorf("%v: a stream that ran got %q, %v", conn, got, err)
				}
			})
			<-entered
			<-entered
		}
		if err := c.nodes[here].SetHosts(nil); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			time.Sleep(defaultRemovalGrace / 4)
			for _, conn := range []*Connection{a, b} {
				if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
					t.Errorf("%v: a new request got %v", conn, err)
				}
				if _, err := streamOnce(t.Context(), conn); !errors.Is(err, ErrRemoved) {
					t.Errorf("%v: a new stream got %v", conn, err)
				}
			}
		}
		if leaving := c.nodes[here].Stats().Removed; leaving.Leaving != 1 || leaving.Hosts != 0 || len(c.nodes[here].Open()) != 4 {
			t.Errorf("%+v", leaving)
		}
		close(release)
		calls.Wait()
		synctest.Wait()
		if a.State() != StateShutdown || b.State() == StateConnected {
			t.Errorf("the states are %v and %v", a.State(), b.State())
		}
		if gone := c.nodes[here].Stats().Removed; gone.Leaving != 0 || gone.Hosts != 1 || gone.Connects != 1 || gone.In.Messages == 0 {
			t.Errorf("%+v", gone)
		}
		if log := c.nodes[there].log; log.count("connection closed") != 1 || log.count(errRemovedByPeer.Error()) != 1 || log.count("connection lost") != 0 {
			t.Errorf("the removed node logs\n%s", log)
		}
		if log := c.nodes[here].log; log.count("connection closed") != 1 || log.count(errHostRemoved.Error()) != 1 || log.count("were cut") != 0 {
			t.Errorf("the node that removed it logs\n%s", log)
		}
	})
}

// streamOnce opens a stream and returns its only message.
func streamOnce(ctx context.Context, conn *Connection) (got string, err error) {
	st, err := conn.NewStream(ctx, testStream, nil)
	if err != nil {
		return "", err
	}
	err = st.Results(func(b []byte) error { got += string(b); return nil })
	return got, err
}

// Calls that do not finish in time are cut, and a handler that does not care about that still counts
// once it returns.
func TestTheGraceOfARemovedHostEnds(t *testing.T) {
	const grace = 7 * time.Second
	edit := func(_ int, o *ManagerOptions) { o.RemovalGrace = grace }
	eitherDials(t, edit, func(t *testing.T, c *cluster, here, there int) {
		release := make(chan struct{})
		c.handle(t, func(context.Context, []byte) ([]byte, error) { <-release; return nil, nil })
		c.acquaint(t, 0, 1)
		c.waitConnected(t)
		for _, conn := range []*Connection{c.conn(here, there), c.conn(there, here)} {
			go func() {
				start := time.Now()
				_, err := conn.Request(t.Context(), testSingle, nil)
				if took := time.Since(start); !errors.Is(err, ErrDisconnected) || took < grace || took > grace+2*shutdownGrace {
					t.Errorf("%v: got %v after %v", conn, err, took)
				}
			}()
		}
		synctest.Wait()
		if err := c.nodes[here].SetHosts(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(grace + 3*shutdownGrace)
		if log := c.nodes[here].log; log.count("calls of a removed peer were cut") != 1 || log.count("calls=2") != 1 {
			t.Errorf("logs\n%s", log)
		}
		if r := c.nodes[here].Stats().Removed; r.Leaving != 1 {
			t.Errorf("%+v", r)
		}
		close(release)
		synctest.Wait()
		stats := c.nodes[here].Stats()
		calls := int64(0)
		for _, h := range stats.Handlers {
			calls += h.Calls
		}
		if stats.Removed.Leaving != 0 || calls != 2 {
			t.Errorf("%d calls, %+v", calls, stats.Removed)
		}
	})
}

// A host that is added again gets a new connection once the old one is gone, so that no call of
// that is cut.
func TestAHostThatComesBackWaitsForItsOldCalls(t *testing.T) {
	eitherDials(t, nil, func(t *testing.T, c *cluster, here, there int) {
		release, entered := make(chan struct{}), make(chan struct{}, 2)
		c.handle(t, func(_ context.Context, b []byte) ([]byte, error) {
			if len(b) > 0 {
				entered <- struct{}{}
				<-release
			}
			return b, nil
		})
		c.acquaint(t, 0, 1)
		c.waitConnected(t)
		old := c.conn(here, there)
		var calls sync.WaitGroup
		for _, conn := range []*Connection{old, c.conn(there, here)} {
			calls.Go(func() {
				if _, err := conn.Request(t.Context(), testSingle, []byte("long")); err != nil {
					t.Errorf("%v: a request that ran got %v", conn, err)
				}
			})
			<-entered
		}
		for range 3 {
			if err := c.nodes[here].SetHosts(nil); err != nil {
				t.Fatal(err)
			}
			c.acquaint(t, here)
		}
		again := c.conn(here, there)
		time.Sleep(defaultRemovalGrace / 2)
		if again == old || again.State() == StateConnected {
			t.Errorf("the new connection is %v", again.State())
		}
		if _, err := again.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrDisconnected) {
			t.Errorf("a call on it got %v", err)
		}
		start := time.Now()
		close(release)
		calls.Wait()
		if err := again.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > maxBackoff {
			t.Errorf("it took %v", took)
		}
		if _, err := again.Request(t.Context(), testSingle, nil); err != nil {
			t.Error(err)
		}
	})
}

// A node that dials before it is known waits for a moment, and is in at once when it is.
func TestANodeThatIsNotKnownYetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 2, nil)
		dialer, dialed := c.dialerOf(0, 1)
		c.acquaint(t, dialer)
		time.Sleep(earlyPatience / 2)
		start := time.Now()
		c.acquaint(t, dialed)
		c.waitConnected(t)
		if took := time.Since(start); took > firstBackoff {
			t.Errorf("it took %v", took)
		}
		if log := c.nodes[dialed].log; log.count("rejected") != 0 {
			t.Errorf("it was rejected at first:\n%s", log)
		}
	})
}

// A node that does not become known is told so once it has waited, slows down, and logs it once. It
// is back soon when it is known again.
func TestANodeThatIsNotAMemberSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := strangers(t, 2, nil)
		dialer, dialed := c.dialerOf(0, 1)
		c.acquaint(t, 0, 1)
		c.waitConnected(t)
		if err := c.nodes[dialed].SetHosts(nil); err != nil {
			t.Fatal(err)
		}
		const minutes = 5
		time.Sleep(minutes * time.Minute)
		c.mu.Lock()
		dials := c.dials
		c.mu.Unlock()
		if least := minutes * 60 / 15; dials < least || dials > 3*least {
			t.Errorf("%d dials in %d minutes", dials, minutes)
		}
		if log := c.nodes[dialer].log; log.count("cannot connect") != 1 || log.count(unknownHost) != 1 {
			t.Errorf("logs\n%s", log)
		}
		start := time.Now()
		c.acquaint(t, dialed)
		c.waitConnected(t)
		if took := time.Since(start); took > maxPause+firstBackoff {
			t.Errorf("it was back after %v", took)
		}
	})
}

// A node with very many hosts that are absent dials them less often, so that they do not keep it busy.
// With few, it does not matter how many there are.
func TestManyAbsentHostsAreDialedLessOften(t *testing.T) {
	for _, test := range []struct{ hosts, least, most int }{
		{1, 28, 70}, {50, 28, 70}, {400, 5, 9},
	} {
		t.Run(fmt.Sprint(test.hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := strangers(t, 1, nil)
				n := c.nodes[0]
				var hosts []string
				for i := 0; len(hosts) < test.hosts; i++ {
					if host := fmt.Sprintf("http://absent%d:1", i); shouldDial(n.host, host) {
						hosts = append(hosts, host)
					}
				}
				if err := n.SetHosts(hosts); err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Second)
				dials := func() int {
					c.mu.Lock()
					defer c.mu.Unlock()
					return c.dials
				}
				before := dials()
				time.Sleep(time.Minute)
				if perHost := (dials() - before) / test.hosts; perHost < test.least || perHost > test.most {
					t.Errorf("%d dials per host in a minute", perHost)
				}
				if err := n.SetHosts(nil); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if left := n.node.absent.Load(); left != 0 {
					t.Errorf("%d are still counted", left)
				}
			})
		})
	}
}

// Not everybody who says an unknown name can wait.
func TestFewNodesThatAreNotKnownMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		c := strangers(t, 1, func(_ int, o *ManagerOptions) { o.Limits.MaxHandshakes = 4 * most })
		n, host := c.nodes[0], fakeHost(c.nodes[0].host)
		var waited, refused atomic.Int32
		for range 2 * most {
			p := c.knock(t, n)
			go func() {
				start := time.Now()
				resp := p.introduce(t, host)
				switch took := time.Since(start); {
				case resp.Accepted || resp.RejectedReason != unknownHost:
					t.Errorf("got %+v", resp)
				case took >= earlyPatience:
					waited.Add(1)
				default:
					refused.Add(1)
				}
				readToEnd(p)
			}()
		}
		time.Sleep(2 * earlyPatience)
		if waited.Load() != most || refused.Load() != most {
			t.Errorf("%d waited, %d did not", waited.Load(), refused.Load())
		}
	})
}

// However often hosts come and go, no sum falls, and everything is counted once.
func TestSumsNeverFall(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	m := c.nodes[0].Manager
	var stop atomic.Bool
	var asked atomic.Int64
	var work sync.WaitGroup
	for _, i := range []int{1, 2} {
		work.Go(func() {
			for !stop.Load() {
				_, err := c.conn(i, 0).Request(t.Context(), testSingle, nil)
				if err == nil {
					asked.Add(1)
				}
			}
		})
	}
	work.Go(func() {
		var last [4]int64
		for !stop.Load() {
			now := sumsOf(m.Stats())
			for k := range now {
				if now[k] < last[k] {
					t.Errorf("sum %d fell from %d to %d", k, last[k], now[k])
				}
			}
			last = now
		}
	})
	for round := range 30 {
		if err := m.SetHosts(c.hosts()[:1+round%3]); err != nil {
			t.Fatal(err)
		}
		before := asked.Load()
		if round%3 > 0 {
			eventually(t, "a call", func() bool { return asked.Load() > before })
		}
	}
	stop.Store(true)
	work.Wait()
	if err := m.SetHosts(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all to be gone", func() bool { return m.Stats().Removed.Leaving == 0 })
	if served := sumsOf(m.Stats())[0]; served != asked.Load() {
		t.Errorf("%d calls succeeded, and %d were served", asked.Load(), served)
	}
}

func sumsOf(s Stats) (sums [4]int64) {
	for _, h := range s.Handlers {
		if h.Role == RoleServer {
			sums[0] += h.Calls
		}
	}
	for _, p := range s.Peers {
		s.Removed.add(p)
	}
	sums[1], sums[2], sums[3] = s.Removed.Connects, s.Removed.In.Bytes, s.Removed.Out.Messages
	return sums
}

// Hosts change while all else goes on, and whatever comes first, the node ends with nothing left.
func TestHostsChangeAmidEverything(t *testing.T) {
	c := startCluster(t, 4, func(_ int, o *ManagerOptions) { o.RemovalGrace = time.Millisecond })
	c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	var work sync.WaitGroup
	var stop atomic.Bool
	each := func(f func(m *Manager, round int)) {
		for _, n := range c.nodes {
			work.Go(func() {
				for round := 0; !stop.Load(); round++ {
					f(n.Manager, round)
				}
			})
		}
	}
	for range 2 {
		each(func(m *Manager, round int) {
			hosts := slices.Clone(c.hosts())
			k := round % len(hosts)
			if err := m.SetHosts(slices.Delete(hosts, k, k+1)); err != nil && !errors.Is(err, ErrShutdown) {
				t.Error(err)
			}
		})
	}
	each(func(m *Manager, _ int) {
		for _, host := range m.Targets() {
			conn := m.Connection(host) // may be gone again
			_, _ = conn.Request(t.Context(), testSingle, nil)
			_ = conn.Stats()
		}
	})
	each(func(m *Manager, _ int) {
		m.Health(t.Context())
		m.Stats()
		m.Open()
	})
	each(func(m *Manager, round int) {
		_ = m.RegisterSingleHandlerContext(testSingle, func(context.Context, []byte) ([]byte, error) { return nil, nil }, fmt.Sprint(round%100))
	})
	for i, n := range c.nodes {
		start := n.Stats().Removed.Hosts
		eventually(t, "more hosts to go", func() bool { return n.Stats().Removed.Hosts >= start+3 })
		if i%2 == 0 {
			n.Close()
		} else if err := n.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop.Store(true)
	work.Wait()
	waitGoroutines(t, 0)
}

// A handshake that is under way when its host is removed comes to nothing.
func TestNoSessionStartsWithARemovedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		verify, goOn := make(chan struct{}), make(chan struct{})
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.VerifyPeer = func(*http.Request, string) error {
				close(verify)
				<-goOn
				return nil
			}
		})
		conn := n.Connection(host)
		p := c.knock(t, n)
		conn.active.enter() // something of an earlier session still runs, so the removal takes its time
		go func() {
			<-verify
			if err := n.SetHosts(nil); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			close(goOn)
		}()
		payload, _ := (&connectReq{ID: [16]byte{1}, Host: host}).MarshalMsg(nil)
		p.send(t, message{Op: OpConnect, Payload: payload})
		readToEnd(p)
		conn.active.leave()
		synctest.Wait()
		if s := conn.Stats(); s.Connects != 0 || s.State != StateShutdown {
			t.Errorf("a session has started: %+v", s)
		}
	})
}
