package grid

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// The handlers of this package's tests.
const (
	testSingle HandlerID = 127
	testStream HandlerID = 126
)

// cluster is a grid whose network the test holds: TCP on loopback, or pipes
// that work inside a synctest bubble.
type cluster struct {
	nodes []*testNode
	tls   *tls.Config // of the servers; nil for none

	mu        sync.Mutex // Protects following.
	listeners map[string]*testkit.PipeListener
	open      []net.Conn
	dials     int
}

// node is a Manager with its server.
type testNode struct {
	*Manager
	host     string
	log      *logBuffer
	server   *http.Server
	listener net.Listener
	route    func(m *Manager) http.Handler // nil serves the Manager's Handler alone
}

// startCluster starts n connected nodes over TCP. edit may change a node's options, and be nil.
func startCluster(t *testing.T, n int, edit func(i int, o *ManagerOptions)) *cluster {
	t.Helper()
	c := new(cluster)
	for range n {
		c.nodes = append(c.nodes, listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"))
	}
	c.start(t, edit)
	c.waitConnected(t)
	return c
}

// startPipes starts n connected nodes over pipes. All time is that of the bubble.
func startPipes(t *testing.T, n int, edit func(i int, o *ManagerOptions)) *cluster {
	t.Helper()
	c := newPipes(n)
	c.start(t, edit)
	c.waitConnected(t)
	return c
}

// newTCPPair returns two nodes that are not started.
func newTCPPair(t *testing.T) *cluster {
	t.Helper()
	c := new(cluster)
	for range 2 {
		c.nodes = append(c.nodes, listenTCP(t, "127.0.0.1:0", "http://127.0.0.1"))
	}
	return c
}

func newPipes(n int) *cluster {
	c := &cluster{listeners: make(map[string]*testkit.PipeListener)}
	for i := range n {
		l := testkit.NewPipeListener()
		address := fmt.Sprintf("node%d:9000", i)
		c.listeners[address] = l
		c.nodes = append(c.nodes, &testNode{host: "http://" + address, listener: l})
	}
	return c
}

// listenTCP makes a node that is named by base and the port of its listener.
func listenTCP(t *testing.T, address, base string) *testNode {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &testNode{host: base + ":" + port, listener: l}
}

func (c *cluster) hosts() (hosts []string) {
	for _, n := range c.nodes {
		hosts = append(hosts, n.host)
	}
	return hosts
}

// start starts all nodes, without waiting for their connections.
func (c *cluster) start(t *testing.T, edit func(i int, o *ManagerOptions)) {
	t.Helper()
	for i, n := range c.nodes {
		c.startNode(t, n, func(o *ManagerOptions) {
			if edit != nil {
				edit(i, o)
			}
		})
	}
}

func (c *cluster) startNode(t *testing.T, n *testNode, edit func(o *ManagerOptions)) {
	t.Helper()
	c.startNodeContext(context.Background(), t, n, edit)
}

func (c *cluster) startNodeContext(ctx context.Context, t *testing.T, n *testNode, edit func(o *ManagerOptions)) {
	t.Helper()
	n.log = new(logBuffer)
	o := ManagerOptions{
		Local:       n.host,
		Hosts:       c.hosts(),
		AuthRequest: func(*http.Request) error { return nil },
		Dialer:      c.dial,
		Logger:      slog.New(slog.NewTextHandler(n.log, nil)),
	}
	edit(&o)
	m, err := NewManager(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	n.Manager = m
	n.log.settle = func() { m.node.lines.flush(20 * time.Second) }
	handler := http.Handler(m.Handler())
	if n.route != nil {
		handler = n.route(m)
	}
	n.serve(t, handler, c.tls)
}

// serve serves h on the node's listener until the test ends.
func (n *testNode) serve(t *testing.T, h http.Handler, config *tls.Config) {
	l := n.listener
	if config != nil {
		l = tls.NewListener(l, config)
	}
	n.server = testkit.Serve(t, l, h, slog.DiscardHandler)
	m := n.Manager
	t.Cleanup(func() { m.Close() })
}

func (c *cluster) waitConnected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, n := range c.nodes {
		for _, host := range n.Targets() {
			if err := n.Connection(host).WaitForConnect(ctx); err != nil {
				t.Fatalf("%v does not connect: %v\n%s", n.Connection(host), err, n.log)
			}
		}
	}
}

// conn is the connection of node i to node j.
func (c *cluster) conn(i, j int) *Connection { return c.nodes[i].Connection(c.nodes[j].host) }

// handle registers a single handler on all nodes.
func (c *cluster) handle(t *testing.T, h SingleHandlerContextFn, subroute ...string) {
	t.Helper()
	for _, n := range c.nodes {
		if err := n.RegisterSingleHandlerContext(testSingle, h, subroute...); err != nil {
			t.Fatal(err)
		}
	}
}

// stream registers a streaming handler on all nodes.
func (c *cluster) stream(t *testing.T, in, out int, h StreamHandlerFn) {
	t.Helper()
	for _, n := range c.nodes {
		err := n.RegisterStreamingHandler(testStream, StreamHandler{Handle: h, InCapacity: in, OutCapacity: out})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// dial opens a connection that cut can close.
func (c *cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	var err error
	if c.listeners != nil {
		conn, err = c.dialPipe(ctx, address)
	} else {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dials++
	if err == nil {
		c.open = append(c.open, conn)
	}
	return conn, err
}

func (c *cluster) dialPipe(ctx context.Context, address string) (net.Conn, error) {
	c.mu.Lock()
	l := c.listeners[address]
	c.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("no such host: %s", address)
	}
	conn, err := l.Dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return conn, nil
}

// cut closes every network connection, without a word to either end.
func (c *cluster) cut() {
	c.mu.Lock()
	open := c.open
	c.open = nil
	c.mu.Unlock()
	for _, conn := range open {
		conn.Close()
	}
}

// idle says what still runs or is open on the connections; empty for nothing.
func (c *cluster) idle() string {
	for _, n := range c.nodes {
		for _, host := range n.Targets() {
			conn := n.Connection(host)
			if held := conn.holds(); !held.Empty() {
				return fmt.Sprintf("%v: %+v", conn, held)
			}
		}
	}
	return ""
}

// waitIdle returns when no call, stream or handler is left anywhere.
func (c *cluster) waitIdle(t *testing.T) {
	t.Helper()
	eventually(t, "everything to end", func() bool { return c.idle() == "" }, c.idle)
}

// logBuffer keeps what is logged.
type logBuffer struct {
	settle func() // waits for lines that are queued

	mu   sync.Mutex // Protects following.
	text bytes.Buffer
}

var _ io.Writer = (*logBuffer)(nil)

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	if l.settle != nil {
		l.settle()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logBuffer) count(text string) int { return strings.Count(l.String(), text) }

// What tests of other packages use too.
var (
	eventually     = testkit.Eventually
	within         = testkit.Within
	waitGoroutines = testkit.WaitGoroutines
	ownGoroutines  = testkit.Goroutines
	memory         = testkit.Memory
	listen         = testkit.Listen
	nameThat       = testkit.NameThat
)

// perConnection is the number of goroutines of an idle connection, both ends
// together: reader and flusher, the reader being the dialer's own. A janitor has one only in its rounds.
const perConnection = 4

// echoBack sends back what it receives.
func echoBack(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
	for b := range in {
		select {
		case out <- b:
		case <-ctx.Done():
			return NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}

// listenPair returns two nodes that listen, with TLS or without, and what they dial with.
func listenPair(t *testing.T, secure bool) (c *cluster, config *tls.Config) {
	t.Helper()
	c = new(cluster)
	base := "http://127.0.0.1"
	if secure {
		ca := newTestCA(t)
		base, c.tls = "https://127.0.0.1", &tls.Config{Certificates: []tls.Certificate{*ca.local}}
		config = &tls.Config{RootCAs: ca.pool}
	}
	for range 2 {
		c.nodes = append(c.nodes, listenTCP(t, "127.0.0.1:0", base))
	}
	return c, config
}
