package discovery_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/discovery"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

// Nodes over TCP read the same file, which changes while they run.
func TestNodesFollowAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	var names []string
	var listeners []net.Listener
	for range 4 {
		l, name := testkit.Listen(t)
		listeners, names = append(listeners, l), append(names, name)
	}
	write := func(names ...string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(strings.Join(names, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	var nodes []*testnode.Discovering
	for _, l := range listeners {
		source := discovery.File(path)
		source.Every = 10 * time.Millisecond
		nodes = append(nodes, testnode.Discover(t, l, source, 100*time.Millisecond))
	}
	failed := func(reason string) {
		t.Helper()
		testkit.Eventually(t, "a failure", func() bool { return strings.Contains(nodes[0].Runner.Stats().LastError, reason) })
	}
	nodes[0].Log.Wait(t, "grid: discovery failed", "no such file")
	write(names[:3]...)
	testnode.WaitMesh(t, nodes[:3]...)
	write(names...)
	testnode.WaitMesh(t, nodes...)
	write(names[0], "ftp://node.example", names[3])
	failed("ftp://node.example")
	testnode.WaitMesh(t, nodes...)
	write("# moved away")
	failed("has no hosts")
	testnode.WaitMesh(t, nodes...)
	write(names[1:]...)
	nodes[0].Log.Wait(t, "grid: discovery does not find this node")
	testnode.WaitMesh(t, nodes[1:]...)
}
