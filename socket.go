package grid

import "net"

// closeSocket closes a connection without the farewell of TLS, which could wait for the peer.
func closeSocket(c net.Conn) { rawSocket(c).Close() }

// overTLS reports whether a connection is one of TLS, or may be.
func overTLS(c net.Conn) bool {
	if f, ok := c.(foreignConn); ok {
		c = f.conn
	}
	_, ok := c.(interface{ NetConn() net.Conn })
	return ok
}

// rawSocket is the network connection below TLS.
func rawSocket(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// addressHost is a network address without its port, which is another one for each connection.
func addressHost(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
