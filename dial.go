package grid

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 10 * time.Second
	maxHandshake     = 64 << 10 // bytes of a handshake message
)

// nativeFeatures is sent in the handshake by nodes of this project. The
// original, which skips the field, sends none.
const nativeFeatures = 1

// dialWhenAllowed keeps the connection up once block is closed; nil blocks nothing.
func (m *Manager) dialWhenAllowed(c *Connection, block chan struct{}) {
	if block != nil {
		select {
		case <-block:
		case <-m.ctx.Done():
			return
		}
	}
	c.keepDialing(m.ctx, func(ctx context.Context) (*session, func() error, error) {
		s, err := m.dial(ctx, c)
		return s, func() error { return nil }, err
	})
}

// dial opens a connection and goes through the handshake.
func (m *Manager) dial(ctx context.Context, c *Connection) (*session, error) {
	socket, early, err := m.upgrade(ctx, c.Remote)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { closeSocket(socket) })
	defer stop()
	frames := wsframe.NewReader(socket, early, wsframe.Config{Client: true, MaxMessage: maxHandshake})
	resp, err := m.introduce(socket, frames)
	if err != nil {
		frames.Release()
		closeSocket(socket)
		return nil, fmt.Errorf("handshake with %s: %w", c.Remote, err)
	}
	s := newSession(c, socket, frames, true)
	s.native = resp.Grid != 0
	return s, nil
}

// upgrade opens the WebSocket. It returns the socket and the bytes that came in behind the answer.
func (m *Manager) upgrade(ctx context.Context, remote string) (net.Conn, []byte, error) {
	header := http.Header{"X-Minio-Time": {time.Now().UTC().Format(time.RFC3339)}}
	if m.addAuth != nil {
		header.Set("Authorization", "Bearer "+m.addAuth(""))
	}
	dialer := ws.Dialer{
		NetDial:   m.dialer,
		TLSConfig: m.tls,
		Header:    ws.HandshakeHeaderHTTP(header),
		Timeout:   dialTimeout,
	}
	dialer.TLSClient = func(conn net.Conn, hostname string) net.Conn {
		return tls.Client(conn, clientTLS(m.tls, hostname))
	}
	socket, br, _, err := dialer.Dial(ctx, "ws"+strings.TrimPrefix(remote, "http")+m.routePath)
	if err != nil {
		var status ws.StatusError
		if errors.As(err, &status) {
			err = fmt.Errorf("answered with status %d %s", int(status), http.StatusText(int(status)))
		}
		return nil, nil, fmt.Errorf("dial %s: %w", remote, err)
	}
	if br == nil {
		return socket, nil, nil
	}
	defer ws.PutReader(br)
	early, err := buffered(br)
	return socket, early, err
}

// clientTLS is the configuration for one host.
func clientTLS(config *tls.Config, hostname string) *tls.Config {
	if config == nil {
		config = new(tls.Config)
	}
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = hostname
	}
	config.NextProtos = []string{"http/1.1"} // a WebSocket cannot be opened over HTTP/2 here
	if config.MinVersion == 0 {
		config.MinVersion = tls.VersionTLS12
	}
	return config
}

// buffered copies what a reader has read ahead.
func buffered(br *bufio.Reader) ([]byte, error) {
	b := make([]byte, br.Buffered())
	_, err := io.ReadFull(br, b)
	return b, err
}

// introduce sends who this node is and reads whether it is accepted.
func (m *Manager) introduce(socket net.Conn, frames *wsframe.Reader) (*connectResp, error) {
	if err := socket.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	req := connectReq{ID: m.ID, Host: m.local, Time: time.Now(), Grid: nativeFeatures}
	if m.addAuth != nil {
		req.Token = m.addAuth("")
	}
	payload, err := req.MarshalMsg(nil)
	if err != nil {
		return nil, err
	}
	if err := writeHandshake(socket, message{Op: OpConnect, Payload: payload}, true); err != nil {
		return nil, err
	}
	var resp connectResp
	if err := readHandshake(frames, OpConnectResponse, &resp); err != nil {
		return nil, err
	}
	if !resp.Accepted {
		return nil, fmt.Errorf("rejected: %s", resp.RejectedReason)
	}
	frames.SetMaxMessage(m.limits.MaxMessageSize)
	return &resp, socket.SetDeadline(time.Time{})
}

// writeHandshake sends a message in a frame of its own, outside of any session.
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
	b, err := frames.Next()
	if err != nil {
		return err
	}
	var m message
	if err := m.parse(b); err != nil {
		return err
	}
	if m.Op != want {
		return fmt.Errorf("expected %v, got %v", want, m.Op)
	}
	return unmarshal(payload, m.Payload)
}
