package grid

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// Connections before the end of their handshake are so many and no more, and one that ends its
// handshake or goes makes room.
func TestHandshakesAreBounded(t *testing.T) {
	const most = 3
	address, m, log := loggedNode(t, nil, func(o *ManagerOptions) { o.Limits.MaxHandshakes = most })
	for range most {
		if resp, _ := testkit.Exchange(t, address, testkit.RawUpgrade(getRoute)); resp.StatusCode != 101 {
			t.Fatal(resp.Status)
		}
	}
	resp, _ := testkit.Exchange(t, address, testkit.RawUpgrade(getRoute))
	if resp.StatusCode != 503 {
		t.Fatalf("one too many is answered with %s", resp.Status)
	}
	log.Wait(t, "grid: upgrade failed", "status 503", "Limits.MaxHandshakes")

	// A stranger to AuthRequest takes no place, and one that goes gives its own back.
	m.acceptor.lobby.mu.Lock()
	var one net.Conn
	for _, places := range m.acceptor.lobby.places {
		one = places[0].socket
	}
	m.acceptor.lobby.mu.Unlock()
	one.Close()
	eventually(t, "room", func() bool {
		m.acceptor.lobby.mu.Lock()
		defer m.acceptor.lobby.mu.Unlock()
		return m.acceptor.lobby.count < most
	})
	p := dialPlayer(t, m.HostName(), m.Targets()[0])
	p.handshake(m, generations[0])
	eventually(t, "the end of the handshake", func() bool {
		m.acceptor.lobby.mu.Lock()
		defer m.acceptor.lobby.mu.Unlock()
		return m.acceptor.lobby.count == most-1
	})
}

// Who is not let in by AuthRequest takes no place from those who are.
func TestStrangersTakeNoPlace(t *testing.T) {
	l, local := listen(t)
	o := playerOptions(local)
	o.Limits.MaxHandshakes = 1
	m := newTestNode(t, o)
	serveNode(t, l, m)
	g, _ := m.acceptor.lobby.enter("192.0.2.1:1")
	defer m.acceptor.lobby.leave(g)
	if resp, _ := testkit.Exchange(t, l.Addr().String(), testkit.RawUpgrade(getRoute, "Origin: http://page")); resp.StatusCode != 403 {
		t.Errorf("answered with %s where the lobby is full, want 403", resp.Status)
	}
}

// Where the lobby is full, those who have most give way.
func TestNobodyKeepsOthersOutOfTheLobby(t *testing.T) {
	l := &lobby{most: 4}
	sockets := make(map[*place]net.Conn)
	enter := func(address string) *place {
		g, ok := l.enter(address)
		if !ok {
			return nil
		}
		here, there := net.Pipe()
		t.Cleanup(func() { there.Close() })
		sockets[g] = there
		if !l.use(g, here) {
			t.Errorf("%s is ousted at once", address)
		}
		return g
	}
	var crowd []*place
	for i := range l.most {
		crowd = append(crowd, enter(fmt.Sprintf("10.0.0.1:%d", i)))
	}
	if enter("10.0.0.1:99") != nil {
		t.Error("one more of the same address is let in")
	}
	if enter("10.0.0.2:1") == nil || enter("10.0.0.2:2") == nil {
		t.Fatal("another address is kept out")
	}
	for i, g := range crowd[:2] {
		if _, err := sockets[g].Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the oldest connection %d of the crowd gives: %v", i, err)
		}
		if l.leave(g) {
			t.Error("it has its place still")
		}
	}
	for address, want := range map[string]bool{"10.0.0.2:3": false, "10.0.0.1:100": false, "10.0.0.3:1": true} {
		if g := enter(address); (g != nil) != want {
			t.Errorf("%s is let in: %v, want %v", address, g != nil, want)
		}
	}
	if l.count != l.most {
		t.Errorf("%d in a lobby for %d", l.count, l.most)
	}
	for g := range sockets {
		l.leave(g)
		l.leave(g)
	}
	if l.count != 0 || len(l.places) != 0 {
		t.Errorf("%d left, %v", l.count, l.places)
	}
}

// A connection that has to go before its socket is known goes then.
func TestAConnectionWithoutASocketCanBeOusted(t *testing.T) {
	l := &lobby{most: 2}
	g, _ := l.enter("10.0.0.1:1")
	l.enter("10.0.0.1:2")
	if _, ok := l.enter("10.0.0.2:1"); !ok {
		t.Fatal("kept out")
	}
	if l.use(g, nil) {
		t.Error("still there")
	}
}

func TestLobbyUnderLoad(t *testing.T) {
	l := &lobby{most: 5}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				if g, ok := l.enter(fmt.Sprintf("10.0.0.%d:%d", i%4, j)); ok {
					here, _ := net.Pipe()
					if l.use(g, here) && j%2 == 0 {
						l.enter("10.0.1.1:1") // stays
					}
					l.leave(g)
				}
				l.mu.Lock()
				if l.count > l.most {
					t.Errorf("%d in a lobby for %d", l.count, l.most)
				}
				l.mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestNetworkOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:80":            "192.0.2.1",
		"[::ffff:192.0.2.1]:80":   "192.0.2.1",
		"[2001:db8:1:2:3::4]:80":  "2001:db8:1:2::/64",
		"[2001:db8:1:2:ff::9]:81": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":       "fe80::/64",
		"pipe":                    "pipe",
		"@":                       "@",
		"":                        "",
	} {
		if got := networkOf(address); got != want {
			t.Errorf("%q is of %q, want %q", address, got, want)
		}
	}
}

// Who loses its place at the very end of the handshake does not take that of the session that there
// is.
func TestAnOustedHandshakeEndsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		var ousting atomic.Bool
		var m *Manager
		n, host := startForFake(t, c, func(o *ManagerOptions) {
			o.Limits.MaxHandshakes = 2
			o.VerifyPeer = func(r *http.Request, _ string) error {
				if ousting.Load() {
					m.acceptor.lobby.enter(r.RemoteAddr)
					m.acceptor.lobby.enter("192.0.2.1:1")
				}
				return nil
			}
		})
		m = n.Manager
		first := c.knock(t, n)
		first.introduceProcess(t, host, 1)
		first.live(t)
		synctest.Wait()
		session := n.Connection(host).current.Load()
		ousting.Store(true)
		second := c.knock(t, n)
		payload, _ := (&connectReq{ID: [16]byte{1}, Host: host}).MarshalMsg(nil)
		second.send(t, message{Op: OpConnect, Payload: payload})
		readToEnd(second)
		synctest.Wait()
		if session == nil || n.Connection(host).current.Load() != session {
			t.Error("the session has ended for a handshake that cannot be finished")
		}
		if n.log.count("grid: peer rejected") != 1 || n.log.count(errOusted.Error()) != 1 {
			t.Errorf("logged:\n%s", n.log)
		}
	})
}

// A connection whose handshake has failed keeps its place until it is closed.
func TestARejectedConnectionIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, _ := startForFake(t, c, nil)
		l := &n.Manager.acceptor.lobby
		count := func() int {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.count
		}
		if resp := c.knock(t, n).introduce(t, "http://nobody"); resp.Accepted {
			t.Fatal("accepted")
		}
		synctest.Wait()
		if count() != 1 {
			t.Errorf("%d in the lobby while a connection is being ended, want 1", count())
		}
		time.Sleep(2 * greetingGrace)
		if count() != 0 {
			t.Errorf("%d left in the lobby", count())
		}
	})
}
