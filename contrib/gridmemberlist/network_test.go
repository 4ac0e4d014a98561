package gridmemberlist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
	"github.com/hashicorp/memberlist"
)

// member is a node that gossips over its grid.
type member struct {
	*testnode.Discovering
	network *Network
	gossip  *testkit.LogLines
}

// silence keeps the node from telling the others anything more, such as that it leaves.
func (n *member) silence() { n.network.wire.Load().Shutdown() }

// lazySource is a Source that needs the Manager whose hosts it finds.
type lazySource struct{ later chan *Source }

func (l lazySource) Watch(ctx context.Context, found func(hosts []string)) error {
	s := <-l.later
	l.later <- s
	return s.Watch(ctx, found)
}

// acceptGossip is what a node has for AcceptGuest.
func acceptGossip(_ *http.Request, name string) error {
	if _, ok := GuestOf(name); !ok {
		return errors.New("no guests but for gossip")
	}
	return nil
}

// startMember starts a node that joins others.
func startMember(t *testing.T, edit func(*grid.ManagerOptions), join ...string) *member {
	t.Helper()
	return startMemberWith(t, quick, edit, join...)
}

// startMemberWith starts a node whose gossip has the Config that config returns for a log.
func startMemberWith(t *testing.T, config func(io.Writer) *memberlist.Config, edit func(*grid.ManagerOptions), join ...string) *member {
	t.Helper()
	l, _ := testkit.Listen(t)
	var options grid.ManagerOptions
	later := lazySource{make(chan *Source, 1)}
	n := &member{gossip: testkit.NewLogLines()}
	n.Discovering = testnode.Discover(t, l, later, 500*time.Millisecond, func(o *grid.ManagerOptions) {
		o.AcceptGuest = acceptGossip
		if edit != nil {
			edit(o)
		}
		options = *o
	})
	var err error
	if n.network, err = NewNetwork(n.Manager, options); err != nil {
		t.Fatal(err)
	}
	later.later <- &Source{Config: config(n.gossip), Network: n.network, Join: join}
	return n
}

// quick is a Config that finds out within seconds who is dead.
func quick(w io.Writer) *memberlist.Config {
	c := memberlist.DefaultLocalConfig()
	c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = 500*time.Millisecond, 200*time.Millisecond, 20*time.Millisecond
	c.PushPullInterval = 500 * time.Millisecond // so that what was lost comes soon
	c.GossipNodes, c.RetransmitMult = 5, 8      // so that each tells all, and nobody misses who leaves
	c.TCPTimeout = 2 * time.Second
	c.Logger = log.New(w, "", 0)
	return c
}

// patient is a Config that suspects nobody who can be dialed within seconds.
func patient(w io.Writer) *memberlist.Config {
	c := quick(w)
	c.ProbeInterval = 3 * time.Second // less ProbeTimeout, it is the time for that
	return c
}

func mesh(t *testing.T, members ...*member) {
	t.Helper()
	var nodes []*testnode.Discovering
	for _, n := range members {
		nodes = append(nodes, n.Discovering)
	}
	testnode.WaitMesh(t, nodes...)
}

// sockets counts the sockets of this process in a table of the kernel that are in a state.
func sockets(t *testing.T, table, state string) (n int) {
	t.Helper()
	own := make(map[string]bool)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			own[link] = true
		}
	}
	for _, name := range []string{table, table + "6"} {
		b, err := os.ReadFile("/proc/self/net/" + name)
		if err != nil {
			continue // without IPv6
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && (state == "" || f[3] == state) && own["socket:["+f[9]+"]"] {
				n++
			}
		}
	}
	return n
}

// A grid grows and shrinks, and the gossip that does it has no port.
func TestAGridGossipsOverItself(t *testing.T) {
	before := len(testkit.Goroutines())
	t.Run("grid", func(t *testing.T) {
		a := startMember(t, nil)
		b := startMember(t, nil, a.HostName())
		c := startMember(t, nil, a.HostName(), b.HostName())
		mesh(t, a, b, c)
		d := startMember(t, nil, "http://127.0.0.1:1", c.HostName())
		e := startMember(t, nil, b.HostName())
		mesh(t, a, b, c, d, e)
		if n := sockets(t, "udp", ""); n != 0 {
			t.Errorf("%d UDP sockets", n)
		}
		const listening = "0A"
		if n := sockets(t, "tcp", listening); n != 5 {
			t.Errorf("%d sockets listen, want that of each node", n)
		}
		d.Stop() // tells the others
		d.Close()
		mesh(t, a, b, c, e)
		e.silence()
		e.Close() // without a word
		mesh(t, a, b, c)
		said := a.gossip.String() + b.gossip.String() + c.gossip.String()
		if want := fmt.Sprintf("Suspect %s has failed", e.HostName()); !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
		if strings.Contains(said, fmt.Sprintf("Marking %s as failed", d.HostName())) {
			t.Errorf("who has left was found dead:\n%s", said)
		}
		for _, n := range []*member{a, b, c} {
			testkit.Eventually(t, "guests to go", func() bool { return len(n.Guests()) == 0 })
		}
	})
	testkit.WaitGoroutines(t, before)
}

// The first node finds itself where it was told to join itself, and goes on when another comes.
func TestANodeMayJoinItself(t *testing.T) {
	l, name := testkit.Listen(t)
	o := testnode.Options(name)
	o.Hosts, o.AcceptGuest = nil, acceptGossip
	network, err := NewNetwork(testnode.Serve(t, l, o), o)
	if err != nil {
		t.Fatal(err)
	}
	w := testnode.Watch(t, &Source{Config: quick(io.Discard), Network: network, Join: []string{name}})
	w.Wait(t, name)
	if err := (&Source{Network: network}).Watch(t.Context(), nil); !errors.Is(err, errBusy) {
		t.Errorf("a second Source: %v", err)
	}
	w.Stop()
	if err := w.WaitErr(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Watch returned %v", err)
	}
	testnode.Watch(t, &Source{Config: quick(io.Discard), Network: network, Join: []string{name}}).Wait(t, name)
}

// Hosts that cannot connect, or not now, are alive as long as they can be dialed.
func TestALostConnectionMakesNobodyDead(t *testing.T) {
	onlyGuests := func(o *grid.ManagerOptions) {
		o.VerifyPeer = func(_ *http.Request, name string) error {
			if host, ok := GuestOf(name); !ok || !strings.HasPrefix(host, "http://127.0.0.1:") {
				return errors.New("not now")
			}
			return nil
		}
	}
	a := startMemberWith(t, patient, onlyGuests)
	b := startMemberWith(t, patient, onlyGuests, a.HostName())
	for _, n := range []*member{a, b} {
		const alive = "Was able to connect to"
		n.gossip.Wait(t, alive, alive, alive)
		if said := n.gossip.String(); strings.Contains(said, "Suspect") || len(n.Targets()) != 1 || n.Runner.Stats().Held != 0 {
			t.Errorf("hosts %q, held %d:\n%s", n.Targets(), n.Runner.Stats().Held, said)
		}
	}
}

// A node that accepts no guests says so to the one that wants to join.
func TestANodeThatAcceptsNoGuests(t *testing.T) {
	a := startMember(t, func(o *grid.ManagerOptions) { o.AcceptGuest = nil })
	b := startMember(t, nil, a.HostName())
	b.gossip.Wait(t, "failed to join")
	if said := b.gossip.String(); !strings.Contains(said, "gossip with "+a.HostName()) || !strings.Contains(said, "rejected") {
		t.Errorf("memberlist logged:\n%s", said)
	}
}

func TestNamesOfGuests(t *testing.T) {
	for _, host := range []string{"http://10.0.0.1:9000", "https://[fd00::1]:9000", "https://node1.example"} {
		name := guestName(host)
		if got, ok := GuestOf(name); got != host || !ok || strings.Contains(name, ":") || name == guestName(host) {
			t.Errorf("%s became %s, and that %s, %v", host, name, got, ok)
		}
	}
	for _, name := range []string{"", "agent", "gossip/", "gossip/x", "gossip/x/", "gossip/x/agent", "gossip/x/%", "other/x/http%3A%2F%2Fa", "x/http%3A%2F%2Fa"} {
		if host, ok := GuestOf(name); ok {
			t.Errorf("GuestOf(%q) is %s", name, host)
		}
	}
}

// wired are two nodes whose Networks are in use, by nobody.
func wired(t *testing.T) (a, b *wire) {
	t.Helper()
	la, nameA := testkit.Listen(t)
	lb, nameB := testkit.Listen(t)
	var wires []*wire
	for i, l := range []net.Listener{la, lb} {
		o := testnode.Options([]string{nameA, nameB}[i], nameA, nameB)
		o.Hosts = []string{nameA, nameB}
		o.AcceptGuest = func(*http.Request, string) error { return nil }
		n, err := NewNetwork(testnode.Serve(t, l, o), o)
		if err != nil {
			t.Fatal(err)
		}
		w, err := n.open(nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Shutdown() })
		wires = append(wires, w)
	}
	for _, w := range wires {
		if err := w.network.m.WaitForConnect(t.Context(), grid.ReadyAll); err != nil {
			t.Fatal(err)
		}
	}
	return wires[0], wires[1]
}

func TestPackets(t *testing.T) {
	a, b := wired(t)
	name := b.network.m.HostName()
	sent := []byte("hello")
	if _, err := a.WriteToAddress(sent, memberlist.Address{Addr: "1.2.3.4:5", Name: name}); err != nil {
		t.Fatal(err)
	}
	clear(sent) // it is the caller's
	p := <-b.PacketCh()
	if string(p.Buf) != "hello" || p.From.String() != a.network.m.HostName() || p.Timestamp.IsZero() {
		t.Errorf("got %q from %v at %v", p.Buf, p.From, p.Timestamp)
	}
	if _, err := a.WriteTo(make([]byte, maxPacket+1), name); err == nil {
		t.Error("a packet that is too large is taken")
	}
	if _, err := a.WriteTo(sent, "1.2.3.4:5"); err == nil {
		t.Error("an address of nobody is taken")
	}
	if _, err := a.WriteTo(sent, "http://stranger:1"); err != nil {
		t.Errorf("to who is no host: %v", err)
	}
	conn := a.network.m.Connection(name)
	for _, size := range []int{0, maxPacket + 1} {
		if _, err := conn.Call(t.Context(), packetMethod, make([]byte, size)); err == nil {
			t.Errorf("a packet of %d bytes is received", size)
		}
	}
	for range 2 * maxReceived { // nobody reads
		if _, err := conn.Call(t.Context(), packetMethod, sent); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(b.packets); n != maxReceived {
		t.Errorf("%d packets wait, want %d", n, maxReceived)
	}
}

// Packets to a host that does not answer do not pile up.
func TestPacketsToASlowHost(t *testing.T) {
	a, b := wired(t)
	for range maxOnTheWay {
		if !a.reserve("http://slow:1") {
			t.Fatal("too few may be on their way")
		}
	}
	defer a.work.Add(-maxOnTheWay)
	if a.reserve("http://slow:1") {
		t.Error("too many may be on their way")
		a.work.Done()
	}
	if !a.reserve(b.network.m.HostName()) {
		t.Error("another host has to wait")
	}
	a.work.Done()
}

func TestStreams(t *testing.T) {
	a, b := wired(t)
	for _, how := range []string{"host", "guest"} {
		t.Run(how, func(t *testing.T) {
			name := b.network.m.HostName()
			if how == "guest" {
				if err := a.network.m.SetHosts(nil); err != nil {
					t.Fatal(err)
				}
			}
			dial := func() (local, remote net.Conn) {
				t.Helper()
				local, err := a.DialTimeout(name, time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				remote = <-b.StreamCh()
				if got := remote.RemoteAddr().String(); got != a.network.m.HostName() {
					t.Errorf("a stream of %s", got)
				}
				return local, remote
			}
			large := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
			local, remote := dial()
			for range 2 { // there and back, and the end
				go func(c net.Conn) {
					c.Write(large)
					c.Close()
				}(local)
				if got, err := io.ReadAll(remote); err != nil || !bytes.Equal(got, large) {
					t.Errorf("got %d bytes, %v", len(got), err)
				}
				local.Close()
				remote.Close()
				remote, local = dial()
			}
			for _, c := range []net.Conn{local, remote} {
				c.SetDeadline(time.Now().Add(time.Millisecond))
				if _, err := c.Read(large); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("Read returned %v", err)
				}
			}
			for _, c := range []net.Conn{local, remote} {
				c.SetDeadline(time.Now().Add(50 * time.Millisecond))
				var err error
				for err == nil { // until the windows are full
					_, err = c.Write(large)
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("Write returned %v", err)
				}
			}
			local.Close()
			remote.Close()
			if how == "guest" {
				testkit.Eventually(t, "guests to go", func() bool { return len(b.network.m.Guests()) == 0 })
			}
		})
	}
	b.Shutdown()
	local, err := a.DialTimeout(b.network.m.HostName(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := local.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), errNoGossip.Error()) {
		t.Errorf("Read returned %v", err)
	}
	if _, err := a.DialTimeout("http://127.0.0.1:1", 50*time.Millisecond); err == nil {
		t.Error("nobody was reached")
	}
}

// What other guests say does not count.
func TestStrangersDoNotGossip(t *testing.T) {
	_, b := wired(t)
	o := grid.ManagerOptions{Local: "agent", Logger: slog.New(slog.DiscardHandler)}
	guest, err := grid.Join(t.Context(), b.network.m.HostName(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	if err := guest.WaitForConnect(t.Context(), grid.ReadyAll); err != nil {
		t.Fatal(err)
	}
	conn := guest.Connection(b.network.m.HostName())
	if _, err := conn.Call(t.Context(), packetMethod, []byte("hello")); err == nil || !strings.Contains(err.Error(), "only hosts gossip") {
		t.Errorf("a packet: %v", err)
	}
	st, err := conn.OpenStream(t.Context(), streamMethod, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Recv(); err == nil || !strings.Contains(err.Error(), "only hosts gossip") {
		t.Errorf("a stream: %v", err)
	}
}

func TestOptionsOfANetworkAreChecked(t *testing.T) {
	a, _ := wired(t)
	if _, err := NewNetwork(a.network.m, a.network.guest); !errors.Is(err, grid.ErrHandlerAlreadyExists) {
		t.Errorf("a second Network: %v", err)
	}
	if _, err := NewNetwork(nil, grid.ManagerOptions{}); err == nil {
		t.Error("a Network of nothing")
	}
	cidrs := []net.IPNet{{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}
	for want, s := range map[string]*Source{
		"Local":        {Local: "http://other:1"},
		"Transport":    {Config: &memberlist.Config{Transport: a}},
		"CIDRsAllowed": {Config: &memberlist.Config{CIDRsAllowed: cidrs}},
	} {
		s.Network = a.network
		if err := s.Watch(t.Context(), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
