package grid

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"
)

// playerPatience bounds every wait for the node: what takes longer does not come.
const playerPatience = 10 * time.Second

// player stands at the other end of a node's socket. It speaks for itself what
// goes over the wire, so that a test sees and decides about every message.
type player struct {
	t      *testing.T
	conn   net.Conn
	in     io.Reader // conn, behind what was read ahead
	dialed bool
	name   string // the player's
	id     [16]byte

	pending []receivedMessage // taken out of an OpMerged
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

// newNode starts a node that ends with the test.
func newTestNode(t *testing.T, o ManagerOptions) *Manager {
	t.Helper()
	m, err := NewManager(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// listen opens a port on loopback and returns the name of a node there.
func listen(t *testing.T) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, "http://" + l.Addr().String()
}

// nameThat returns the name of a node, up or not, for which ok is true.
func nameThat(ok func(name string) bool) string {
	for port := 1; ; port++ {
		if name := fmt.Sprintf("http://127.0.0.1:%d", port); ok(name) {
			return name
		}
	}
}

// serveNode serves a node at its route path.
func serveNode(t *testing.T, l net.Listener, m *Manager) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(RoutePath, m.Handler())
	server := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
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
	ctx, cancel := context.WithTimeout(t.Context(), playerPatience)
	defer cancel()
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer token"}}}
	conn, br, _, err := dialer.Dial(ctx, "ws"+strings.TrimPrefix(node, "http")+RoutePath)
	if err != nil {
		t.Fatal(err)
	}
	p := &player{t: t, dialed: true, name: name, id: [16]byte{1, 2, 3}}
	p.use(conn)
	if br != nil {
		p.in = io.MultiReader(br, conn)
	}
	return p
}

// acceptNode starts a node and a player to which the node opens the connection, before the handshake.
func acceptNode(t *testing.T) (*Manager, *player) {
	t.Helper()
	l, name := listen(t)
	local := nameThat(func(local string) bool { return shouldDial(local, name) })
	p := &player{t: t, name: name, id: [16]byte{4, 5, 6}}
	m := newTestNode(t, playerOptions(local, name))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p.use(conn)
	if _, err := ws.Upgrade(conn); err != nil {
		t.Fatal(err)
	}
	return m, p
}

func (p *player) use(conn net.Conn) {
	p.t.Cleanup(func() { conn.Close() })
	p.conn, p.in = conn, conn
	if err := conn.SetDeadline(time.Now().Add(playerPatience)); err != nil {
		p.t.Fatal(err)
	}
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

// handshake goes through the handshake in the player's role and checks the node's part of it, byte for byte.
func (p *player) handshake(m *Manager, g generation) {
	p.t.Helper()
	if p.dialed {
		req := g.req
		req.ID, req.Host = p.id, p.name
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
	if age := time.Since(req.Time); age < 0 || age > playerPatience {
		p.t.Errorf("the handshake's time is %v", req.Time)
	}
	// The time is the node's to choose, and so are the features it has beyond the original.
	want := connectReq{ID: m.ID, Host: m.HostName(), Token: "token", Time: req.Time, Grid: req.Grid, To: p.name, Max: req.Max, Sum: req.Sum}
	p.compare("handshake", got, message{Op: OpConnect, Payload: encoded(p.t, &want)})
	p.send(message{Op: OpConnectResponse, Payload: encoded(p.t, &connectResp{ID: p.id, Accepted: true})})
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
	b := ms[0].appendTo(nil)
	if len(ms) > 1 {
		b = appendMergedHeader(nil, len(ms))
		for _, m := range ms {
			b = msgp.AppendBytes(b, m.appendTo(nil))
		}
	}
	frame := ws.NewBinaryFrame(b)
	if p.dialed {
		frame = ws.MaskFrameInPlace(frame)
	}
	if err := ws.WriteFrame(p.conn, frame); err != nil {
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
	for len(p.pending) == 0 {
		if err := p.readFrame(); err != nil {
			return receivedMessage{}, err
		}
	}
	m := p.pending[0]
	p.pending = p.pending[1:]
	return m, nil
}

// readFrame reads a frame of a node, which sends none that is larger than its messages may be.
func readFrame(r io.Reader) (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(r); err != nil {
		return f, err
	}
	if f.Header.Length > defaultMaxMessageSize {
		return f, fmt.Errorf("a frame of %d bytes", f.Header.Length)
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(r, f.Payload)
	return f, err
}

// readFrame reads what one frame holds.
func (p *player) readFrame() error {
	frame, err := readFrame(p.in)
	if err != nil {
		return err
	}
	h := frame.Header
	if h.Masked == p.dialed {
		return fmt.Errorf("frame masked: %v, from the dialer: %v", h.Masked, !p.dialed)
	}
	if h.Masked {
		frame = ws.UnmaskFrameInPlace(frame)
	}
	if h.OpCode != ws.OpBinary || !h.Fin || h.Rsv != 0 {
		return fmt.Errorf("not a whole binary frame without extensions: %+v, %q", h, frame.Payload)
	}
	outer, err := parseMessage(frame.Payload)
	if err != nil {
		return err
	}
	if outer.Op != OpMerged {
		p.pending = append(p.pending, outer)
		return nil
	}
	if header := appendMergedHeader(nil, int(outer.Seq)); !bytes.HasPrefix(outer.raw, header) {
		return fmt.Errorf("merged message %x does not begin with %x", outer.raw, header)
	}
	rest := outer.Payload
	for range outer.Seq {
		one, tail, err := nextMerged(rest)
		if err != nil {
			return fmt.Errorf("merged message %x: %w", outer.raw, err)
		}
		rest = tail
		inner, err := parseMessage(one)
		if err != nil {
			return err
		}
		if inner.Op == OpMerged {
			return fmt.Errorf("nested merged message %x", outer.raw)
		}
		p.pending = append(p.pending, inner)
	}
	if len(rest) > 0 {
		return fmt.Errorf("merged message %x has %d bytes too many", outer.raw, len(rest))
	}
	return nil
}

func parseMessage(b []byte) (receivedMessage, error) {
	m := receivedMessage{raw: b}
	if err := m.parse(b); err != nil {
		return m, fmt.Errorf("message %x: %w", b, err)
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
	p.expectClose()
	if err := <-result; err != nil {
		p.t.Errorf("shutdown: %v", err)
	}
}

// expectClose fails unless the node closes the connection without saying more
// than pings. The player closes its end then, which the node waits for.
func (p *player) expectClose() {
	p.t.Helper()
	defer p.conn.Close()
	for {
		m, err := p.next()
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			p.t.Fatal("the node keeps the connection")
		case err != nil:
			return
		case m.Op != OpPing || m.MuxID != 0:
			p.t.Errorf("the node says more: %s\n%x", describe(&m.message), m.raw)
		}
	}
}
