//go:build !linux

package grid

import (
	"net"
	"time"
)

// tuneTCP does nothing where there is no way to.
func tuneTCP(net.Conn, time.Duration) {}
