package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// nodeVariable has the addresses of all nodes in a process that is one, its own first.
const nodeVariable = "GRID_METRICS_NODE"

// fault is what a node does wrong.
type fault string

const (
	none    fault = ""
	slow    fault = "slow"    // calls take half a second
	failing fault = "failing" // calls return an error
	panics  fault = "panics"
	cutting fault = "cutting" // connections are cut three times a second
	flooded fault = "flooded" // the peers send it more than it reads
)

// faultyNode is a node with an echo, which it calls at its peers all the time.
type faultyNode struct {
	m     *grid.Manager
	fault atomic.Value // of type fault
	flood atomic.Value // the peer to flood, as a string; empty for none

	mu    sync.Mutex // Protects following.
	conns []net.Conn // dialed
}

// runNode runs a node until the standard input ends.
func runNode() {
	addresses := strings.Split(os.Getenv(nodeVariable), ",")
	n := new(faultyNode)
	n.fault.Store(none)
	n.flood.Store("")
	if err := n.start(addresses); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func (n *faultyNode) start(addresses []string) error {
	var hosts []string
	for _, a := range addresses {
		hosts = append(hosts, "http://"+a)
	}
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local:       hosts[0],
		Hosts:       hosts,
		AuthRequest: func(*http.Request) error { return nil },
		Dialer:      n.dial,
		Logger:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
		// A node that stands still for a while is to be kept, with what waits for it.
		Limits: grid.Limits{WriteTimeout: 5 * time.Minute, PeerTimeout: 5 * time.Minute},
	})
	if err != nil {
		return err
	}
	n.m = m
	if err := m.Handle("test.Echo", n.echo); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(gridprom.New(m))
	mux := http.NewServeMux()
	mux.Handle(grid.RoutePath, m.Handler())
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/fault", func(_ http.ResponseWriter, r *http.Request) {
		n.mu.Lock() // so that nothing is cut any more once this has returned
		defer n.mu.Unlock()
		n.fault.Store(fault(r.FormValue("fault")))
		n.flood.Store(r.FormValue("flood"))
	})
	mux.HandleFunc("/call", func(w http.ResponseWriter, r *http.Request) {
		if _, err := m.Connection(r.FormValue("peer")).Call(r.Context(), "test.Echo", nil); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addresses[0])
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	for _, peer := range hosts[1:] {
		go n.call(m.Connection(peer))
	}
	go n.cut()
	return nil
}

func (n *faultyNode) echo(ctx context.Context, b []byte) ([]byte, error) {
	switch n.fault.Load() {
	case slow:
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	case failing:
		return nil, grid.Errorf(grid.Internal, "no luck")
	case panics:
		panic("a bug")
	}
	return b[:min(len(b), 100)], nil
}

// call calls a peer for as long as the process lives, 20 times a second, or as often as it can to
// flood it.
func (n *faultyNode) call(conn *grid.Connection) {
	request := func(size int) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, _ = conn.Call(ctx, "test.Echo", make([]byte, size)) // the metrics tell
	}
	for range time.Tick(50 * time.Millisecond) {
		if n.flood.Load() != conn.Remote {
			go request(100)
			continue
		}
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() { request(1 << 20) })
		}
		all.Wait()
	}
}

// dial keeps connections to cut them.
func (n *faultyNode) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, c)
	return c, nil
}

func (n *faultyNode) cut() {
	for range time.Tick(time.Second / 3) {
		n.cutAll()
	}
}

// cutAll cuts the connections that this node has dialed, if that is its fault now.
func (n *faultyNode) cutAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fault.Load() != cutting {
		return
	}
	for _, c := range n.conns {
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	n.conns = nil
}
