package grid

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
)

// Manager is a node's part of a grid: its handlers and one Connection to every other node.
type Manager struct {
	// ID is new in each process.
	ID uuid.UUID

	node        *node
	connections map[string]*Connection
	acceptor    acceptor
	dialer      dialer

	interceptors interceptors

	registerMu sync.Mutex // one registration at a time
	registry   atomic.Pointer[registry]
}

// NewManager starts a node. It connects to every other host at once, or when
// BlockConnect is closed; no node needs to be up yet. The end of ctx closes the Manager.
// An error names the option that is wrong; nothing has been started then.
func NewManager(ctx context.Context, o ManagerOptions) (*Manager, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if ctx == nil {
		return nil, errNilContext
	}
	n := newNode(ctx, o)
	m := &Manager{
		ID:           n.id,
		node:         n,
		connections:  make(map[string]*Connection),
		dialer:       dialer{n},
		interceptors: newInterceptors(o.Interceptors),
	}
	m.acceptor.init(n, m.Connection)
	m.registry.Store(new(registry))
	for _, host := range n.Hosts {
		if host != n.Local {
			m.connections[host] = newConnection(n, host, &m.registry, &m.interceptors)
		}
	}
	for _, c := range m.connections {
		c.expect()
	}
	for _, c := range m.connections {
		if shouldDial(n.Local, c.Remote) {
			n.goWork(func() { m.dialer.keepUp(c) })
		}
	}
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

// Targets returns the names of all other nodes, in the order of Hosts. The slice is the caller's.
func (m *Manager) Targets() []string {
	if m == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.node.Hosts), func(host string) bool { return host == m.node.Local })
}

// Connection returns the connection to a host, by its name in Hosts; nil where there is none of that name, and for the
// node's own. It is the same for the life of the Manager, and whether it is up or not.
func (m *Manager) Connection(host string) *Connection {
	if m == nil {
		return nil
	}
	return m.connections[host]
}

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
	return m.acceptor.serve
}

// AddToMux lets a gorilla router take connections of other nodes. On a
// http.ServeMux, register Handler under the route path.
// A nil Manager takes none: they are answered with 503 at the constant RoutePath.
func (m *Manager) AddToMux(router *mux.Router) {
	path := RoutePath
	if m != nil {
		path = m.node.RoutePath
	}
	router.Handle(path, m.Handler())
}

// Shutdown ends the node in good order: nothing new is started (callers here
// and there get ErrShutdown), what runs may finish until ctx ends, what is
// queued is sent, the peers are told, and the connections are closed once the
// peers have read all of it. For that there is a second at least, also after
// the end of ctx; a peer that does not answer within Limits.PeerTimeout is not waited for. It returns
// the cause of ctx where its end cut something short. Use after Shutdown gives ErrShutdown.
// A nil ctx never ends.
//
// It waits for what runs, so a handler that calls it waits for itself until ctx ends: call it on another
// goroutine there.
func (m *Manager) Shutdown(ctx context.Context) error {
	if m == nil {
		return nil
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for _, c := range m.connections {
		c.active.stop()
	}
	var err error
	for _, c := range m.connections {
		err = errors.Join(err, c.active.wait(ctx))
	}
	if !m.close(ctx, shutdownGrace) || err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Close ends the node at once: what runs gets ErrDisconnected. The peers are
// told, for which there is a tenth of a second. It returns when
// the Manager's goroutines have ended; handlers of the application are
// canceled, not waited for.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m.close(ctx, abortGrace)
	return nil
}

// close ends all connections. Each may take until the end of ctx, and at least grace, for what is queued and for
// the peer's goodbye. It reports whether that was enough for all.
func (m *Manager) close(ctx context.Context, grace time.Duration) bool {
	m.node.close()
	var wg sync.WaitGroup
	var cut atomic.Bool
	for _, c := range m.connections {
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
