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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	// request, before anything else is looked at. It may run for several requests at the same
	// time. An error is logged, so it must not hold the token, and answered with 403 without its text.
	AuthRequest func(r *http.Request) error
	// AddAuth returns the bearer token to show when this node connects, and is asked once for each dial, before it. nil sends none.
	// Where it takes longer than Limits.DialTimeout the dial is given up.
	AddAuth AuthFn
	// AddAuthContext is AddAuth for a function that can fail, and whose ctx ends when the dial is given up. An error is
	// logged, and the dial repeated later. Only one of the two may be set.
	AddAuthContext func(ctx context.Context) (string, error)
	// Dialer opens network connections. nil uses a net.Dialer. A dial in which it does not return in time is given up,
	// and what it returns later is closed. What it returns has to end its reads and writes when it is closed.
	Dialer ContextDialer
	// TLSConfig is used towards nodes with https names, with TLS 1.2 or later. nil
	// uses the system's roots. It must not be changed; GetClientCertificate in it is
	// asked for each connection, so that certificates can be renewed while the node runs.
	TLSConfig *tls.Config
	// BlockConnect delays dialing until it is closed. nil does not.
	BlockConnect chan struct{}
	// Incoming and Outgoing are told the bytes of frames that are received and sent, as FlowStats.Bytes
	// counts them: sums of what there has been since the last call, one call at a time for each of the two.
	Incoming func(n int64)
	Outgoing func(n int64)
	// TraceTo is told about requests while somebody subscribes to it. nil makes one that Manager.Traces returns.
	TraceTo *pubsub.PubSub[TraceInfo, TraceType]

	// RoutePath replaces the constant of that name, so that one server can
	// carry several grids. All nodes of one grid must use the same.
	RoutePath string
	// Logger is told about connections, losses, rejected peers and panics. nil uses slog.Default. Lines
	// are queued and written in order by a goroutine of their own, so that its handler may be slow, and may use the
	// Manager. A line that is written after others had to be dropped, beyond 256 or in a panic, has their number
	// as the attribute "lost". Close and Shutdown wait a second for the queue at the most.
	Logger *slog.Logger
	// Interceptors stand around the calls that this node makes and around its handlers, the first outermost.
	Interceptors []Interceptor
	// Limits bounds what peers can make this node do. The zero value is safe.
	Limits Limits
	// VerifyPeer decides whether a node that wants to connect is the host that it
	// says it is, one of Hosts: AuthRequest lets a node in, but knows no name, so that without VerifyPeer
	// each member can pose as any other. It is asked after the handshake has named the host and before the
	// connection is accepted, and may look at the HTTP request that AuthRequest has passed, its body
	// aside; it may run for several requests at the same time. An error is logged; the peer learns
	// no more than that it is rejected, whatever the reason is, until it has passed. VerifyPeerCertificate is one for mutual TLS.
	VerifyPeer func(r *http.Request, host string) error
	// AllowOrigin says whether requests with this Origin header may connect. Browsers send one,
	// nodes do not. nil allows none: such requests are answered with 403.
	AllowOrigin func(origin string) bool
	// GetTLSConfig is asked for the configuration of each connection to a node with an https name, in
	// place of TLSConfig: for roots that change while the node runs. An error is logged, and the dial repeated later.
	GetTLSConfig func() (*tls.Config, error)
}

// Manager is a node's part of a grid: its handlers and one Connection to every other node.
type Manager struct {
	// ID is new in each process.
	ID uuid.UUID

	options     ManagerOptions // with defaults filled in
	connections map[string]*Connection

	received  *byteTeller  // for ManagerOptions.Incoming
	written   *byteTeller  // for ManagerOptions.Outgoing
	log       *slog.Logger // leaves lines in lines
	lines     logQueue
	started   time.Time
	recent    errorRing // of peers
	strangers errorRing // of who was not let in
	lobby     lobby     // of who is let in, before the end of the handshake

	interceptors interceptors

	registerMu sync.Mutex // one registration at a time
	registry   atomic.Pointer[registry]

	refusals   logLimit // by AuthRequest and AllowOrigin
	rejections logLimit // in the handshake, apart from them: outsiders must not hide these
	upgrades   logLimit // that failed
	panics     logLimit // of handlers and observers, which peers can cause

	callbackPanics logLimit // of what decides about requests, which strangers can cause

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
		options:     o.withDefaults(),
		connections: make(map[string]*Connection),
		started:     time.Now(),
		refusals:    newBurst(),
		rejections:  newBurst(),
		upgrades:    newBurst(),
		panics:      newBurst(),

		callbackPanics: newBurst(),

		interceptors: newInterceptors(o.Interceptors),
	}
	m.lobby.most = m.options.Limits.MaxHandshakes
	m.received = m.newByteTeller("Incoming", o.Incoming)
	m.written = m.newByteTeller("Outgoing", o.Outgoing)
	m.log = m.lines.logger(slog.New(visibleLog{m.options.Logger.Handler()}))
	m.registry.Store(new(registry))
	m.ctx, m.cancel = context.WithCancel(ctx)
	for _, host := range m.options.Hosts {
		if host != m.options.Local {
			m.connections[host] = newConnection(m, host)
		}
	}
	for _, c := range m.connections {
		c.expect()
	}
	for _, c := range m.connections {
		if shouldDial(m.options.Local, c.Remote) {
			m.workers.Go(func() { m.dialWhenAllowed(c, o.BlockConnect) })
		}
	}
	m.mu.Lock()
	m.unwatch = context.AfterFunc(m.ctx, func() { m.Close() })
	m.mu.Unlock()
	return m, nil
}

// withDefaults returns the options with what they leave to the Manager filled in.
func (o ManagerOptions) withDefaults() ManagerOptions {
	o.Hosts = slices.Clone(o.Hosts)
	o.Limits = o.Limits.withDefaults()
	if o.RoutePath == "" {
		o.RoutePath = RoutePath
	}
	if o.Dialer == nil {
		o.Dialer = new(net.Dialer).DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.TraceTo == nil {
		o.TraceTo = pubsub.New[TraceInfo, TraceType](0)
	}
	return o
}

// check says which option is wrong.
func (o *ManagerOptions) check() error {
	if o.AuthRequest == nil {
		return errors.New("grid: ManagerOptions.AuthRequest is required")
	}
	if o.AddAuth != nil && o.AddAuthContext != nil {
		return errors.New("grid: ManagerOptions.AddAuth and AddAuthContext are both set")
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
		return fmt.Errorf("grid: ManagerOptions.Local: %q is not one of Hosts, which are %s", o.Local, someOf(o.Hosts))
	}
	if o.RoutePath != "" && o.RoutePath[0] != '/' {
		return fmt.Errorf("grid: ManagerOptions.RoutePath: %q does not start with a slash", o.RoutePath)
	}
	if err := checkInterceptors(o.Interceptors); err != nil {
		return err
	}
	return o.Limits.check()
}

// checkHost says what is wrong with a node's name.
func checkHost(name string) error {
	if name == "" {
		return errors.New("empty host name")
	}
	if !strings.HasPrefix(name, "http://") && !strings.HasPrefix(name, "https://") {
		return fmt.Errorf("%q does not start with http:// or https://", name)
	}
	u, err := url.Parse(name)
	if err != nil {
		return fmt.Errorf("%q is not a URL: %w", name, err)
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	switch {
	case u.Port() != "" && (err != nil || port == 0):
		return fmt.Errorf("%q has no port from 1 to 65535", name)
	case u.Hostname() == "":
		return fmt.Errorf("%q has no host", name)
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.ForceQuery:
		return fmt.Errorf("%q is more than scheme, host and port", name)
	}
	return nil
}

// someOf lists names, the first of them where there are many.
func someOf(names []string) string {
	const most = 10
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%q and %d more", names[:most], more)
	}
	return fmt.Sprintf("%q", names)
}

// HostName returns the name of this node, ManagerOptions.Local.
func (m *Manager) HostName() string {
	if m == nil {
		return ""
	}
	return m.options.Local
}

// Targets returns the names of all other nodes, in the order of Hosts. The slice is the caller's.
func (m *Manager) Targets() []string {
	if m == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(m.options.Hosts), func(host string) bool { return host == m.options.Local })
}

// Connection returns the connection to a host, by its name in Hosts; nil where there is none of that name, and for the
// node's own. It is the same for the life of the Manager, and whether it is up or not.
func (m *Manager) Connection(host string) *Connection {
	if m == nil {
		return nil
	}
	return m.connections[host]
}

// AddToMux lets a gorilla router take connections of other nodes. On a
// http.ServeMux, register Handler under the route path.
// A nil Manager takes none: they are answered with 503 at the constant RoutePath.
func (m *Manager) AddToMux(router *mux.Router) {
	path := RoutePath
	if m != nil {
		path = m.options.RoutePath
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
	m.close(ctx, partingGrace)
	return nil
}

// close ends all connections. Each may take until the end of ctx, and at least grace, for what is queued and for
// the peer's goodbye. It reports whether that was enough for all.
func (m *Manager) close(ctx context.Context, grace time.Duration) bool {
	m.mu.Lock()
	m.closing = true
	unwatch := m.unwatch
	m.mu.Unlock()
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
	unwatch()
	m.cancel()
	m.workers.Wait()
	m.received.flush(callbackGrace)
	m.written.flush(callbackGrace)
	m.lines.flush(logGrace)
	return !cut.Load()
}

// ended reports whether the Manager takes no connections any more.
func (m *Manager) ended() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closing || m.ctx.Err() != nil
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
