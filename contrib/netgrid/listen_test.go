package netgrid_test

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
	"github.com/gridmesh/grid/internal/testkit"
)

func TestDialNamesWhatAndWhom(t *testing.T) {
	g := nodes(t, 2)
	addr := strings.TrimPrefix(g.Hosts[1], "http://")
	closed := listen(t, g.Managers[1], "closed")
	closed.Close()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		conn *grid.Connection
		text string
		is   error
	}{
		{"never", t.Context(), between(g, 0, 1), addr, grid.Unimplemented},
		{"closed", t.Context(), between(g, 0, 1), addr, grid.Unavailable},
		{"closed", canceled, between(g, 0, 1), addr, context.Canceled},
		{"no-context", nil, between(g, 0, 1), addr, nil},
		{"no-connection", t.Context(), nil, "no node", grid.ErrDisconnected},
	} {
		conn, err := netgrid.Dial(c.ctx, c.conn, c.name)
		if err == nil {
			conn.Close()
			t.Errorf("%s: somebody listens", c.name)
			continue
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", c.name, err)
		}
		if !strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want also %s", c.name, err, c.text)
		}
	}
	nothingRuns(t, g)
}

func TestTheContextOfDialDoesNotEndTheConn(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	ctx, cancel := context.WithCancel(t.Context())
	a, err := netgrid.Dial(ctx, between(g, 0, 1), "test")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	a.Close()
	if got, err := io.ReadAll(b); string(got) != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	b.Close()
	nothingRuns(t, g)
}

// Who accepts may write, or end its half, before Dial has returned.
func TestWhoAcceptsMaySpeakFirst(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	const dials = 500
	var accepting sync.WaitGroup
	for range 4 {
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := c.Write([]byte("hello")); err != nil {
					t.Error(err)
				}
				if err := c.(*netgrid.Conn).CloseWrite(); err != nil {
					t.Error(err)
				}
				accepting.Go(func() {
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				})
			}
		})
	}
	var dialing sync.WaitGroup
	for range 8 {
		dialing.Go(func() {
			for range dials / 8 {
				c, err := netgrid.Dial(t.Context(), between(g, 0, 1), "test")
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
					t.Errorf("%q, %v", got, err)
				}
				c.Close()
			}
		})
	}
	dialing.Wait()
	l.Close()
	accepting.Wait()
	nothingRuns(t, g)
}

func TestOneListenerHasANameAtATime(t *testing.T) {
	g := nodes(t, 2)
	for range 3 {
		l, err := netgrid.Listen(g.Managers[1], "test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := netgrid.Listen(g.Managers[1], "test"); err == nil || !strings.Contains(err.Error(), "test") {
			t.Errorf("a second listener: %v", err)
		}
		a, b := pair(t, between(g, 0, 1), l)
		l.Close()
		a.Close()
		if _, err := io.ReadAll(b); err != nil { // it goes on
			t.Error(err)
		}
		b.Close()
	}
	if _, err := netgrid.Listen(nil, "test"); err == nil {
		t.Error("one can listen on no node")
	}
	nothingRuns(t, g)
}

func TestCloseEndsAcceptAndWhatWaitsForIt(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	a, err := netgrid.Dial(t.Context(), between(g, 0, 1), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("the Conn that waited goes on")
	}
	if l, err = netgrid.Listen(g.Managers[1], "test"); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	for range 3 {
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		if err := <-accepted; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
	}
}

func TestTheBacklogIsBounded(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	var conns []*netgrid.Conn
	dial := func() error {
		c, err := netgrid.Dial(t.Context(), between(g, 0, 1), "test")
		if err == nil {
			conns = append(conns, c)
		}
		return err
	}
	for range netgrid.Backlog {
		if err := dial(); err != nil {
			t.Fatal(err)
		}
	}
	if err := dial(); !errors.Is(err, grid.ResourceExhausted) {
		t.Errorf("one more than fit: %v", err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	if err := dial(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	l.Close()
	for _, c := range conns {
		c.Close()
	}
	nothingRuns(t, g)
}

func TestAConnWhoseDialerHasGoneIsNotAccepted(t *testing.T) {
	g := nodes(t, 3)
	l := listen(t, g.Managers[1], "test")
	if _, err := netgrid.Dial(t.Context(), between(g, 0, 1), "test"); err != nil {
		t.Fatal(err)
	}
	g.Managers[0].Close()
	testkit.Eventually(t, "the end of the handler", func() bool { return len(g.Managers[1].Open()) == 0 })
	want, err := netgrid.Dial(t.Context(), between(g, 2, 1), "test")
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got.RemoteAddr() != want.LocalAddr() {
		t.Errorf("accepted %v, want %v", got.RemoteAddr(), want.LocalAddr())
	}
	want.Close()
	got.Close()
}

// A program that makes many Managers, such as its tests, must not keep them.
func TestAClosedListenerDoesNotKeepItsManager(t *testing.T) {
	gone := make(chan struct{})
	func() {
		g, err := grid.SetupTestGrid(1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := netgrid.Listen(g.Managers[0], "test"); err != nil {
			t.Fatal(err)
		}
		runtime.AddCleanup(g.Managers[0], func(struct{}) { close(gone) }, struct{}{})
		g.Cleanup()
	}()
	testkit.Eventually(t, "the end of the Manager", func() bool {
		runtime.GC()
		select {
		case <-gone:
			return true
		default:
			return false
		}
	})
}
