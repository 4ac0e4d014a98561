package grid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// acceptor takes the connections of other nodes for a Manager.
type acceptor struct {
	*node
	connection func(host string) *Connection
	lobby      lobby // of connections let in, until their handshake ends

	refusals   logLimit // by AuthRequest and AllowOrigin
	rejections logLimit // in the handshake; separate, because outsiders must not hide these
	upgrades   logLimit // failed ones
}

func (a *acceptor) init(n *node, connection func(host string) *Connection) {
	a.node, a.connection = n, connection
	a.lobby.most = n.Limits.MaxHandshakes
	a.refusals, a.rejections, a.upgrades = newBurst(), newBurst(), newBurst()
}

// serve answers an HTTP request to connect.
func (a *acceptor) serve(w http.ResponseWriter, r *http.Request) {
	if err := a.admit(r); err != nil {
		a.rejected.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "refused: "+err.Error())
		a.refusals.warn(a.log, "grid: peer refused", "remote", r.RemoteAddr, "local", a.Local, "reason", err)
		refuse(w, r, http.StatusForbidden, http.StatusText(http.StatusForbidden))
		return
	}
	if a.ended() {
		refuse(w, r, http.StatusServiceUnavailable, "node is shutting down")
		return
	}
	err := a.welcome(w, r)
	if err == nil {
		return
	}
	a.rejected.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "upgrade failed: "+err.Error())
	a.upgrades.warn(a.log, "grid: upgrade failed", "remote", r.RemoteAddr, "local", a.Local, "reason", err)
	if no, ok := errors.AsType[*upgradeError](err); ok {
		refuse(w, r, no.status, no.text())
	}
}

// welcome upgrades a request to a WebSocket and goes through the handshake. An error says why there
// is no WebSocket.
func (a *acceptor) welcome(w http.ResponseWriter, r *http.Request) error {
	if err := checkUpgrade(r); err != nil {
		return err
	}
	place, ok := a.lobby.enter(r.RemoteAddr)
	if !ok {
		return &upgradeError{http.StatusServiceUnavailable, "too many connections are in their handshake (Limits.MaxHandshakes)"}
	}
	defer a.lobby.leave(place)
	socket, early, err := hijack(w)
	if err != nil {
		return err
	}
	owned := false // by the handshake's end
	defer func() {
		if !owned { // also if VerifyPeer has ended the goroutine
			closeSocket(socket)
		}
	}()
	if !a.lobby.use(place, socket) {
		return errOusted
	}
	if err := a.switchProtocols(socket, r.Header.Get("Sec-WebSocket-Key")); err != nil {
		return err
	}
	a.accept(r, place, early)
	owned = true
	return nil
}

// accept goes through the handshake and leaves the session to its own goroutine.
func (a *acceptor) accept(r *http.Request, place *guest, early []byte) {
	socket := place.socket
	stop := context.AfterFunc(a.ctx, func() { closeSocket(socket) })
	defer stop()
	g := newGreeting(socket, early, false, a.Limits.MaxHandshakeSize)
	var req connectReq
	c, resp, err := a.greet(r, g, &req)
	if err != nil {
		if a.lobby.lost(place) {
			err = errOusted
		}
		a.noteRejection(r, &req, err)
		g.end(err, reasonFor(err)) // still in the lobby: a client may make it last
		return
	}
	if !a.lobby.leave(place) { // the socket is closed: no reason to end the present session
		a.noteRejection(r, &req, errOusted)
		closeSocket(socket)
		g.frames.Release()
		return
	}
	s := c.newSession(g, process{req.ID, r.RemoteAddr}, req.Grid, req.Max)
	confirm := func() error {
		err := writeHandshake(socket, message{Op: OpConnectResponse, Payload: resp}, false)
		return errors.Join(err, socket.SetDeadline(time.Time{}))
	}
	if !a.goWork(func() { c.logLoss(a.ctx, s, c.start(s, confirm)) }) {
		s.discard(ErrShutdown)
	}
}

// noteRejection logs a failed handshake, unless the end of this node cut it off.
func (a *acceptor) noteRejection(r *http.Request, req *connectReq, err error) {
	if a.ctx.Err() != nil {
		return
	}
	a.rejected.add(addressHost(r.RemoteAddr), RoleServer, handlerInvalid, "rejected: "+err.Error())
	if _, ok := errors.AsType[*twinError](err); ok {
		return // it has its own log line
	}
	limit := &a.rejections
	if c := a.connection(req.Host); c != nil {
		limit = &c.rejections
	}
	if more, ok := limit.allow(err.Error()); ok {
		a.log.Warn("grid: peer rejected", "remote", r.RemoteAddr, "local", a.Local, "host", clip(req.Host), "reason", err, "more", more)
	}
}

// greet reads who the peer is. It returns the peer's connection and the response: a session may
// start once that is sent.
func (a *acceptor) greet(r *http.Request, g *greeting, req *connectReq) (*Connection, []byte, error) {
	if err := g.socket.SetDeadline(time.Now().Add(unhurried(a.Limits.HandshakeTimeout))); err != nil {
		return nil, nil, err
	}
	c, err := a.identify(r, g, req)
	if err == nil {
		err = c.admit(a.ctx, req.ID, r.RemoteAddr)
		g.socket.SetDeadline(time.Now().Add(unhurried(a.Limits.HandshakeTimeout))) // admission may have taken a while
	}
	payload, marshalErr := a.response(req, err).MarshalMsg(nil)
	if err != nil {
		_ = writeHandshake(g.socket, message{Op: OpConnectResponse, Payload: payload}, false) // err is what counts
		return nil, nil, err
	}
	if marshalErr != nil {
		return nil, nil, marshalErr
	}
	return c, payload, nil
}

// response returns the answer to a handshake, which failed unless err is nil.
func (a *acceptor) response(req *connectReq, err error) *connectResp {
	if _, ok := errors.AsType[*secretError](err); ok {
		return &connectResp{RejectedReason: rejected}
	}
	resp := &connectResp{ID: a.id, Accepted: err == nil}
	if err != nil {
		resp.RejectedReason = err.Error()
	}
	if req.Grid != 0 {
		resp.Grid = a.features()
	}
	if req.Max != 0 {
		resp.Max = uint32(a.Limits.MaxMessageSize)
	}
	if req.Sum != 0 {
		resp.Sum = agreementSum(resp.Grid, resp.Max)
	}
	if req.To != "" {
		resp.Host = a.Local
	}
	return resp
}

// secretError says why a peer is rejected that has not proved who it is, and so must not learn why.
type secretError struct{ error }

func (e *secretError) Unwrap() error { return e.error }

// reasonFor returns what to tell a rejected peer about the reason.
func reasonFor(err error) string {
	if _, ok := errors.AsType[*secretError](err); ok {
		return rejected
	}
	return err.Error()
}

// identify finds the connection that the peer's first message is for. Its errors are secret until
// VerifyPeer has confirmed who the peer is.
func (a *acceptor) identify(r *http.Request, g *greeting, req *connectReq) (*Connection, error) {
	secret := func(err error) error {
		if a.VerifyPeer == nil {
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
	c := a.connection(req.Host)
	var astray error
	if req.To != "" && req.To != a.Local {
		astray = &wrongNodeError{g.socket.LocalAddr().String(), a.Local, req.To}
	}
	switch {
	case a.ctx.Err() != nil:
		return nil, ErrShutdown
	case c == nil && astray != nil:
		return nil, secret(astray)
	case c == nil:
		return nil, secret(errors.New("unknown incoming host"))
	case astray == nil && shouldDial(a.Local, req.Host):
		return nil, secret(fmt.Errorf("%s should not dial %s, but be dialed", req.Host, a.Local))
	}
	if err := a.verify(r, req.Host); err != nil {
		return nil, secret(fmt.Errorf("not verified as %s: %w", req.Host, err))
	}
	return c, astray
}
