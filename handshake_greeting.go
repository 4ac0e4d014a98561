package grid

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

// greeting is a socket between the upgrade and its session, while the two nodes say who they are.
// It answers pings.
type greeting struct {
	socket net.Conn
	frames *wsframe.Reader
	dialed bool // this node opened the connection

	heard *facts // what the peer says of itself; nil if it does not
	told  uint32 // the revision that the peer was told of this node
}

// newGreeting returns the greeting on a socket. early holds the bytes already read from it.
func newGreeting(socket net.Conn, early []byte, dialed bool, maxMessage int) *greeting {
	return &greeting{
		socket: socket,
		dialed: dialed,
		frames: wsframe.NewReader(socket, early, wsframe.Config{
			Client:     dialed,
			MaxMessage: maxMessage,
			OnPing: func(payload []byte) {
				_, _ = socket.Write(wsframe.AppendControl(nil, ws.OpPong, payload, dialed, newMask()))
			},
		}),
	}
}

// greetingGrace bounds how long a failed handshake waits for the peer to read why.
const greetingGrace = time.Second

// end closes a socket whose handshake has failed, with a close frame that carries reason and a
// status for err. Closing a socket with unread bytes may cost the peer the frame, so end first
// waits a moment for the peer's close frame or the end of the stream.
func (g *greeting) end(err error, reason string) {
	defer closeSocket(g.socket)
	defer g.frames.Release()
	if g.socket.SetDeadline(time.Now().Add(greetingGrace)) != nil {
		return
	}
	code, echo := closeStatus(err)
	if echo {
		reason = ""
	}
	if _, err := g.socket.Write(wsframe.AppendClose(nil, code, reason, g.dialed, newMask())); err != nil || echo {
		return
	}
	for {
		if _, err = g.frames.Next(); err != nil {
			break
		}
	}
	if _, ok := errors.AsType[*wsframe.CloseError](err); !ok { // such as after an unintelligible frame
		_, _ = io.Copy(io.Discard, rawSocket(g.socket))
	}
}

// closeStatus returns the status with which to close a connection because of err. echo reports
// whether it answers the peer's own close frame.
func closeStatus(err error) (code ws.StatusCode, echo bool) {
	var closed *wsframe.CloseError
	var broken *wsframe.ProtocolError
	switch {
	case errors.As(err, &closed):
		if closed.Code == ws.StatusNoStatusRcvd {
			return ws.StatusNormalClosure, true
		}
		return closed.Code, true
	case errors.As(err, &broken):
		return broken.Code, false
	case errors.Is(err, ErrShutdown):
		return ws.StatusGoingAway, false
	}
	return ws.StatusPolicyViolation, false
}

// wrongNodeError says that a dial reached a different node than intended: an address has a new
// owner, or something on the way chooses among several nodes.
type wrongNodeError struct{ address, is, meant string }

func (e *wrongNodeError) Error() string {
	return fmt.Sprintf("node at %s is %s, not %s", e.address, clip(e.is), clip(e.meant))
}

// writeHandshake sends a message in a frame of its own, outside any session.
func writeHandshake(socket net.Conn, m message, masked bool) error {
	size := m.size()
	key := newMask()
	head := wsframe.HeaderSize(size, masked)
	b := make([]byte, head, head+size)
	wsframe.PutHeader(b, ws.OpBinary, size, masked, key)
	b = m.appendTo(b)
	if masked {
		wsframe.Mask(b[head:], key)
	}
	_, err := socket.Write(b)
	return err
}

// readHandshake reads one message of the handshake.
func readHandshake(frames *wsframe.Reader, want Op, payload msgp.Unmarshaler) error {
	m, err := readGreeting(frames, want)
	if err != nil {
		return err
	}
	return unmarshalWhole(payload, m.Payload)
}

// readGreeting reads one message outside any session. It is valid until the next.
func readGreeting(frames *wsframe.Reader, want Op) (m message, err error) {
	b, err := frames.Next()
	if err != nil {
		if closed, ok := errors.AsType[*wsframe.CloseError](err); ok {
			return m, &goodbyeError{closed}
		}
		return m, err
	}
	if err := m.parse(b); err != nil {
		return m, err
	}
	if m.Op != want {
		return m, fmt.Errorf("expected %v, got %v", want, m.Op)
	}
	return m, nil
}

// goodbyeError says that the peer closed the connection in good order.
type goodbyeError struct{ frame *wsframe.CloseError }

func (e *goodbyeError) Error() string {
	return fmt.Sprintf("peer closed the connection: %d %s", e.frame.Code, e.frame.Reason)
}

func (e *goodbyeError) Unwrap() error { return e.frame }

// newMask returns a mask for a control frame.
func newMask() (key [4]byte) {
	n := rand.Uint32()
	return [4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
}
