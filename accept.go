package grid

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
)

// acceptor takes the connections of other nodes for a Manager.
type acceptor struct {
	*node
	members *atomic.Pointer[members] // of the Manager
	lobby   lobby                    // of connections let in, until their handshake ends
	early   atomic.Int32             // of those, how many wait until their host is known
	guests  *guests                  // of the Manager

	refusals   logLimit // by AuthRequest and AllowOrigin
	rejections logLimit // in the handshake; separate, because outsiders must not hide these
	unwanted   logLimit // guests, in the handshake
	upgrades   logLimit // failed ones
}

func (a *acceptor) init(n *node, m *atomic.Pointer[members], g *guests) {
	a.node, a.members, a.guests = n, m, g
	a.lobby.most = n.Limits.MaxHandshakes
	a.refusals, a.rejections, a.unwanted, a.upgrades = newBurst(), newBurst(), newBurst(), newBurst()
}

// serve answers an HTTP request to connect.
func (a *acceptor) serve(w http.ResponseWriter, r *http.Request) {
	if err := a.admit(r); err != nil {
		a.rejected.add(addressHost(r.RemoteAddr), RoleServer, noHandler, "refused: "+err.Error())
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
	a.rejected.add(addressHost(r.RemoteAddr), RoleServer, noHandler, "upgrade failed: "+err.Error())
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

// accept goes through the handshake and leaves the session to goroutines of its own.
func (a *acceptor) accept(r *http.Request, place *place, early []byte) {
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
		a.guests.letGo(c)
		a.noteRejection(r, &req, errOusted)
		closeSocket(socket)
		g.frames.Release()
		return
	}
	s := c.newSession(g, process{req.ID, r.RemoteAddr, req.To == a.Local}, req.Grid, req.Max, uint32(req.Meta))
	confirm := func() error {
		err := writeHandshake(socket, message{Op: OpConnectResponse, Payload: resp}, false)
		if err == nil {
			err = s.exchangeFacts(g)
		}
		return errors.Join(err, socket.SetDeadline(time.Time{}))
	}
	ended := func(err error) {
		c.logLoss(c.ctx, s, err)
		a.guests.letGo(c)
	}
	if !a.goWork(func() { c.start(s, confirm, ended) }) {
		s.discard(ErrShutdown)
		a.guests.letGo(c)
	}
}

// noteRejection logs a failed handshake, unless the end of this node cut it off.
func (a *acceptor) noteRejection(r *http.Request, req *connectReq, err error) {
	if a.ctx.Err() != nil {
		return
	}
	a.rejected.add(addressHost(r.RemoteAddr), RoleServer, noHandler, "rejected: "+err.Error())
	guest := a.AcceptGuest != nil && isGuest(req.Host)
	if guest {
		a.guests.reject()
	}
	if _, ok := errors.AsType[*twinError](err); ok {
		return // it has its own log line
	}
	limit := &a.rejections
	if c := a.members.Load().get(req.Host); c != nil {
		limit = &c.rejections
	} else if guest {
		limit = &a.unwanted
	}
	if more, ok := limit.allow(err.Error()); ok {
		a.log.Warn("grid: peer rejected", "remote", r.RemoteAddr, "local", a.Local, "host", clip(req.Host), "reason", err, "more", more)
	}
}

// greet reads who the peer is. It returns the peer's connection and the response: a session may
// start once that is sent. The connection of a guest is held until a.guests.letGo.
func (a *acceptor) greet(r *http.Request, g *greeting, req *connectReq) (*Connection, []byte, error) {
	if err := g.socket.SetDeadline(time.Now().Add(unhurried(a.Limits.HandshakeTimeout))); err != nil {
		return nil, nil, err
	}
	c, err := a.identify(r, g, req)
	if err == nil {
		err = c.admit(c.ctx, process{req.ID, r.RemoteAddr, req.To == a.Local})
		g.socket.SetDeadline(time.Now().Add(unhurried(a.Limits.HandshakeTimeout))) // admission may have taken a while
	}
	payload, marshalErr := a.response(req, err).MarshalMsg(nil)
	if (err != nil || marshalErr != nil) && c != nil {
		a.guests.letGo(c)
	}
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
	if req.Meta != 0 {
		resp.Meta = metadataTerm(resp.Grid, uint32(a.Limits.MaxMetadataSize))
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
	if err := checkMetadataTerm(req.Grid, req.Meta); err != nil {
		return nil, secret(fmt.Errorf("handshake: %w", err))
	}
	if a.AcceptGuest != nil && isGuest(req.Host) {
		return a.identifyGuest(r, g, req, secret)
	}
	c := a.members.Load().get(req.Host)
	var astray error
	switch {
	case req.To != "" && req.To != a.Local:
		astray = &wrongNodeError{g.socket.LocalAddr().String(), a.Local, req.To}
	case !shouldDial(a.Local, req.Host):
		c = a.await(req.Host)
	}
	switch {
	case a.ctx.Err() != nil:
		return nil, ErrShutdown
	case c == nil && astray != nil:
		return nil, secret(astray)
	case c == nil:
		return nil, secret(errors.New(unknownHost))
	case astray == nil && !isClosed(c.ready):
		return nil, secret(errors.New("calls of an earlier connection of this host are not over"))
	case astray == nil && shouldDial(a.Local, req.Host):
		return nil, secret(fmt.Errorf("%s should not dial %s, but be dialed", req.Host, a.Local))
	}
	if err := a.verify(r, req.Host); err != nil {
		return nil, secret(fmt.Errorf("not verified as %s: %w", req.Host, err))
	}
	return c, astray
}
