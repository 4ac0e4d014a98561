package netgrid

import (
	"net/url"
)

// Addr is the address of one end of a Conn, or of a Listener.
type Addr struct {
	// Node is the name of the node, its base URL.
	Node string
	// Name is the name that is listened on.
	Name string
	// Socket is the address of the socket under the grid's connection, such as "10.0.0.1:9000". The
	// end that dialed the grid's connection, which need not be the one that dialed the Conn, has a
	// port of the moment; behind a proxy, the other address is that of the proxy. It is empty for a
	// Listener.
	Socket string
}

// Network returns "grid".
func (a Addr) Network() string { return "grid" }

// String returns Socket, or else the host and the port of Node, so that net.SplitHostPort works.
func (a Addr) String() string {
	if a.Socket != "" {
		return a.Socket
	}
	u, err := url.Parse(a.Node)
	switch {
	case err != nil || u.Host == "":
		return a.Node
	case u.Port() != "":
		return u.Host
	case u.Scheme == "https":
		return u.Host + ":443"
	default:
		return u.Host + ":80"
	}
}
