package gridetcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/discovery"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// server is an etcd of its own, which a test kills and starts again.
type server struct {
	*testkit.Etcd
	t *testing.T
}

func newServer(t *testing.T) *server {
	t.Helper()
	t.Parallel()
	return &server{testkit.StartEtcd(t, "http"), t}
}

func (s *server) client() *clientv3.Client {
	s.t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.Endpoint}, Logger: zap.NewNop(), DialTimeout: testkit.Patience,
		// Otherwise it would take seconds to find that etcd is back, and different ones for each node.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}, MinConnectTimeout: testkit.Patience,
		})},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// keys returns the keys below a prefix and their values.
func keys(t *testing.T, c *clientv3.Client, prefix string) (all []string) {
	t.Helper()
	resp, err := c.Get(t.Context(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		all = append(all, string(kv.Key)+"="+string(kv.Value))
	}
	return all
}

func waitErr(t *testing.T, w *testnode.Watching, want error) {
	t.Helper()
	if err := w.WaitErr(t); !errors.Is(err, want) {
		t.Errorf("Watch returned %v, want %v", err, want)
	}
}

func TestKeysOfNodes(t *testing.T) {
	s := newServer(t)
	c := s.client()
	if _, err := c.Put(t.Context(), "/nodes2/x", "http://another.grid:1"); err != nil {
		t.Fatal(err)
	}
	a := testnode.Watch(t, &Source{Client: c, Prefix: "/nodes", Local: "http://a:1"})
	a.Wait(t, "http://a:1")
	b := testnode.Watch(t, &Source{Client: s.client(), Prefix: "/nodes/", Local: "http://b:1", TTL: 100 * time.Second})
	a.Wait(t, "http://a:1 http://b:1")
	b.Wait(t, "http://a:1 http://b:1")
	if got, want := fmt.Sprint(keys(t, c, "/nodes/")), "[/nodes/http://a:1=http://a:1 /nodes/http://b:1=http://b:1]"; got != want {
		t.Errorf("keys %s, want %s", got, want)
	}
	onlooker := testnode.Watch(t, &Source{Client: s.client(), Prefix: "/nodes"})
	onlooker.Wait(t, "http://a:1 http://b:1")

	// Keys of others count too.
	if _, err := c.Put(t.Context(), "/nodes/three", "http://c:1"); err != nil {
		t.Fatal(err)
	}
	a.Wait(t, "http://a:1 http://b:1 http://c:1")

	// A node that leaves deletes its key at once, not after 100 seconds.
	b.Stop()
	waitErr(t, b, context.Canceled)
	a.Wait(t, "http://a:1 http://c:1")
	onlooker.Wait(t, "http://a:1 http://c:1")
}

func TestANodeThatDiesIsForgotten(t *testing.T) {
	s := newServer(t)
	dying := s.client()
	testnode.Watch(t, &Source{Client: dying, Prefix: "/nodes", Local: "http://a:1", TTL: time.Second}).Wait(t, "http://a:1")
	b := testnode.Watch(t, &Source{Client: s.client(), Prefix: "/nodes", Local: "http://b:1"})
	b.Wait(t, "http://a:1 http://b:1")
	dying.Close()
	b.Wait(t, "http://b:1")
}

func TestAKeyThatIsDeletedIsWrittenAgain(t *testing.T) {
	s := newServer(t)
	c := s.client()
	a := Source{Client: c, Prefix: "/nodes", Local: "http://a:1"}
	for _, harm := range []func() error{
		func() error { _, err := c.Delete(t.Context(), "/nodes/http://a:1"); return err },
		func() error { _, err := c.Put(t.Context(), "/nodes/http://a:1", "http://b:1"); return err },
	} {
		w := testnode.Watch(t, &a)
		w.Wait(t, "http://a:1")
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		waitErr(t, w, errDeleted)
	}
	testnode.Watch(t, &a).Wait(t, "http://a:1")
}

func TestANodeNoticesThatEtcdIsAway(t *testing.T) {
	s := newServer(t)
	c := s.client()
	a := Source{Client: c, Prefix: "/nodes", Local: "http://a:1", TTL: time.Second}
	w := testnode.Watch(t, &a)
	w.Wait(t, "http://a:1")
	testkit.Eventually(t, "the watch", func() bool { // sees what changes
		if _, err := c.Put(t.Context(), "/nodes/b", "http://b:1"); err != nil {
			t.Fatal(err)
		}
		answers, _ := w.Last()
		return answers > 1
	})
	s.Kill()
	waitErr(t, w, errLease)
	w = testnode.Watch(t, &a)
	waitErr(t, w, context.DeadlineExceeded)
	s.Start()
	testnode.Watch(t, &a).Wait(t, "http://a:1 http://b:1")
}

func TestOptionsAreChecked(t *testing.T) {
	for _, prefix := range []string{"", "/"} {
		err := (&Source{Prefix: prefix}).Watch(t.Context(), func([]string) { t.Error("found something") })
		if err == nil || !strings.Contains(err.Error(), "Prefix is required") {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}

// Nodes find each other, lose nothing while etcd is away, and find who has come meanwhile once it
// is back.
func TestNodesOutliveEtcd(t *testing.T) {
	s := newServer(t)
	const hold = 10 * time.Second // longer than any of them takes to write its key again
	discover := func() *testnode.Discovering {
		l, name := testkit.Listen(t)
		return testnode.Discover(t, l, &Source{Client: s.client(), Prefix: "/nodes", Local: name, TTL: time.Second}, hold)
	}
	a, b, c := discover(), discover(), discover()
	testnode.WaitMesh(t, a, b, c)

	s.Kill()
	for _, d := range []*testnode.Discovering{a, b, c} {
		d.Log.Wait(t, "grid: discovery failed") // the lease, or a watch that was just about to begin
	}
	d := discover()
	d.Log.Wait(t, "grid: discovery failed", "register")
	testnode.WaitMesh(t, a, b, c)
	if got := d.Targets(); len(got) != 0 {
		t.Errorf("without etcd, %q are found", got)
	}

	s.Start()
	testnode.WaitMesh(t, a, b, c, d)
	for _, n := range []*testnode.Discovering{a, b, c} {
		// The Runner counts a change once it is made, which others may see before.
		var stats discovery.Stats
		testkit.Eventually(t, "d to be counted", func() bool { stats = n.Runner.Stats(); return stats.Hosts == 4 })
		if stats.Changes < 2 || stats.Changes > 3 {
			t.Errorf("%+v, want a change for each host that has come, or one for the two that came first: none is removed", stats)
		}
		for _, host := range n.Targets() {
			if re := n.Connection(host).Stats().Reconnects; re != 0 {
				t.Errorf("%s has connected to %s again %d times", n.HostName(), host, re)
			}
		}
	}

	// One leaves, and one dies.
	b.Stop()
	testnode.WaitMesh(t, a, c, d)
}
