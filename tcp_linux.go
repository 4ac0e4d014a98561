package grid

import (
	"net"
	"syscall"
	"time"
)

// tcpRTOMaxMS is TCP_RTO_MAX_MS, which came with Linux 6.15. The kernel takes 1 to 120 s.
const tcpRTOMaxMS = 44

// limitRetransmitTimeout bounds the time between the kernel's retransmissions, which doubles with each that is not
// acknowledged. Where a network has been out for long, but for less than PeerTimeout, the kernel would not find out for as long again
// that it is back. Kernels that do not know the option go on as they do.
func limitRetransmitTimeout(socket net.Conn, limit time.Duration) {
	c, ok := socket.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	limit = min(max(limit, time.Second), 2*time.Minute)
	raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMaxMS, int(limit/time.Millisecond))
	})
}
