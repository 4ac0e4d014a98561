package grid

import "net"

// closeSocket closes a connection without TLS's farewell, which could wait for the peer.
func closeSocket(c net.Conn) { rawSocket(c).Close() }

// overTLS reports whether a connection uses, or may use, TLS.
func overTLS(c net.Conn) bool {
	if f, ok := c.(foreignConn); ok {
		c = f.conn
	}
	_, ok := c.(interface{ NetConn() net.Conn })
	return ok
}

// rawSocket returns the network connection below TLS.
func rawSocket(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// addressHost returns a network address without its port, which differs between connections.
func addressHost(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
