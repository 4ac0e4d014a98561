package grid

import (
	"errors"
	"log/slog"
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
