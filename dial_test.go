package grid

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// A peer that takes a connection and says nothing is given up, and dialed again.
func TestASilentAcceptorIsGivenUp(t *testing.T) {
	for _, test := range []struct {
		name, scheme string
		speak        func(t *testing.T, c net.Conn) // nil for nothing
		want         string
	}{
		{"one that says nothing", "http", nil, "no answer in time"},
		{"one that says nothing to TLS", "https", nil, "no answer in time: TLS handshake: context deadline exceeded"},
		{"one that does not end its answer", "http", func(t *testing.T, c net.Conn) {
			c.Write([]byte("HTTP/1.1 101 "))
		}, "no answer in time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(2)
				remote := c.nodes[1]
				remote.host = strings.Replace(remote.host, "http:", test.scheme+":", 1)
				dials := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					for {
						conn, err := remote.listener.Accept()
						if err != nil {
							return
						}
						defer conn.Close()
						dials++
						go func() {
							http.ReadRequest(bufio.NewReader(conn))
							if test.speak != nil {
								test.speak(t, conn)
							}
						}()
					}
				}()
				n := &testNode{host: nameThat(func(name string) bool { return shouldDial(name, remote.host) })}
				n.log = new(logBuffer)
				newTestNode(t, ManagerOptions{
					Local:       n.host,
					Hosts:       []string{n.host, remote.host},
					AuthRequest: func(*http.Request) error { return nil },
					Dialer:      c.dial,
					Logger:      slog.New(slog.NewTextHandler(n.log, nil)),
				})
				time.Sleep(2*time.Second + time.Millisecond)
				synctest.Wait()
				if n.log.count(test.want) != 1 || n.log.count(remote.host) == 0 {
					t.Errorf("logged %q", n.log)
				}
				time.Sleep(time.Minute)
				remote.listener.Close()
				<-done
				if dials < 10 {
					t.Errorf("%d dials in a minute", dials)
				}
			})
		})
	}
}

// A peer that is there again is reached soon: no attempt begins later than 2 s after the one
// before, where that hung for as long too. But nobody is dialed without a pause.
func TestAttemptsToDialKeepTheirDistance(t *testing.T) {
	refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	unanswered := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, test := range []struct {
		name        string
		dial        ContextDialer
		least, most time.Duration
	}{
		{"refused", refused, maxBackoff / 2, maxBackoff},
		{"not answered", unanswered, defaultDialTimeout, defaultDialTimeout + firstBackoff},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var began []time.Time
				remote := "http://10.0.0.1:9000"
				o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
				o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
					began = append(began, time.Now())
					return test.dial(ctx, network, address)
				}
				o.Logger = slog.New(slog.DiscardHandler)
				m, err := NewManager(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute)
				m.Close()
				const first = 6 // from here on they are as far apart as they get
				if len(began) < 100 {
					t.Fatalf("%d attempts", len(began))
				}
				for i := first; i < len(began); i++ {
					if apart := began[i].Sub(began[i-1]); apart < test.least || apart > test.most {
						t.Errorf("attempt %d begins %v after the one before, want %v to %v", i, apart, test.least, test.most)
					}
				}
			})
		})
	}
}

// Pauses are spread over all that they may be, between the connections of a moment and over time. At
// the same virtual time they are the same.
func TestPausesAreSpreadAndRepeat(t *testing.T) {
	const limit, parts, draws = time.Second, 10, 10_000
	run := func(next func(i int) *Connection) (pauses []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var counts [parts]int
			for i := range draws {
				d := next(i).jitter(limit)
				if d < 0 || d >= limit {
					t.Fatalf("a pause of %v", d)
				}
				counts[d*parts/limit]++
				pauses = append(pauses, d)
			}
			for part, n := range counts {
				if n < draws/parts/2 || n > draws/parts*2 {
					t.Errorf("%d of %d pauses are in part %d of %d", n, draws, part, parts)
				}
			}
		})
		return pauses
	}
	for _, next := range []func(int) *Connection{
		func(i int) *Connection { return &Connection{Local: fmt.Sprint("a", i), Remote: "b"} },
		func(i int) *Connection { return &Connection{Local: "a", Remote: fmt.Sprint("b", i)} },
		func(int) *Connection {
			time.Sleep(time.Second)
			return &Connection{Local: "a", Remote: "b"}
		},
	} {
		if !slices.Equal(run(next), run(next)) {
			t.Error("the pauses were others")
		}
	}
}

// What a peer answers to the upgrade is not kept without end.
func TestAnEndlessAnswerToTheUpgradeIsCut(t *testing.T) {
	l, remote := listen(t)
	log := testkit.NewLogLines()
	o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	newTestNode(t, o)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				junk := bytes.Repeat([]byte("x"), 1<<10)
				_, err := c.Write([]byte("HTTP/1.1 101 "))
				for err == nil {
					_, err = c.Write(junk)
				}
			}()
		}
	}()
	log.Wait(t, "cannot connect", remote, "answer to the upgrade is too long")
}

// From TLS 1.3 on a node may write before the peer has refused its certificate:
// its write fails, and why is in what the peer has sent.
func TestARefusedCertificateIsNamedWhereThePeerIsGoneAlready(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("where a connection is reset, other systems may drop what came in before")
	}
	ours, other := newTestCA(t), newTestCA(t)
	p := newTLSPair(t, ours, "https", tls.VersionTLS13)
	p.set(func(*tlsPair) {})
	gone := make(chan struct{})
	go func() {
		c, err := p.listener.Listener.Accept()
		if err != nil {
			return
		}
		tls.Server(c, p.server).Handshake()
		c.(*net.TCPConn).SetLinger(0) // resets the connection
		c.Close()
		p.listener.Listener.Close()
		close(gone)
	}()
	o := playerOptions(p.local, p.remote)
	o.Logger = slog.New(slog.NewTextHandler(p.dialerLog, nil))
	o.TLSConfig = withClientCertificate(ours, other.local)
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return &lateWriter{Conn: c, first: 3, wait: gone}, err // after the two flights of the handshake, before the request
	}
	newTestNode(t, o)
	p.dialerLog.Wait(t, "cannot connect", "does not accept this node's certificate: remote error: tls: unknown certificate authority")
}

// lateWriter is a connection whose writes wait from the first on that is to.
type lateWriter struct {
	net.Conn
	first int
	wait  chan struct{}
}

func (w *lateWriter) Write(b []byte) (int, error) {
	if w.first--; w.first <= 0 {
		<-w.wait
	}
	return w.Conn.Write(b)
}

func TestAStatusIsExplained(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusForbidden:           "status 403 Forbidden: its AuthRequest refused this node",
		http.StatusNotFound:            "status 404 Not Found: no node has its route there at /minio/grid/v1",
		http.StatusBadGateway:          "status 502 Bad Gateway",
		http.StatusUpgradeRequired:     "status 426 Upgrade Required: the upgrade did not get there as it was sent",
		http.StatusInternalServerError: "status 500 Internal Server Error: the server there failed; its log says why",
	} {
		l, remote := listen(t)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
		go server.Serve(l)
		defer server.Close()
		log := testkit.NewLogLines()
		o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		newTestNode(t, o)
		log.Wait(t, "cannot connect", "dial "+remote+": answered with "+want)
	}
}

// What a Dialer says of another Manager, through which it reaches its peers, does not end this
// one's attempts.
func TestADialersErrShutdownIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, host := startForFake(t, newPipes(1), nil)
		c := n.Connection(host)
		dials := 0
		c.keepDialing(func(context.Context) (*session, error) {
			if dials++; dials == 3 {
				c.leave()
			}
			return nil, fmt.Errorf("tunnel: %w", ErrShutdown)
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if dials != 3 {
			t.Errorf("dialed %d times, want until the host was removed, 3", dials)
		}
	})
}

// A connection that is shut down is not dialed again while others are still being shut down: neither
// one that was never dialed, nor one that is waiting for its next attempt, nor one whose attempt fails
// then.
func TestNothingIsDialedAfterShutdown(t *testing.T) {
	for _, end := range []struct {
		name string
		end  func(*Connection)
	}{
		{"shutdown", func(c *Connection) { c.shutdown(context.Background(), 0) }},
		{"removal", (*Connection).leave},
	} {
		t.Run(end.name+" before the first attempt", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, host := startForFake(t, newPipes(1), nil)
				c := n.Connection(host)
				end.end(c)
				c.keepDialing(func(context.Context) (*session, error) {
					t.Error("dialed")
					return nil, ErrShutdown
				})
				time.Sleep(time.Minute)
			})
		})
		t.Run(end.name+" between attempts", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, host := startForFake(t, newPipes(1), nil)
				c := n.Connection(host)
				var ended atomic.Bool
				c.keepDialing(func(context.Context) (*session, error) {
					if ended.Load() {
						t.Error("dialed after the end")
					}
					return nil, io.EOF
				})
				time.Sleep(time.Minute)
				if absent := n.node.absent.Load(); absent != 1 {
					t.Errorf("%d absent hosts are counted", absent)
				}
				ended.Store(true)
				end.end(c)
				synctest.Wait()
				checkNotDialing(t, c)
				time.Sleep(time.Minute)
			})
		})
		t.Run(end.name+" amid an attempt", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, host := startForFake(t, newPipes(1), nil)
				c := n.Connection(host)
				dials, goOn := 0, make(chan struct{})
				c.keepDialing(func(context.Context) (*session, error) {
					if dials++; dials == 3 {
						<-goOn
					}
					return nil, io.EOF
				})
				time.Sleep(time.Minute)
				end.end(c)
				close(goOn)
				synctest.Wait()
				checkNotDialing(t, c)
				time.Sleep(time.Minute)
				synctest.Wait()
				if dials != 3 {
					t.Errorf("dialed %d times, want 3", dials)
				}
			})
		})
	}
}

// checkNotDialing checks that nothing is left that would dial.
func checkNotDialing(t *testing.T, c *Connection) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if timer := c.dialing.timer; timer != nil && timer.Stop() {
		t.Error("another attempt was to come")
	}
	if absent := c.node.absent.Load(); absent != 0 {
		t.Errorf("%d absent hosts are still counted", absent)
	}
}

// The end of a Manager waits for an attempt that runs, and none begins afterwards.
func TestTheEndWaitsForAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, host := startForFake(t, newPipes(1), nil)
		dials, over := 0, false
		n.Connection(host).keepDialing(func(ctx context.Context) (*session, error) {
			if over {
				t.Error("dialed after the end")
			}
			if dials++; dials == 3 {
				<-ctx.Done()
				time.Sleep(time.Second)
				over = true
			}
			return nil, io.EOF
		})
		time.Sleep(time.Minute)
		n.Close()
		if !over {
			t.Error("the attempt still runs")
		}
		time.Sleep(time.Minute)
	})
}

// A host that is absent costs no goroutine between two attempts, and is dialed again and again.
func TestAnAbsentHostNeedsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, host := startForFake(t, newPipes(1), nil)
		var dials atomic.Int32
		goroutines := len(ownGoroutines())
		n.Connection(host).keepDialing(func(context.Context) (*session, error) {
			dials.Add(1)
			return nil, io.EOF
		})
		for range 10 {
			synctest.Wait()
			before := dials.Load()
			if more := len(ownGoroutines()) - goroutines; more != 0 {
				t.Fatalf("%d goroutines between attempts", more)
			}
			time.Sleep(2 * maxBackoff)
			if dials.Load() == before {
				t.Fatalf("not dialed again after %d attempts", before)
			}
		}
	})
}
