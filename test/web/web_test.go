package web

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	gingzip "github.com/gin-contrib/gzip"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	chimiddleware "github.com/go-chi/chi/v5/middleware"
	"github.com/gorilla/handlers"
	"github.com/gorilla/mux"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/labstack/echo/v5"
	echomiddleware "github.com/labstack/echo/v5/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

const (
	patience = 20 * time.Second
	// serverTimeout is each timeout of the servers and of the middleware. It leaves a busy machine the
	// time for an upgrade, and none of them has a hold on what is upgraded.
	serverTimeout = time.Second
	handlerEcho   = grid.HandlerUserFirst
	handlerCount  = grid.HandlerUserFirst + 1
	countMessages = 100
)

// servers puts a node behind what a server may have.
var servers = map[string]func(m *grid.Manager) http.Handler{
	"net/http": func(m *grid.Manager) http.Handler {
		routes := http.NewServeMux()
		routes.Handle(grid.RoutePath, m.Handler())
		return http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(routes, 1<<20))
	},
	"chi": func(m *grid.Manager) http.Handler {
		r := chi.NewRouter()
		logger := chimiddleware.RequestLogger(&chimiddleware.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0)})
		r.Use(chimiddleware.RequestID, chimiddleware.ClientIPFromRemoteAddr, logger, chimiddleware.Recoverer, chimiddleware.Compress(5),
			chimiddleware.Timeout(serverTimeout), chimiddleware.Heartbeat("/ping"), chimiddleware.Throttle(100))
		r.Handle(grid.RoutePath, m.Handler())
		return r
	},
	"echo": func(m *grid.Manager) http.Handler {
		e := echo.New()
		e.Logger = slog.New(slog.DiscardHandler)
		e.Use(echomiddleware.RequestLogger(), echomiddleware.Recover(), echomiddleware.Gzip(), echomiddleware.Secure(),
			echomiddleware.RequestID(), echomiddleware.BodyDump(func(*echo.Context, []byte, []byte, error) {}),
			echomiddleware.ContextTimeout(serverTimeout), echomiddleware.BodyLimit(1<<20))
		e.Any(grid.RoutePath, echo.WrapHandler(m.Handler()))
		return e
	},
	"gin": func(m *grid.Manager) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		r.Use(gin.LoggerWithWriter(io.Discard), gin.RecoveryWithWriter(io.Discard), gingzip.Gzip(gingzip.DefaultCompression))
		r.Any(grid.RoutePath, gin.WrapF(m.Handler()))
		return r
	},
	"gorilla": func(m *grid.Manager) http.Handler {
		r := mux.NewRouter()
		m.AddToMux(r)
		return handlers.ProxyHeaders(handlers.RecoveryHandler()(handlers.CompressHandler(handlers.CombinedLoggingHandler(io.Discard, r))))
	},
	"otelhttp": func(m *grid.Manager) http.Handler {
		routes := http.NewServeMux()
		routes.Handle(grid.RoutePath, m.Handler())
		return otelhttp.NewHandler(routes, "server")
	},
	"a wrapper as http.ResponseController wants it": func(m *grid.Manager) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m.Handler()(unwrapping{chimiddleware.NewWrapResponseWriter(unwrapping{w}, r.ProtoMajor)}, r)
		})
	},
	"otelhttp around chi, and chi around gorilla": func(m *grid.Manager) http.Handler {
		inner := mux.NewRouter()
		m.AddToMux(inner)
		r := chi.NewRouter()
		r.Use(chimiddleware.Recoverer, chimiddleware.Compress(5))
		r.Mount("/", handlers.CompressHandler(inner))
		return otelhttp.NewHandler(r, "server")
	},
}

// unwrapping has no Hijack, but Unwrap, as middleware does since Go 1.20.
type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// node is a node with its server.
type node struct {
	*grid.Manager
	log       *buffer // of the node
	serverLog *buffer // of net/http
}

// buffer is a log that a test reads.
type buffer struct {
	mu sync.Mutex // Protects following.
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// startPair starts two nodes behind a server each.
func startPair(t *testing.T, serve func(*grid.Manager) http.Handler) (nodes [2]*node) {
	t.Helper()
	var listeners [2]net.Listener
	var hosts []string
	for i := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i], hosts = l, append(hosts, "http://"+l.Addr().String())
	}
	ready := make(chan struct{})
	for i := range nodes {
		n := &node{log: new(buffer), serverLog: new(buffer)}
		nodes[i] = n
		var err error
		n.Manager, err = grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:        hosts[i],
			Hosts:        hosts,
			AuthRequest:  func(*http.Request) error { return nil },
			BlockConnect: ready,
			Logger:       slog.New(slog.NewTextHandler(n.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		register(t, n.Manager)
		server := &http.Server{
			Handler:           serve(n.Manager),
			ErrorLog:          log.New(n.serverLog, "", 0),
			ReadHeaderTimeout: serverTimeout,
			ReadTimeout:       serverTimeout,
			WriteTimeout:      serverTimeout,
			IdleTimeout:       serverTimeout,
		}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(listeners[i]) }()
		t.Cleanup(func() { n.Close(); server.Close(); <-done })
	}
	close(ready)
	return nodes
}

func register(t *testing.T, m *grid.Manager) {
	t.Helper()
	err := m.RegisterSingleHandler(handlerEcho, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil })
	if err != nil {
		t.Fatal(err)
	}
	err = m.RegisterStreamingHandler(handlerCount, grid.StreamHandler{
		OutCapacity: 4,
		Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for range countMessages {
				select {
				case out <- make([]byte, 10<<10):
				case <-ctx.Done():
					return grid.NewRemoteErr(ctx.Err())
				}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNodesConnectBehindRoutersAndMiddleware(t *testing.T) {
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := startPair(t, serve)
			for i, n := range nodes {
				conn := n.Connection(n.Targets()[0])
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := conn.WaitForConnect(ctx); err != nil {
					t.Fatalf("%v: %s\n%s", err, conn.Stats().LastError, nodes[1-i].log)
				}
				testkit.Eventually(t, "the timeouts to pass", func() bool {
					s := conn.Stats()
					return s.State == grid.StateConnected && time.Since(s.Since) > serverTimeout
				}, func() string { return nodes[0].log.String() + nodes[1].log.String() })
				for size := 0; size < 1<<20; size = 2*size + 1000 {
					b, err := conn.Request(ctx, handlerEcho, make([]byte, size))
					if err != nil || len(b) != size {
						t.Fatalf("%d bytes of %d, %v", len(b), size, err)
					}
				}
				stream, err := conn.NewStream(ctx, handlerCount, nil)
				if err != nil {
					t.Fatal(err)
				}
				count := 0
				if err := stream.Results(func([]byte) error { count++; return nil }); err != nil || count != countMessages {
					t.Errorf("%d messages of %d, %v", count, countMessages, err)
				}
			}
			for _, n := range nodes {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := n.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			}
			for _, n := range nodes {
				if text := n.serverLog.String(); text != "" {
					t.Errorf("the server complains: %s", text)
				}
				if s := n.log.String(); strings.Contains(s, "level=WARN") || strings.Contains(s, "level=ERROR") {
					t.Errorf("the node complains: %s", s)
				}
			}
		})
	}
}

// What gives no connection away is named in the log of the node behind it, and its peer is told
// where to look.
func TestMiddlewareThatHidesTheConnectionIsNamed(t *testing.T) {
	for name, test := range map[string]struct {
		wrap func(http.Handler) http.Handler
		want string
	}{
		"http.TimeoutHandler": {func(h http.Handler) http.Handler { return http.TimeoutHandler(h, time.Minute, "") }, "*http.timeoutWriter"},
		"a wrapper of a router": {func(h http.Handler) http.Handler {
			r := chi.NewRouter()
			r.Use(chimiddleware.Compress(5), func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(plainWriter{w}, r) })
			})
			r.Mount("/", h)
			return r
		}, "web.plainWriter"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := startPair(t, func(m *grid.Manager) http.Handler { return test.wrap(m.Handler()) })
			for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				both := nodes[0].log.String() + nodes[1].log.String()
				if strings.Contains(both, "grid: upgrade failed") && strings.Contains(both, "a middleware hides the connection: its "+test.want+" has neither Hijack nor Unwrap") &&
					strings.Contains(both, "answered with status 500 Internal Server Error: the server there failed; its log says why") {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("the logs do not say it:\n%s", both)
				}
			}
		})
	}
}

type plainWriter struct{ http.ResponseWriter }

// Requests that are refused are answered through the same middleware, and lose their connections.
func TestRefusalsPassThroughMiddleware(t *testing.T) {
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startPair(t, serve)[0]
			for want, request := range map[int]string{
				http.StatusUpgradeRequired: "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n",
				http.StatusForbidden:       "GET %s HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n",
				http.StatusBadRequest: "GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
					"Sec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==\r\nContent-Length: 5\r\n\r\nhello",
			} {
				conn, err := net.Dial("tcp", strings.TrimPrefix(n.HostName(), "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(conn, request, grid.RoutePath)
				answer, err := io.ReadAll(conn) // to the end of the connection
				if err != nil || !strings.HasPrefix(string(answer), fmt.Sprintf("HTTP/1.1 %d ", want)) {
					t.Errorf("the answer is %q, %v, want %d", answer, err, want)
				}
			}
			if text := n.serverLog.String(); text != "" {
				t.Errorf("the server complains: %s", text)
			}
		})
	}
}

// A server of HTTP/2 and HTTP/1.1 has nodes too: they ask for HTTP/1.1. A client of HTTP/2 is told
// so.
func TestHTTP2IsExplained(t *testing.T) {
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
				Local:       "http://127.0.0.1:1",
				Hosts:       []string{"http://127.0.0.1:1"},
				AuthRequest: func(*http.Request) error { return nil },
				Logger:      slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			protocols := new(http.Protocols)
			protocols.SetUnencryptedHTTP2(true)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: serve(m), Protocols: protocols}
			go server.Serve(l)
			defer server.Close()
			transport := &http.Transport{Protocols: protocols}
			defer transport.CloseIdleConnections()
			resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://" + l.Addr().String() + grid.RoutePath)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusUpgradeRequired || err != nil || !strings.Contains(string(text), "HTTP/2.0") {
				t.Errorf("answered with %s: %q, %v", resp.Status, text, err)
			}
		})
	}
}
