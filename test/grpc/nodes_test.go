package grpc

import (
	"testing"

	"github.com/gridmesh/grid"
)

// newNodes returns a node, and a connection to it from another.
func newNodes(t *testing.T) (*grid.Manager, *grid.Connection) {
	t.Helper()
	nodes, err := grid.SetupTestGrid(2)
	check(t, err)
	t.Cleanup(nodes.Cleanup)
	return nodes.Managers[0], nodes.Managers[1].Connection(nodes.Hosts[0])
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
