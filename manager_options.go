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
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// RoutePath is the path at which nodes connect to each other, unless ManagerOptions.RoutePath is
// set.
const RoutePath = "/minio/grid/v1"

// maxBusyPoll bounds ManagerOptions.BusyPoll. So long may a process of one thread leave its other
// sockets alone; Go does the same while goroutines are always ready to run.
const maxBusyPoll = 10 * time.Millisecond

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

// ManagerOptions configures a Manager. Local, Hosts and AuthRequest are required.
type ManagerOptions struct {
	// Local is the name of this node: one of Hosts.
	Local string
	// Hosts are the names of all nodes, each a base URL such as "http://10.0.0.1:9000" or
	// "https://node1.example:9000". All nodes must use the same names.
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
	// one of Hosts. AuthRequest sees no name, so without VerifyPeer any member can pose as any
	// other. VerifyPeerCertificate is an implementation for mutual TLS.
	//
	// It is called after the handshake has named the host and before the connection is accepted,
	// and may be called by several goroutines at once. It gets the HTTP request that AuthRequest
	// has let in, and must not read its body. An error is logged. Until a peer has passed, it
	// learns only that it is rejected, whatever the reason.
	VerifyPeer func(r *http.Request, host string) error
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

	lacks uint32 // features that the node does without, as an earlier one does; for tests
}

// withDefaults returns the options with the defaults filled in.
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

// check returns an error that names an invalid option.
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
	if o.BusyPoll < 0 || o.BusyPoll > maxBusyPoll {
		return fmt.Errorf("grid: ManagerOptions.BusyPoll: %v is not between 0 and %v", o.BusyPoll, maxBusyPoll)
	}
	if err := checkInterceptors(o.Interceptors); err != nil {
		return err
	}
	return o.Limits.check()
}

// checkHost returns an error that says what is wrong with a node's name.
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

// someOf lists names, only the first ones if there are many.
func someOf(names []string) string {
	const most = 10
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%q and %d more", names[:most], more)
	}
	return fmt.Sprintf("%q", names)
}
