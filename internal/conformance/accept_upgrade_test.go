package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

const getRoute = "GET " + grid.RoutePath + " HTTP/1.1"

// RFC 6455, 4.2.1: what is an upgrade is taken in every form, and who sends what is none is told
// what it lacks, as is the log.
func TestUpgradesAreTakenOrExplained(t *testing.T) {
	body := "hello"
	for _, test := range []struct {
		name, request string
		status        int
		why           string
	}{
		{"two Connection lines", testkit.RawUpgrade(getRoute, "Connection: keep-alive", "Connection: Upgrade"), 101, ""},
		{"a list of tokens", testkit.RawUpgrade(getRoute, "Connection: keep-alive, Upgrade"), 101, ""},
		{"several protocols to choose from", testkit.RawUpgrade(getRoute, "Upgrade: h2c, websocket"), 101, ""},
		{"a length of 0", testkit.RawUpgrade(getRoute, "Content-Length: 0"), 101, ""},
		{"no Upgrade", strings.Replace(testkit.RawUpgrade(getRoute), "Upgrade: websocket\r\n", "", 1), 426, "header Upgrade is missing"},
		{"another Upgrade", testkit.RawUpgrade(getRoute, "Upgrade: h2c"), 426, "header Upgrade is not websocket"},
		{"no Connection", strings.Replace(testkit.RawUpgrade(getRoute), "Connection: Upgrade\r\n", "", 1), 426, "header Connection is missing"},
		{"another Connection", testkit.RawUpgrade(getRoute, "Connection: keep-alive"), 426, "header Connection is not Upgrade"},
		{"another version", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Version: 8"), 426, "header Sec-WebSocket-Version is not 13"},
		{"two versions", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426, "header Sec-WebSocket-Version is not 13"},
		{"a short key", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLY"), 426, "header Sec-WebSocket-Key is not 16 bytes in base64"},
		{"a key that is no base64", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr_zpLYQQ=="), 426, "header Sec-WebSocket-Key is not"},
		{"two keys", testkit.RawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==", "Sec-WebSocket-Key: 1+ecviLeZXYKxnr+zpLYQQ=="), 426, "header Sec-WebSocket-Key is not"},
		{"another method", testkit.RawUpgrade("PUT " + grid.RoutePath + " HTTP/1.1"), 426, "its method is not GET"},
		{"HTTP/1.0", testkit.RawUpgrade("GET " + grid.RoutePath + " HTTP/1.0"), 426, "it came in HTTP/1.0"},
		{"a body", testkit.RawUpgrade(getRoute, "Content-Length: 5") + body, 400, "it has a body"},
		{"a body that does not come", testkit.RawUpgrade(getRoute, "Content-Length: 5000"), 400, "it has a body"},
		{"a body in chunks", testkit.RawUpgrade(getRoute, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", 400, "it has a body"},
		{"a body of no chunks", testkit.RawUpgrade(getRoute, "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, "it has a body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, m, log := testnode.Logged(t, nil, nil)
			resp, behind := testkit.Exchange(t, address, test.request)
			if resp.StatusCode != test.status {
				t.Fatalf("answered with %s, want %d", resp.Status, test.status)
			}
			if test.status == 101 {
				return
			}
			log.Wait(t, "level=WARN", "grid: upgrade failed", "remote=127.0.0.1:", test.why, fmt.Sprintf("status %d", test.status))
			if errs := m.RecentErrors(); len(errs) != 1 || !strings.Contains(errs[0].Text, test.why) {
				t.Errorf("recent errors are %+v", errs)
			}
			if test.status == 426 {
				for name, want := range map[string]string{"Upgrade": "websocket", "Sec-Websocket-Version": "13"} {
					if got := strings.Join(resp.Header[name], ","); got != want {
						t.Errorf("%s is %q, want %q", name, got, want)
					}
				}
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(text), test.why) {
				t.Errorf("the answer is %q, %v", text, err)
			}
			if n, err := io.Copy(io.Discard, behind); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes and %v behind the answer, want its end", n, err)
			}
		})
	}
}

// RFC 9110, 7.8: who sends Upgrade names it in Connection too, beside close.
func TestUpgradeRequiredHasBothConnectionTokens(t *testing.T) {
	w := httptest.NewRecorder()
	testnode.Start(t, testnode.Options("http://127.0.0.1:1")).Handler()(w, httptest.NewRequest(http.MethodGet, grid.RoutePath, nil))
	if w.Code != http.StatusUpgradeRequired {
		t.Errorf("answered with %d", w.Code)
	}
	if got := w.Header()["Connection"]; !slices.Equal(got, []string{"close", "Upgrade"}) { // net/http looks for close in the first
		t.Errorf("Connection is %q", got)
	}
}

// The wrappers of a middleware around an http.ResponseWriter.
type (
	unwrapping struct{ http.ResponseWriter } // has no Hijack, but Unwrap
	hiding     struct{ http.ResponseWriter } // has neither
	panicking  struct{ http.ResponseWriter }
	bare       struct{ http.ResponseWriter } // returns no bufio.ReadWriter
)

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func (panicking) Hijack() (net.Conn, *bufio.ReadWriter, error) { panic("underneath is no Hijacker") }

func (b bare) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, _, err := b.ResponseWriter.(http.Hijacker).Hijack()
	return conn, nil, err
}

func TestUpgradeGoesThroughMiddleware(t *testing.T) {
	for _, test := range []struct {
		name   string
		wrap   func(http.ResponseWriter) http.ResponseWriter
		status int
		log    string
	}{
		{"with Unwrap", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{unwrapping{w}} }, 101, ""},
		{"with a Hijack of its own", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{bare{w}} }, 101, ""},
		{"with neither", func(w http.ResponseWriter) http.ResponseWriter { return hiding{w} }, 500, "a middleware hides the connection: its conformance.hiding has neither Hijack nor Unwrap"},
		{"with neither, below one with Unwrap", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{hiding{unwrapping{w}}} }, 500, "its conformance.hiding has"},
		{"with a Hijack that panics", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{panicking{w}} }, 500, "a conformance.panicking does not give its connection away: panic: underneath is no Hijacker"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, _, log := testnode.Logged(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(test.wrap(w), r) })
			}, nil)
			resp, _ := testkit.Exchange(t, address, testkit.RawUpgrade(getRoute))
			if resp.StatusCode != test.status {
				t.Fatalf("answered with %s, want %d", resp.Status, test.status)
			}
			if test.log != "" {
				log.Wait(t, "level=WARN", "grid: upgrade failed", "status 500", test.log)
				if text, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(text), "conformance.") {
					t.Errorf("the answer is %q, %v", text, err)
				}
			}
		})
	}
}

// A request in HTTP/2 is told what is wrong with it.
func TestUpgradeOverHTTP2IsExplained(t *testing.T) {
	l, local := testkit.Listen(t)
	log := testkit.NewLogLines()
	o := testnode.Options(local)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: testnode.Start(t, o).Handler(), Protocols: protocols}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := (&http.Client{Transport: transport, Timeout: testkit.Patience}).Get(local + grid.RoutePath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	const want = "it came in HTTP/2.0, and WebSockets are opened in HTTP/1.1 here"
	if resp.ProtoMajor != 2 || resp.StatusCode != 426 || resp.Header.Get("Sec-WebSocket-Version") != "13" || err != nil || !strings.Contains(string(text), want) {
		t.Errorf("answered in %s with %s, %q, %v", resp.Proto, resp.Status, text, err)
	}
	log.Wait(t, "grid: upgrade failed", want)
}
