package gridmemberlist

import (
	"fmt"
	"log"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
	"github.com/hashicorp/memberlist"
)

// gossiper is a Source on loopback.
type gossiper struct {
	Source
	address string
	log     *testkit.LogLines
	net     *network
}

// newGossiper returns a Source at a free port, which finds out within a second who is dead.
func newGossiper(t *testing.T, local string, join ...string) *gossiper {
	t.Helper()
	g := &gossiper{log: testkit.NewLogLines()}
	logger := log.New(g.log, "", 0)
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{"127.0.0.1"}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	g.net = newNetwork(nt)
	port := nt.GetAutoBindPort()
	g.address = fmt.Sprintf("127.0.0.1:%d", port)
	c := memberlist.DefaultLocalConfig()
	c.BindAddr, c.BindPort, c.AdvertisePort = "127.0.0.1", port, port
	c.Transport, c.Logger = g.net, logger
	c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = 200*time.Millisecond, 100*time.Millisecond, 20*time.Millisecond
	c.PushPullInterval = 500 * time.Millisecond // so that what was lost comes soon
	c.SecretKey = []byte("0123456789abcdef0123456789abcdef")
	g.Source = Source{Config: c, Local: local, Join: join}
	return g
}

// network is memberlist's own, which can be made to lose all that a node sends.
type network struct {
	*memberlist.NetTransport

	mute    atomic.Bool
	streams chan net.Conn
	done    chan struct{}
}

func newNetwork(nt *memberlist.NetTransport) *network {
	n := &network{NetTransport: nt, streams: make(chan net.Conn), done: make(chan struct{})}
	go n.forward()
	return n
}

// forward passes on the streams of others, to which the node would answer.
func (n *network) forward() {
	for {
		select {
		case conn := <-n.NetTransport.StreamCh():
			if n.mute.Load() {
				conn.Close()
				continue
			}
			select {
			case n.streams <- conn:
			case <-n.done:
				conn.Close()
			}
		case <-n.done:
			return
		}
	}
}

// Shutdown waits for those who have a stream to pass on.
func (n *network) Shutdown() error {
	defer close(n.done)
	return n.NetTransport.Shutdown()
}

func (n *network) StreamCh() <-chan net.Conn { return n.streams }

func (n *network) WriteTo(b []byte, addr string) (time.Time, error) {
	return n.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (n *network) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if n.mute.Load() {
		return time.Now(), nil
	}
	return n.NetTransport.WriteToAddress(b, a)
}

func (n *network) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return n.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (n *network) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if n.mute.Load() {
		return nil, fmt.Errorf("no route to %s", a.Addr)
	}
	return n.NetTransport.DialAddressTimeout(a, timeout)
}

func discover(t *testing.T, hold time.Duration, join ...string) (*testnode.Discovering, *gossiper) {
	t.Helper()
	l, name := testkit.Listen(t)
	g := newGossiper(t, name, join...)
	return testnode.Discover(t, l, &g.Source, hold), g
}

func TestNodesFindEachOther(t *testing.T) {
	a, ga := discover(t, time.Second)
	b, gb := discover(t, time.Second, ga.address)
	c, _ := discover(t, time.Second, gb.address)
	testnode.WaitMesh(t, a, b, c)

	b.Stop() // tells the others
	testnode.WaitMesh(t, a, c)
}

func TestANodeThatDiesIsForgotten(t *testing.T) {
	a, ga := discover(t, time.Second)
	b, gb := discover(t, time.Second, ga.address)
	c, _ := discover(t, time.Second, ga.address)
	testnode.WaitMesh(t, a, b, c)

	gb.net.mute.Store(true)
	testnode.WaitMesh(t, a, c)
}

// Gossip takes a node for dead that is alive, and the grid does not: no connection is lost.
func TestAFalseDeathCostsNothing(t *testing.T) {
	a, ga := discover(t, time.Hour)
	b, gb := discover(t, time.Hour, ga.address)
	c, _ := discover(t, time.Hour, ga.address)
	all := []*testnode.Discovering{a, b, c}
	testnode.WaitMesh(t, all...)

	held := func(n int) {
		t.Helper()
		for _, d := range []*testnode.Discovering{a, c} {
			testkit.Eventually(t, fmt.Sprintf("%d hosts to be held", n), func() bool { return d.Runner.Stats().Held == n })
		}
	}
	gb.net.mute.Store(true)
	held(1)
	testnode.WaitMesh(t, all...)
	gb.net.mute.Store(false)
	held(0)
	testnode.WaitMesh(t, all...)
	for _, d := range all {
		for _, host := range d.Targets() {
			if n := d.Connection(host).Stats().Reconnects; n != 0 {
				t.Errorf("%s has connected to %s again", d.HostName(), host)
			}
		}
	}
}

// A node that cannot reach the others does not know that it is alone.
func TestANodeThatCannotJoinHasFoundNothing(t *testing.T) {
	b := newGossiper(t, "http://b:1")
	b.net.mute.Store(true)
	a := newGossiper(t, "http://a:1", b.address)
	a.net.mute.Store(true)
	fa := testnode.Watch(t, &a.Source)
	a.log.Wait(t, "failed to join")
	a.log.Wait(t, "failed to join")
	if answers, last := fa.Last(); answers > 0 {
		t.Errorf("found %q", last)
	}
	fb := testnode.Watch(t, &b.Source)
	fb.Wait(t, "http://b:1") // has nobody to join
	a.net.mute.Store(false)
	b.net.mute.Store(false)
	fa.Wait(t, "http://a:1 http://b:1")
	fb.Wait(t, "http://a:1 http://b:1")
}

func TestTheApplicationHasEventsToo(t *testing.T) {
	a := newGossiper(t, "http://a:1")
	events := make(chan memberlist.NodeEvent, 10)
	a.Config.Events = &memberlist.ChannelEventDelegate{Ch: events}
	testnode.Watch(t, &a.Source).Wait(t, "http://a:1")
	select {
	case e := <-events:
		if e.Event != memberlist.NodeJoin || e.Node.Name != "http://a:1" {
			t.Errorf("event %+v", e)
		}
	default:
		t.Error("no event")
	}
	if a.Config.Name == a.Local {
		t.Error("the application's Config has changed")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	fail := func([]string) { t.Error("found something") }
	if err := new(Source).Watch(t.Context(), fail); err == nil || !strings.Contains(err.Error(), "Local is required") {
		t.Errorf("Watch returned %v", err)
	}
	c := memberlist.DefaultLocalConfig()
	c.PushPullInterval = 500 * time.Millisecond // so that what was lost comes soon
	c.SecretKey = []byte("short")
	if err := (&Source{Config: c, Local: "http://a:1"}).Watch(t.Context(), fail); err == nil {
		t.Error("a key that is too short is taken")
	}
}
