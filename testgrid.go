package grid

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gorilla/mux"
)

// TestGrid is a grid of nodes on loopback in one process, for unit tests.
type TestGrid struct {
	// Servers, Listeners, Managers, Mux and Hosts have one element per node.
	Servers   []*httptest.Server
	Listeners []net.Listener
	Managers  []*Manager
	Mux       []*mux.Router
	Hosts     []string
}

// testGridPatience bounds how long SetupTestGrid waits for all connections.
const testGridPatience = 30 * time.Second

// SetupTestGrid returns n nodes that are connected to each other. Handlers may be registered
// afterwards. Cleanup ends the nodes. It fails if n is below 1, if it cannot listen on loopback,
// and if not all connections are up after 30 seconds; nothing is left running then.
func SetupTestGrid(n int) (*TestGrid, error) {
	if n < 1 {
		return nil, errors.New("grid: a test grid needs at least one node")
	}
	t := new(TestGrid)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Cleanup()
			return nil, err
		}
		t.Listeners = append(t.Listeners, l)
		t.Hosts = append(t.Hosts, "http://"+l.Addr().String())
	}
	ready := make(chan struct{})
	for i := range n {
		if err := t.addNode(i, ready); err != nil {
			t.Cleanup()
			return nil, err
		}
	}
	close(ready)
	ctx, cancel := context.WithTimeout(context.Background(), testGridPatience)
	defer cancel()
	t.WaitAllConnect(ctx)
	if ctx.Err() != nil {
		t.Cleanup()
		return nil, errors.New("grid: the test grid did not connect")
	}
	return t, nil
}

func (t *TestGrid) addNode(i int, ready chan struct{}) error {
	m, err := NewManager(context.Background(), ManagerOptions{
		Local:        t.Hosts[i],
		Hosts:        t.Hosts,
		AddAuth:      func(string) string { return "test grid" },
		AuthRequest:  func(*http.Request) error { return nil },
		BlockConnect: ready,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	router := mux.NewRouter()
	m.AddToMux(router)
	server := httptest.NewUnstartedServer(router)
	server.Listener.Close()
	server.Listener = t.Listeners[i]
	server.Start()
	t.Managers = append(t.Managers, m)
	t.Mux = append(t.Mux, router)
	t.Servers = append(t.Servers, server)
	return nil
}

// WaitAllConnect returns when all nodes are connected to each other, or when ctx ends; ctx.Err
// tells which.
func (t *TestGrid) WaitAllConnect(ctx context.Context) {
	for _, m := range t.Managers {
		for _, host := range m.Targets() {
			_ = m.Connection(host).WaitForConnect(ctx) // ctx tells
		}
	}
}

// Cleanup ends all nodes and servers, and waits for their goroutines, except for handlers that are
// still running.
func (t *TestGrid) Cleanup() {
	for _, m := range t.Managers {
		m.Close()
	}
	for _, s := range t.Servers {
		s.Close()
	}
	for _, l := range t.Listeners {
		l.Close()
	}
}
