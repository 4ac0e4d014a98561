package grid

import (
	"io"
	"net"
	"os"
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
	raw := rawTCP(socket)
	if raw == nil {
		return
	}
	limit = min(max(limit, time.Second), 2*time.Minute)
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpRTOMaxMS, int(limit/time.Millisecond))
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, maxUnsent)
	})
}

// readNow returns a function that reads what a TCP connection has received, without waiting: 0 bytes
// and no error if that is nothing. One goroutine at a time may call it. readNow returns nil for
// other connections.
func readNow(socket net.Conn) func(b []byte) (int, error) {
	raw := rawTCP(socket)
	if raw == nil {
		return nil
	}
	var into []byte
	var n int
	var failed error
	read := func(fd uintptr) bool {
		n, failed = syscall.Read(int(fd), into)
		return true
	}
	return func(b []byte) (int, error) {
		into = b
		err := raw.Read(read)
		into = nil
		switch {
		case err != nil: // the connection is closed, or its deadline has passed
			return 0, err
		case failed == syscall.EAGAIN || failed == syscall.EINTR:
			return 0, nil
		case failed != nil:
			return 0, &net.OpError{
				Op: "read", Net: "tcp", Source: socket.LocalAddr(), Addr: socket.RemoteAddr(),
				Err: os.NewSyscallError("read", failed),
			}
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// readable returns a function that reports whether a TCP connection has received bytes, or is
// closed (FIONREAD, which is TIOCINQ); nil for other connections. It does not see the end of what
// the peer sends. One goroutine at a time may call it.
func readable(socket net.Conn) func() bool {
	raw := rawTCP(socket)
	if raw == nil {
		return nil
	}
	var n int32
	var failed syscall.Errno
	ask := func(fd uintptr) {
		_, _, failed = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	}
	return func() bool { return raw.Control(ask) != nil || failed != 0 || n > 0 }
}

// unacknowledged returns a function that asks the kernel how many bytes the other end of a TCP
// connection has not acknowledged yet (SIOCOUTQ, which is TIOCOUTQ); nil for other connections. The
// function returns false once the connection is closed.
func unacknowledged(socket net.Conn) func() (n int, ok bool) {
	raw := rawTCP(socket)
	if raw == nil {
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

// rawTCP returns the socket of a TCP connection; nil for other connections.
func rawTCP(socket net.Conn) syscall.RawConn {
	c, ok := socket.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
