//go:build unix

package grid

import (
	"syscall"
	"testing"
	"time"
)

// A process that stood still finds nothing but its own silence.
func TestAProcessThatStoodStillDropsNobody(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"), {}}}
	child := startSaturated(t, c, "1s")
	c.startNode(t, c.nodes[0], func(o *ManagerOptions) {
		o.Limits = Limits{PingInterval: 100 * time.Millisecond, PeerTimeout: time.Hour, WriteTimeout: time.Hour}
	})
	conn := c.conn(0, 1)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * child.patience)
		if err := child.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Request(t.Context(), testSingle, nil); err != nil {
			t.Errorf("a call got %v: %s", err, c.nodes[0].log)
			break
		}
	}
	if n := conn.Stats().Connects; n != 1 {
		t.Errorf("%d sessions came up, want one: %s", n, c.nodes[0].log)
	}
	child.end(t)
}
