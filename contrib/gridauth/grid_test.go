package gridauth

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

var _ grid.AuthFn = new(Auth).AddAuth

// nodes is a grid over TCP on loopback.
type nodes struct {
	hosts     []string
	listeners []net.Listener
	managers  []*grid.Manager
	checking  func() // runs before a token is checked; may be nil

	mu    sync.Mutex // Protects following.
	conns []net.Conn // of the dialers
	log   strings.Builder

	changed chan struct{} // closed by the next line
}

// newNodes opens the ports of n nodes.
func newNodes(t *testing.T, n int) *nodes {
	t.Helper()
	ns := &nodes{changed: make(chan struct{})}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ns.listeners = append(ns.listeners, l)
		ns.hosts = append(ns.hosts, "http://"+l.Addr().String())
	}
	ns.managers = make([]*grid.Manager, n)
	return ns
}

// start starts node i with an Auth of its own.
func (ns *nodes) start(t *testing.T, i int, a *Auth) {
	t.Helper()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:   ns.hosts[i],
		Hosts:   ns.hosts,
		AddAuth: a.AddAuth,
		AuthRequest: func(r *http.Request) error {
			if ns.checking != nil {
				ns.checking()
			}
			return a.AuthRequest(r)
		},
		VerifyPeer: a.VerifyPeer,
		Dialer:     ns.dial,
		Logger:     slog.New(slog.NewTextHandler(ns, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	err = m.RegisterSingleHandler(grid.HandlerUserFirst, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: m.Handler()}
	go server.Serve(ns.listeners[i])
	t.Cleanup(func() {
		m.Close()
		server.Close()
	})
	ns.managers[i] = m
}

func (ns *nodes) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		ns.mu.Lock()
		ns.conns = append(ns.conns, c)
		ns.mu.Unlock()
	}
	return c, err
}

// cutAndWait closes all connections, and returns when both of the first two nodes have seen it.
// Their logs may not say so: lines about a peer that comes and goes are bounded.
func (ns *nodes) cutAndWait(t *testing.T) {
	t.Helper()
	lastLoss := func(i int) time.Time { return ns.managers[i].Connection(ns.hosts[1-i]).Stats().LastErrorTime }
	before := [2]time.Time{lastLoss(0), lastLoss(1)}
	ns.mu.Lock()
	for _, c := range ns.conns {
		c.Close()
	}
	ns.conns = nil
	ns.mu.Unlock()
	for late := time.Now().Add(20 * time.Second); !lastLoss(0).After(before[0]) || !lastLoss(1).After(before[1]); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(late) {
			t.Fatalf("waited in vain for both to lose the connection\n%s", ns.logged())
		}
	}
}

// Write takes a line of the nodes' log.
func (ns *nodes) Write(b []byte) (int, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	close(ns.changed)
	ns.changed = make(chan struct{})
	return ns.log.Write(b)
}

func (ns *nodes) logged() string {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.log.String()
}

// waitConnected returns when the first two nodes are connected to each other.
func (ns *nodes) waitConnected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 2 {
		if err := ns.managers[i].Connection(ns.hosts[1-i]).WaitForConnect(ctx); err != nil {
			t.Fatalf("not connected: %v\n%s", err, ns.logged())
		}
	}
}

func (ns *nodes) auth(t *testing.T, i int, keys ...Key) *Auth {
	t.Helper()
	return newAuth(t, func(o *Options) { o.Host, o.Sign, o.Verify = ns.hosts[i], keys[0], keys[1:] })
}

func TestNodesConnectWithTheSecret(t *testing.T) {
	ns := newNodes(t, 2)
	for i := range 2 {
		ns.start(t, i, ns.auth(t, i, key("k1")))
	}
	ns.waitConnected(t)
	for i := range 2 {
		got, err := ns.managers[i].Connection(ns.hosts[1-i]).Request(t.Context(), grid.HandlerUserFirst, []byte("hello"))
		if err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

// Who dials is decided by the names: whichever node has the wrong secret, the other one is told
// nothing but no.
func TestNodesWithAnotherSecretStayApart(t *testing.T) {
	for name, keys := range map[string][2]Key{
		"another secret under the same ID": {key("k1"), {ID: "k1", Secret: key("k2").Secret}},
		"another key":                      {key("k1"), key("k2")},
	} {
		t.Run(name, func(t *testing.T) {
			ns := newNodes(t, 2)
			auths := []*Auth{ns.auth(t, 0, keys[0]), ns.auth(t, 1, keys[1])}
			for i := range 2 {
				ns.start(t, i, auths[i])
			}
			waitFor(t, ns, "peer refused", "gridauth: ")
			waitFor(t, ns, "cannot connect", "403 Forbidden")
			for i := range 2 {
				if st := ns.managers[i].Connection(ns.hosts[1-i]).State(); st == grid.StateConnected {
					t.Error("they are connected")
				}
			}
			if err := auths[1].SetKeys(keys[0]); err != nil { // repairs it, without a restart
				t.Fatal(err)
			}
			ns.waitConnected(t)
		})
	}
}

func TestATokenOfAnotherNodeIsRejected(t *testing.T) {
	ns := newNodes(t, 2)
	stolen := newAuth(t, func(o *Options) { o.Host = "http://node3.example:9000" })
	for i := range 2 {
		ns.start(t, i, stolen)
	}
	waitFor(t, ns, "peer rejected", "the token is of", "http://node3.example:9000")
	waitFor(t, ns, "cannot connect", "rejected; the peer's log says why")
}

// The keys change between the signing of a token and its check, at every step of a rotation, and
// nobody is refused.
func TestKeysAreRotatedWhileNodesConnect(t *testing.T) {
	ns := newNodes(t, 2)
	auths := make([]*Auth, 2)
	for i := range auths {
		auths[i] = ns.auth(t, i, key("k0"))
	}
	var mu sync.Mutex // Protects following.
	steps := 0
	ns.checking = func() {
		mu.Lock()
		defer mu.Unlock()
		old, next := key(fmt.Sprintf("k%d", steps/3)), key(fmt.Sprintf("k%d", steps/3+1))
		keys := [][]Key{{old, next}, {next, old}, {next}}[steps%3]
		steps++
		for _, a := range auths {
			if err := a.SetKeys(keys[0], keys[1:]...); err != nil {
				t.Error(err)
			}
		}
	}
	for i, a := range auths {
		ns.start(t, i, a)
	}
	taken := func() int {
		mu.Lock()
		defer mu.Unlock()
		return steps
	}
	for n := 1; n <= 6; n++ { // two rotations
		ns.waitConnected(t)
		if got := taken(); got != n {
			t.Fatalf("%d tokens were checked for %d connections\n%s", got, n, ns.logged())
		}
		ns.cutAndWait(t)
	}
	for _, text := range []string{"refused", "rejected", "eyJ", "Bearer"} { // tokens begin with eyJ
		if strings.Contains(ns.logged(), text) {
			t.Errorf("%q is in the log:\n%s", text, ns.logged())
		}
	}
}

// waitFor returns when a line with all texts has been logged.
func waitFor(t *testing.T, ns *nodes, texts ...string) {
	t.Helper()
	ns.waitLog(t, fmt.Sprintf("a line with %q", texts), func(log string) bool {
		for line := range strings.Lines(log) {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return true
			}
		}
		return false
	})
}

// waitLog returns when ok says so of all that has been logged.
func (ns *nodes) waitLog(t *testing.T, what string, ok func(log string) bool) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		ns.mu.Lock()
		log, changed := ns.log.String(), ns.changed
		ns.mu.Unlock()
		if ok(log) {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("waited in vain for %s in\n%s", what, log)
		}
	}
}

var _ io.Writer = (*nodes)(nil)
