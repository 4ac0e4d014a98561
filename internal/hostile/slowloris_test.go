package hostile

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

// What a client that is slow on purpose costs: a connection, for a bounded
// time, and next to no memory. What comes before the upgrade is the server's to bound.
func TestSlowClientsCostLittle(t *testing.T) {
	const (
		clients       = 200
		headerTimeout = 5 * time.Second
		most          = 96 << 10 // bytes for each client, the goroutine and the buffers of net/http included
	)
	upgrade := func(host string) string {
		return "GET " + grid.RoutePath + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(host, "http://") +
			"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==\r\n\r\n"
	}
	for _, test := range []struct {
		name string
		// send returns what a client sends at once, and what it sends then, a byte a second.
		send  func(n *node) (first, then []byte)
		after time.Duration // the client is dropped
	}{
		{"a connection and nothing", func(*node) (first, then []byte) { return nil, nil }, headerTimeout},
		{"half an upgrade", func(n *node) (first, then []byte) {
			return []byte(upgrade(n.HostName())[:50]), nil
		}, headerTimeout},
		{"an upgrade byte by byte", func(n *node) (first, then []byte) {
			return nil, []byte(upgrade(n.HostName()))
		}, headerTimeout},
		{"an upgrade and no handshake", func(n *node) (first, then []byte) {
			return []byte(upgrade(n.HostName())), nil
		}, handshakeTimeout},
		{"half a handshake", func(n *node) (first, then []byte) {
			return append([]byte(upgrade(n.HostName())), frameOf(testkit.Message{Op: testkit.OpConnect, Payload: make([]byte, 60<<10)})[:1000]...), nil
		}, handshakeTimeout},
		{"a handshake byte by byte", func(n *node) (first, then []byte) {
			return []byte(upgrade(n.HostName())), frameOf(testkit.Message{Op: testkit.OpConnect, Payload: make([]byte, 60<<10)})
		}, handshakeTimeout},
		{"pings in place of a handshake", func(n *node) (first, then []byte) {
			return []byte(upgrade(n.HostName())), []byte(strings.Repeat("\x89\x80\x00\x00\x00\x00", 100))
		}, handshakeTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startOnPipe(t, nil)
				n.server.ReadHeaderTimeout = headerTimeout
				first, then := test.send(n)
				before := testkit.Memory()
				dropped := make(chan time.Duration, clients)
				var senders sync.WaitGroup
				defer senders.Wait()
				for range clients {
					socket := n.dial(t)
					start := time.Now()
					senders.Go(func() {
						socket.Write(first)
						for i := range then {
							if _, err := socket.Write(then[i : i+1]); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
					})
					go func() {
						defer socket.Close()
						var b [100]byte
						for {
							if _, err := socket.Read(b[:]); err != nil {
								dropped <- time.Since(start)
								return
							}
						}
					}()
				}
				time.Sleep(test.after - time.Second)
				synctest.Wait()
				if each := (testkit.Memory() - before) / clients; each > most {
					t.Errorf("%d bytes a client", each)
				} else {
					t.Logf("%d bytes a client", each)
				}
				for range clients {
					if took := <-dropped; took < test.after-time.Second || took > test.after+time.Second {
						t.Fatalf("dropped after %v", took)
					}
				}
			})
		})
	}
}

// A node that dials is as patient as one that accepts, and no more.
func TestSlowServersAreGivenUp(t *testing.T) {
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	for _, test := range []struct {
		name  string
		serve func(conn net.Conn)
		after time.Duration
		log   string
	}{
		{"nothing", func(conn net.Conn) { io.Copy(io.Discard, conn) }, dialTimeout, "deadline exceeded"},
		{"half an answer", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
		}, dialTimeout, "deadline exceeded"},
		{"an answer byte by byte", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			for _, b := range []byte(answer) {
				conn.Write([]byte{b})
				time.Sleep(100 * time.Millisecond)
			}
		}, dialTimeout, "deadline exceeded"},
		{"an endless line", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
			for sent := 0; ; sent += 1 << 10 {
				if _, err := conn.Write(make([]byte, 1<<10)); err != nil {
					return
				}
				if sent > 2*handshakeSize {
					panic("it is still read")
				}
			}
		}, 0, "answer to the upgrade is too long"},
		{"endless lines", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
			for sent := 0; ; sent += 6 {
				if _, err := conn.Write([]byte("X: y\r\n")); err != nil {
					return
				}
				if sent > 2*handshakeSize {
					panic("it is still read")
				}
			}
		}, 0, "answer to the upgrade is too long"},
		{"no handshake", func(conn net.Conn) { ws.Upgrade(conn) }, handshakeTimeout, "timeout"},
		{"a handshake byte by byte", func(conn net.Conn) {
			ws.Upgrade(conn)
			go io.Copy(io.Discard, conn)
			conn.Write([]byte{0x82, 0x7e, 0xff, 0})
			for {
				if _, err := conn.Write([]byte{0}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, handshakeTimeout, "timeout"},
		{"a handshake that is too large", func(conn net.Conn) {
			ws.Upgrade(conn)
			go io.Copy(io.Discard, conn)
			conn.Write([]byte{0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 1})
		}, 0, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := testkit.NewPipeListener()
				log := testkit.NewLogLines()
				o := testnode.Dialing("http://node1:9000")
				o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) { return l.Dial(ctx) }
				o.Logger = slog.New(slog.NewTextHandler(log, nil))
				testnode.Start(t, o)
				defer l.Close()
				conn, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				var serving sync.WaitGroup
				defer serving.Wait()
				serving.Go(func() { test.serve(conn) })
				defer conn.Close()
				log.Wait(t, "cannot connect")
				if took := time.Since(start); took < test.after || took > test.after+100*time.Millisecond || !strings.Contains(log.String(), test.log) {
					t.Errorf("given up after %v: %s", took, log)
				}
			})
		})
	}
}

// A claim of bytes that do not come takes no memory.
func TestHalfAFrameTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startOnPipe(t, nil)
		handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return payload[:1], nil })
		p := n.join(t)
		go io.Copy(io.Discard, p.In)
		before := testkit.Memory()
		b := frameOf(testkit.Message{MuxID: 4, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: make([]byte, 16<<20)})[:1000]
		if _, err := p.Conn.Write(b); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if took := testkit.Memory() - before; took > 256<<10 {
			t.Errorf("%d bytes for half a frame of 1000", took)
		}
		if n.conn().State() != grid.StateConnected {
			t.Error("lost")
		}
	})
}
