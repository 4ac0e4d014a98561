package hostile

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/tinylib/msgp/msgp"
)

// startInn starts a node that accepts guests, every one of them. edit may be nil.
func startInn(t *testing.T, edit func(*grid.ManagerOptions)) *node {
	t.Helper()
	return start(t, func(o *grid.ManagerOptions) {
		o.AcceptGuest = func(*http.Request, string) error { return nil }
		if edit != nil {
			edit(o)
		}
	})
}

// guest returns who dials a node by a name, before the handshake.
func (n *node) guest(t *testing.T, name string) *testkit.Peer {
	t.Helper()
	p := testkit.DialBy(t, nil, n.HostName(), grid.RoutePath, name)
	p.Conn.SetDeadline(time.Time{})
	return p
}

// arrive returns a guest that is accepted, and reads all that it is sent.
func (n *node) arrive(t *testing.T, name string) *testkit.Peer {
	t.Helper()
	p := n.guest(t, name)
	p.Greet(t, testkit.Hello{Host: name, Features: newest})
	go io.Copy(io.Discard, p.In)
	return p
}

// hello is a Connect with other fields than those of testkit.Hello.
func hello(fields ...string) testkit.Message {
	b := msgp.AppendMapHeader(nil, uint32(1+len(fields)/2))
	b = msgp.AppendBytes(msgp.AppendString(b, "ID"), make([]byte, 16))
	for _, s := range fields {
		b = msgp.AppendString(b, s)
	}
	return testkit.Message{Op: testkit.OpConnect, Payload: b}
}

// waitNoGuests returns when nothing is left of any guest.
func (n *node) waitNoGuests(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "the guests to go", func() bool {
		s := n.Stats().Guests
		return s.Connected == 0 && s.Leaving == 0 && len(n.Guests()) == 0
	})
}

// A guest that passes for somebody else, or cannot be one, is turned away and leaves nothing behind.
func TestGuestsThatCannotBeAreTurnedAway(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for name, connect := range map[string]testkit.Message{
		"no name":                    hello("Host", ""),
		"a name with a colon":        hello("Host", "guest:1"),
		"a name as that of a host":   hello("Host", "http://10.0.0.1:9000"),
		"the name of the node":       hello("Host", "node"),
		"a name of 256 bytes":        hello("Host", long[:256]),
		"a name with a line":         hello("Host", "guest\nnode=other"),
		"a name that is not UTF-8":   hello("Host", "guest\xff"),
		"a name that is not to read": hello("Host", "guest\u202e"),
		"one that means a host":      hello("Host", "guest", "To", "host"),
		"a name of 1 MiB":            hello("Host", long),
		"a token of 1 MiB":           hello("Host", "guest", "Token", long),
		"a field of a later version": hello("Host", "guest", "Later", long),
	} {
		t.Run(name, func(t *testing.T) {
			n := startInn(t, nil)
			for from, to := range map[string]string{"node": n.HostName(), "host": n.peer} { // their names are known only now
				b := msgp.AppendString(nil, to)
				connect.Payload = []byte(strings.Replace(string(connect.Payload), string(msgp.AppendString(nil, from)), string(b), 1))
			}
			p := n.guest(t, "guest")
			_ = p.Send(connect.Bytes()) // it may hang up in the middle
			if raw, err := p.Next(); err == nil {
				m, err := testkit.ParseMessage(raw)
				if err != nil {
					t.Fatal(err)
				}
				if a, err := testkit.ParseAnswer(m.Payload); err != nil || a.Accepted {
					t.Errorf("the answer is %+v, %v", a, err)
				}
			}
			p.Conn.Close()
			if n.conn().State() == grid.StateConnected {
				t.Error("the host is connected")
			}
			n.waitNoGuests(t)
			n.arrive(t, "guest") // it is not for the node that nobody comes
		})
	}
}

// Who takes the name of a guest that is there gets neither its place nor its calls.
func TestTheNameOfAGuestIsItsOwn(t *testing.T) {
	n := startInn(t, nil)
	victim, err := grid.Join(t.Context(), n.HostName(), grid.ManagerOptions{Local: "guest", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	err = victim.RegisterSingleHandlerContext(single, func(_ context.Context, b []byte) ([]byte, error) { return append(b, " from me"...), nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*testkit.Patience)
	defer cancel()
	if err := victim.Connection(n.HostName()).WaitForConnect(ctx); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the guest", func() bool { return n.Connection("guest") != nil })
	conn := n.Connection("guest")
	for range sessions {
		p := n.guest(t, "guest")
		p.MustSend(t, testkit.Hello{ID: [16]byte{9}, Host: "guest", Features: newest}.Message())
		m, raw := p.Receive(t)
		if a, err := testkit.ParseAnswer(m.Payload); err != nil || a.Accepted {
			t.Errorf("the answer is %x: %+v, %v", raw, a, err)
		}
		p.Conn.Close()
		if b, err := conn.Request(ctx, single, []byte("hello")); err != nil || string(b) != "hello from me" {
			t.Errorf("a call of the guest got %q, %v", b, err)
		}
	}
	if got := len(n.Guests()); got != 1 {
		t.Errorf("%d guests", got)
	}
}

// However many guests come, no more are there at once than may be, and each that goes makes room.
func TestAFloodOfGuestsIsBounded(t *testing.T) {
	const most, rounds = 5, 40
	n := startInn(t, func(o *grid.ManagerOptions) { o.Limits.MaxGuests = most })
	var accepted []*testkit.Peer
	for i := range rounds {
		name := "guest" + strings.Repeat("x", i)
		p := n.guest(t, name)
		p.MustSend(t, testkit.Hello{Host: name}.Message()) // nothing has to be said after it
		m, raw := p.Receive(t)
		a, err := testkit.ParseAnswer(m.Payload)
		switch {
		case err != nil:
			t.Fatalf("the answer is %x: %v", raw, err)
		case a.Accepted:
			accepted = append(accepted, p)
		default:
			p.Conn.Close()
		}
	}
	if len(accepted) != most {
		t.Errorf("%d guests were accepted, %d may be there", len(accepted), most)
	}
	testkit.Eventually(t, "the others to be rejected", func() bool {
		s := n.Stats().Guests
		return s.Connected == most && s.Rejected == rounds-most
	})
	for _, p := range accepted {
		p.Conn.Close()
	}
	n.waitNoGuests(t)
	n.arrive(t, "another")
}

// A guest may send anything, as a host may: nothing of it is left when it is gone.
func TestAGuestMaySendAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(2, uint64(time.Now().UnixNano())))
	n := startInn(t, nil)
	handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil })
	handleStream(t, n, stream, 2, echoBack)
	for range 3 * sessions {
		p := n.arrive(t, "guest"+string(rune('a'+random.IntN(26))))
		var parts partly
		for range 300 {
			if !sendRandom(p, random) || !parts.send(p, random) {
				break
			}
		}
		p.Conn.Close()
	}
	n.waitNoGuests(t)
}
