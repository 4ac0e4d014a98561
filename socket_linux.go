package grid

import (
	"net"
	"syscall"
	"time"
	"unsafe"
)

// tcpRTOMaxMS is TCP_RTO_MAX_MS, new in Linux 6.15. The kernel takes 1 to 120 s.
const tcpRTOMaxMS = 44

// tcpNotSentLowat is TCP_NOTSENT_LOWAT, new in Linux 3.12.
const tcpNotSentLowat = 25

// maxUnsent is how many unsent bytes the kernel keeps. With a send buffer of megabytes, it would
// wake a writer only when a third of that is free: over a slow link, later than a write may take.
const maxUnsent = 128 << 10

// tuneTCP bounds two things that the kernel otherwise decides. Kernels that do not know an option
// behave as before.
//
//   - The time between retransmissions, which doubles after each that is not acknowledged. If a
//     network was down for long, but for less than PeerTimeout, the kernel would take as long again
//     to notice that it is back.
//   - The bytes that wait in the kernel to be sent: see maxUnsent.
func tuneTCP(socket net.Conn, limit time.Duration) {
	c, ok := socket.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	limit = min(max(limit, time.Second), 2*time.Minute)
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMaxMS, int(limit/time.Millisecond))
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, maxUnsent)
	})
}

// unacknowledged returns a function that asks the kernel how many bytes the other end of a TCP
// connection has not acknowledged yet (SIOCOUTQ, which is TIOCOUTQ); nil for other connections. The
// function returns false once the connection is closed.
func unacknowledged(socket net.Conn) func() (n int, ok bool) {
	c, ok := socket.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (int, bool) {
		var n int32
		var failed syscall.Errno
		err := raw.Control(func(fd uintptr) {
			_, _, failed = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
		})
		return int(n), err == nil && failed == 0
	}
}
