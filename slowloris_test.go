package grid

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/testkit"
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
		return "GET " + RoutePath + " HTTP/1.1\r\nHost: " + strings.TrimPrefix(host, "http://") +
			"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: 0+ecviLeZXYKxnr+zpLYQQ==\r\n\r\n"
	}
	for _, test := range []struct {
		name string
		// send returns what a client sends at once, and what it sends then, a byte a second.
		send  func(n *testNode, host string) (first, then []byte)
		after time.Duration // the client is dropped
	}{
		{"a connection and nothing", func(*testNode, string) (first, then []byte) { return nil, nil }, headerTimeout},
		{"half an upgrade", func(n *testNode, _ string) (first, then []byte) {
			return []byte(upgrade(n.host)[:50]), nil
		}, headerTimeout},
		{"an upgrade byte by byte", func(n *testNode, _ string) (first, then []byte) {
			return nil, []byte(upgrade(n.host))
		}, headerTimeout},
		{"an upgrade and no handshake", func(n *testNode, _ string) (first, then []byte) {
			return []byte(upgrade(n.host)), nil
		}, defaultHandshakeTimeout},
		{"half a handshake", func(n *testNode, host string) (first, then []byte) {
			return append([]byte(upgrade(n.host)), frameOf(message{Op: OpConnect, Payload: make([]byte, 60<<10)})[:1000]...), nil
		}, defaultHandshakeTimeout},
		{"a handshake byte by byte", func(n *testNode, host string) (first, then []byte) {
			return []byte(upgrade(n.host)), frameOf(message{Op: OpConnect, Payload: make([]byte, 60<<10)})
		}, defaultHandshakeTimeout},
		{"pings in place of a handshake", func(n *testNode, host string) (first, then []byte) {
			return []byte(upgrade(n.host)), []byte(strings.Repeat("\x89\x80\x00\x00\x00\x00", 100))
		}, defaultHandshakeTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				n.server.ReadHeaderTimeout = headerTimeout
				first, then := test.send(n, host)
				before := memory()
				dropped := make(chan time.Duration, clients)
				var senders sync.WaitGroup
				defer senders.Wait()
				for range clients {
					socket, err := c.dialPipe(t.Context(), strings.TrimPrefix(n.host, "http://"))
					if err != nil {
						t.Fatal(err)
					}
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
				if each := (memory() - before) / clients; each > most {
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
		{"nothing", func(conn net.Conn) { io.Copy(io.Discard, conn) }, defaultDialTimeout, "deadline exceeded"},
		{"half an answer", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
		}, defaultDialTimeout, "deadline exceeded"},
		{"an answer byte by byte", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			for _, b := range []byte(answer) {
				conn.Write([]byte{b})
				time.Sleep(100 * time.Millisecond)
			}
		}, defaultDialTimeout, "deadline exceeded"},
		{"an endless line", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
			for sent := 0; ; sent += 1 << 10 {
				if _, err := conn.Write(make([]byte, 1<<10)); err != nil {
					return
				}
				if sent > 2*defaultMaxHandshakeSize {
					panic("it is still read")
				}
			}
		}, 0, errLongAnswer.Error()},
		{"endless lines", func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write([]byte(answer))
			for sent := 0; ; sent += 6 {
				if _, err := conn.Write([]byte("X: y\r\n")); err != nil {
					return
				}
				if sent > 2*defaultMaxHandshakeSize {
					panic("it is still read")
				}
			}
		}, 0, errLongAnswer.Error()},
		{"no handshake", func(conn net.Conn) { ws.Upgrade(conn) }, defaultHandshakeTimeout, "timeout"},
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
		}, defaultHandshakeTimeout, "timeout"},
		{"a handshake that is too large", func(conn net.Conn) {
			ws.Upgrade(conn)
			go io.Copy(io.Discard, conn)
			conn.Write([]byte{0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 1})
		}, 0, "too large"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := testkit.NewPipeListener()
				c := &cluster{listeners: map[string]*testkit.PipeListener{"node1:9000": l}}
				n := &testNode{host: nameThat(func(name string) bool { return shouldDial(name, "http://node1:9000") }), listener: testkit.NewPipeListener()}
				c.startNode(t, n, func(o *ManagerOptions) { o.Hosts = []string{n.host, "http://node1:9000"} })
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
				for n.log.count("cannot connect") == 0 && time.Since(start) < time.Minute {
					time.Sleep(10 * time.Millisecond)
				}
				if took := time.Since(start); took < test.after || took > test.after+100*time.Millisecond || n.log.count(test.log) == 0 {
					t.Errorf("given up after %v: %s", took, n.log)
				}
			})
		})
	}
}

// A claim of bytes that do not come takes no memory.
func TestHalfAFrameTakesNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn, p := startSlow(t)
		go readToEnd(p)
		before := memory()
		b := frameOf(message{MuxID: 4, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: make([]byte, 16<<20)})[:1000]
		if !p.trickle(b, len(b), 0) {
			t.Fatal("hung up")
		}
		b = nil
		synctest.Wait()
		if took := memory() - before; took > 256<<10 {
			t.Errorf("%d bytes for half a frame of 1000", took)
		}
		if conn.State() != StateConnected {
			t.Error("lost")
		}
	})
}
