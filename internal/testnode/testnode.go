// Package testnode starts nodes for the tests of other packages, whose other end is a peer of
// internal/testkit.
package testnode

import (
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
)

// Options are those of a node with peers that are driven by hand.
func Options(local string, peers ...string) grid.ManagerOptions {
	return grid.ManagerOptions{
		Local:       local,
		Hosts:       append([]string{local}, peers...),
		AddAuth:     func(string) string { return "token" },
		AuthRequest: func(*http.Request) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	}
}

// Dialing are the options of a node that dials the one called remote.
func Dialing(remote string) grid.ManagerOptions {
	return Options(testkit.NameThat(func(name string) bool { return testkit.Dials(name, remote) }), remote)
}

// Dialed are the options of a node called local with a peer that dials it, whose name is returned.
func Dialed(local string) (o grid.ManagerOptions, peer string) {
	peer = testkit.NameThat(func(name string) bool { return testkit.Dials(name, local) })
	return Options(local, peer), peer
}

// Start starts a node that ends with the test.
func Start(t *testing.T, o grid.ManagerOptions) *grid.Manager {
	t.Helper()
	m, err := grid.NewManager(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// Serve starts a node and serves it at its route path.
func Serve(t *testing.T, l net.Listener, o grid.ManagerOptions) *grid.Manager {
	t.Helper()
	m := Start(t, o)
	mux := http.NewServeMux()
	mux.HandleFunc(grid.RoutePath, m.Handler())
	testkit.Serve(t, l, mux, slog.DiscardHandler)
	return m
}

// Logged starts a node whose log a test reads, and which has a peer that dials it. wrap may put a
// middleware in front of it.
func Logged(t *testing.T, wrap func(http.Handler) http.Handler, edit func(*grid.ManagerOptions)) (address string, m *grid.Manager, log *testkit.LogLines) {
	t.Helper()
	l, local := testkit.Listen(t)
	log = testkit.NewLogLines()
	o, _ := Dialed(local)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	if edit != nil {
		edit(&o)
	}
	m = Start(t, o)
	h := http.Handler(m.Handler())
	if wrap != nil {
		h = wrap(h)
	}
	testkit.Serve(t, l, h, o.Logger.Handler())
	return l.Addr().String(), m, log
}

// AcceptPeer starts a node, and a peer that has opened a WebSocket to it, before the handshake.
// edit may be nil.
func AcceptPeer(t *testing.T, edit func(*grid.ManagerOptions)) (*grid.Manager, *testkit.Peer) {
	t.Helper()
	l, local := testkit.Listen(t)
	o, name := Dialed(local)
	if edit != nil {
		edit(&o)
	}
	m := Serve(t, l, o)
	return m, testkit.Dial(t, local, grid.RoutePath, name)
}

// DialPeer starts a node, and a peer to which it has opened a WebSocket, before the handshake.
func DialPeer(t *testing.T) (*grid.Manager, *testkit.Peer) {
	t.Helper()
	l, name := testkit.Listen(t)
	m := Start(t, Dialing(name))
	return m, testkit.Accept(t, l, name)
}
