//go:build !linux

package grid

import (
	"net"
	"time"
)

// limitRetransmitTimeout does nothing where there is no way to.
func limitRetransmitTimeout(net.Conn, time.Duration) {}
