package gridtest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/gridtest"
	"github.com/gridmesh/grid/internal/testkit"
)

func TestStart(t *testing.T) {
	before := len(testkit.Goroutines())
	t.Run("grid", func(t *testing.T) {
		g := gridtest.Start(t, 3, func(i int, o *grid.ManagerOptions) {
			o.Version = fmt.Sprint("v", i)
			o.Local = "http://is.not.for.the.test:1"
		})
		for i, m := range g.Managers {
			if err := m.Handle("who", func(context.Context, []byte) ([]byte, error) { return fmt.Append(nil, i), nil }); err != nil {
				t.Fatal(err)
			}
		}
		for i, m := range g.Managers {
			for j, host := range g.Hosts {
				if i == j {
					continue
				}
				c := m.Connection(host)
				if got := c.Peer().Version; got != fmt.Sprint("v", j) {
					t.Errorf("the version of node %d is %q", j, got)
				}
				if who, err := c.Call(t.Context(), "who", nil); err != nil || string(who) != fmt.Sprint(j) {
					t.Errorf("got %q from %d: %v", who, j, err)
				}
			}
		}
	})
	testkit.WaitGoroutines(t, before)
}

func BenchmarkStart(b *testing.B) {
	g := gridtest.Start(b, 2, nil)
	c := g.Managers[0].Connection(g.Hosts[1])
	if err := g.Managers[1].Handle("echo", func(_ context.Context, p []byte) ([]byte, error) { return p, nil }); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Call(b.Context(), "echo", nil); err != nil {
			b.Fatal(err)
		}
	}
}
