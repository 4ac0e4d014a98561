package netgrid_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/netgrid"
	"github.com/gridmesh/grid/internal/testkit"
)

// nodes returns a grid of n nodes.
func nodes(t testing.TB, n int) *grid.TestGrid {
	t.Helper()
	g, err := grid.SetupTestGrid(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	return g
}

// between returns the connection of one node to another.
func between(g *grid.TestGrid, from, to int) *grid.Connection {
	return g.Managers[from].Connection(g.Hosts[to])
}

func listen(t testing.TB, m *grid.Manager, name string) *netgrid.Listener {
	t.Helper()
	l, err := netgrid.Listen(m, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// pair returns the two ends of a Conn: of the node that dials, and of the other.
func pair(t testing.TB, conn *grid.Connection, l *netgrid.Listener) (dialed, accepted *netgrid.Conn) {
	t.Helper()
	dialed, err := netgrid.Dial(t.Context(), conn, l.Addr().(netgrid.Addr).Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close() })
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return dialed, c.(*netgrid.Conn)
}

// ends calls f with the two ends of a Conn, once with each of them as the first.
func ends(t *testing.T, f func(t *testing.T, a, b *netgrid.Conn)) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	t.Run("dialed", func(t *testing.T) {
		a, b := pair(t, between(g, 0, 1), l)
		f(t, a, b)
	})
	t.Run("accepted", func(t *testing.T) {
		b, a := pair(t, between(g, 0, 1), l)
		f(t, a, b)
	})
	nothingRuns(t, g)
}

// nothingRuns waits until no call is open between the nodes.
func nothingRuns(t *testing.T, g *grid.TestGrid) {
	t.Helper()
	open := func() (all []grid.OpenCall) {
		for _, m := range g.Managers {
			all = append(all, m.Open()...)
		}
		return all
	}
	testkit.Eventually(t, "the end of all calls", func() bool { return len(open()) == 0 }, func() string { return fmt.Sprint(open()) })
}

// noise returns bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestConnDoesWhatNettestAsks(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	makePipe := func() (c1, c2 net.Conn, stop func(), err error) {
		c1, err = netgrid.Dial(t.Context(), between(g, 0, 1), "test")
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = l.Accept()
		return c1, c2, func() { c1.Close(); c2.Close() }, err
	}
	t.Run("dialed", func(t *testing.T) { nettest.TestConn(t, makePipe) })
	t.Run("accepted", func(t *testing.T) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			c2, c1, stop, err = makePipe()
			return c1, c2, stop, err
		})
	})
	nothingRuns(t, g)
}

func TestWhatWasWrittenArrivesBeforeTheEnd(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*netgrid.Conn) error
	}{
		{"CloseWrite", (*netgrid.Conn).CloseWrite},
		{"Close", (*netgrid.Conn).Close},
	} {
		t.Run(c.name, func(t *testing.T) {
			ends(t, func(t *testing.T, a, b *netgrid.Conn) {
				want := noise(3 << 20)
				go func() {
					if n, err := a.Write(want); n != len(want) || err != nil {
						t.Errorf("Write: %d, %v", n, err)
					}
					if err := c.end(a); err != nil {
						t.Errorf("%s: %v", c.name, err)
					}
				}()
				got, err := io.ReadAll(b)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(want))
				}
				a.Close()
				b.Close()
			})
		})
	}
}

func TestTheOtherHalfGoesOnAfterCloseWrite(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read: %d, %v", n, err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("Write after CloseWrite: %v", err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Errorf("a second CloseWrite: %v", err)
		}
		want := noise(3 << 20)
		go func() {
			if _, err := b.Write(want); err != nil {
				t.Errorf("Write: %v", err)
			}
			b.Close()
		}()
		got, err := io.ReadAll(a)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v; want the %d written", len(got), err, len(want))
		}
		a.Close()
	})
}

func TestWritesFailOnceTheOtherEndIsClosed(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		b.Close()
		var err error
		for err == nil { // what is on its way gets lost
			_, err = a.Write(make([]byte, 1<<10))
		}
		if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Source != a.LocalAddr() || op.Addr != a.RemoteAddr() {
			t.Errorf("Write: %v, without the addresses", err)
		}
		a.Close()
	})
}

func TestADialedConnThatIsClosedWithSomethingUnreadIsReset(t *testing.T) {
	g := nodes(t, 2)
	dialed, accepted := pair(t, between(g, 0, 1), listen(t, g.Managers[1], "test"))
	if _, err := accepted.Write([]byte("xy")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(dialed, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	dialed.Close()
	var err error
	for err == nil { // what is on its way gets lost
		_, err = accepted.Write(make([]byte, 1<<10))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Write: %v", err)
	}
	if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF {
		t.Errorf("Read: %v", err)
	}
	accepted.Close()
	nothingRuns(t, g)
}

func TestAClosedConnReturnsErrClosed(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		waiting := make(chan error)
		go func() {
			_, err := a.Read(make([]byte, 1))
			waiting <- err
		}()
		go func() {
			var err error
			for err == nil {
				_, err = a.Write(make([]byte, 1<<20))
			}
			waiting <- err
		}()
		for range 2 {
			if err := a.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		for range 2 {
			if err := <-waiting; !errors.Is(err, net.ErrClosed) {
				t.Errorf("what waited returned %v", err)
			}
		}
		now := time.Now()
		_, read := a.Read(nil)
		_, write := a.Write(nil)
		_, writeTo := a.WriteTo(io.Discard)
		_, readFrom := a.ReadFrom(strings.NewReader("x"))
		for i, err := range []error{
			read, write, writeTo, readFrom,
			a.CloseWrite(), a.SetDeadline(now), a.SetReadDeadline(now), a.SetWriteDeadline(now),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%d: %v", i, err)
			}
		}
		b.Close()
	})
}

func TestCopyPassesEverythingOn(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		want := noise(3<<20 + 17)
		go func() {
			// Neither the reader nor, below, the writer has a method of its own for it.
			if n, err := io.Copy(a, struct{ io.Reader }{bytes.NewReader(want)}); n != int64(len(want)) || err != nil {
				t.Errorf("to the Conn: %d, %v", n, err)
			}
			a.CloseWrite()
		}()
		var got bytes.Buffer
		if n, err := io.Copy(struct{ io.Writer }{&got}, b); n != int64(len(want)) || err != nil {
			t.Errorf("from the Conn: %d, %v", n, err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Error("something else has arrived")
		}
		a.Close()
		b.Close()
	})
}

// limitedWriter takes some bytes, and then none.
type limitedWriter struct {
	left int
	err  error
}

func (w *limitedWriter) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	if n < len(b) {
		return n, w.err
	}
	return n, nil
}

func TestWhatAWriterDoesNotTakeCanStillBeRead(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		want := noise(100 << 10)
		go func() { a.Write(want); a.CloseWrite() }()
		own := errors.New("full")
		if n, err := b.WriteTo(&limitedWriter{1000, own}); n != 1000 || err != own {
			t.Errorf("WriteTo: %d, %v", n, err)
		}
		if n, err := b.WriteTo(&limitedWriter{1000, nil}); n != 1000 || err != io.ErrShortWrite {
			t.Errorf("WriteTo: %d, %v", n, err)
		}
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, want[2000:]) {
			t.Errorf("%d bytes are left, %v", len(got), err)
		}
		a.Close()
		b.Close()
	})
}

// failingReader returns one byte and an error, or nothing at all.
type failingReader struct{ err error }

func (r failingReader) Read(b []byte) (int, error) {
	if r.err == nil {
		return 0, nil
	}
	return copy(b, "x"), r.err
}

func TestReadFromReturnsTheErrorOfTheReader(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		own := errors.New("no more")
		if n, err := a.ReadFrom(failingReader{own}); n != 1 || err != own {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		if n, err := a.ReadFrom(failingReader{}); n != 0 || err != io.ErrNoProgress {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		a.Close()
		if got, err := io.ReadAll(b); string(got) != "x" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		b.Close()
	})
}

func TestWritesAtTheSameTimeAreNotMixed(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		const size, each = 100 << 10, 8
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range each {
					if _, err := a.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		go func() { wg.Wait(); a.Close() }()
		got, block := 0, make([]byte, size)
		for ; ; got++ {
			_, err := io.ReadFull(b, block)
			if err == io.EOF {
				break
			}
			if err != nil || bytes.Count(block, block[:1]) != size {
				t.Fatalf("a block is mixed, or %v", err)
			}
		}
		if got != 4*each {
			t.Errorf("%d blocks, want %d", got, 4*each)
		}
		b.Close()
	})
}

func TestCloseWriteDoesNotMindADeadline(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		if err := a.SetWriteDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(b); err != nil || len(got) > 0 {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := b.Write([]byte("answer")); err != nil {
			t.Error(err)
		}
		b.Close()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Errorf("read %q, %v", got, err)
		}
		a.Close()
		if err := a.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("CloseWrite after Close: %v", err)
		}
	})
}

// A copy that always finds something to read sees a deadline, and Close, all the same.
func TestACopyEndsWhileThereIsMore(t *testing.T) {
	for name, end := range map[string]struct {
		f    func(c *netgrid.Conn) error
		want error
	}{
		"a deadline": {func(c *netgrid.Conn) error { return c.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"Close":      {(*netgrid.Conn).Close, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			ends(t, func(t *testing.T, a, b *netgrid.Conn) {
				for range 8 {
					if _, err := b.Write([]byte("more")); err != nil {
						t.Fatal(err)
					}
				}
				written := 0
				_, err := a.WriteTo(writerFunc(func(p []byte) (int, error) {
					if written++; written == 1 {
						if err := end.f(a); err != nil {
							t.Error(err)
						}
					}
					return len(p), nil
				}))
				if !errors.Is(err, end.want) || written != 1 {
					t.Errorf("%v after %d messages", err, written)
				}
				a.Close()
				b.Close()
			})
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestADeadlineThatIsMovedLetsTheConnGoOn(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		past := time.Unix(1, 0)
		if err := a.SetDeadline(past); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, readErr := a.Read(make([]byte, 1))
		_, writeErr := a.Write([]byte("x"))
		for _, err := range []error{readErr, writeErr} {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("past the deadline: %v", err)
			}
		}
		if err := a.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(a, got); err != nil || string(got) != "hello" {
			t.Errorf("Read: %q, %v", got, err)
		}
		if _, err := a.Write(got); err != nil {
			t.Errorf("Write: %v", err)
		}
		a.Close()
		if got, err := io.ReadAll(b); err != nil || string(got) != "hello" {
			t.Errorf("the other end got %q, %v", got, err)
		}
		b.Close()
	})
}

func TestAWriteThatRunsIntoItsDeadlineSaysWhatIsWritten(t *testing.T) {
	ends(t, func(t *testing.T, a, b *netgrid.Conn) {
		want := noise(64 << 20) // more than any window
		var n int
		var err error
		written := make(chan struct{})
		go func() {
			defer close(written)
			n, err = a.Write(want)
		}()
		first := make([]byte, 1)
		if _, err := io.ReadFull(b, first); err != nil { // so that the deadline finds something written
			t.Fatal(err)
		}
		a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		<-written
		if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(want) {
			t.Fatalf("Write: %d, %v", n, err)
		}
		a.SetWriteDeadline(time.Time{})
		go func() {
			if _, err := a.Write([]byte("end")); err != nil {
				t.Error(err)
			}
			a.Close()
		}()
		rest, err := io.ReadAll(b)
		got := append(first, rest...)
		if err != nil || !bytes.Equal(got, append(want[:n:n], "end"...)) {
			t.Errorf("read %d bytes, %v; %d were written before the deadline", len(got), err, n)
		}
		b.Close()
	})
}

func TestAddressesAreThoseOfTheSockets(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	a, b := pair(t, between(g, 0, 1), l)
	peer := between(g, 0, 1).Peer()
	local := netgrid.Addr{Node: g.Hosts[0], Name: "test", Socket: peer.LocalAddr}
	remote := netgrid.Addr{Node: g.Hosts[1], Name: "test", Socket: peer.RemoteAddr}
	if a.LocalAddr() != local || a.RemoteAddr() != remote || b.LocalAddr() != remote || b.RemoteAddr() != local {
		t.Errorf("%v to %v, and %v to %v; want %v and %v", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr(), local, remote)
	}
	for _, addr := range []net.Addr{a.LocalAddr(), a.RemoteAddr(), l.Addr()} {
		if host, _, err := net.SplitHostPort(addr.String()); err != nil || host != "127.0.0.1" || addr.Network() != "grid" {
			t.Errorf("%s %v: %v", addr.Network(), addr, err)
		}
	}
	if want := strings.TrimPrefix(g.Hosts[1], "http://"); l.Addr().String() != want {
		t.Errorf("the listener is at %v, want %s", l.Addr(), want)
	}
}

func TestAnAddrWithoutASocketHasTheHostAndThePortOfItsNode(t *testing.T) {
	for node, want := range map[string]string{
		"http://a.example:9000":       "a.example:9000",
		"http://a.example":            "a.example:80",
		"https://a.example":           "a.example:443",
		"https://[2001:db8::1]":       "[2001:db8::1]:443",
		"https://a.example:9000/grid": "a.example:9000",
		"":                            "",
		"a":                           "a",
	} {
		if got := (netgrid.Addr{Node: node, Name: "test"}).String(); got != want {
			t.Errorf("%s: %s, want %s", node, got, want)
		}
	}
}

func TestALostConnectionEndsAConn(t *testing.T) {
	ends2 := nodes(t, 2)
	l := listen(t, ends2.Managers[1], "test")
	a, b := pair(t, between(ends2, 0, 1), l)
	waiting := make(chan error)
	for _, c := range []*netgrid.Conn{a, b} {
		go func() {
			_, err := c.Read(make([]byte, 1))
			waiting <- err
		}()
	}
	if err := ends2.Managers[1].Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-waiting; err == io.EOF || errors.Is(err, net.ErrClosed) || !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("Read: %v", err)
		}
	}
	for _, c := range []*netgrid.Conn{a, b} {
		if _, err := c.Write([]byte("x")); !errors.Is(err, grid.ErrDisconnected) {
			t.Errorf("Write: %v", err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
}

func TestShutdownWaitsForConns(t *testing.T) {
	g := nodes(t, 2)
	l := listen(t, g.Managers[1], "test")
	a, b := pair(t, between(g, 0, 1), l)
	done := make(chan error)
	go func() { done <- g.Managers[1].Shutdown(context.Background()) }()
	testkit.Eventually(t, "the beginning of the shutdown", func() bool {
		c, err := netgrid.Dial(t.Context(), between(g, 0, 1), "test")
		if err != nil {
			if !errors.Is(err, grid.ErrShutdown) {
				t.Fatal(err)
			}
			return true
		}
		other, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		other.Close() // else the shutdown waits for it too
		return false
	})
	if _, err := a.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	a.Close()
	if got, err := io.ReadAll(b); string(got) != "still" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	select {
	case err := <-done:
		t.Errorf("Shutdown has not waited: %v", err)
	default:
	}
	b.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
