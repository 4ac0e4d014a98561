package grid

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/wsframe"
)

// Whoever knocks at a node without being let in cannot fill its log.
func TestRefusalsAreLoggedInABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewLogLines()
		o := playerOptions("http://127.0.0.1:1")
		o.AuthRequest = func(*http.Request) error { return errors.New("wrong token") }
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		handler := newTestNode(t, o).Handler()
		knock := func(times int) {
			for range times {
				handler(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, RoutePath, nil))
			}
		}
		knock(1000)
		synctest.Wait()
		if n := strings.Count(log.String(), "peer refused"); n != burstLines {
			t.Errorf("%d lines at once, want %d", n, burstLines)
		}
		time.Sleep(logChangedEvery - time.Nanosecond)
		knock(1)
		time.Sleep(time.Nanosecond)
		knock(2)
		synctest.Wait()
		if n := strings.Count(log.String(), "peer refused"); n != burstLines+2 {
			t.Errorf("%d lines after a pause, want %d", n, burstLines+2)
		}
		for _, want := range []string{" more=991\n", " more=0\n"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no%q in %s", want, log)
			}
		}
	})
}

// noSocket cannot be upgraded.
type noSocket struct{ http.ResponseWriter }

func (noSocket) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("no socket")
}

func TestUpgradesThatFailAreLoggedInABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := testkit.NewLogLines()
		o := playerOptions("http://127.0.0.1:1")
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		handler := newTestNode(t, o).Handler()
		for range 100 {
			r := httptest.NewRequest(http.MethodGet, RoutePath, nil)
			r.Header = http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
			}
			handler(noSocket{httptest.NewRecorder()}, r)
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "upgrade failed"); n != burstLines {
			t.Errorf("%d lines, want %d: %s", n, burstLines, log)
		}
	})
}

// A peer that connects and leaves in a loop cannot fill the log either, nor what is remembered of
// others.
func TestAPeerThatComesAndGoesIsLoggedInABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		n.node.recent.add("another", RoleClient, noHandler, "lost")
		come := func(reason string) {
			p := c.knock(t, n)
			if resp := p.introduce(t, host); !resp.Accepted {
				t.Fatalf("rejected: %s", resp.RejectedReason)
			}
			p.socket.Write(wsframe.AppendClose(nil, 4321, reason, true, newMask()))
			readToEnd(p)
			p.socket.Close()
			synctest.Wait()
		}
		start := time.Now()
		for i := range 3 * recentErrors {
			come(fmt.Sprint("reason ", i))
		}
		minutes := int(time.Since(start)/logEvery) + 1
		if up, lost := n.log.count("grid: connected"), n.log.count("connection lost"); up > minutes*comingLines || lost != up {
			t.Errorf("%d lines of connections in %d minutes, %d of their ends:\n%s", up, minutes, lost, n.log)
		}
		time.Sleep(logEvery)
		before := n.log.count("more=0")
		come("the last")
		if n.log.count("the last") != 1 || n.log.count("more=0") != before+1 {
			t.Errorf("after a pause what was left out is not counted in one line, or the end is not logged:\n%s", n.log)
		}
		known := n.RecentErrors()
		if len(known) != recentErrors || !slices.ContainsFunc(known, func(e RecentError) bool { return e.Peer == "another" }) {
			t.Errorf("%d recent errors, none of them of another peer: %+v", len(known), known)
		}
	})
}

func TestPanicsAreLoggedInABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		c.handle(t, func(context.Context, []byte) ([]byte, error) { panic("broken") })
		for range 10 * burstLines {
			if _, err := c.conn(0, 1).Request(t.Context(), testSingle, nil); IsRemoteErr(err) == nil {
				t.Fatalf("got %v", err)
			}
		}
		if got := c.nodes[1].log.count("handler panicked"); got != burstLines {
			t.Errorf("%d lines at once, want %d", got, burstLines)
		}
	})
}
