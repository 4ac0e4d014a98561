//go:build !linux

package grid

import (
	"net"
	"time"
)

// tuneTCP does nothing where there is no way to.
func tuneTCP(net.Conn, time.Duration) {}

// unacknowledged returns nil where nobody can be asked.
func unacknowledged(net.Conn) func() (n int, ok bool) { return nil }
