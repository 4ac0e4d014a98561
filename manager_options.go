package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// RoutePath is the path at which nodes connect to each other, unless ManagerOptions.RoutePath is
// set.
const RoutePath = "/minio/grid/v1"

// MaxGuestNameSize is the maximum length of the name of a guest in bytes.
const MaxGuestNameSize = 255

// maxBusyPoll bounds ManagerOptions.BusyPoll. So long may a process of one thread leave its other
// sockets alone; Go does the same while goroutines are always ready to run.
const maxBusyPoll = 10 * time.Millisecond

// defaultRemovalGrace is used if ManagerOptions.RemovalGrace is 0.
const defaultRemovalGrace = 30 * time.Second

// AuthFn returns the bearer token that a node presents when it connects. aud is the audience of the
// token, which may be empty. A Manager passes an empty one.
type AuthFn func(aud string) string

// ContextDialer opens the network connections of a Manager. net.Dialer.DialContext is one. It may
// be called by several goroutines at once.
type ContextDialer func(ctx context.Context, network, address string) (net.Conn, error)

// DialContext calls the function.
func (c ContextDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return c(ctx, network, address)
}

// ManagerOptions configures a Manager. Local is required, and AuthRequest for NewManager.
type ManagerOptions struct {
	// Local is the name of this node: one of Hosts. For Join it is any other name.
	Local string
	// Hosts are the names of all nodes to begin with, this one included, each a base URL such as
	// "http://10.0.0.1:9000" or "https://node1.example:9000". All nodes must use the same names.
	// None at all stands for Local alone. Manager.SetHosts replaces them.
	Hosts []string
	// AuthRequest decides whether a node may connect, by its HTTP request, before anything else is
	// looked at. It may be called by several goroutines at once. An error is answered with 403,
	// without its text, and logged, so it must not contain the token.
	AuthRequest func(r *http.Request) error
	// AddAuth returns the bearer token that this node presents when it connects. It is called once
	// before each dial. nil sends no token. If it takes longer than Limits.DialTimeout, the dial
	// fails.
	AddAuth AuthFn
	// AddAuthContext is AddAuth for a function that can fail. Its ctx ends when the dial is given
	// up. An error is logged, and the dial repeated later. Only one of the two may be set.
	AddAuthContext func(ctx context.Context) (string, error)
	// Dialer opens network connections. nil uses a net.Dialer. If it does not return in time, the
	// dial fails, and a connection that it returns later is closed. Reads and writes of its
	// connections must end when the connection is closed.
	Dialer ContextDialer
	// TLSConfig is used to dial nodes with https names, with TLS 1.2 or later. nil uses the
	// system's roots. It must not be changed. Its GetClientCertificate is called for each
	// connection, so certificates can be renewed while the node runs.
	TLSConfig *tls.Config
	// BlockConnect delays dialing until it is closed. nil dials at once.
	BlockConnect chan struct{}
	// Incoming and Outgoing are called with the number of bytes received and sent, counted as in
	// FlowStats.Bytes: each call gets the sum since the previous one. Each of the two is called by
	// one goroutine at a time, which nothing else waits for.
	Incoming func(n int64)
	Outgoing func(n int64)
	// TraceTo publishes the calls of this node while anybody is subscribed to it. nil makes a new
	// one, which Manager.Traces returns.
	TraceTo *pubsub.PubSub[TraceInfo, TraceType]

	// RoutePath replaces the constant RoutePath, so that one server can carry several grids. All
	// nodes of a grid must use the same path.
	RoutePath string
	// Logger logs connections, losses, rejected peers and panics. nil uses slog.Default. Lines are
	// queued and written in order by a separate goroutine, so the handler may be slow, and may use
	// the Manager. Lines are dropped if more than 256 are waiting or the handler panics; the next
	// line has their number in the attribute "lost". Close and Shutdown wait at most a second for
	// the queue.
	Logger *slog.Logger
	// Interceptors wrap the calls that this node makes and its handlers. The first is the
	// outermost.
	Interceptors []Interceptor
	// Limits bounds what peers can make this node do. Its zero value selects safe defaults.
	Limits Limits
	// VerifyPeer decides whether a node that wants to connect is the host it claims to be, which is
	// one of Hosts, or a guest. AuthRequest sees no name, so without VerifyPeer any member can pose as any
	// other. VerifyPeerCertificate is an implementation for mutual TLS.
	//
	// It is called after the handshake has named the host and before the connection is accepted,
	// and may be called by several goroutines at once. It gets the HTTP request that AuthRequest
	// has let in, and must not read its body. An error is logged. Until a peer has passed, it
	// learns only that it is rejected, whatever the reason.
	VerifyPeer func(r *http.Request, host string) error
	// AcceptGuest decides whether a node may connect that is none of Hosts and never will be, but a
	// guest: see Join. nil accepts none. name is unique among the guests of this node, but it is
	// only what the guest says: VerifyPeer, which is asked before, or AcceptGuest itself must see
	// to it that nobody uses the name of another, such as by a token or a client certificate of
	// the request, which AuthRequest has let in.
	//
	// It may be called by several goroutines at once, and must not read the body of the request. An
	// error rejects the guest. It is logged, and its text is told to the guest, unless AcceptGuest
	// panics. A guest that is rejected comes back every 5 to 10 seconds.
	AcceptGuest func(r *http.Request, name string) error
	// AllowOrigin reports whether requests with this Origin header may connect. Browsers send one,
	// nodes do not. nil allows none: such requests are answered with 403. It may be called by
	// several goroutines at once.
	AllowOrigin func(origin string) bool
	// GetTLSConfig returns the TLS configuration for each dial of a node with an https name, in
	// place of TLSConfig, so that roots can change while the node runs. An error is logged, and the
	// dial repeated later.
	GetTLSConfig func() (*tls.Config, error)
	// BusyPoll is for calls that follow each other closely, one by one or a few at a time. Most of
	// their time goes to waking threads that wait for input. With BusyPoll, the reader of a
	// connection looks for input again and again, for at most that long, before it waits. Set it on
	// all nodes, to at least twice what such a call takes without it, such as 200 µs. Zero, the
	// default, is off; 10 ms is the most.
	//
	// A reader polls only after a message of a call or a stream, only while at most four of these
	// are open on its connection, and only if no other reader of the process does. After polls in
	// vain it polls less often. So idle connections are not polled.
	//
	// The price is CPU time where calls do not follow each other so closely: 1.2 to 1.5 times as
	// much at 20,000 calls a second. It pays only where each node has a core for it: where they
	// share one, or other work needs it, calls become slower. docs/performance.md has figures. It
	// needs Linux, and TCP connections of package net, also below TLS; elsewhere it has no effect.
	BusyPoll time.Duration

	// ProfileHandlers labels the goroutines of handlers with their names, so that profiles tell how much
	// each handler takes: go tool pprof -tagfocus=grid_handler=kv.Get, or -tagroot=grid_handler. Goroutines that
	// a handler starts inherit the label, and so do contexts. Execution traces (runtime/trace) have a
	// region for each call. A call takes 0.3 µs more.
	ProfileHandlers bool

	// RemovalGrace is how long calls with a host that SetHosts removes may go on: 0 stands for 30
	// seconds. Those that are left then are cut.
	RemovalGrace time.Duration
	// Version is the version of the application, for its peers and the status page: printable text
	// of at most MaxVersionSize bytes.
	Version string
	// Labels say what this node is, such as its zone or its role, to its peers: see
	// Connection.Peer. Keys and values are printable text. There may be MaxLabels of them, with
	// MaxLabelsSize bytes together. Manager.SetLabels replaces them.
	Labels map[string]string

	lacks uint32 // features that the node does without, as an earlier one does; for tests
}

// withDefaults returns the options with the defaults filled in.
func (o ManagerOptions) withDefaults() ManagerOptions {
	o.Hosts = nil // the Manager has the present ones
	setDefault(&o.RemovalGrace, defaultRemovalGrace)
	o.Labels = maps.Clone(o.Labels)
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

// check returns an error that names an invalid option.
func (o *ManagerOptions) check() error {
	if o.AuthRequest == nil {
		return errors.New("grid: ManagerOptions.AuthRequest is required")
	}
	if err := checkHosts("ManagerOptions.Hosts", o.Hosts); err != nil {
		return err
	}
	if err := checkHost(o.Local); err != nil {
		return fmt.Errorf("grid: ManagerOptions.Local: %w", err)
	}
	if len(o.Hosts) > 0 && !slices.Contains(o.Hosts, o.Local) {
		return fmt.Errorf("grid: ManagerOptions.Local: %q is not one of Hosts, which are %s", o.Local, someOf(o.Hosts))
	}
	return o.checkRest()
}

// checkGuest is check for the options of a guest.
func (o *ManagerOptions) checkGuest(server string) error {
	switch {
	case len(o.Hosts) > 0:
		return errors.New("grid: Join: ManagerOptions.Hosts is set; the servers of a guest are those of Join and SetHosts")
	case o.AcceptGuest != nil:
		return errors.New("grid: Join: ManagerOptions.AcceptGuest is set, and nobody dials a guest")
	}
	if err := checkHost(server); err != nil {
		return fmt.Errorf("grid: Join: %w", err)
	}
	if err := checkGuest(o.Local); err != nil {
		return fmt.Errorf("grid: ManagerOptions.Local: %w", err)
	}
	return o.checkRest()
}

// checkRest returns an error that names an invalid option, of those that are not about names.
func (o *ManagerOptions) checkRest() error {
	if o.AddAuth != nil && o.AddAuthContext != nil {
		return errors.New("grid: ManagerOptions.AddAuth and AddAuthContext are both set")
	}
	if o.RoutePath != "" && o.RoutePath[0] != '/' {
		return fmt.Errorf("grid: ManagerOptions.RoutePath: %q does not start with a slash", o.RoutePath)
	}
	if o.BusyPoll < 0 || o.BusyPoll > maxBusyPoll {
		return fmt.Errorf("grid: ManagerOptions.BusyPoll: %v is not between 0 and %v", o.BusyPoll, maxBusyPoll)
	}
	if o.RemovalGrace < 0 {
		return fmt.Errorf("grid: ManagerOptions.RemovalGrace: %v is negative", o.RemovalGrace)
	}
	if err := checkVersion(o.Version); err != nil {
		return fmt.Errorf("grid: ManagerOptions.Version: %w", err)
	}
	if err := checkLabels(o.Labels); err != nil {
		return fmt.Errorf("grid: ManagerOptions.Labels: %w", err)
	}
	if err := checkInterceptors(o.Interceptors); err != nil {
		return err
	}
	return o.Limits.check()
}

// checkHosts returns an error that names a host of a list, by the name that the list has, if it is
// not valid or there twice.
func checkHosts(list string, hosts []string) error {
	seen := make(map[string]bool, len(hosts))
	for i, host := range hosts {
		if err := checkHost(host); err != nil {
			return fmt.Errorf("grid: %s[%d]: %w", list, i, err)
		}
		if seen[host] {
			return fmt.Errorf("grid: %s[%d]: %q is there twice", list, i, host)
		}
		seen[host] = true
	}
	return nil
}

// checkHost returns an error that says what is wrong with a node's name.
func checkHost(name string) error {
	if name == "" {
		return errors.New("empty host name")
	}
	if !strings.HasPrefix(name, "http://") && !strings.HasPrefix(name, "https://") {
		return fmt.Errorf("%q does not start with http:// or https://", name)
	}
	if err := checkPrintable(name); err != nil { // which logs, metrics and pages show
		return fmt.Errorf("%q: %w", name, err)
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

// checkGuest returns an error that says what is wrong with the name of a guest.
func checkGuest(name string) error {
	switch {
	case name == "":
		return errors.New("empty name of a guest")
	case len(name) > MaxGuestNameSize:
		return fmt.Errorf("name of a guest with %d bytes, at most %d are allowed", len(name), MaxGuestNameSize)
	case !isGuest(name):
		return fmt.Errorf("%q has a colon, which no name of a guest may have: those of hosts do", name)
	}
	if err := checkPrintable(name); err != nil {
		return fmt.Errorf("name of a guest: %w", err)
	}
	return nil
}

// someOf lists names, only the first ones if there are many.
func someOf(names []string) string {
	const most = 10
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%q and %d more", names[:most], more)
	}
	return fmt.Sprintf("%q", names)
}
