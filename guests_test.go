package grid

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// acceptAll accepts every guest.
func acceptAll(*http.Request, string) error { return nil }

// inn starts a server over pipes that accepts guests. edit may be nil.
func inn(t *testing.T, edit func(o *ManagerOptions)) *cluster {
	t.Helper()
	return startPipes(t, 1, func(_ int, o *ManagerOptions) {
		o.AcceptGuest = acceptAll
		if edit != nil {
			edit(o)
		}
	})
}

// join starts a guest of a server. edit may be nil.
func (c *cluster) join(t *testing.T, name string, server *testNode, edit func(o *ManagerOptions)) *testNode {
	t.Helper()
	n := &testNode{host: name, log: new(logBuffer)}
	o := ManagerOptions{Local: name, Dialer: c.dial, Logger: slog.New(slog.NewTextHandler(n.log, nil))}
	if edit != nil {
		edit(&o)
	}
	m, err := Join(context.Background(), server.host, o)
	if err != nil {
		t.Fatal(err)
	}
	n.Manager = m
	n.log.settle = func() { m.node.lines.flush(20 * time.Second) }
	t.Cleanup(func() { m.Close() })
	return n
}

// visit starts a guest, and returns it and the server's connection to it as soon as that is up.
func (c *cluster) visit(t *testing.T, name string, server *testNode, edit func(o *ManagerOptions)) (*testNode, *Connection) {
	t.Helper()
	n := c.join(t, name, server, edit)
	n.reach(t, server)
	return n, server.guest(t, name)
}

// reach waits until a guest is connected to its server.
func (n *testNode) reach(t *testing.T, server *testNode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := n.Connection(server.host).WaitForConnect(ctx); err != nil {
		t.Fatalf("%s does not reach %s: %v\n%s\n%s", n.host, server.host, err, n.log, server.log)
	}
}

// guest returns the connection to a guest of a server, which has to be there soon.
func (n *testNode) guest(t *testing.T, name string) (c *Connection) {
	t.Helper()
	there := func() bool {
		c = n.Connection(name)
		return c.State() == StateConnected
	}
	eventually(t, "the guest "+name, there, func() string { return fmt.Sprint(c, c.State()) })
	return c
}

// relisten returns a new listener at an address of pipes.
func (c *cluster) relisten(address string) net.Listener {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := testkit.NewPipeListener()
	c.listeners[address] = l
	return l
}

// gone waits until nothing is left of any guest of a server.
func (n *testNode) gone(t *testing.T) {
	t.Helper()
	eventually(t, "the guests to go", func() bool { return len(n.guests.all()) == 0 }, func() string { return fmt.Sprint(n.guests.all()) })
}

// namesBack is a handler that says who runs it and for whom.
func namesBack(m *Manager) SingleHandlerContextFn {
	return func(ctx context.Context, b []byte) ([]byte, error) {
		return fmt.Appendf(nil, "%s for %s: %s", m.HostName(), GetCaller(ctx).Name, b), nil
	}
}

func checkCall(t *testing.T, c *Connection, want string) {
	t.Helper()
	b, err := c.Request(t.Context(), testSingle, []byte("x"))
	if err != nil || string(b) != want {
		t.Errorf("a call on %v got %q, %v, want %q", c, b, err, want)
	}
}

// A server and its guests call each other over the connection that the guest has opened.
func TestGuestsAndServersCallEachOther(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			c, config := listenPair(t, secure)
			told := make(chan *Connection, 10)
			c.start(t, func(_ int, o *ManagerOptions) {
				o.TLSConfig, o.AcceptGuest = config, acceptAll
			})
			c.waitConnected(t)
			server := c.nodes[0]
			server.OnGuest(func(conn *Connection) { told <- conn })
			guest := c.join(t, "agent 7", server, func(o *ManagerOptions) {
				o.TLSConfig, o.Labels, o.Version = config, map[string]string{"zone": "a"}, "9"
			})
			for _, n := range append(c.nodes, guest) {
				err := errors.Join(n.RegisterSingleHandlerContext(testSingle, namesBack(n.Manager)),
					n.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack, InCapacity: 4, OutCapacity: 4}))
				if err != nil {
					t.Fatal(err)
				}
			}
			guest.reach(t, server)
			toGuest, toServer := <-told, guest.Connection(server.host)
			if toGuest != server.Connection("agent 7") || !slices.Equal(server.Guests(), []*Connection{toGuest}) {
				t.Errorf("OnGuest was told of %v, guests are %v", toGuest, server.Guests())
			}
			checkCall(t, toServer, server.host+" for agent 7: x")
			checkCall(t, toGuest, "agent 7 for "+server.host+": x")
			for _, conn := range []*Connection{toServer, toGuest} {
				st, err := conn.NewStream(t.Context(), testStream, nil)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					for i := range 1000 {
						st.Requests <- number(i)
					}
					close(st.Requests)
				}()
				got := 0
				if err := st.Results(expectNumbers(&got)); err != nil || got != 1000 {
					t.Errorf("a stream on %v has ended with %v after %d", conn, err, got)
				}
			}
			if p := toGuest.Peer(); p.Name != "agent 7" || p.ID != guest.ID || p.Version != "9" || p.Labels["zone"] != "a" || p.Since.IsZero() {
				t.Errorf("the server knows %+v", p)
			}
			if p := toServer.Peer(); p.ID != server.ID {
				t.Errorf("the guest knows %+v", p)
			}
			// It is none of the hosts.
			for _, n := range c.nodes {
				h := n.Health(t.Context())
				if len(n.Targets()) != 1 || len(n.Stats().Peers) != 1 || len(h.Peers) != 1 || !h.All() {
					t.Errorf("%s has %v, %+v", n.host, n.Targets(), h)
				}
			}
			if s := server.Stats().Guests; s.Connected != 1 || s.Connects != 1 || s.In.Messages == 0 || s.Out.Messages == 0 {
				t.Errorf("statistics of guests: %+v", s)
			}
			if s := c.nodes[1].Stats().Guests; s != (GuestStats{}) {
				t.Errorf("a node without guests has %+v", s)
			}
			if h := guest.Health(t.Context()); !h.Quorum() || !h.All() || len(h.Peers) != 1 {
				t.Errorf("health of the guest: %+v", h)
			}
			guest.Close()
			server.gone(t)
			if _, err := toGuest.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
				t.Errorf("a call of a guest that is gone got %v", err)
			}
			if err := toGuest.WaitForConnect(t.Context()); !errors.Is(err, ErrRemoved) {
				t.Errorf("a wait for a guest that is gone got %v", err)
			}
			if server.Connection("agent 7") != nil || toGuest.State() != StateShutdown {
				t.Errorf("%v is still there, and %v", server.Connection("agent 7"), toGuest.State())
			}
		})
	}
}

// Who may be a guest is for AuthRequest, VerifyPeer and AcceptGuest to say, in this order.
func TestGuestsThatAreRejected(t *testing.T) {
	for _, test := range []struct {
		name   string
		edit   func(o *ManagerOptions)
		guest  string // in the guest's log
		server string // in the server's
	}{
		{"by a server without guests", func(o *ManagerOptions) { o.AcceptGuest = nil }, "takes no guests", unknownHost},
		{
			"by AcceptGuest", func(o *ManagerOptions) {
				o.AcceptGuest = func(_ *http.Request, name string) error { return errors.New("no room for " + name) }
			}, "not accepted as a guest: no room for agent", "no room for agent",
		},
		{
			"by an AcceptGuest that panics", func(o *ManagerOptions) {
				o.AcceptGuest = func(*http.Request, string) error { panic("secret of the server") }
			}, "the peer's log says why", "AcceptGuest panicked: secret of the server",
		},
		{
			"by VerifyPeer", func(o *ManagerOptions) {
				o.VerifyPeer = func(_ *http.Request, name string) error { return errors.New("who is " + name) }
				o.AcceptGuest = func(*http.Request, string) error { panic("asked too early") }
			}, "the peer's log says why", "not verified as agent: who is agent",
		},
		{
			"by AuthRequest", func(o *ManagerOptions) {
				o.AuthRequest = func(*http.Request) error { return errors.New("no token") }
				o.AcceptGuest = func(*http.Request, string) error { panic("asked too early") }
			}, "AuthRequest refused this node", "no token",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := inn(t, test.edit)
				server := c.nodes[0]
				server.OnGuest(func(conn *Connection) { t.Errorf("told of %v", conn) })
				guest := c.join(t, "agent", server, nil)
				time.Sleep(10 * time.Minute)
				if log := guest.log.String(); !strings.Contains(log, test.guest) || strings.Contains(log, "secret of the server") {
					t.Errorf("the guest has logged:\n%s", log)
				}
				if log := server.log.String(); !strings.Contains(log, test.server) {
					t.Errorf("the server has logged:\n%s", log)
				}
				s := server.Stats().Guests
				if attempts := guest.Connection(server.host).Stats().DialErrors; attempts < 50 || attempts > 200 {
					t.Errorf("%d attempts", attempts)
				} else if want := map[bool]int64{true: attempts}[server.node.AcceptGuest != nil && server.node.AuthRequest(new(http.Request)) == nil]; s.Rejected != want {
					t.Errorf("%d of %d attempts counted as rejected", s.Rejected, want)
				}
				if s.Connected != 0 || s.Connects != 0 || len(server.guests.all()) != 0 {
					t.Errorf("statistics of guests: %+v, %v", s, server.guests.all())
				}
			})
		})
	}
}

// AcceptGuest may take its time, call back, and be asked about many at once.
func TestAcceptGuestThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *cluster
		var asked atomic.Int32
		release := make(chan struct{})
		c = inn(t, func(o *ManagerOptions) {
			o.AcceptGuest = func(r *http.Request, name string) error {
				m := c.nodes[0].Manager
				m.Guests()
				m.RemoveGuest(name)
				m.Stats()
				if asked.Add(1) == 1 {
					select {
					case <-release:
					case <-r.Context().Done():
					}
				}
				return nil
			}
		})
		server := c.nodes[0]
		slow := c.join(t, "slow", server, nil)
		synctest.Wait()
		c.visit(t, "quick", server, nil)
		time.Sleep(5 * time.Second)
		close(release)
		slow.reach(t, server)
		if n := asked.Load(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// An AcceptGuest that does not return cannot hold up the end of the node.
func TestAcceptGuestThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := inn(t, func(o *ManagerOptions) {
			o.AcceptGuest = func(*http.Request, string) error {
				<-release
				return nil
			}
		})
		server := c.nodes[0]
		guest := c.join(t, "agent", server, nil)
		synctest.Wait()
		began := time.Now()
		server.Close()
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v", took)
		}
		guest.Close()
		close(release)
		synctest.Wait()
		if all := server.guests.all(); len(all) != 0 {
			t.Errorf("left: %v", all)
		}
	})
}

// OnGuest may block for ever, panic, and be set late or twice.
func TestOnGuestThatMisbehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		block := make(chan struct{})
		defer close(block)
		var first, second []string
		var mu sync.Mutex
		_, one := c.visit(t, "one", server, nil)
		note := func(list *[]string) func(*Connection) {
			return func(conn *Connection) {
				mu.Lock()
				*list = append(*list, conn.Remote)
				mu.Unlock()
				if conn.Remote == "two" {
					panic("out of order")
				}
				<-block
			}
		}
		server.OnGuest(note(&first))
		server.OnGuest(nil)
		c.visit(t, "two", server, nil)
		server.OnGuest(note(&second))
		c.visit(t, "three", server, nil)
		synctest.Wait()
		mu.Lock()
		slices.Sort(first)
		slices.Sort(second)
		if want := []string{"one", "three", "two"}; !slices.Equal(first, want) || !slices.Equal(second, want) {
			t.Errorf("told of %v and %v, want %v", first, second, want)
		}
		mu.Unlock()
		if n := server.log.count("callback=OnGuest"); n != 2 {
			t.Errorf("%d panics logged:\n%s", n, server.log)
		}
		if _, err := one.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrUnknownHandler) {
			t.Errorf("a call got %v", err)
		}
		began := time.Now()
		server.Close()
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// There are at most MaxGuests. One that is there may come back nevertheless.
func TestTooManyGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, func(o *ManagerOptions) { o.Limits.MaxGuests = 2 })
		server := c.nodes[0]
		first, _ := c.visit(t, "first", server, nil)
		c.visit(t, "second", server, nil)
		third := c.join(t, "third", server, nil)
		time.Sleep(time.Minute)
		if !strings.Contains(third.log.String(), "there are 2 already (Limits.MaxGuests)") {
			t.Errorf("the third has logged:\n%s", third.log)
		}
		if s := server.Stats().Guests; s.Connected != 2 || s.Rejected == 0 {
			t.Errorf("statistics: %+v", s)
		}
		first.Close()
		third.reach(t, server)
		server.guest(t, "third") // is counted a moment later than the guest knows
		c.cut()
		time.Sleep(time.Minute)
		if s := server.Stats().Guests; s.Connected != 2 || s.Connects != 5 {
			t.Errorf("statistics: %+v", s)
		}
	})
}

// Handlers that go on count for the guest that comes back, and for MaxGuests.
func TestAGuestThatComesBackIsTheSamePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, func(o *ManagerOptions) {
			o.Limits.MaxGuests, o.Limits.MaxRequests, o.Limits.MaxStreams = 1, 2, 1
		})
		server := c.nodes[0]
		leave := make(chan struct{})
		err := errors.Join(
			server.RegisterSingleHandler(testSingle, func([]byte) ([]byte, *RemoteErr) {
				<-leave
				return nil, nil
			}),
			server.HandleStream("endless", func(context.Context, *RawStream) error {
				<-leave
				return nil
			}))
		if err != nil {
			t.Fatal(err)
		}
		const requests = 2
		for round := range 3 {
			guest, _ := c.visit(t, "agent", server, nil)
			conn := guest.Connection(server.host)
			results := make(chan error, requests)
			for range requests {
				go func() {
					_, err := conn.Request(t.Context(), testSingle, nil)
					results <- err
				}()
			}
			st, err := conn.OpenStream(t.Context(), "endless", nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if round == 0 {
				guest.Close()
			} else if err := st.Err(); !errors.Is(err, ErrOverloaded) {
				t.Errorf("round %d: a stream got %v", round, err)
			}
			for range requests {
				if err := <-results; errors.Is(err, ErrOverloaded) != (round > 0) {
					t.Errorf("round %d: a request got %v", round, err)
				}
			}
			guest.Close()
			synctest.Wait()
		}
		if resp := c.knock(t, server).introduce(t, "other"); resp.Accepted {
			t.Error("another one got the place of what still runs")
		}
		close(leave)
		synctest.Wait()
		if resp := c.knock(t, server).introduce(t, "other"); !resp.Accepted {
			t.Errorf("nothing runs anymore: %s", resp.RejectedReason)
		}
	})
}

// Names of hosts have a colon, those of guests have none. So nobody is both.
func TestNamesOfGuests(t *testing.T) {
	good := ManagerOptions{Local: "agent"}
	for _, test := range []struct {
		server string
		edit   func(o *ManagerOptions)
		names  string
	}{
		{"http://a:1", func(o *ManagerOptions) { o.Local = "" }, "ManagerOptions.Local: empty name"},
		{"http://a:1", func(o *ManagerOptions) { o.Local = "http://b:1" }, `ManagerOptions.Local: "http://b:1" has a colon`},
		{"http://a:1", func(o *ManagerOptions) { o.Local = "a\nb" }, "ManagerOptions.Local: name of a guest: '\\n' cannot be printed"},
		{"http://a:1", func(o *ManagerOptions) { o.Local = strings.Repeat("x", MaxGuestNameSize+1) }, "ManagerOptions.Local: name of a guest with 256 bytes"},
		{"a:1", func(*ManagerOptions) {}, `Join: "a:1" does not start with http`},
		{"http://a:1", func(o *ManagerOptions) { o.Hosts = []string{"http://b:1"} }, "Join: ManagerOptions.Hosts is set"},
		{"http://a:1", func(o *ManagerOptions) { o.AcceptGuest = acceptAll }, "Join: ManagerOptions.AcceptGuest is set"},
		{"http://a:1", func(o *ManagerOptions) { o.BusyPoll = -1 }, "BusyPoll"},
	} {
		o := good
		test.edit(&o)
		if _, err := Join(t.Context(), test.server, o); err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("Join got %v, want %q", err, test.names)
		}
	}
	c := startCluster(t, 1, nil)
	if err := c.nodes[0].SetHosts([]string{"agent"}); err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("SetHosts with the name of a guest got %v", err)
	}
	if _, err := NewManager(t.Context(), ManagerOptions{Local: "agent", AuthRequest: func(*http.Request) error { return nil }}); err == nil {
		t.Error("a host may be called agent")
	}
}

// A name that is not valid is rejected by the server, too, without AcceptGuest being asked; and so is
// one that claims to be a host, or the server itself.
func TestAGuestCannotPoseAsAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, func(o *ManagerOptions) {
			o.AcceptGuest = func(_ *http.Request, name string) error {
				t.Errorf("asked about %q", name)
				return nil
			}
		})
		server := c.nodes[0]
		for _, test := range []struct{ name, reason string }{
			{"", "empty name"},
			{"bell\a", "cannot be printed"},
			{strings.Repeat("x", 256), "256 bytes"},
			{"http://unknown:9000", unknownHost},
			{"not:a-url", unknownHost},
			{server.host, unknownHost},
		} {
			resp := c.knock(t, server).greet(t, &connectReq{Host: test.name, Time: time.Now(), Grid: nativeFeatures})
			if resp.Accepted || !strings.Contains(resp.RejectedReason, test.reason) {
				t.Errorf("%q was answered with %+v, want %q", test.name, resp, test.reason)
			}
		}
		if s := server.Stats().Guests; s.Rejected != 3 || s.Connects != 0 {
			t.Errorf("statistics: %+v", s)
		}
	})
}

// A guest that loses its connection, or starts again, is back soon, with a Connection of its own.
func TestAGuestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		told := make(chan *Connection, 10)
		server.OnGuest(func(conn *Connection) { told <- conn })
		guest, first := c.visit(t, "agent", server, nil)
		if got := <-told; got != first {
			t.Errorf("told of %p, want %p", got, first)
		}
		c.cut()
		synctest.Wait()
		if len(server.Guests()) != 0 {
			t.Errorf("%v is still there", server.Guests())
		}
		time.Sleep(guestPace.first)
		second := <-told
		if second == first || second != server.Connection("agent") {
			t.Errorf("told of %p after %p", second, first)
		}
		guest.reach(t, server)
		guest.Close()
		synctest.Wait()
		if len(server.guests.all()) != 0 {
			t.Errorf("left: %v", server.guests.all())
		}
		again, third := c.visit(t, "agent", server, nil)
		if third == second || third.Peer().ID != again.ID {
			t.Errorf("the server has %v of process %v, want %v", third, third.Peer().ID, again.ID)
		}
		if s := server.Stats().Guests; s.Connects != 3 || s.Connected != 1 || s.Leaving != 0 {
			t.Errorf("statistics: %+v", s)
		}
	})
}

// A second process with the name of a guest takes the place of the first when that does not answer,
// and is turned away while it does.
func TestTwoGuestsWithOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		one, held := c.visit(t, "agent", server, nil)
		two := c.join(t, "agent", server, nil)
		time.Sleep(time.Minute)
		if !strings.Contains(two.log.String(), "another process with the name agent is connected") {
			t.Errorf("the second has logged:\n%s", two.log)
		}
		if server.Connection("agent") != held || held.Peer().ID != one.ID || server.Stats().Guests.Connects != 1 {
			t.Errorf("the first has lost its place, to %v", held.Peer().ID)
		}
		one.Close()
		two.reach(t, server)
		if id := server.guest(t, "agent").Peer().ID; id != two.ID {
			t.Errorf("the server has %v, want %v", id, two.ID)
		}
	})
}

// A guest whose old session is dead, which the server has not noticed, keeps its Connection.
func TestAGuestReplacesItsDeadSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		told := make(chan *Connection, 10)
		server.OnGuest(func(conn *Connection) { told <- conn })
		dead := c.knock(t, server) // and never answers a ping
		if resp := dead.greet(t, &connectReq{ID: [16]byte{1}, Host: "agent", Time: time.Now()}); !resp.Accepted {
			t.Fatalf("rejected: %+v", resp)
		}
		held := <-told
		_, conn := c.visit(t, "agent", server, nil)
		if again := <-told; conn != held || again != held {
			t.Errorf("told of %p, then %p; there is %p", held, again, conn)
		}
		if s := server.Stats().Guests; s.Connects != 2 || s.Connected != 1 {
			t.Errorf("statistics: %+v", s)
		}
	})
}

// Two URLs that lead to one server do no harm.
func TestAGuestWithTwoURLsOfOneServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		const alias = "http://alias:80"
		c.mu.Lock()
		c.listeners["alias:80"] = c.listeners["node0:9000"]
		c.mu.Unlock()
		guest, held := c.visit(t, "agent", server, nil)
		if err := guest.SetHosts([]string{server.host, alias}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if server.Stats().Guests.Connects != 1 || server.Connection("agent") != held || guest.Connection(alias).State() == StateConnected {
			t.Errorf("the first connection was lost: %+v", server.Stats().Guests)
		}
		if !strings.Contains(guest.log.String(), "agent is connected already") {
			t.Errorf("the guest has logged:\n%s", guest.log)
		}
		if err := guest.SetHosts([]string{alias}); err != nil {
			t.Fatal(err)
		}
		defer func() { // the server's own name comes first even then
			if err := guest.SetHosts([]string{alias, server.host}); err != nil {
				t.Fatal(err)
			}
			guest.reach(t, server)
			time.Sleep(time.Minute)
			if guest.Connection(server.host).State() != StateConnected || guest.Connection(alias).State() == StateConnected || server.Stats().Guests.Connects != 3 {
				t.Errorf("%+v", server.Stats().Guests)
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := guest.Connection(alias).WaitForConnect(ctx); err != nil {
			t.Errorf("the other URL does not connect: %v\n%s", err, guest.log)
		}
	})
}

// A guest that reaches another host than it means is turned away.
func TestAGuestThatGoesAstray(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, func(_ int, o *ManagerOptions) { o.AcceptGuest = acceptAll })
		right := c.listeners["node0:9000"]
		c.mu.Lock()
		c.listeners["node0:9000"] = c.listeners["node1:9000"]
		c.mu.Unlock()
		guest := c.join(t, "agent", c.nodes[0], nil)
		time.Sleep(time.Minute)
		if !strings.Contains(guest.log.String(), "is http://node1:9000, not http://node0:9000") || c.nodes[1].Stats().Guests.Connects != 0 {
			t.Errorf("the guest has logged:\n%s", guest.log)
		}
		c.mu.Lock()
		c.listeners["node0:9000"] = right
		c.mu.Unlock()
		guest.reach(t, c.nodes[0])
	})
}

// A guest has several servers, and SetHosts changes them.
func TestAGuestOfSeveralServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 3, func(_ int, o *ManagerOptions) { o.AcceptGuest = acceptAll })
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return []byte("ok"), nil })
		guest, held := c.visit(t, "agent", c.nodes[0], nil)
		if err := guest.SetHosts([]string{c.nodes[1].host, c.nodes[2].host}); err != nil {
			t.Fatal(err)
		}
		if err := guest.WaitForConnect(t.Context(), ReadyAll); err != nil {
			t.Fatal(err)
		}
		for _, i := range []int{1, 2} {
			checkCall(t, guest.Connection(c.nodes[i].host), "ok")
			c.nodes[i].guest(t, "agent")
		}
		c.nodes[0].gone(t)
		if _, err := held.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
			t.Errorf("a call on the first connection got %v", err)
		}
	})
}

// A guest that is removed finishes its calls, and may come back.
func TestRemoveGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var banned atomic.Bool
		c := inn(t, func(o *ManagerOptions) {
			o.AcceptGuest = func(*http.Request, string) error {
				if banned.Load() {
					return errors.New("banned")
				}
				return nil
			}
		})
		server := c.nodes[0]
		release := make(chan struct{})
		c.handle(t, func(context.Context, []byte) ([]byte, error) {
			<-release
			return []byte("done"), nil
		})
		guest, held := c.visit(t, "agent", server, nil)
		banned.Store(true)
		running := make(chan error, 1)
		go func() {
			b, err := guest.Connection(server.host).Request(context.Background(), testSingle, nil)
			if string(b) != "done" {
				err = fmt.Errorf("got %q, %w", b, err)
			}
			running <- err
		}()
		synctest.Wait()
		if server.RemoveGuest("nobody") || !server.RemoveGuest("agent") || server.RemoveGuest("agent") {
			t.Error("RemoveGuest has not removed it once")
		}
		synctest.Wait()
		if server.Connection("agent") != nil || len(server.Guests()) != 0 {
			t.Error("a guest that was removed is there")
		}
		if _, err := held.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
			t.Errorf("a call got %v", err)
		}
		if _, err := guest.Connection(server.host).Request(t.Context(), testSingle, nil); !errors.Is(err, ErrRemoved) {
			t.Errorf("a call of the guest got %v", err)
		}
		if s := server.Stats().Guests; s.Leaving != 1 || s.Connects != 1 {
			t.Errorf("statistics: %+v", s)
		}
		close(release)
		if err := <-running; err != nil {
			t.Errorf("the call that ran: %v", err)
		}
		time.Sleep(time.Minute)
		if s := server.Stats().Guests; s.Leaving != 0 || s.Connects != 1 || s.Rejected == 0 {
			t.Errorf("statistics: %+v", s)
		}
		banned.Store(false)
		guest.reach(t, server)
	})
}

// Calls of a removed guest that do not end are cut after the grace.
func TestARemovedGuestIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, func(o *ManagerOptions) { o.RemovalGrace = 5 * time.Second })
		server := c.nodes[0]
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, nil
		})
		guest, _ := c.visit(t, "agent", server, nil)
		conn := guest.Connection(server.host)
		running := make(chan error, 1)
		go func() {
			_, err := conn.Request(context.Background(), testSingle, nil)
			running <- err
		}()
		synctest.Wait()
		began := time.Now()
		server.RemoveGuest("agent")
		if err := <-running; !errors.Is(err, ErrDisconnected) {
			t.Errorf("the call got %v", err)
		}
		if took := time.Since(began); took < 5*time.Second || took > 7*time.Second {
			t.Errorf("it was cut after %v", took)
		}
		time.Sleep(5 * time.Second)
		if n := server.log.count("calls of a removed peer were cut"); n != 1 {
			t.Errorf("logged:\n%s", server.log)
		}
	})
}

// Handlers that outlive their guest count until they return.
func TestHandlersThatOutliveTheirGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		release := make(chan struct{})
		c.handle(t, func(context.Context, []byte) ([]byte, error) {
			<-release
			return nil, nil
		})
		guest, _ := c.visit(t, "agent", server, nil)
		conn := guest.Connection(server.host)
		go conn.Request(context.Background(), testSingle, nil)
		synctest.Wait()
		before := server.Stats().Guests
		guest.Close()
		time.Sleep(time.Second)
		if s := server.Stats().Guests; s.Leaving != 1 || s.Connected != 0 || s.In.Bytes < before.In.Bytes {
			t.Errorf("statistics %+v after %+v", s, before)
		}
		close(release)
		synctest.Wait()
		s := server.Stats()
		if s.Guests.Leaving != 0 || handlerStats(s.Handlers, RoleServer, testSingle, "").Calls != 1 || s.Guests.Out.Bytes < before.Out.Bytes {
			t.Errorf("statistics: %+v, %+v", s.Guests, s.Handlers)
		}
	})
}

// Guests learn that the server drains and ends, and are back when it is.
func TestTheServerOfGuestsRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		release := make(chan struct{})
		var guests []*testNode
		for i := range 5 {
			guest, _ := c.visit(t, fmt.Sprint("agent", i), server, nil)
			guests = append(guests, guest)
			if err := guest.RegisterSingleHandlerContext(testSingle, func(context.Context, []byte) ([]byte, error) {
				<-release
				return []byte("done"), nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		held := server.Connection("agent0")
		running := make(chan error, 1)
		go func() {
			_, err := held.Request(context.Background(), testSingle, nil)
			running <- err
		}()
		server.Drain()
		synctest.Wait()
		for _, guest := range guests {
			if !guest.Connection(server.host).Peer().Draining {
				t.Errorf("%s does not know that the server drains", guest.host)
			}
		}
		ended := make(chan error, 1)
		go func() { ended <- server.Shutdown(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Errorf("Shutdown has not waited for a call: %v", err)
		default:
		}
		if _, err := held.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrShutdown) {
			t.Errorf("a call got %v", err)
		}
		if resp := c.knock(t, server).introduce(t, "agent9"); resp.Accepted || resp.RejectedReason != ErrShutdown.Error() {
			t.Errorf("a guest that comes late was answered with %+v", resp)
		}
		close(release)
		if err := errors.Join(<-running, <-ended); err != nil {
			t.Errorf("the call, or Shutdown: %v", err)
		}
		if s := server.Stats().Guests; s.Connected != 0 || s.Connects != 5 {
			t.Errorf("statistics: %+v", s)
		}
		server.server.Close()
		time.Sleep(time.Minute)
		server.listener = c.relisten("node0:9000")
		c.startNode(t, server, func(o *ManagerOptions) { o.AcceptGuest = acceptAll })
		for _, guest := range guests {
			guest.reach(t, server)
		}
		for _, guest := range guests {
			server.guest(t, guest.host)
		}
	})
}

// A guest that ends in good order finishes what its server has asked it for.
func TestAGuestShutsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		guest, conn := c.visit(t, "agent", server, nil)
		release := make(chan struct{})
		err := guest.RegisterSingleHandlerContext(testSingle, func(context.Context, []byte) ([]byte, error) {
			<-release
			return []byte("done"), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		running := make(chan error, 1)
		go func() {
			_, err := conn.Request(context.Background(), testSingle, nil)
			running <- err
		}()
		synctest.Wait()
		guest.Drain()
		synctest.Wait()
		if !conn.Peer().Draining {
			t.Error("the server does not know that its guest drains")
		}
		ended := make(chan error, 1)
		go func() { ended <- guest.Shutdown(context.Background()) }()
		synctest.Wait()
		close(release)
		if err := errors.Join(<-running, <-ended); err != nil {
			t.Error(err)
		}
		server.gone(t)
	})
}

// Guests make no events of hosts, and nobody waits for them.
func TestGuestsAreNoHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e := range server.Events(ctx) {
				t.Errorf("event %+v", e)
			}
		}()
		c.visit(t, "agent", server, nil)
		if err := server.WaitForConnect(t.Context(), ReadyAll); err != nil {
			t.Error(err)
		}
		if h := server.Health(t.Context()); len(h.Peers) != 0 || !h.All() || !h.Quorum() {
			t.Errorf("health %+v", h)
		}
		if err := server.SetHosts(nil); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(server.Guests()) != 1 {
			t.Error("SetHosts has changed the guests")
		}
		cancel()
		<-ended
	})
}

// A guest that comes and goes cannot fill the log, and does not displace what the node knows of
// others.
func TestGuestsCannotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		server.node.recent.add("http://other:1", RoleClient, noHandler, "what counts")
		for i := range 500 {
			p := c.knock(t, server)
			if resp := p.introduce(t, fmt.Sprint("agent", i)); !resp.Accepted {
				t.Fatalf("%+v", resp)
			}
			synctest.Wait()
			p.socket.Close()
		}
		synctest.Wait()
		if n := server.log.count("\n"); n > 4*burstLines {
			t.Errorf("%d lines", n)
		}
		if errs := server.RecentErrors(); len(errs) != 1+recentRejected || !slices.ContainsFunc(errs, func(e RecentError) bool { return e.Text == "what counts" }) {
			t.Errorf("%d recent errors: %v", len(errs), errs)
		}
	})
}

// Nor can two that have one name.
func TestTwinsOfGuestsCannotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, nil)
		server := c.nodes[0]
		const pairs = 200
		for i := range pairs {
			name := fmt.Sprint("agent", i)
			one, _ := c.visit(t, name, server, nil)
			other := c.join(t, name, server, nil)
			synctest.Wait()
			one.Close()
			other.Close()
		}
		if n := server.log.count("two processes with one name"); n == 0 || n > burstLines {
			t.Errorf("%d lines of %d pairs", n, pairs)
		}
	})
}

// Nor can one that is rejected.
func TestRejectedGuestsCannotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := inn(t, func(o *ManagerOptions) {
			o.AcceptGuest = func(_ *http.Request, name string) error { return errors.New("not " + name) }
		})
		server := c.nodes[0]
		for i := range 200 {
			if resp := c.knock(t, server).introduce(t, fmt.Sprint("agent", i)); resp.Accepted {
				t.Fatal("accepted")
			}
		}
		if n := server.log.count("peer rejected"); n != burstLines {
			t.Errorf("%d lines, want %d", n, burstLines)
		}
		resp := c.knock(t, server).introduce(t, "http://stranger:9000")
		synctest.Wait()
		if resp.Accepted || server.log.count("stranger") != 1 {
			t.Errorf("guests hide another rejection: %s", server.log)
		}
	})
}

func TestNilManagersHaveNoGuests(t *testing.T) {
	var m *Manager
	m.OnGuest(func(*Connection) {})
	if m.Guests() != nil || m.RemoveGuest("agent") || m.Connection("agent") != nil {
		t.Error("a nil Manager has guests")
	}
}

// Guests come, call, are called, are removed and go, all at once.
func TestGuestsInAHurry(t *testing.T) {
	c := startCluster(t, 1, func(_ int, o *ManagerOptions) { o.AcceptGuest, o.Limits.MaxGuests = acceptAll, 6 })
	server := c.nodes[0]
	if err := server.RegisterSingleHandlerContext(testSingle, namesBack(server.Manager)); err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	server.OnGuest(func(conn *Connection) {
		told.Add(1)
		b, err := conn.Request(t.Context(), testSingle, nil)
		if err == nil && !strings.HasPrefix(string(b), conn.Remote+" for ") {
			t.Errorf("%v answered %q", conn, b)
		}
	})
	stop := make(chan struct{})
	var watch, work sync.WaitGroup
	watch.Go(func() {
		var last GuestStats
		for {
			select {
			case <-stop:
				return
			default:
			}
			s := server.Stats().Guests
			if s.Connects < last.Connects || s.In.Bytes < last.In.Bytes || s.Out.Messages < last.Out.Messages || s.Rejected < last.Rejected {
				t.Errorf("statistics fell: %+v, then %+v", last, s)
			}
			last = s
			for _, conn := range server.Guests() {
				server.Connection(conn.Remote)
			}
		}
	})
	for i := range 8 {
		work.Go(func() {
			name := fmt.Sprint("agent", i/2) // of two processes each
			for round := range 6 {
				n := c.join(t, name, server, nil)
				if err := n.RegisterSingleHandlerContext(testSingle, namesBack(n.Manager)); err != nil {
					t.Error(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				if n.Connection(server.host).WaitForConnect(ctx) == nil {
					n.Connection(server.host).Request(ctx, testSingle, nil)
				}
				cancel()
				switch round % 3 {
				case 0:
					server.RemoveGuest(name)
				case 1:
					c.cut()
				}
				n.Close()
			}
		})
	}
	work.Wait()
	last, _ := c.visit(t, "last", server, nil)
	last.Close()
	close(stop)
	watch.Wait()
	server.gone(t)
	eventually(t, "to be told", func() bool { return told.Load() > 0 }, func() string { return "of nobody" })
	if told.Load() == 0 || server.Stats().Guests.Connects < told.Load() {
		t.Errorf("told of %d guests, statistics %+v", told.Load(), server.Stats().Guests)
	}
}
