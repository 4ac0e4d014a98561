package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/gorilla/mux"
	"github.com/gridmesh/grid/pubsub"
)

// RoutePath is where nodes connect to each other, unless ManagerOptions.RoutePath says otherwise.
const RoutePath = "/minio/grid/v1"

// AuthFn returns the token that a node shows when it connects. aud is the
// audience it is for, which may be empty.
type AuthFn func(aud string) string

// ContextDialer opens the network connections of a Manager. net.Dialer.DialContext is one.
type ContextDialer func(ctx context.Context, network, address string) (net.Conn, error)

// DialContext calls the function.
func (c ContextDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return c(ctx, network, address)
}

// ManagerOptions configures a Manager. Local, Hosts and AuthRequest are required.
type ManagerOptions struct {
	// Local is the name of this node: one of Hosts.
	Local string
	// Hosts are the names of all nodes, each its base URL such as
	// "http://10.0.0.1:9000" or "https://node1.example:9000". All nodes must use the same names.
	Hosts []string
	// AuthRequest decides about a node that wants to connect, by its HTTP
	// request. An error is logged and answered with 403.
	AuthRequest func(r *http.Request) error
	// AddAuth returns the bearer token to show when this node connects. nil sends none.
	AddAuth AuthFn
	// Dialer opens network connections. nil uses a net.Dialer.
	Dialer ContextDialer
	// TLSConfig is used towards nodes with https names. nil uses the system's roots.
	TLSConfig *tls.Config
	// BlockConnect delays dialing until it is closed. nil does not.
	BlockConnect chan struct{}
	// Incoming and Outgoing are told the bytes of what is received and sent.
	// They run on the connections' own goroutines and must return at once.
	Incoming func(n int64)
	Outgoing func(n int64)
	// TraceTo is told about requests while somebody subscribes to it. May be nil.
	TraceTo *pubsub.PubSub[TraceInfo, TraceType]

	// RoutePath replaces the constant of that name, so that one server can
	// carry several grids. All nodes of one grid must use the same.
	RoutePath string
	// Logger is told about connections, losses, rejected peers and panics. nil uses slog.Default.
	Logger *slog.Logger
	// Limits bounds what peers can make this node do. The zero value is safe.
	Limits Limits
}

// Manager is a node's part of a grid: its handlers and one Connection to every other node.
type Manager struct {
	// ID is new in each process.
	ID uuid.UUID

	local       string
	hosts       []string
	connections map[string]*Connection
	routePath   string
	addAuth     AuthFn
	authRequest func(r *http.Request) error
	dialer      ContextDialer
	tls         *tls.Config
	incoming    func(n int64)
	outgoing    func(n int64)
	traceTo     *pubsub.PubSub[TraceInfo, TraceType]
	log         *slog.Logger
	limits      Limits

	registerMu sync.Mutex // one registration at a time
	registry   atomic.Pointer[registry]

	ctx     context.Context // ends with the Manager
	cancel  context.CancelFunc
	workers sync.WaitGroup // dialers and accepted sessions

	mu      sync.Mutex  // Protects following.
	closing bool        // no more workers are started
	unwatch func() bool // stops watching ctx
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
	m := &Manager{
		ID:          uuid.New(),
		local:       o.Local,
		hosts:       slices.Clone(o.Hosts),
		connections: make(map[string]*Connection),
		routePath:   o.RoutePath,
		addAuth:     o.AddAuth,
		authRequest: o.AuthRequest,
		dialer:      o.Dialer,
		tls:         o.TLSConfig,
		incoming:    o.Incoming,
		outgoing:    o.Outgoing,
		traceTo:     o.TraceTo,
		log:         o.Logger,
		limits:      o.Limits.withDefaults(),
	}
	if m.routePath == "" {
		m.routePath = RoutePath
	}
	if m.dialer == nil {
		m.dialer = new(net.Dialer).DialContext
	}
	if m.log == nil {
		m.log = slog.Default()
	}
	m.registry.Store(new(registry))
	m.ctx, m.cancel = context.WithCancel(ctx)
	for _, host := range m.hosts {
		if host != m.local {
			m.connections[host] = newConnection(m, host)
		}
	}
	for _, c := range m.connections {
		if shouldDial(m.local, c.Remote) {
			m.workers.Go(func() { m.dialWhenAllowed(c, o.BlockConnect) })
		}
	}
	m.mu.Lock()
	m.unwatch = context.AfterFunc(m.ctx, func() { m.Close() })
	m.mu.Unlock()
	return m, nil
}

// check says which option is wrong.
func (o *ManagerOptions) check() error {
	if o.AuthRequest == nil {
		return errors.New("grid: ManagerOptions.AuthRequest is required")
	}
	seen := make(map[string]bool)
	for i, host := range o.Hosts {
		if err := checkHost(host); err != nil {
			return fmt.Errorf("grid: ManagerOptions.Hosts[%d]: %w", i, err)
		}
		if seen[host] {
			return fmt.Errorf("grid: ManagerOptions.Hosts[%d]: %q is there twice", i, host)
		}
		seen[host] = true
	}
	if err := checkHost(o.Local); err != nil {
		return fmt.Errorf("grid: ManagerOptions.Local: %w", err)
	}
	if !seen[o.Local] {
		return fmt.Errorf("grid: ManagerOptions.Local: %q is not one of Hosts", o.Local)
	}
	if o.RoutePath != "" && o.RoutePath[0] != '/' {
		return fmt.Errorf("grid: ManagerOptions.RoutePath: %q does not start with a slash", o.RoutePath)
	}
	return o.Limits.check()
}

// checkHost says what is wrong with a node's name.
func checkHost(name string) error {
	if name == "" {
		return errors.New("empty host name")
	}
	u, err := url.Parse(name)
	if err != nil {
		return fmt.Errorf("%q is not a URL: %w", name, err)
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q does not start with http:// or https://", name)
	case u.Hostname() == "":
		return fmt.Errorf("%q has no host", name)
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.ForceQuery:
		return fmt.Errorf("%q is more than scheme, host and port", name)
	}
	return nil
}

// HostName returns the name of this node.
func (m *Manager) HostName() string {
	if m == nil {
		return ""
	}
	return m.local
}

// Targets returns the names of all other nodes, in the order of Hosts.
func (m *Manager) Targets() []string {
	if m == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.hosts), func(host string) bool { return host == m.local })
}

// Connection returns the connection to a host; nil where there is none of that name.
func (m *Manager) Connection(host string) *Connection {
	if m == nil {
		return nil
	}
	return m.connections[host]
}

// AddToMux lets a gorilla router take connections of other nodes. On a
// http.ServeMux, register Handler under the route path.
func (m *Manager) AddToMux(router *mux.Router) {
	router.Handle(m.routePath, m.Handler())
}

// Shutdown ends the node in good order: nothing new is started (callers here
// and there get ErrShutdown), what runs may finish until ctx ends, the peers
// are told, and the connections are closed. It returns the cause of ctx where
// that cut something short. Use after Shutdown gives ErrShutdown.
func (m *Manager) Shutdown(ctx context.Context) error {
	if m == nil {
		return nil
	}
	for _, c := range m.connections {
		c.active.stop()
	}
	var err error
	for _, c := range m.connections {
		err = errors.Join(err, c.active.wait(ctx))
	}
	m.close(context.Background())
	if err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Close ends the node at once: what runs gets ErrDisconnected. It returns when
// the Manager's goroutines have ended; handlers of the application are
// canceled, not waited for.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m.close(ctx)
	return nil
}

// close ends all connections; each may take until the end of ctx to send what is queued.
func (m *Manager) close(ctx context.Context) {
	m.mu.Lock()
	m.closing = true
	unwatch := m.unwatch
	m.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range m.connections {
		wg.Go(func() { c.shutdown(ctx) })
	}
	wg.Wait()
	unwatch()
	m.cancel()
	m.workers.Wait()
}

// goWork starts a goroutine that close waits for. It returns false where the Manager is closing.
func (m *Manager) goWork(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	m.workers.Go(f)
	return true
}
