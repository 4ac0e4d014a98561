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
