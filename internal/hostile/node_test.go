// Package hostile holds nodes against peers that mean them harm: that send anything, flood, or are
// slow on purpose. The peers are driven by hand, and the nodes are made by the exported API;
// internal/door tells what they hold.
package hostile

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

// The handlers of these tests.
const (
	single grid.HandlerID = 127
	stream grid.HandlerID = 126
)

// The defaults of Limits.
const (
	dialTimeout      = 2 * time.Second
	handshakeTimeout = 10 * time.Second
	handshakeSize    = 64 << 10
)

// node is a node with a peer that dials it.
type node struct {
	*grid.Manager
	peer   string
	server *http.Server
	pipe   *testkit.PipeListener // nil on TCP
}

// start starts a node on TCP. edit may be nil.
func start(t *testing.T, edit func(*grid.ManagerOptions)) *node {
	t.Helper()
	l, local := testkit.Listen(t)
	return serve(t, l, local, edit)
}

// startOnPipe starts a node on pipes. All time is that of the bubble.
func startOnPipe(t *testing.T, edit func(*grid.ManagerOptions)) *node {
	t.Helper()
	l := testkit.NewPipeListener()
	n := serve(t, l, "http://node:9000", edit)
	n.pipe = l
	return n
}

func serve(t *testing.T, l net.Listener, local string, edit func(*grid.ManagerOptions)) *node {
	t.Helper()
	o, peer := testnode.Dialed(local)
	if edit != nil {
		edit(&o)
	}
	m := testnode.Start(t, o)
	n := &node{Manager: m, peer: peer, server: testkit.Serve(t, l, m.Handler(), slog.DiscardHandler)}
	t.Cleanup(func() { m.Close() }) // before its server
	return n
}

// conn is the node's connection to its peer.
func (n *node) conn() *grid.Connection { return n.Connection(n.peer) }

// dial opens a connection to a node on pipes, and sends nothing.
func (n *node) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := n.pipe.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// knock returns the node's peer, before the handshake. No deadline bounds what it does.
func (n *node) knock(t *testing.T) *testkit.Peer {
	t.Helper()
	var by func(context.Context, string, string) (net.Conn, error)
	if n.pipe != nil {
		by = func(ctx context.Context, _, _ string) (net.Conn, error) { return n.pipe.Dial(ctx) }
	}
	p := testkit.DialBy(t, by, n.HostName(), grid.RoutePath, n.peer)
	p.Conn.SetDeadline(time.Time{})
	return p
}

// join returns the node's peer, once it is connected.
func (n *node) join(t *testing.T) *testkit.Peer {
	t.Helper()
	p := n.knock(t)
	p.Greet(t, testkit.Hello{Host: n.peer})
	if err := n.conn().WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// waitIdle returns when the node holds nothing for its peer.
func (n *node) waitIdle(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "everything to end", func() bool { return door.Look(n.conn()).Empty() })
}

// checked is a message with the checksum that those of muxes have.
func checked(m testkit.Message) testkit.Message {
	if m.MuxID != 0 {
		m.Flags |= testkit.FlagChecksum
	}
	return m
}

// frameOf is a message in the frame of a dialer.
func frameOf(m testkit.Message) []byte { return (&testkit.Peer{Dialed: true}).Frame(m.Bytes()) }
