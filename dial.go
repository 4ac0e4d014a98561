package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// dialer opens the connections of a Manager.
type dialer struct{ *node }

// keepUp keeps a connection up, from now on until the host is removed, or the Manager ends.
func (d *dialer) keepUp(c *Connection) {
	c.keepDialing(func(ctx context.Context) (*session, error) { return d.dial(ctx, c) })
}

// dial opens a connection and goes through the handshake. It does not wait for the application's
// code beyond the time limit of each step.
func (d *dialer) dial(ctx context.Context, c *Connection) (*session, error) {
	token, err := d.token(ctx, c)
	if err != nil {
		return nil, err
	}
	up, err := d.upgradeInTime(ctx, c, token)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { closeSocket(up.socket) })
	defer stop()
	g := newGreeting(up.socket, up.early, true, d.Limits.MaxHandshakeSize)
	resp, err := d.introduceInTime(ctx, g, c, token)
	if err != nil {
		return nil, fmt.Errorf("handshake with %s: %w", c.Remote, err)
	}
	peer := process{id: resp.ID, address: up.socket.RemoteAddr().String()}
	return c.newSession(g, peer, resp.Grid, resp.Max, uint32(resp.Meta)), nil
}

// webSocket is a WebSocket with the bytes that arrived after the answer.
type webSocket struct {
	socket net.Conn
	early  []byte
}

// upgradeInTime opens the WebSocket within DialTimeout.
func (d *dialer) upgradeInTime(ctx context.Context, c *Connection, token string) (webSocket, error) {
	ctx, cancel := context.WithTimeout(ctx, unhurried(d.Limits.DialTimeout))
	defer cancel()
	var at atomic.Value // what is running
	at.Store("Dialer")
	up, err := inTime(ctx, &c.stuckDials, func() (webSocket, error) {
		socket, early, err := d.upgrade(ctx, c.Remote, token, &at)
		return webSocket{socket, early}, err
	}, func(late webSocket) { closeSocket(late.socket) })
	if named := callbackError(at.Load(), err); named != err {
		err = fmt.Errorf("dial %s: %w", c.Remote, named)
	}
	return up, err
}

// introduceInTime goes through the grid's own handshake within HandshakeTimeout, which is also a
// deadline of the socket. If it fails, it has ended the greeting.
func (d *dialer) introduceInTime(ctx context.Context, g *greeting, c *Connection, token string) (*connectResp, error) {
	ctx, cancel := context.WithTimeout(ctx, unhurried(d.Limits.HandshakeTimeout))
	defer cancel()
	ended := false
	resp, err := inTime(ctx, &c.stuckDials, func() (*connectResp, error) {
		resp, err := d.introduce(g, c, token)
		if ended = err != nil; ended {
			d.endGreeting(g, err)
		}
		return resp, err
	}, func(*connectResp) { g.frames.Release() })
	switch {
	case err == errNoReturn:
		closeSocket(g.socket)
		err = fmt.Errorf("the Dialer's connection %w", err)
	case err != nil && !ended:
		closeSocket(g.socket)
		g.frames.Release()
	}
	return resp, err
}

// endGreeting ends a failed handshake in the background: the dialer does not wait for the peer's
// part of that.
func (d *dialer) endGreeting(g *greeting, err error) {
	end := func() {
		stop := context.AfterFunc(d.ctx, func() { closeSocket(g.socket) })
		defer stop()
		g.end(err, err.Error())
	}
	if !d.goWork(end) {
		closeSocket(g.socket)
		g.frames.Release()
	}
}

// upgrade opens the WebSocket. It returns the socket and the bytes that arrived after the answer,
// and keeps at up to date with what it is calling.
func (d *dialer) upgrade(ctx context.Context, remote, token string, at *atomic.Value) (net.Conn, []byte, error) {
	u, err := url.Parse("ws" + strings.TrimPrefix(remote, "http") + d.RoutePath)
	if err != nil {
		return nil, nil, err
	}
	socket, err := d.connect(ctx, u, at)
	if err != nil {
		return nil, nil, fmt.Errorf("dial %s: %w", remote, dialError(u, err))
	}
	early, err := d.requestUpgrade(ctx, socket, u, token)
	if err != nil {
		closeSocket(socket)
		return nil, nil, fmt.Errorf("dial %s: %w", remote, dialError(u, err))
	}
	return socket, early, nil
}

// connect opens the network connection, with TLS if the URL says so.
func (d *dialer) connect(ctx context.Context, u *url.URL, at *atomic.Value) (_ net.Conn, err error) {
	port := u.Port()
	if port == "" {
		port = map[string]string{"ws": "80", "wss": "443"}[u.Scheme]
	}
	conn, err := d.Dialer(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w", err) // calls err.Error here
	case conn == nil:
		return nil, errors.New("the Dialer returned neither a connection nor an error")
	}
	at.Store("the Dialer's connection")
	conn = guardConn(conn)
	whole := false
	defer func() { // also if a callback does not return
		if !whole {
			conn.Close()
		}
	}()
	if u.Scheme == "ws" {
		whole = true
		return conn, nil
	}
	config := d.TLSConfig
	if d.GetTLSConfig != nil {
		at.Store("GetTLSConfig")
		if config, err = d.GetTLSConfig(); err != nil {
			return nil, fmt.Errorf("GetTLSConfig: %w", err)
		}
	}
	at.Store("the TLS handshake, or a callback in its configuration,")
	secure := tls.Client(conn, clientTLS(config, u.Hostname()))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	whole = true
	return secure, nil
}

// introduce sends who this node is and whom it means to reach, and reads whether it is accepted,
// and by whom.
func (d *dialer) introduce(g *greeting, c *Connection, token string) (*connectResp, error) {
	if err := g.socket.SetDeadline(time.Now().Add(unhurried(d.Limits.HandshakeTimeout))); err != nil {
		return nil, err
	}
	req := connectReq{ID: d.id, Host: d.Local, Time: time.Now(), Grid: d.features(), To: c.Remote, Max: uint32(d.Limits.MaxMessageSize)}
	req.Token = token
	req.Sum = agreementSum(req.Grid, req.Max)
	req.Meta = metadataTerm(req.Grid, uint32(d.Limits.MaxMetadataSize))
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
	case resp.Host != "" && resp.Host != c.Remote && !isGuest(d.Local): // which may know it by another name
		return nil, &wrongNodeError{g.socket.RemoteAddr().String(), resp.Host, c.Remote}
	case !resp.Accepted:
		return nil, rejection(resp.RejectedReason, isGuest(d.Local))
	}
	if err := checkAgreement(resp.Grid, resp.Max, resp.Sum); err != nil {
		return nil, err
	}
	if err := checkMetadataTerm(resp.Grid, resp.Meta); err != nil {
		return nil, err
	}
	with := agree(d.Limits.MaxMessageSize, resp.Grid&d.features(), resp.Max)
	if err := g.exchangeFacts(&c.link, &with); err != nil {
		return nil, err
	}
	return &resp, g.socket.SetDeadline(time.Time{})
}

// rejection returns the error for a reason from the peer, which may be empty. guest is whether this
// node is one.
func rejection(reason string, guest bool) error {
	switch {
	case reason == "", reason == rejected:
		return errors.New("rejected; the peer's log says why")
	case reason == unknownHost && guest:
		return &notMemberError{fmt.Errorf("rejected: %s: the node there takes no guests, which takes ManagerOptions.AcceptGuest", reason)}
	case reason == unknownHost:
		return &notMemberError{fmt.Errorf("rejected: %s: the node there does not have this one among its hosts", reason)}
	case guest && strings.HasPrefix(reason, guestRefused):
		return &notMemberError{fmt.Errorf("rejected: %s", clip(reason))}
	}
	return fmt.Errorf("rejected: %s", clip(reason))
}

// clientTLS returns the TLS configuration for one host: that of the options, which may be nil, plus
// what every connection needs.
func clientTLS(config *tls.Config, hostname string) *tls.Config {
	if config == nil {
		config = new(tls.Config)
	}
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = hostname
	}
	config.NextProtos = []string{"http/1.1"} // a WebSocket cannot be opened over HTTP/2 here
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	return config
}
