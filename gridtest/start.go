package gridtest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/gridmesh/grid"
)

// Start returns n nodes on loopback, in real time, that are connected to each other, for tests and
// benchmarks that need real sockets. edit, which may be nil, is called with the options of each
// node i, and may change all but Local. Handlers may be registered afterwards. The nodes end with
// the test. If they cannot start, or are not connected within 30 seconds, the test fails at once.
//
// It is grid.SetupTestGrid with options and without Cleanup.
func Start(tb testing.TB, n int, edit func(i int, o *grid.ManagerOptions)) *grid.TestGrid {
	tb.Helper()
	if n < 1 {
		tb.Fatalf("gridtest: a grid of %d nodes", n)
	}
	g := new(grid.TestGrid)
	tb.Cleanup(g.Cleanup)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		g.Listeners = append(g.Listeners, l)
		g.Hosts = append(g.Hosts, "http://"+l.Addr().String())
	}
	ready := make(chan struct{})
	for i, l := range g.Listeners {
		o := grid.ManagerOptions{
			Hosts:        g.Hosts,
			AddAuth:      func(string) string { return "gridtest" },
			AuthRequest:  func(*http.Request) error { return nil },
			BlockConnect: ready,
			Logger:       slog.New(slog.DiscardHandler),
			Local:        g.Hosts[i],
		}
		if edit != nil {
			edit(i, &o)
		}
		o.Local = g.Hosts[i]
		m, err := grid.NewManager(context.Background(), o)
		if err != nil {
			tb.Fatal(err)
		}
		g.Managers = append(g.Managers, m)
		g.Mux = append(g.Mux, mux.NewRouter())
		m.AddToMux(g.Mux[i])
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: g.Mux[i], ReadHeaderTimeout: 10 * time.Second}}
		server.Start()
		g.Servers = append(g.Servers, server)
	}
	close(ready)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if g.WaitAllConnect(ctx); ctx.Err() != nil {
		tb.Fatal("gridtest: the grid is not connected after 30 seconds")
	}
	return g
}
