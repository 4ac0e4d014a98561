package grid

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

const getRoute = "GET " + RoutePath + " HTTP/1.1"

// loggedNode serves a node whose log a test reads. wrap may put a middleware in front of it.
func loggedNode(t *testing.T, wrap func(http.Handler) http.Handler, edit func(*ManagerOptions)) (address string, m *Manager, log *testkit.LogLines) {
	t.Helper()
	l, local := listen(t)
	log = testkit.NewLogLines()
	o := playerOptions(local, nameThat(func(name string) bool { return shouldDial(name, local) }))
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	if edit != nil {
		edit(&o)
	}
	m = newTestNode(t, o)
	h := http.Handler(m.Handler())
	if wrap != nil {
		h = wrap(h)
	}
	testkit.Serve(t, l, h, o.Logger.Handler())
	return l.Addr().String(), m, log
}

// A function of the application that panics lets nobody in, and strangers cannot make the node log
// a stack each time.
func TestACallbackThatPanicsLetsNobodyIn(t *testing.T) {
	const knocks = 50
	for callback, set := range map[string]func(*ManagerOptions){
		"AuthRequest": func(o *ManagerOptions) { o.AuthRequest = func(*http.Request) error { panic("oops") } },
		"AllowOrigin": func(o *ManagerOptions) { o.AllowOrigin = func(string) bool { panic("oops") } },
	} {
		t.Run(callback, func(t *testing.T) {
			address, _, log := loggedNode(t, nil, set)
			for range knocks {
				resp, _ := testkit.Exchange(t, address, testkit.RawUpgrade(getRoute, "Origin: http://page"))
				text, err := io.ReadAll(resp.Body)
				if resp.StatusCode != 403 || string(text) != "Forbidden\n" || err != nil {
					t.Fatalf("answered with %s, %q, %v", resp.Status, text, err)
				}
			}
			log.Wait(t, "level=ERROR", "grid: callback panicked", "callback="+callback, "panic=oops", "TestACallbackThatPanics")
			log.Wait(t, "grid: peer refused", callback+" panicked: oops")
			if n := strings.Count(log.String(), "goroutine ") / 2; n > burstLines || strings.Contains(log.String(), "http: panic") {
				t.Errorf("%d stacks for %d knocks", n, knocks)
			}
		})
	}
}

// A function of the application that ends the goroutine leaves no connection without an owner.
func TestACallbackThatExitsEndsTheConnection(t *testing.T) {
	for callback, set := range map[string]func(*ManagerOptions){
		"AuthRequest": func(o *ManagerOptions) { o.AuthRequest = func(*http.Request) error { runtime.Goexit(); return nil } },
		"AllowOrigin": func(o *ManagerOptions) { o.AllowOrigin = func(string) bool { runtime.Goexit(); return true } },
		"VerifyPeer": func(o *ManagerOptions) {
			o.VerifyPeer = func(*http.Request, string) error { runtime.Goexit(); return nil }
		},
	} {
		t.Run(callback, func(t *testing.T) {
			address, m, _ := loggedNode(t, nil, set)
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(testkit.Patience))
			request := testkit.RawUpgrade(getRoute)
			if callback == "AllowOrigin" {
				request = testkit.RawUpgrade(getRoute, "Origin: http://page")
			}
			connect := frameOf(message{Op: OpConnect, Payload: encoded(t, &connectReq{Host: m.Targets()[0]})})
			if _, err := conn.Write(append([]byte(request), connect...)); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection stays open after %q", answer)
			}
			eventually(t, "the end of its place in the lobby", func() bool {
				m.acceptor.lobby.mu.Lock()
				defer m.acceptor.lobby.mu.Unlock()
				return m.acceptor.lobby.count == 0
			})
		})
	}
}

// What a server has against slow clients ends with the upgrade.
func TestTimeoutsOfTheServerEndWithTheUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(2)
		block := make(chan struct{})
		c.start(t, func(_ int, o *ManagerOptions) { o.BlockConnect = block })
		synctest.Wait() // the servers have looked at their fields
		for _, n := range c.nodes {
			n.server.ReadHeaderTimeout, n.server.ReadTimeout = time.Second, time.Second
			n.server.WriteTimeout, n.server.IdleTimeout = time.Second, time.Second
		}
		close(block)
		c.waitConnected(t)
		c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		for range 10 {
			time.Sleep(time.Minute)
			if _, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
		if n := c.conn(0, 1).Stats().Connects; n != 1 {
			t.Errorf("%d connections in ten minutes", n)
		}
	})
}
