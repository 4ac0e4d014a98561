//go:build !linux

package grid

import (
	"net"
	"time"
)

// tuneTCP does nothing on systems without the options.
func tuneTCP(net.Conn, time.Duration) {}

// unacknowledged returns nil, as there is no way to ask here.
func unacknowledged(net.Conn) func() (n int, ok bool) { return nil }

// readNow returns nil, as there is no way to read without waiting here.
func readNow(net.Conn) func(b []byte) (int, error) { return nil }

// readable returns nil, as there is no way to ask here.
func readable(net.Conn) func() bool { return nil }
