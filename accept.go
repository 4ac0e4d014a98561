package grid

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Handler takes the connections of other nodes. It is to be served under the route path, over HTTP/1.1.
// A request that AuthRequest refuses is answered with 403, and so is one of a
// browser's page that AllowOrigin does not allow; one that is no upgrade with 426, one with a
// body with 400, and one that is too many (Limits.MaxHandshakes) with 503. Each of these answers closes
// its connection. The Handler of a nil Manager answers 503, and so does that of one that has ended.
//
// The connection is taken as http.ResponseController does it: middleware whose http.ResponseWriter
// has Hijack or Unwrap may stand in front. Behind others, which the log names, requests are answered with 500.
//
// What comes before the upgrade is the server's to bound: set ReadHeaderTimeout, ReadTimeout and
// IdleTimeout of http.Server, to seconds, against clients that connect and
// send nothing, or their request byte by byte, and MaxHeaderBytes. They, and WriteTimeout, end with the upgrade.
// From there on Limits do.
func (m *Manager) Handler() http.HandlerFunc {
	if m == nil {
		return func(w http.ResponseWriter, r *http.Request) {
			refuse(w, r, http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable))
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if err := m.admit(r); err != nil {
			m.strangers.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "refused: "+err.Error())
			m.refusals.warn(m.log, "grid: peer refused", "remote", r.RemoteAddr, "local", m.options.Local, "reason", err)
			refuse(w, r, http.StatusForbidden, http.StatusText(http.StatusForbidden))
			return
		}
		if m.ended() {
			refuse(w, r, http.StatusServiceUnavailable, "node is shutting down")
			return
		}
		err := m.welcome(w, r)
		if err == nil {
			return
		}
		m.strangers.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "upgrade failed: "+err.Error())
		m.upgrades.warn(m.log, "grid: upgrade failed", "remote", r.RemoteAddr, "local", m.options.Local, "reason", err)
		var no *upgradeError
		if errors.As(err, &no) {
			refuse(w, r, no.status, no.text())
		}
	}
}

// addressHost is a network address without its port, which is another one for each connection.
func addressHost(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// welcome makes a WebSocket of a request and goes through the handshake. An error is why there is no WebSocket.
func (m *Manager) welcome(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	place, ok := m.lobby.enter(r.RemoteAddr)
	if !ok {
		return &upgradeError{http.StatusServiceUnavailable, "too many connections are in their handshake (Limits.MaxHandshakes)"}
	}
	defer place.leave()
	socket, early, err := hijack(w)
	if err != nil {
		return err
	}
	owned := false // by the handshake's end
	defer func() {
		if !owned { // also where VerifyPeer has ended the goroutine
			closeSocket(socket)
		}
	}()
	if !place.use(socket) {
		return errOusted
	}
	if err := m.switchProtocols(socket, r.Header.Get("Sec-WebSocket-Key")); err != nil {
		return err
	}
	m.accept(r, place, early)
	owned = true
	return nil
}

// accept goes through the handshake and leaves the session to a goroutine of its own.
func (m *Manager) accept(r *http.Request, place *guest, early []byte) {
	socket := place.socket
	stop := context.AfterFunc(m.ctx, func() { closeSocket(socket) })
	defer stop()
	g := newGreeting(socket, early, false, m.options.Limits.MaxHandshakeSize)
	var req connectReq
	c, resp, err := m.greet(r, g, &req)
	if err != nil {
		if place.lost() {
			err = errOusted
		}
		m.noteRejection(r, &req, err)
		g.end(err, reasonFor(err)) // within the place: a client may make it last
		return
	}
	if !place.leave() { // the socket is closed: no reason to end the session that there is
		m.noteRejection(r, &req, errOusted)
		closeSocket(socket)
		g.frames.Release()
		return
	}
	s := c.newSession(g, process{req.ID, r.RemoteAddr}, req.Grid, req.Max)
	confirm := func() error {
		err := writeHandshake(socket, message{Op: OpConnectResponse, Payload: resp}, false)
		return errors.Join(err, socket.SetDeadline(time.Time{}))
	}
	if !m.goWork(func() { c.logLoss(m.ctx, s, c.start(s, confirm)) }) {
		s.discard(ErrShutdown)
	}
}

// noteRejection logs that a handshake has failed. What the end of this node cuts off is no news.
func (m *Manager) noteRejection(r *http.Request, req *connectReq, err error) {
	if m.ctx.Err() != nil {
		return
	}
	m.strangers.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "rejected: "+err.Error())
	var twin *twinError
	if errors.As(err, &twin) {
		return // has a line of its own
	}
	limit := &m.rejections
	if c := m.Connection(req.Host); c != nil {
		limit = &c.rejections
	}
	if more, ok := limit.take(err.Error()); ok {
		m.log.Warn("grid: peer rejected", "remote", r.RemoteAddr, "local", m.options.Local, "host", clip(req.Host), "reason", err, "more", more)
	}
}

// greet reads who the peer is. It returns its connection, a session of which may start once the response is sent.
func (m *Manager) greet(r *http.Request, g *greeting, req *connectReq) (*Connection, []byte, error) {
	if err := g.socket.SetDeadline(time.Now().Add(unhurried(m.options.Limits.HandshakeTimeout))); err != nil {
		return nil, nil, err
	}
	c, err := m.identify(r, g, req)
	if err == nil {
		err = c.admit(m.ctx, req.ID, r.RemoteAddr)
		g.socket.SetDeadline(time.Now().Add(unhurried(m.options.Limits.HandshakeTimeout))) // that may have taken a while
	}
	payload, marshalErr := m.response(req, err).MarshalMsg(nil)
	if err != nil {
		writeHandshake(g.socket, message{Op: OpConnectResponse, Payload: payload}, false)
		return nil, nil, err
	}
	if marshalErr != nil {
		return nil, nil, marshalErr
	}
	return c, payload, nil
}

// response is the answer to a handshake, which fails where err is not nil.
func (m *Manager) response(req *connectReq, err error) *connectResp {
	var secret *secretError
	if errors.As(err, &secret) {
		return &connectResp{RejectedReason: rejected}
	}
	resp := &connectResp{ID: m.ID, Accepted: err == nil}
	if err != nil {
		resp.RejectedReason = err.Error()
	}
	if req.Grid != 0 {
		resp.Grid = nativeFeatures
	}
	if req.Max != 0 {
		resp.Max = uint32(m.options.Limits.MaxMessageSize)
	}
	if req.Sum != 0 {
		resp.Sum = agreementSum(resp.Grid, resp.Max)
	}
	if req.To != "" {
		resp.Host = m.options.Local
	}
	return resp
}

// secretError says why a peer is rejected that has not shown who it is, and may not know.
type secretError struct{ error }

func (e *secretError) Unwrap() error { return e.error }

// reasonFor is what a rejected peer may know of why it is.
func reasonFor(err error) string {
	var secret *secretError
	if errors.As(err, &secret) {
		return rejected
	}
	return err.Error()
}

// identify finds the connection that the peer's first message is for. Until VerifyPeer has confirmed who the peer is, its errors are secret.
func (m *Manager) identify(r *http.Request, g *greeting, req *connectReq) (*Connection, error) {
	secret := func(err error) error {
		if m.options.VerifyPeer == nil {
			return err
		}
		return &secretError{err}
	}
	if err := readHandshake(g.frames, OpConnect, req); err != nil {
		return nil, secret(fmt.Errorf("handshake: %w", err))
	}
	if err := checkAgreement(req.Grid, req.Max, req.Sum); err != nil {
		return nil, secret(fmt.Errorf("handshake: %w", err))
	}
	c := m.Connection(req.Host)
	var astray error
	if req.To != "" && req.To != m.options.Local {
		astray = &wrongNodeError{g.socket.LocalAddr().String(), m.options.Local, req.To}
	}
	switch {
	case m.ctx.Err() != nil:
		return nil, ErrShutdown
	case c == nil && astray != nil:
		return nil, secret(astray)
	case c == nil:
		return nil, secret(errors.New("unknown incoming host"))
	case astray == nil && shouldDial(m.options.Local, req.Host):
		return nil, secret(fmt.Errorf("%s should not dial %s, but be dialed", req.Host, m.options.Local))
	}
	if err := m.verify(r, req.Host); err != nil {
		return nil, secret(fmt.Errorf("not verified as %s: %w", req.Host, err))
	}
	return c, astray
}
