package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/race"
)

// startPolling starts two connected nodes that poll. If limit is not 0, it is the time of a poll.
func startPolling(t *testing.T, secure bool, limit time.Duration, edit func(o *ManagerOptions)) *cluster {
	t.Helper()
	c, config := listenPair(t, secure)
	ready := make(chan struct{})
	c.start(t, func(_ int, o *ManagerOptions) {
		o.TLSConfig, o.BlockConnect, o.BusyPoll = config, ready, maxBusyPoll
		if edit != nil {
			edit(o)
		}
	})
	if limit > 0 {
		c.conn(0, 1).busyPoll, c.conn(1, 0).busyPoll = limit, limit
	}
	close(ready)
	c.waitConnected(t)
	c.handle(t, echo)
	return c
}

// polls returns how many polls of both nodes have found something, and how many nothing.
func (c *cluster) polls() (found, missed int64) {
	for i := range c.nodes {
		p := c.conn(i, 1-i).current.Load().poll
		found += p.found.Load()
		missed += p.missed.Load()
	}
	return found, missed
}

func (c *cluster) call(t *testing.T) {
	t.Helper()
	if _, err := c.conn(0, 1).Request(t.Context(), testSingle, []byte("hello")); err != nil {
		t.Fatal(err)
	}
}

func bothWays(t *testing.T, f func(t *testing.T, secure bool)) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %v", secure), func(t *testing.T) { f(t, secure) })
	}
}

func TestReadersPollWhileCallsFollowEachOther(t *testing.T) {
	bothWays(t, func(t *testing.T, secure bool) {
		c := startPolling(t, secure, 0, nil)
		within(t, "a hundred polls that find something", func() {
			for n := int64(0); n < 100; n, _ = c.polls() {
				c.call(t)
			}
		})
	})
}

func TestReadersDoNotPollUnlessTold(t *testing.T) {
	c := startPolling(t, false, 0, func(o *ManagerOptions) { o.BusyPoll = 0 })
	for i := range c.nodes {
		if c.conn(i, 1-i).current.Load().poll != nil {
			t.Error("there is a poller")
		}
	}
}

// Pings go on without polls.
func TestAnIdleConnectionIsNotPolled(t *testing.T) {
	bothWays(t, func(t *testing.T, secure bool) {
		c := startPolling(t, secure, 0, func(o *ManagerOptions) {
			o.Limits = Limits{PingInterval: 100 * time.Millisecond, PeerTimeout: time.Hour}
		})
		for range 10 {
			c.call(t)
		}
		pongs := func(n int) { // waits until each node has received as many
			for i := range c.nodes {
				conn := c.conn(i, 1-i)
				for range n {
					last := conn.lastPongTime()
					eventually(t, "a pong", func() bool { return conn.lastPongTime() != last })
				}
			}
		}
		pongs(1) // whoever has polled after the last call has come to the pong
		found, missed := c.polls()
		pongs(3)
		if f, m := c.polls(); f != found || m != missed {
			t.Errorf("%d polls found something and %d nothing, on an idle connection", f-found, m-missed)
		}
	})
}

// One of the two readers polls, for as long as it is let.
func TestASessionEndsWhileItsReaderPolls(t *testing.T) {
	bothWays(t, func(t *testing.T, secure bool) {
		for _, how := range []string{"Close", "Shutdown", "cut"} {
			for i := range 2 {
				c := startPolling(t, secure, time.Hour, nil)
				eventually(t, "a poll", func() bool { // a reader that is late may let an occasion pass
					c.call(t)
					return polling.Load()
				})
				within(t, how, func() {
					switch how {
					case "Close":
						c.nodes[i].Close()
					case "Shutdown":
						if err := c.nodes[i].Shutdown(context.Background()); err != nil {
							t.Error(err)
						}
					case "cut":
						s := c.conn(i, 1-i).current.Load()
						s.end(errLocalClose)
						<-s.finished
					}
				})
				c.nodes[0].Close()
				c.nodes[1].Close()
				if polling.Load() {
					t.Error("a reader still polls")
				}
			}
		}
	})
}

func TestASilentPeerIsDroppedWhileTheReaderPolls(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, func(o *ManagerOptions) {
		o.BusyPoll = maxBusyPoll
		o.Limits = Limits{PingInterval: 100 * time.Millisecond, PeerTimeout: 300 * time.Millisecond}
	})
	conn := n.Connection(host)
	conn.busyPoll = time.Hour
	p := c.knock(t, n)
	p.introduce(t, host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.send(t, message{MuxID: 1, Op: OpRequest, Flags: FlagEOF | FlagCRCxxh3, Handler: testSingle})
	eventually(t, "a poll, or the end", func() bool { return polling.Load() || conn.State() != StateConnected })
	eventually(t, "the end of the connection", func() bool { return conn.State() != StateConnected && !polling.Load() })
	eventually(t, "the reason in the log", func() bool { return n.log.count("peer is silent") == 1 }, n.log.String)
}

// tlsOverTCP is a TLS connection after its handshake.
func tlsOverTCP(t *testing.T) (writer, reader *tls.Conn) {
	t.Helper()
	ca := newTestCA(t)
	w, r := tcpPair(t)
	writer = tls.Server(w, &tls.Config{Certificates: []tls.Certificate{*ca.local}})
	reader = tls.Client(r, &tls.Config{RootCAs: ca.pool, ServerName: "127.0.0.1"})
	shaken := make(chan error, 1)
	go func() { shaken <- writer.Handshake() }()
	if err := errors.Join(reader.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return writer, reader
}

// What TLS has read ahead is not seen at the socket, and comes without waiting for the end of the
// poll.
func TestAPollerReadsWhatTLSHolds(t *testing.T) {
	writer, reader := tlsOverTCP(t)
	open := newActivity()
	p := newPoller(reader, time.Hour, &open)
	read := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		n, err := p.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Errorf("got %q, %v; want %q", b[:n], err, want)
		}
		p.expects = true
	}
	for range 3 { // whatever came with the handshake is gone after the first
		for _, record := range []string{"one", "two"} {
			if _, err := writer.Write([]byte(record)); err != nil {
				t.Fatal(err)
			}
		}
		within(t, "both records", func() {
			read("one")
			read("two")
		})
	}
	if _, err := p.readHeld(make([]byte, 100)); err != nil {
		t.Errorf("nothing is held: %v", err)
	}
	writer.Write([]byte("three"))
	within(t, "a record after a look for held ones", func() { read("three") })
	reader.Close()
	within(t, "a read of a closed connection", func() {
		if _, err := p.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadNow(t *testing.T) {
	writer, reader := tcpPair(t)
	read, readable := readNow(reader), readable(reader)
	b := make([]byte, 100)
	if n, err := read(b); n != 0 || err != nil || readable() {
		t.Errorf("with nothing there: %d bytes, %v, readable %v", n, err, readable())
	}
	writer.Write([]byte("hello"))
	eventually(t, "bytes", readable)
	if n, err := read(b); string(b[:n]) != "hello" || err != nil || readable() {
		t.Errorf("got %q, %v, readable %v", b[:n], err, readable())
	}
	reader.SetReadDeadline(longAgo)
	if n, err := read(b); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past a deadline: %d bytes, %v", n, err)
	}
	reader.SetReadDeadline(time.Time{})
	writer.CloseWrite()
	var n int
	var err error
	eventually(t, "the end", func() bool { n, err = read(b); return n != 0 || err != nil })
	if n != 0 || err != io.EOF {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	reader.Close()
	if n, err := read(b); n != 0 || !errors.Is(err, net.ErrClosed) || !readable() {
		t.Errorf("closed: %d bytes, %v, readable %v", n, err, readable())
	}

	writer, reader = tcpPair(t)
	read = readNow(reader)
	writer.SetLinger(0)
	writer.Close() // with a reset
	eventually(t, "a reset", func() bool { n, err = read(b); return n != 0 || err != nil })
	if n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset: %d bytes, %v", n, err)
	}

	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if readNow(here) != nil || newPoller(here, time.Second, nil) != nil || newPoller(tls.Client(here, nil), time.Second, nil) != nil {
		t.Error("a pipe can be polled")
	}
}

func TestPollsDoNotAllocate(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	writer, reader := tcpPair(t)
	open := newActivity()
	p := newPoller(reader, time.Hour, &open)
	b := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		writer.Write(b)
		p.expects = true
		p.Read(b)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if p.found.Load() == 0 {
		t.Error("it did not poll")
	}
}

// BenchmarkBusyPoll makes calls one by one, and at a rate of 20,000 a second whatever becomes of
// them. Both ends are here.
func BenchmarkBusyPoll(b *testing.B) {
	for _, limit := range []time.Duration{0, 200 * time.Microsecond} {
		conn := pollingConn(b, limit)
		call := func() {
			answer, err := conn.Request(context.Background(), benchEcho, make([]byte, benchPayload))
			if err != nil {
				b.Error(err)
			}
			PutByteBuffer(answer)
		}
		b.Run(fmt.Sprintf("%v/one by one", limit), func(b *testing.B) {
			defer reportCPU(b)()
			for range b.N {
				call()
			}
		})
		b.Run(fmt.Sprintf("%v/20000 a second", limit), func(b *testing.B) {
			defer reportCPU(b)()
			var wg sync.WaitGroup
			start := time.Now()
			for i := range b.N {
				time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / 20_000)))
				wg.Go(call)
			}
			wg.Wait()
		})
	}
}

// pollingConn is a connection between two nodes that echo and poll.
func pollingConn(b *testing.B, limit time.Duration) *Connection {
	var listeners []net.Listener
	var hosts []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners, hosts = append(listeners, l), append(hosts, "http://"+l.Addr().String())
	}
	var nodes []*Manager
	for i, l := range listeners {
		o := playerOptions(hosts[i], hosts[1-i])
		o.BusyPoll = limit
		m, err := NewManager(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		err = m.RegisterSingleHandler(benchEcho, func(p []byte) ([]byte, *RemoteErr) { return p, nil })
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: m.Handler()}
		go server.Serve(l)
		b.Cleanup(func() {
			m.Close()
			server.Close()
		})
		nodes = append(nodes, m)
	}
	conn := nodes[0].Connection(hosts[1])
	if err := errors.Join(conn.WaitForConnect(b.Context()), nodes[1].Connection(hosts[0]).WaitForConnect(b.Context())); err != nil {
		b.Fatal(err)
	}
	return conn
}

// reportCPU returns a function that reports the CPU time of the process since.
func reportCPU(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}
