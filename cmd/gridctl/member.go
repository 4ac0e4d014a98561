package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gridmesh/grid"
)

// shutdownTime bounds how long a node lets what runs finish before it ends.
const shutdownTime = 10 * time.Second

// What a server grants a client, for a request and for the pause before it.
const (
	requestTime = 5 * time.Second
	maxHeader   = 64 << 10 // bytes
)

// member is a node of a grid, with the server that takes its connections.
type member struct {
	*grid.Manager
	server   *http.Server
	listener net.Listener
	refused  atomic.Int64 // callers that showed another secret
	serveErr chan error   // why the server has ended
}

// startMember starts a node on listener: its handlers first, then the server, then its connections.
// dialer may be nil.
func startMember(c *memberConfig, listener net.Listener, dialer grid.ContextDialer, log *slog.Logger,
	handlers ...func(*grid.Manager) error,
) (*member, error) {
	n := &member{listener: listener, serveErr: make(chan error, 1)}
	ready := make(chan struct{})
	options := grid.ManagerOptions{
		Local:        c.local,
		Hosts:        c.hosts,
		AuthRequest:  n.checkSecret(c.secret),
		Dialer:       dialer,
		TLSConfig:    c.clientTLS,
		BlockConnect: ready,
		Logger:       log,
		Limits:       c.limits,
		BusyPoll:     c.busyPoll,
		RoutePath:    c.path,
	}
	if c.acceptGuests { // who has the secret, which AuthRequest has checked
		options.AcceptGuest = func(*http.Request, string) error { return nil }
	}
	if c.secret != "" {
		options.AddAuth = func(string) string { return c.secret }
	}
	var err error
	n.Manager, err = grid.NewManager(context.Background(), options)
	if err != nil {
		return nil, err
	}
	if err := n.register(handlers...); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(cmp.Or(c.path, grid.RoutePath), n.Handler())
	n.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: requestTime, // these end with the upgrade to a WebSocket
		ReadTimeout:       requestTime,
		IdleTimeout:       requestTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          newErrorLog(log),
		TLSConfig:         c.serverTLS,
		Protocols:         new(http.Protocols),
	}
	n.server.Protocols.SetHTTP1(true) // WebSockets are upgraded from it
	if c.serverTLS != nil {
		listener = tls.NewListener(listener, c.serverTLS)
	}
	go func() { n.serveErr <- n.server.Serve(listener) }()
	close(ready)
	return n, nil
}

// startGuest starts a guest, which has no server: its handlers first, then its connections.
func startGuest(c *memberConfig, log *slog.Logger, handlers ...func(*grid.Manager) error) (*member, error) {
	n := &member{serveErr: make(chan error, 1)}
	ready := make(chan struct{})
	options := grid.ManagerOptions{
		Local:        c.local,
		TLSConfig:    c.clientTLS,
		BlockConnect: ready,
		Logger:       log,
		Limits:       c.limits,
		BusyPoll:     c.busyPoll,
		RoutePath:    c.path,
	}
	if c.secret != "" {
		options.AddAuth = func(string) string { return c.secret }
	}
	var err error
	n.Manager, err = grid.Join(context.Background(), c.servers[0], options)
	if err != nil {
		return nil, err
	}
	if err := n.register(handlers...); err != nil {
		return nil, err
	}
	if err := n.SetHosts(c.servers); err != nil {
		n.Close()
		return nil, err
	}
	close(ready)
	return n, nil
}

func (c *memberConfig) registerHandlers(m *grid.Manager) error { return registerHandlers(m, c.page) }

// register registers handlers, or closes the node.
func (n *member) register(handlers ...func(*grid.Manager) error) error {
	for _, register := range handlers {
		if err := register(n.Manager); err != nil {
			n.Close()
			return err
		}
	}
	return nil
}

// checkSecret returns the check of those who want to connect.
func (n *member) checkSecret(secret string) func(*http.Request) error {
	if secret == "" {
		return func(*http.Request) error { return nil }
	}
	return func(r *http.Request) error {
		shown, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !sameSecret(shown, secret) {
			n.refused.Add(1)
			return errors.New("it showed another secret, or none; check -secret-file there and here")
		}
		return nil
	}
}

// sameSecret takes the same time for every wrong secret of one length, and says nothing of the
// right one's length: it compares hashes.
func sameSecret(a, b string) bool {
	hashA, hashB := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(hashA[:], hashB[:]) == 1
}

// stop ends the node: what runs may finish within limit.
func (n *member) stop(limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, fmt.Errorf("calls were still running after %v", limit))
	defer cancel()
	err := n.Shutdown(ctx)
	if n.server != nil { // a guest has none
		n.server.Close()
	}
	return err
}

// listen opens the address that a node is reached at.
func listen(c *memberConfig) (net.Listener, error) {
	l, err := net.Listen("tcp", c.listen)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, cannotStart("%s is already in use; stop what listens there, or give this node another port", c.listen)
	case errors.Is(err, syscall.EACCES):
		return nil, cannotStart("not allowed to listen on %s; use a port above 1023", c.listen)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, cannotStart("%s is not an address of this machine; give one that is with -listen, such as -listen :9001", c.listen)
	}
	return nil, cannotStart("cannot listen on %s: %v; give another address with -listen", c.listen, err)
}
