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
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridauth"
	"github.com/gridmesh/grid/contrib/gridotel"
	"github.com/gridmesh/grid/contrib/gridprom"
	"github.com/gridmesh/grid/debugz"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// The handlers of this application.
const (
	handlerGreet   grid.HandlerID = grid.HandlerUserFirst + iota
	handlerCluster                // by which the status pages ask each other
)

// config is what a node has to know.
type config struct {
	Local string   // its name
	Hosts []string // all names
	Dir   string   // where its certificate and the secret are
	Ops   string   // address for metrics, probes and the status page; empty for none
	Spans sdktrace.SpanExporter

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
}

// startNode starts a node. It connects to the others in the background.
func startNode(c config) (*node, error) {
	if err := grid.NameHandler(handlerGreet, "Greet"); err != nil {
		return nil, err
	}
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
	n := &node{Manager: m, local: c.Local, traces: traces, listen: c.Listener}
	if err := n.register(); err != nil {
		m.Close()
		return nil, err
	}
	close(ready) // handlers first, then calls
	if err := n.serve(secrets); err != nil {
		m.Close()
		return nil, err
	}
	n.serveOperators(c.Ops)
	return n, nil
}

// register registers the handlers.
func (n *node) register() error {
	err := n.RegisterSingleHandlerContext(handlerGreet, func(ctx context.Context, _ []byte) ([]byte, *grid.RemoteErr) {
		return fmt.Appendf(nil, "hello %s, I am %s", grid.GetCaller(ctx).Name, n.local), nil
	})
	if err != nil {
		return err
	}
	return debugz.RegisterCluster(n.Manager, handlerCluster)
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
	routes.Handle("/debug/grid/", debugz.Handler(n.Manager, debugz.Options{Cluster: handlerCluster}))
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

// greet calls another node.
func (n *node) greet(ctx context.Context, peer string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	answer, err := n.Connection(peer).Request(ctx, handlerGreet, nil)
	if err != nil {
		return "", fmt.Errorf("greeting %s: %w", peer, err)
	}
	defer grid.PutByteBuffer(answer)
	return string(answer), nil
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
		for _, peer := range n.Targets() {
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
