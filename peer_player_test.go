package grid

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/tinylib/msgp/msgp"
)

// player is a peer that is driven by hand, with the messages of this package.
type player struct {
	*testkit.Peer
	t *testing.T
}

// receivedMessage is a message of the node with its bytes.
type receivedMessage struct {
	message
	raw []byte
}

// playerOptions are those of a node that talks to a player.
func playerOptions(local string, peers ...string) ManagerOptions {
	return ManagerOptions{
		Local:       local,
		Hosts:       append([]string{local}, peers...),
		AddAuth:     func(string) string { return "token" },
		AuthRequest: func(*http.Request) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	}
}

// newTestNode starts a node that ends with the test.
func newTestNode(t *testing.T, o ManagerOptions) *Manager {
	t.Helper()
	m, err := NewManager(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// serveNode serves a node at its route path.
func serveNode(t *testing.T, l net.Listener, m *Manager) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(RoutePath, m.Handler())
	testkit.Serve(t, l, mux, slog.DiscardHandler)
}

// dialNode starts a node and a player that opens the connection to it, before the handshake.
func dialNode(t *testing.T) (*Manager, *player) {
	t.Helper()
	l, local := listen(t)
	name := nameThat(func(name string) bool { return shouldDial(name, local) })
	m := newTestNode(t, playerOptions(local, name))
	serveNode(t, l, m)
	return m, dialPlayer(t, local, name)
}

// dialPlayer returns a player with a connection to a node, before the handshake.
func dialPlayer(t *testing.T, node, name string) *player {
	t.Helper()
	return &player{testkit.Dial(t, node, RoutePath, name), t}
}

// acceptNode starts a node and a player to which the node opens the connection, before the
// handshake.
func acceptNode(t *testing.T) (*Manager, *player) {
	t.Helper()
	l, name := listen(t)
	local := nameThat(func(local string) bool { return shouldDial(local, name) })
	m := newTestNode(t, playerOptions(local, name))
	return m, &player{testkit.Accept(t, l, name), t}
}

// generation is what a peer of some age says in the handshake.
type generation struct {
	name string
	req  connectReq // without ID and Host
}

var generations = []generation{
	{"a peer that shows neither time nor token", connectReq{}},
	{"a later peer that shows both", connectReq{Time: time.Now(), Token: "token"}},
}

// handshake goes through the handshake in the player's role and checks the node's part of it, byte
// for byte.
func (p *player) handshake(m *Manager, g generation) {
	p.t.Helper()
	if p.Dialed {
		req := g.req
		req.ID, req.Host = p.ID, p.Name
		p.send(message{Op: OpConnect, Payload: encoded(p.t, &req)})
		want := message{Op: OpConnectResponse, Payload: encoded(p.t, &connectResp{ID: m.ID, Accepted: true})}
		p.expect("answer to the handshake", want)
		return
	}
	got := p.receive()
	var req connectReq
	if _, err := req.UnmarshalMsg(got.Payload); err != nil {
		p.t.Fatalf("handshake %x: %v", got.Payload, err)
	}
	if age := time.Since(req.Time); age < 0 || age > testkit.Patience {
		p.t.Errorf("the handshake's time is %v", req.Time)
	}
	// The time is the node's to choose, and so are the features it has beyond the original.
	want := connectReq{ID: m.ID, Host: m.HostName(), Token: "token", Time: req.Time, Grid: req.Grid, To: p.Name, Max: req.Max, Sum: req.Sum, Meta: req.Meta}
	p.compare("handshake", got, message{Op: OpConnect, Payload: encoded(p.t, &want)})
	p.send(message{Op: OpConnectResponse, Payload: encoded(p.t, &connectResp{ID: p.ID, Accepted: true})})
}

func encoded(t *testing.T, v msgp.Marshaler) []byte {
	t.Helper()
	b, err := v.MarshalMsg(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// send sends messages in one frame, several as an OpMerged.
func (p *player) send(ms ...message) {
	p.t.Helper()
	var all [][]byte
	for _, m := range ms {
		all = append(all, m.appendTo(nil))
	}
	if err := p.Send(all...); err != nil {
		p.t.Fatalf("sending %v: %v", ms[0].Op, err)
	}
}

// receive returns the node's next message that is not a ping of the connection; those it answers.
func (p *player) receive() receivedMessage {
	p.t.Helper()
	for {
		m, err := p.next()
		if err != nil {
			p.t.Fatalf("receiving: %v", err)
		}
		if m.Op != OpPing || m.MuxID != 0 {
			return m
		}
		var ping pingMsg
		if len(m.Payload) > 0 {
			if _, err := ping.UnmarshalMsg(m.Payload); err != nil {
				p.t.Fatalf("ping %x: %v", m.raw, err)
			}
		}
		p.send(message{Op: OpPong, Payload: encoded(p.t, &pongMsg{T: ping.T})})
	}
}

// next reads one message, out of an OpMerged where the node has merged some.
func (p *player) next() (receivedMessage, error) {
	raw, err := p.Next()
	if err != nil {
		return receivedMessage{}, err
	}
	m := receivedMessage{raw: raw}
	if err := m.parse(raw); err != nil {
		return m, fmt.Errorf("message %x: %w", raw, err)
	}
	return m, nil
}

// expect receives a message and compares it.
func (p *player) expect(step string, want message) {
	p.t.Helper()
	p.compare(step, p.receive(), want)
}

// compare holds a message of the node against the bytes of the wanted one.
func (p *player) compare(step string, got receivedMessage, want message) {
	p.t.Helper()
	if b := want.appendTo(nil); !bytes.Equal(got.raw, b) {
		p.t.Fatalf("%s:\nhave %s\n     %x\nwant %s\n     %x", step, describe(&got.message), got.raw, describe(&want), b)
	}
}

func describe(m *message) string {
	text := fmt.Sprintf("%v mux %d seq %d deadline %d ms handler %d %v payload %q", m.Op, m.MuxID, m.Seq, m.DeadlineMS, m.Handler, m.wireFlags()|m.Flags&FlagCRCxxh3, m.Payload)
	if m.Payload == nil {
		text = strings.TrimSuffix(text, `""`) + "nil"
	}
	if m.subroute != nil {
		text += " subroute " + hex.EncodeToString(m.subroute[:])
	}
	return text
}

// leftovers returns what the node had queued, beyond what was received, when it answered a ping.
func (p *player) leftovers() (more []receivedMessage) {
	p.t.Helper()
	sent := time.Now()
	p.send(message{Op: OpPing, DeadlineMS: pingDeadlineMS, Payload: encoded(p.t, &pingMsg{T: sent})})
	for {
		m := p.receive()
		if m.Op != OpPong || m.MuxID != 0 {
			more = append(more, m)
			continue
		}
		var pong pongMsg
		if _, err := pong.UnmarshalMsg(m.Payload); err != nil || pong.NotFound || pong.Err != nil || !pong.T.Equal(sent) {
			p.t.Fatalf("pong %x: %+v, %v", m.raw, pong, err)
		}
		return more
	}
}

// expectNothing fails when the node says more, other than with the operations that are allowed.
func (p *player) expectNothing(allowed ...Op) {
	p.t.Helper()
	for _, m := range p.leftovers() {
		if !slices.Contains(allowed, m.Op) {
			p.t.Errorf("the node says more: %s\n%x", describe(&m.message), m.raw)
		}
	}
}

// expectEnd shuts the node down, which lets its handlers return and sends what
// is queued, and fails when the node says more before it closes the connection.
func (p *player) expectEnd(m *Manager) {
	p.t.Helper()
	result := make(chan error, 1)
	go func() { result <- m.Shutdown(p.t.Context()) }()
	p.ExpectClose(p.t)
	if err := <-result; err != nil {
		p.t.Errorf("shutdown: %v", err)
	}
}
