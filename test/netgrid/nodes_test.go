package netgrid

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
)

// listen returns a listener of one node, and what dials it from another.
func listen(t *testing.T, name string) (net.Listener, func(context.Context) (net.Conn, error)) {
	t.Helper()
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	l, err := netgrid.Listen(g.Managers[1], name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	conn := g.Managers[0].Connection(g.Hosts[1])
	return l, func(ctx context.Context) (net.Conn, error) { return netgrid.Dial(ctx, conn, name) }
}

// noise returns bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
