package grid

import (
	"bufio"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever knocks at a node without being let in cannot fill its log.
func TestRefusalsAreLoggedInABoundedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newLogLines()
		o := playerOptions("http://127.0.0.1:1")
		o.AuthRequest = func(*http.Request) error { return errors.New("wrong token") }
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		handler := newNode(t, o).Handler()
		knock := func(times int) {
			for range times {
				handler(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, RoutePath, nil))
			}
		}
		knock(1000)
		if n := strings.Count(log.String(), "peer refused"); n != burstLines {
			t.Errorf("%d lines at once, want %d", n, burstLines)
		}
		time.Sleep(logChangedEvery - time.Nanosecond)
		knock(1)
		time.Sleep(time.Nanosecond)
		knock(2)
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
		log := newLogLines()
		o := playerOptions("http://127.0.0.1:1")
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		handler := newNode(t, o).Handler()
		for range 100 {
			r := httptest.NewRequest(http.MethodGet, RoutePath, nil)
			r.Header = http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
			}
			handler(noSocket{httptest.NewRecorder()}, r)
		}
		if n := strings.Count(log.String(), "upgrade failed"); n != burstLines {
			t.Errorf("%d lines, want %d: %s", n, burstLines, log)
		}
	})
}
