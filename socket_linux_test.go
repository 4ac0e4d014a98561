package grid

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/batch"
)

// Retransmissions stay so frequent that a network which is back after a while is noticed in a tenth
// of PeerTimeout.
func TestRetransmissionsDoNotBecomeRare(t *testing.T) {
	for _, test := range []struct {
		limits Limits
		want   int // milliseconds
	}{
		{Limits{}, 2000},
		{Limits{PingInterval: 100 * time.Millisecond, PeerTimeout: time.Second}, 1000},
		{Limits{PeerTimeout: time.Minute}, 6000},
		{Limits{PeerTimeout: 2 * time.Hour}, 120_000},
	} {
		c := newTCPPair(t)
		c.start(t, func(_ int, o *ManagerOptions) {
			o.Limits = test.limits
			o.Dialer = nil
		})
		for i, n := range c.nodes {
			conn := n.Connection(c.nodes[1-i].host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			raw, err := conn.current.Load().socket.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var got int
			raw.Control(func(fd uintptr) { got, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMaxMS) })
			if n, e := notSentLowat(raw); e != nil || n != maxUnsent {
				t.Errorf("the kernel keeps %d bytes to be sent: %v", n, e)
			}
			switch {
			case err == syscall.ENOPROTOOPT:
				t.Skip("the kernel has no TCP_RTO_MAX_MS")
			case err != nil:
				t.Fatal(err)
			case got != test.want:
				t.Errorf("%v: retransmissions are up to %d ms apart, want %d", n.host, got, test.want)
			}
		}
	}
}

func notSentLowat(raw syscall.RawConn) (n int, err error) {
	raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat) })
	return n, err
}

// tcpPair is a TCP connection over loopback with little room on its way to the reader and much at
// the writer.
func tcpPair(t *testing.T) (writer, reader *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	little := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) })
	}}
	dialed, err := little.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	writer, reader = accepted.(*net.TCPConn), dialed.(*net.TCPConn)
	writer.SetWriteBuffer(1 << 20)
	return writer, reader
}

// emptyWrites counts the writes in a row for which the socket had no room at all.
type emptyWrites struct {
	net.Conn
	row, most atomic.Int32
}

func (c *emptyWrites) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if n > 0 {
		c.row.Store(0)
	} else {
		c.most.Store(max(c.most.Load(), c.row.Add(1)))
	}
	return n, err
}

// A slow link keeps its connection while its bytes leave the kernel, also where that has no room
// for others for much longer than WriteTimeout.
func TestBytesThatLeaveTheKernelAreProgress(t *testing.T) {
	const timeout, rounds = 400 * time.Millisecond, 14 // of a quarter of it each
	conn, reader := tcpPair(t)
	ask, counted := unacknowledged(conn), &emptyWrites{Conn: conn}
	looks, over := make(chan struct{}), make(chan struct{})
	w := batch.New(counted, batch.Config{
		Limit: 1 << 20, Reserve: 1 << 20, Large: 1 << 20, Timeout: timeout,
		Unacknowledged: func() (int, bool) {
			select { // the reader takes something for each look
			case looks <- struct{}{}:
			case <-over:
			}
			return ask()
		},
	})
	slot, err := w.Begin(batch.Normal)
	if err != nil {
		t.Fatal(err)
	}
	slot.Commit(append(slot.Open(8<<20), make([]byte, 8<<20)...))
	w.CloseAfterFlush(nil)
	ended := make(chan error, 1)
	go func() { ended <- w.Run() }()
	b := make([]byte, 16<<10)
	for i := range rounds {
		select {
		case <-looks:
		case err := <-ended:
			t.Fatalf("the writer gave up: %v; %d writes in a row found no room", err, counted.most.Load())
		}
		if i == 0 {
			conn.SetWriteBuffer(4 << 10) // so there is no room until nearly all that it holds has left
		}
		if _, err := reader.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	if most := counted.most.Load(); most < 8 {
		t.Errorf("%d writes in a row found no room: the test is too kind to the writer", most)
	}
	go io.Copy(io.Discard, reader)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What the kernel says goes with what the other end has read.
func TestUnacknowledgedBytes(t *testing.T) {
	conn, reader := tcpPair(t)
	ask := unacknowledged(conn)
	if n, ok := ask(); n != 0 || !ok {
		t.Errorf("%d bytes on a new connection, %v", n, ok)
	}
	conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	taken, err := conn.Write(make([]byte, 8<<20))
	if err == nil {
		t.Fatal("all of it had room")
	}
	if n, ok := ask(); n <= 0 || n > taken || !ok {
		t.Errorf("%d of %d bytes, %v", n, taken, ok)
	}
	if _, err := io.ReadFull(reader, make([]byte, taken)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all to be acknowledged", func() bool { n, ok := ask(); return n == 0 && ok })
	conn.Close()
	if _, ok := ask(); ok {
		t.Error("a closed connection has an answer")
	}
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	if unacknowledged(here) != nil {
		t.Error("a pipe can be asked")
	}
}

// A peer that stops to read in the middle of a message loses its connection: not before
// WriteTimeout, and not much later.
func TestAReaderThatStopsIsDroppedInTime(t *testing.T) {
	const timeout = 500 * time.Millisecond
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, func(o *ManagerOptions) {
		o.Limits = Limits{WriteTimeout: timeout, PeerTimeout: time.Hour}
	})
	p := c.knock(t, n)
	p.socket.(*net.TCPConn).SetReadBuffer(64 << 10)
	p.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() {
		_, err := conn.Request(context.Background(), testSingle, make([]byte, 32<<20))
		lost <- err
	}()
	b := make([]byte, 64<<10)
	var stopped time.Time
	for read := 0; read < 1<<20; { // and no more
		stopped = time.Now()
		k, err := p.socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		read += k
	}
	var err error
	within(t, "the end of a connection whose peer reads nothing", func() { err = <-lost })
	if held := time.Since(stopped); !errors.Is(err, ErrDisconnected) || held < timeout {
		t.Errorf("held for %v: %v", held, err)
	}
	eventually(t, "the reason in the log", func() bool { return n.log.count("i/o timeout") == 1 }, n.log.String)
}
