package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
)

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
	g := newGreeting(socket, early, true, m.limits.MaxHandshakeSize)
	resp, err := m.introduce(g, c)
	if err != nil {
		m.endGreeting(g, err)
		return nil, fmt.Errorf("handshake with %s: %w", c.Remote, err)
	}
	s := newSession(c, socket, g.frames, true)
	s.peer = process{resp.ID, socket.RemoteAddr().String()}
	s.agree(resp.Grid)
	s.takesUpTo(resp.Max)
	return s, nil
}

// endGreeting ends a handshake that has failed, beside the dialer, which does not wait for the peer's part of that.
func (m *Manager) endGreeting(g *greeting, err error) {
	end := func() {
		stop := context.AfterFunc(m.ctx, func() { closeSocket(g.socket) })
		defer stop()
		g.end(err, err.Error())
	}
	if !m.goWork(end) {
		closeSocket(g.socket)
		g.frames.Release()
	}
}

// upgrade opens the WebSocket. It returns the socket and the bytes that came in behind the answer.
func (m *Manager) upgrade(ctx context.Context, remote string) (net.Conn, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, m.limits.DialTimeout)
	defer cancel()
	u, err := url.Parse("ws" + strings.TrimPrefix(remote, "http") + m.routePath)
	if err != nil {
		return nil, nil, err
	}
	socket, err := m.connect(ctx, u)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", remote, dialError(u, err))
	}
	early, err := m.requestUpgrade(ctx, socket, u)
	if err != nil {
		closeSocket(socket)
		return nil, nil, fmt.Errorf("dial %s: %w", remote, dialError(u, err))
	}
	return socket, early, nil
}

// connect opens the network connection, with TLS where the URL says so.
func (m *Manager) connect(ctx context.Context, u *url.URL) (net.Conn, error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	conn, err := m.dialer(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil || u.Scheme == "ws" {
		return conn, err
	}
	config := m.tls
	if m.getTLS != nil {
		if config, err = m.getTLS(); err != nil {
			conn.Close()
			return nil, fmt.Errorf("GetTLSConfig: %w", err)
		}
	}
	secure := tls.Client(conn, clientTLS(config, u.Hostname()))
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// introduce sends who this node is and whom it means, and reads whether it is accepted, and by whom.
func (m *Manager) introduce(g *greeting, c *Connection) (*connectResp, error) {
	if err := g.socket.SetDeadline(time.Now().Add(m.limits.HandshakeTimeout)); err != nil {
		return nil, err
	}
	req := connectReq{ID: m.ID, Host: m.local, Time: time.Now(), Grid: nativeFeatures, To: c.Remote, Max: uint32(m.limits.MaxMessageSize)}
	if m.addAuth != nil {
		req.Token = m.addAuth("")
	}
	req.Sum = agreementSum(req.Grid, req.Max)
	payload, err := req.MarshalMsg(nil)
	if err != nil {
		return nil, err
	}
	if err := writeHandshake(g.socket, message{Op: OpConnect, Payload: payload}, true); err != nil {
		return nil, err
	}
	var resp connectResp
	if err := readHandshake(g.frames, OpConnectResponse, &resp); err != nil {
		return nil, err
	}
	switch {
	case resp.Host != "" && resp.Host != c.Remote:
		return nil, &wrongNodeError{g.socket.RemoteAddr().String(), resp.Host, c.Remote}
	case !resp.Accepted:
		return nil, rejection(resp.RejectedReason)
	}
	if err := checkAgreement(resp.Grid, resp.Max, resp.Sum); err != nil {
		return nil, err
	}
	g.frames.SetMaxMessage(m.limits.MaxMessageSize)
	return &resp, g.socket.SetDeadline(time.Time{})
}

// rejection is the error for a reason that the peer gave, which may be none.
func rejection(reason string) error {
	if reason == "" || reason == rejected {
		return errors.New("rejected; the peer's log says why")
	}
	return fmt.Errorf("rejected: %s", clip(reason))
}
