package grid

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
)

// Manager is a node of a grid: its handlers, and one Connection to every other node. Its methods
// may be called by any number of goroutines, and on a nil Manager.
type Manager struct {
	// ID identifies the process: each has a new one.
	ID uuid.UUID

	node     *node
	says     *bulletin // of the node
	acceptor acceptor
	dialer   dialer

	hostsMu sync.Mutex // one change of members at a time
	sealed  bool       // no more hosts are added or removed; hostsMu protects it
	members atomic.Pointer[members]
	guests  guests

	interceptors interceptors

	registerMu sync.Mutex // one registration at a time
	registry   atomic.Pointer[registry]
}

// NewManager starts a node. It connects to the other hosts at once, or when BlockConnect is closed;
// no node needs to be up yet. When ctx ends, the Manager is closed. If an option is invalid, the
// error names it, and nothing has been started.
func NewManager(ctx context.Context, o ManagerOptions) (*Manager, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	return newManager(ctx, o)
}

// newManager is NewManager with options that are valid.
func newManager(ctx context.Context, o ManagerOptions) (*Manager, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	n := newNode(ctx, o)
	m := &Manager{
		ID:           n.id,
		node:         n,
		says:         n.says,
		dialer:       dialer{n},
		interceptors: newInterceptors(o.Interceptors),
	}
	m.guests.init(n, func(name string, q *quotas) *Connection {
		return newConnection(n, name, nil, q, &m.registry, &m.interceptors)
	})
	m.acceptor.init(n, &m.members, &m.guests)
	m.registry.Store(new(registry))
	m.says.open(func() *handlerList { return &m.registry.Load().list })
	m.members.Store(newMembers())
	_, _, _ = m.setHosts(o.Hosts) // fails only at the end of the Manager
	n.afterEnd(func() { m.Close() })
	return m, nil
}

// HostName returns the name of this node, ManagerOptions.Local.
func (m *Manager) HostName() string {
	if m == nil {
		return ""
	}
	return m.node.Local
}

// Targets returns the names of all other nodes, in the order of the hosts: those of ManagerOptions,
// or of the last SetHosts. The slice is the caller's.
func (m *Manager) Targets() []string {
	if m == nil {
		return nil
	}
	return m.members.Load().names()
}

// Connection returns the connection to a host, by its name, or nil if the host is none of the grid's,
// or this node itself. It is the same Connection, whether it is up or not, until SetHosts removes the
// host. For the name of a guest it returns the connection to that while it is connected, and nil
// otherwise: so a handler reaches its caller, whatever that is, by the name in GetCaller.
func (m *Manager) Connection(name string) *Connection {
	switch {
	case m == nil:
		return nil
	case isGuest(name):
		return m.guests.get(name)
	}
	return m.members.Load().get(name)
}

// Handler returns the HTTP handler that accepts connections of other nodes. Serve it at the route
// path, over HTTP/1.1. It answers 403 to a request that AuthRequest refuses, and to one from a
// browser that AllowOrigin does not allow; 426 to one that is not an upgrade; 400 to one with a
// body; and 503 to one that exceeds Limits.MaxHandshakes. Each of these answers closes the
// connection. The Handler of a nil Manager answers 503, and so does that of a Manager that has
// ended.
//
// It takes the connection over as http.ResponseController does: middleware in front must have an
// http.ResponseWriter with Hijack or Unwrap. Otherwise requests are answered with 500, and the log
// names the middleware.
//
// Until the upgrade, the server sets the bounds: set ReadHeaderTimeout, ReadTimeout and IdleTimeout
// of http.Server to a few seconds, against clients that connect and send nothing, or send their
// request byte by byte, and set MaxHeaderBytes. Those timeouts, and WriteTimeout, end with the
// upgrade. From then on Limits apply.
func (m *Manager) Handler() http.HandlerFunc {
	if m == nil {
		return func(w http.ResponseWriter, r *http.Request) {
			refuse(w, r, http.StatusServiceUnavailable, http.StatusText(http.StatusServiceUnavailable))
		}
	}
	return m.acceptor.serve
}

// AddToMux registers Handler with a gorilla router, at the route path. For an http.ServeMux,
// register Handler under the route path yourself. A nil Manager registers a handler that answers
// 503, at the constant RoutePath.
func (m *Manager) AddToMux(router *mux.Router) {
	path := RoutePath
	if m != nil {
		path = m.node.RoutePath
	}
	router.Handle(path, m.Handler())
}

// Shutdown ends the node gracefully. New calls are refused: callers on both sides get ErrShutdown.
// Running calls may finish until ctx ends. Then everything queued is sent, the peers are told, and
// the connections are closed once the peers have read all of it. That may take a second even after
// the end of ctx; a peer that does not answer within Limits.PeerTimeout is not waited for. If the
// end of ctx cut something short, Shutdown returns the cause of ctx. A nil ctx never ends. Calls
// after Shutdown fail with ErrShutdown.
//
// Shutdown waits for running calls. A handler that calls it would wait for itself until ctx ends,
// so it must call it on another goroutine.
func (m *Manager) Shutdown(ctx context.Context) error {
	if m == nil {
		return nil
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	all := m.seal()
	for _, c := range all {
		c.active.stop(&errShutdown)
	}
	var err error
	for _, c := range all {
		err = errors.Join(err, c.active.wait(ctx))
	}
	if !m.close(ctx, shutdownGrace) || err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Close ends the node at once: open calls get ErrDisconnected. The peers are told, within at most a
// tenth of a second. It returns when the Manager's goroutines have ended. The application's
// handlers are canceled, but not waited for.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m.close(ctx, abortGrace)
	return nil
}

// close ends all connections. Each may take until ctx ends, but at least grace, to send what is
// queued and to complete the closing handshake. It reports whether that was enough for all.
func (m *Manager) close(ctx context.Context, grace time.Duration) bool {
	all := m.seal()
	m.node.close()
	var wg sync.WaitGroup
	var cut atomic.Bool
	for _, c := range all {
		wg.Go(func() {
			if !c.shutdown(ctx, grace) {
				cut.Store(true)
			}
		})
	}
	wg.Wait()
	m.node.end()
	return !cut.Load()
}
