package grid

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// rawUpgrade is a request for a WebSocket: the first line, and headers in place of those that are always there.
func rawUpgrade(first string, lines ...string) string {
	has := func(name string) bool {
		for _, line := range lines {
			if strings.HasPrefix(line, name+":") {
				return true
			}
		}
		return false
	}
	for _, line := range []string{
		"Host: node", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==",
	} {
		if name, _, _ := strings.Cut(line, ":"); !has(name) {
			lines = append(lines, line)
		}
	}
	return first + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

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
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn)}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String(), m, log
}

// exchange sends bytes and returns the answer, and the connection behind it.
func exchange(t *testing.T, address, request string) (*http.Response, io.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return resp, br
}

// RFC 6455, 4.2.1: what is an upgrade is taken in every form, and who sends what is none is told what it lacks, as is the log.
func TestUpgradesAreTakenOrExplained(t *testing.T) {
	body := "hello"
	for _, test := range []struct {
		name, request string
		status        int
		why           string
	}{
		{"two Connection lines", rawUpgrade(getRoute, "Connection: keep-alive", "Connection: Upgrade"), 101, ""},
		{"a list of tokens", rawUpgrade(getRoute, "Connection: keep-alive, Upgrade"), 101, ""},
		{"several protocols to choose from", rawUpgrade(getRoute, "Upgrade: h2c, websocket"), 101, ""},
		{"a length of 0", rawUpgrade(getRoute, "Content-Length: 0"), 101, ""},
		{"no Upgrade", strings.Replace(rawUpgrade(getRoute), "Upgrade: websocket\r\n", "", 1), 426, "header Upgrade is missing"},
		{"another Upgrade", rawUpgrade(getRoute, "Upgrade: h2c"), 426, "header Upgrade is not websocket"},
		{"no Connection", strings.Replace(rawUpgrade(getRoute), "Connection: Upgrade\r\n", "", 1), 426, "header Connection is missing"},
		{"another Connection", rawUpgrade(getRoute, "Connection: keep-alive"), 426, "header Connection is not Upgrade"},
		{"another version", rawUpgrade(getRoute, "Sec-WebSocket-Version: 8"), 426, "header Sec-WebSocket-Version is not 13"},
		{"two versions", rawUpgrade(getRoute, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426, "header Sec-WebSocket-Version is not 13"},
		{"a short key", rawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLY"), 426, "header Sec-WebSocket-Key is not 16 bytes in base64"},
		{"a key that is no base64", rawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr_zpLYQQ=="), 426, "header Sec-WebSocket-Key is not"},
		{"two keys", rawUpgrade(getRoute, "Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==", "Sec-WebSocket-Key: 1+ecviLeZXYKxnr+zpLYQQ=="), 426, "header Sec-WebSocket-Key is not"},
		{"another method", rawUpgrade("PUT " + RoutePath + " HTTP/1.1"), 426, "its method is not GET"},
		{"HTTP/1.0", rawUpgrade("GET " + RoutePath + " HTTP/1.0"), 426, "it came in HTTP/1.0"},
		{"a body", rawUpgrade(getRoute, "Content-Length: 5") + body, 400, "it has a body"},
		{"a body that does not come", rawUpgrade(getRoute, "Content-Length: 5000"), 400, "it has a body"},
		{"a body in chunks", rawUpgrade(getRoute, "Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n", 400, "it has a body"},
		{"a body of no chunks", rawUpgrade(getRoute, "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, "it has a body"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, m, log := loggedNode(t, nil, nil)
			resp, behind := exchange(t, address, test.request)
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
	refuse(w, httptest.NewRequest(http.MethodGet, RoutePath, nil), http.StatusUpgradeRequired, "")
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
		{"with neither", func(w http.ResponseWriter) http.ResponseWriter { return hiding{w} }, 500, "a middleware hides the connection: its grid.hiding has neither Hijack nor Unwrap"},
		{"with neither, below one with Unwrap", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{hiding{unwrapping{w}}} }, 500, "its grid.hiding has"},
		{"with a Hijack that panics", func(w http.ResponseWriter) http.ResponseWriter { return unwrapping{panicking{w}} }, 500, "a grid.panicking does not give its connection away: panic: underneath is no Hijacker"},
	} {
		t.Run(test.name, func(t *testing.T) {
			address, _, log := loggedNode(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(test.wrap(w), r) })
			}, nil)
			resp, _ := exchange(t, address, rawUpgrade(getRoute))
			if resp.StatusCode != test.status {
				t.Fatalf("answered with %s, want %d", resp.Status, test.status)
			}
			if test.log != "" {
				log.Wait(t, "level=WARN", "grid: upgrade failed", "status 500", test.log)
				if text, err := io.ReadAll(resp.Body); err != nil || strings.Contains(string(text), "grid.") {
					t.Errorf("the answer is %q, %v", text, err)
				}
			}
		})
	}
}

// A request in HTTP/2 is told what is wrong with it.
func TestUpgradeOverHTTP2IsExplained(t *testing.T) {
	l, local := listen(t)
	log := testkit.NewLogLines()
	o := playerOptions(local)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: newTestNode(t, o).Handler(), Protocols: protocols}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	resp, err := (&http.Client{Transport: transport, Timeout: testkit.Patience}).Get(local + RoutePath)
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

// A function of the application that panics lets nobody in, and strangers cannot make the node log a stack each time.
func TestACallbackThatPanicsLetsNobodyIn(t *testing.T) {
	const knocks = 50
	for callback, set := range map[string]func(*ManagerOptions){
		"AuthRequest": func(o *ManagerOptions) { o.AuthRequest = func(*http.Request) error { panic("oops") } },
		"AllowOrigin": func(o *ManagerOptions) { o.AllowOrigin = func(string) bool { panic("oops") } },
	} {
		t.Run(callback, func(t *testing.T) {
			address, _, log := loggedNode(t, nil, set)
			for range knocks {
				resp, _ := exchange(t, address, rawUpgrade(getRoute, "Origin: http://page"))
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
			request := rawUpgrade(getRoute)
			if callback == "AllowOrigin" {
				request = rawUpgrade(getRoute, "Origin: http://page")
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

// Who is refused is rid of its connection, on a server without a single timeout.
func TestARefusalEndsItsConnection(t *testing.T) {
	refuseAll := func(o *ManagerOptions) { o.AuthRequest = func(*http.Request) error { return errors.New("no") } }
	full := func(o *ManagerOptions) { o.Limits.MaxHandshakes = 1 }
	for _, test := range []struct {
		name, request string
		edit          func(*ManagerOptions)
		status        int
	}{
		{"403", rawUpgrade(getRoute), refuseAll, 403},
		{"403 to a body that does not come", rawUpgrade("POST "+RoutePath+" HTTP/1.1", "Content-Length: 5"), refuseAll, 403},
		{"403 to a long body that does not come", rawUpgrade("POST "+RoutePath+" HTTP/1.1", "Content-Length: 1000000000"), refuseAll, 403},
		{"403 to chunks that do not come", rawUpgrade("POST "+RoutePath+" HTTP/1.1", "Transfer-Encoding: chunked"), refuseAll, 403},
		{"403 to who waits to be asked for a body", rawUpgrade("POST "+RoutePath+" HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"), refuseAll, 403},
		{"426", rawUpgrade(getRoute, "Sec-WebSocket-Version: 8"), nil, 426},
		{"426 to a body that does not come", rawUpgrade("POST "+RoutePath+" HTTP/1.1", "Content-Length: 5"), nil, 426},
		{"400", rawUpgrade(getRoute, "Content-Length: 5"), nil, 400},
		{"503", rawUpgrade(getRoute), full, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, _ := startForFake(t, c, test.edit)
				if test.status == 503 {
					n.acceptor.lobby.enter("pipe")
				}
				conn, err := c.dialPipe(t.Context(), strings.TrimPrefix(n.host, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				began := time.Now()
				go conn.Write([]byte(test.request))
				br := bufio.NewReader(conn)
				resp, err := http.ReadResponse(br, nil)
				if err != nil || resp.StatusCode != test.status || time.Since(began) > 0 {
					t.Fatalf("%v, %v, after %v", resp, err, time.Since(began))
				}
				io.Copy(io.Discard, resp.Body)
				if _, err := br.ReadByte(); err == nil {
					t.Error("more than an answer")
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("its connection lives for %v", took)
				}
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
		c.handle(t, func(_ context.Context, b []byte) ([]byte, *RemoteErr) { return b, nil })
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
