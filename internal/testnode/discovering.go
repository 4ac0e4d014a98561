package testnode

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/discovery"
	"github.com/gridmesh/grid/internal/testkit"
)

// Discovering is a node that finds the others by itself.
type Discovering struct {
	*grid.Manager
	Runner discovery.Runner
	Log    *testkit.LogLines

	cancel context.CancelFunc
	done   chan struct{}
}

// Discover starts a node at l that knows nobody, and whose hosts are what s finds. Removals are held
// for hold. Its name is the address of l, unless edit has another. It ends with the test.
func Discover(t *testing.T, l net.Listener, s discovery.Source, hold time.Duration, edit ...func(*grid.ManagerOptions)) *Discovering {
	t.Helper()
	d := &Discovering{Log: testkit.NewLogLines(), done: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(d.Log, nil))
	o := Options("http://" + l.Addr().String())
	o.Logger = log
	for _, f := range edit {
		f(&o)
	}
	o.Hosts = nil
	d.Runner.Hold, d.Runner.Settle, d.Runner.Logger = hold, 10*time.Millisecond, log
	d.Manager = Serve(t, l, o)
	err := d.RegisterSingleHandler(grid.HandlerUserFirst, func(b []byte) ([]byte, *grid.RemoteErr) {
		return fmt.Appendf(b, " from %s", o.Local), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.cancel = cancel
	go func() {
		defer close(d.done)
		d.Runner.Run(ctx, d.Manager, s)
	}()
	t.Cleanup(d.Stop)
	return d
}

// Stop ends the node's discovery, and leaves its connections as they are.
func (d *Discovering) Stop() {
	d.cancel()
	<-d.done
}

// WaitMesh returns when each of the nodes is connected to all others and to nobody else, and
// answers.
func WaitMesh(t *testing.T, nodes ...*Discovering) {
	t.Helper()
	var names []string
	for _, d := range nodes {
		names = append(names, d.HostName())
	}
	slices.Sort(names)
	for _, d := range nodes {
		testkit.Eventually(t, "the hosts of "+d.HostName(), func() bool {
			return slices.Equal(slices.Sorted(slices.Values(append(d.Targets(), d.HostName()))), names)
		}, func() string { return fmt.Sprintf("%q, want %q\n%s", d.Targets(), names, d.Log) })
		for _, host := range d.Targets() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*testkit.Patience)
			defer cancel()
			conn := d.Connection(host)
			if err := conn.WaitForConnect(ctx); err != nil {
				t.Fatalf("%s is not connected to %s: %v\n%s", d.HostName(), host, err, d.Log)
			}
			got, err := conn.Request(ctx, grid.HandlerUserFirst, []byte("hello"))
			if want := "hello from " + host; err != nil || string(got) != want {
				t.Fatalf("%s got %q, %v, want %q\n%s", d.HostName(), got, err, want, d.Log)
			}
		}
	}
}
