package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridauth"
	"github.com/gridmesh/grid/contrib/gridotel"
	"github.com/gridmesh/grid/contrib/gridprom"
	"github.com/gridmesh/grid/debugz"
	"github.com/gridmesh/grid/discovery"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// greet is the method of this application.
var greet = grid.NewMethod[grid.NoPayload, grid.Bytes]("example.Greet")

// config is what a node has to know.
type config struct {
	Local  string           // its name
	Hosts  []string         // all names to begin with
	Source discovery.Source // of all names from then on; nil where they stay
	Hold   time.Duration    // as in discovery.Runner
	Dir    string           // where its certificate and the secret are
	Ops    string           // address for metrics, probes and the status page; empty for none
	Spans  sdktrace.SpanExporter

	Dialer   grid.ContextDialer // nil for the network
	Listener net.Listener       // nil for the port of Local
}

// node is a running node.
type node struct {
	*grid.Manager
	local  string
	traces *sdktrace.TracerProvider
	server *http.Server // for the other nodes
	ops    *http.Server // for operators
	listen net.Listener

	discovery discovery.Runner
	following sync.WaitGroup // ends after unfollow
	unfollow  context.CancelFunc
}

// startNode starts a node. It connects to the others in the background.
func startNode(c config) (*node, error) {
	secrets, err := readSecrets(c.Dir, c.Local)
	if err != nil {
		return nil, err
	}
	tokens, err := gridauth.New(gridauth.Options{Host: c.Local, Audience: "example", Sign: secrets.key})
	if err != nil {
		return nil, err
	}
	traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(c.Spans))
	telemetry := []gridotel.Option{gridotel.WithTracerProvider(traces), gridotel.WithPropagator(propagation.TraceContext{})}
	ready := make(chan struct{})
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local:        c.Local,
		Hosts:        c.Hosts,
		AddAuth:      tokens.AddAuth,
		AuthRequest:  tokens.AuthRequest,
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{secrets.certificate}, RootCAs: secrets.authority},
		Dialer:       c.Dialer,
		BlockConnect: ready,
		Interceptors: []grid.Interceptor{gridotel.NewInterceptor(telemetry...)},
		VerifyPeer: func(r *http.Request, host string) error {
			if err := tokens.VerifyPeer(r, host); err != nil {
				return err
			}
			return grid.VerifyPeerCertificate(r, host)
		},
	})
	if err != nil {
		return nil, err
	}
	n := &node{Manager: m, local: c.Local, traces: traces, listen: c.Listener, discovery: discovery.Runner{Hold: c.Hold}}
	if err := n.register(c.Ops); err != nil {
		m.Close()
		return nil, err
	}
	close(ready) // handlers first, then calls
	if err := n.serve(secrets); err != nil {
		m.Close()
		return nil, err
	}
	n.serveOperators(c.Ops)
	n.follow(c.Source)
	return n, nil
}

// follow keeps the hosts of the node in step with a source, which may be nil.
func (n *node) follow(source discovery.Source) {
	var ctx context.Context
	ctx, n.unfollow = context.WithCancel(context.Background())
	if source != nil {
		n.following.Go(func() { n.discovery.Run(ctx, n.Manager, source) })
	}
}

// register registers the handlers, and tells the other nodes where this one's status page is.
func (n *node) register(ops string) error {
	err := greet.Handle(n.Manager, func(ctx context.Context, _ *grid.NoPayload) (*grid.Bytes, error) {
		return grid.NewBytesWith(fmt.Appendf(nil, "hello %s, I am %s", grid.GetCaller(ctx).Name, n.local)), nil
	})
	if err != nil {
		return err
	}
	page := ""
	if ops != "" {
		page = "http://" + ops + "/debug/grid/"
	}
	return debugz.RegisterCluster(n.Manager, page)
}

// serve takes the connections of other nodes, which have to show a certificate.
func (n *node) serve(s *secrets) (err error) {
	if n.listen == nil {
		if n.listen, err = net.Listen("tcp", ":"+portOf(n.local)); err != nil {
			return err
		}
	}
	routes := http.NewServeMux()
	routes.Handle(grid.RoutePath, n.Handler())
	n.server = &http.Server{
		Handler:           routes,
		ReadHeaderTimeout: 5 * time.Second, // these end where a connection becomes one between nodes
		ReadTimeout:       5 * time.Second,
		IdleTimeout:       5 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(new(boundedLog), "", 0),
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{s.certificate},
			ClientCAs:    s.authority,
			ClientAuth:   tls.RequireAndVerifyClientCert,
		},
	}
	go func() { ended(n.server.ServeTLS(n.listen, "", "")) }()
	return nil
}

// serveOperators serves metrics, probes and the status page. Whoever reaches the address can read
// them.
func (n *node) serveOperators(address string) {
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(gridprom.New(n.Manager))
	routes := http.NewServeMux()
	routes.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	routes.Handle("/health/", n.HealthHandler(grid.HealthOptions{}))
	routes.Handle("/debug/grid/", debugz.Handler(n.Manager, debugz.Options{Cluster: true}))
	n.ops = &http.Server{
		Addr:              address,
		Handler:           routes,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		IdleTimeout:       time.Minute,
	}
	if address != "" {
		go func() { ended(n.ops.ListenAndServe()) }()
	}
}

// ended logs why a server ended, where nobody asked it to.
func ended(err error) {
	if !errors.Is(err, http.ErrServerClosed) {
		log.Print(err)
	}
}

// callable returns the nodes that may be called: those that have been connected, which new ones may
// not have been yet, and are not about to go.
func (n *node) callable() (peers []string) {
	for _, host := range n.Targets() {
		if p := n.Connection(host).Peer(); p.RemoteAddr != "" && !p.Draining {
			peers = append(peers, host)
		}
	}
	return peers
}

// greet calls another node.
func (n *node) greet(ctx context.Context, peer string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := greet.Call(ctx, n.Connection(peer), nil)
	if err != nil {
		return "", fmt.Errorf("greeting %s: %w", peer, err)
	}
	return string(*answer), nil
}

// greetAll greets all others again and again, until ctx ends.
func (n *node) greetAll(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, peer := range n.callable() {
			answer, err := n.greet(ctx, peer)
			if err != nil {
				log.Print(err)
				continue
			}
			log.Print(answer)
		}
	}
}

// stop lets what runs finish, and ends the node.
func (n *node) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.unfollow()
	n.following.Wait()
	return errors.Join(n.Shutdown(ctx), n.server.Shutdown(ctx), n.ops.Shutdown(ctx), n.traces.Shutdown(ctx))
}

// portOf returns the port of a node's name.
func portOf(name string) string {
	u, err := url.Parse(name)
	if err != nil {
		return ""
	}
	return u.Port()
}
