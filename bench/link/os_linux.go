package link

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// onThread runs f on a thread that does nothing else meanwhile.
func onThread(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return f()
}

// setBuffers sets the sizes of both buffers of a socket.
func setBuffers(fd uintptr, bytes int) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return err
	}
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
}
