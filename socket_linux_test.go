package grid

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// Retransmissions stay so frequent that a network which is back after a while is noticed in a tenth of PeerTimeout.
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
