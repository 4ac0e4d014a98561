package testkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/zeebo/xxh3"
)

// Dials reports whether the node called local opens the connection to the one called remote.
func Dials(local, remote string) bool {
	ours, theirs := xxh3.HashString(local+remote), xxh3.HashString(remote+local)
	return ours < theirs || ours == theirs && local < remote
}

// NameThat returns the name of a node, up or not, for which ok is true.
func NameThat(ok func(name string) bool) string {
	for port := 1; ; port++ {
		if name := fmt.Sprintf("http://127.0.0.1:%d", port); ok(name) {
			return name
		}
	}
}

// Peer stands at the other end of a node's socket. It speaks for itself what goes over the wire, so
// that a test sees and decides about every message. One goroutine may send while another receives.
type Peer struct {
	Conn   net.Conn
	In     io.Reader // Conn, behind what was read ahead
	Dialed bool      // the peer did
	Name   string    // the peer's
	ID     [16]byte

	pending [][]byte // messages out of an OpMerged
}

// Dial returns a peer called name that has opened a WebSocket to a node, before the handshake.
func Dial(t *testing.T, node, path, name string) *Peer {
	t.Helper()
	return DialBy(t, nil, node, path, name)
}

// DialBy is Dial over a connection that netDial opens; nil is TCP.
func DialBy(t *testing.T, netDial func(ctx context.Context, network, address string) (net.Conn, error), node, path, name string) *Peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	dialer := ws.Dialer{NetDial: netDial, Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer token"}}}
	conn, br, _, err := dialer.Dial(ctx, "ws"+strings.TrimPrefix(node, "http")+path)
	if err != nil {
		t.Fatal(err)
	}
	var in io.Reader = conn
	if br != nil {
		in = io.MultiReader(br, conn)
	}
	return NewPeer(t, Peer{Conn: conn, In: in, Dialed: true, Name: name, ID: [16]byte{1, 2, 3}})
}

// Accept returns a peer called name to which a node opens a WebSocket, before the handshake.
func Accept(t *testing.T, l net.Listener, name string) *Peer {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := NewPeer(t, Peer{Conn: conn, Name: name, ID: [16]byte{4, 5, 6}})
	if _, err := ws.Upgrade(conn); err != nil {
		t.Fatal(err)
	}
	return p
}

// NewPeer returns a peer with a connection that exists. In is Conn where it is nil. The connection
// ends with the test, and Patience bounds its waits.
func NewPeer(t *testing.T, p Peer) *Peer {
	t.Helper()
	t.Cleanup(func() { p.Conn.Close() })
	if err := p.Conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if p.In == nil {
		p.In = p.Conn
	}
	return &p
}

// Send sends messages in one frame, several as an OpMerged.
func (p *Peer) Send(messages ...[]byte) error {
	_, err := p.Conn.Write(p.Frame(messages...))
	return err
}

// MustSend sends messages in one frame.
func (p *Peer) MustSend(t *testing.T, messages ...Message) {
	t.Helper()
	var all [][]byte
	for _, m := range messages {
		all = append(all, m.Bytes())
	}
	if err := p.Send(all...); err != nil {
		t.Fatal(err)
	}
}

// Frame returns what Send writes.
func (p *Peer) Frame(messages ...[]byte) []byte {
	frame := ws.NewBinaryFrame(merge(messages))
	if p.Dialed {
		frame = ws.MaskFrame(frame) // of a copy
	}
	return ws.MustCompileFrame(frame)
}

// Next reads one message, out of an OpMerged where the node has merged some. Whatever a node of the
// original would not understand is an error.
func (p *Peer) Next() ([]byte, error) {
	for len(p.pending) == 0 {
		frame, err := p.NextFrame()
		if err != nil {
			return nil, err
		}
		h := frame.Header
		if h.Masked == p.Dialed {
			return nil, fmt.Errorf("frame masked: %v, from the dialer: %v", h.Masked, !p.Dialed)
		}
		if frame = ws.UnmaskFrameInPlace(frame); h.OpCode != ws.OpBinary || !h.Fin || h.Rsv != 0 {
			return nil, fmt.Errorf("not a whole binary frame without extensions: %+v, %q", h, frame.Payload)
		}
		if p.pending, err = split(frame.Payload); err != nil {
			return nil, err
		}
	}
	one := p.pending[0]
	p.pending = p.pending[1:]
	return one, nil
}

// NextFrame reads any frame of the node, with its payload as it came. It must not be used where
// messages are pending.
func (p *Peer) NextFrame() (f ws.Frame, err error) {
	if f.Header, err = ws.ReadHeader(p.In); err != nil {
		return f, err
	}
	if f.Header.Length > 64<<20 {
		return f, fmt.Errorf("a frame of %d bytes, more than a message may have", f.Header.Length)
	}
	f.Payload = make([]byte, f.Header.Length)
	_, err = io.ReadFull(p.In, f.Payload)
	return f, err
}

// Receive returns the node's next message that is not a ping of the connection, and its bytes.
func (p *Peer) Receive(t *testing.T) (m Message, raw []byte) {
	t.Helper()
	for {
		raw, err := p.Next()
		if err != nil {
			t.Fatalf("receiving: %v", err)
		}
		if m, err = ParseMessage(raw); err != nil {
			t.Fatal(err)
		}
		if m.Op != OpPing || m.MuxID != 0 {
			return m, raw
		}
	}
}

// Handshake goes through the handshake in the peer's role, as one without features. The node, whose
// ID it is given, has to accept it in so many bytes.
func (p *Peer) Handshake(t *testing.T, node [16]byte) {
	t.Helper()
	if !p.Dialed {
		if m, raw := p.Receive(t); m.Op != OpConnect {
			t.Fatalf("the node begins with %x", raw)
		}
		p.MustSend(t, Answer{ID: p.ID, Accepted: true}.Message())
		return
	}
	p.MustSend(t, Hello{ID: p.ID, Host: p.Name}.Message())
	_, raw := p.Receive(t)
	if want := (Answer{ID: node, Accepted: true}).Message().Bytes(); !bytes.Equal(raw, want) {
		t.Fatalf("the answer to the handshake is %x, want %x", raw, want)
	}
}

// Greet goes through the handshake as one who dialed, and fails where it is not accepted. With
// FeatureFacts it has nothing to say of itself.
func (p *Peer) Greet(t *testing.T, h Hello) {
	t.Helper()
	p.MustSend(t, h.Message())
	m, raw := p.Receive(t)
	if a, err := ParseAnswer(m.Payload); m.Op != OpConnectResponse || err != nil || !a.Accepted {
		t.Fatalf("the answer to the handshake is %x: %+v, %v", raw, a, err)
	}
	if h.Features&FeatureFacts == 0 {
		return
	}
	if m, raw := p.Receive(t); m.Op != OpFacts {
		t.Fatalf("the node says %x, and not what it is", raw)
	}
	p.MustSend(t, Message{Op: OpFacts, Flags: FlagChecksum, Payload: []byte{0x80}})
}

// ExpectRejection fails unless the node, whose ID it is given, answers that it does not take the
// peer, and hangs up.
func (p *Peer) ExpectRejection(t *testing.T, node [16]byte) {
	t.Helper()
	m, raw := p.Receive(t)
	a, err := ParseAnswer(m.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Answer{ID: node, Reason: a.Reason}).Message().Bytes(); a.Reason == "" || !bytes.Equal(raw, want) {
		t.Errorf("the answer is %x (%+v), want %x", raw, a, want)
	}
	p.ExpectClose(t)
}

// ExpectClose fails unless the node closes the connection without saying more than pings. The peer
// closes its end then, which the node waits for.
func (p *Peer) ExpectClose(t *testing.T) {
	t.Helper()
	defer p.Conn.Close()
	for {
		raw, err := p.Next()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatal("the node keeps the connection")
		}
		if err != nil {
			return
		}
		if m, err := ParseMessage(raw); err != nil || m.Op != OpPing || m.MuxID != 0 {
			t.Errorf("the node says more: %+v, %v, %x", m, err, raw)
		}
	}
}
