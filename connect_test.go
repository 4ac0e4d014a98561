package grid

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gorilla/mux"
	"github.com/gridmesh/grid/internal/wsframe"
)

func TestNodesConnectUnderTheirNames(t *testing.T) {
	ipv6, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		ipv6.Close()
	}
	for _, test := range []struct {
		name, address, base string
		tls                 bool
		path                string
		route               func(m *Manager) http.Handler
	}{
		{"an IPv4 address", "127.0.0.1:0", "http://127.0.0.1", false, "", nil},
		{"an IPv6 address", "[::1]:0", "http://[::1]", false, "", nil},
		{"localhost", "localhost:0", "http://localhost", false, "", nil},
		{"TLS on an IPv4 address", "127.0.0.1:0", "https://127.0.0.1", true, "", nil},
		{"TLS on an IPv6 address", "[::1]:0", "https://[::1]", true, "", nil},
		{"TLS on localhost", "localhost:0", "https://localhost", true, "", nil},
		{"http.ServeMux", "127.0.0.1:0", "http://127.0.0.1", false, "", func(n *Manager) http.Handler {
			m := http.NewServeMux()
			m.Handle(RoutePath, n.Handler())
			return m
		}},
		{"http.ServeMux with a method and a path of its own", "127.0.0.1:0", "http://127.0.0.1", false, "/my/grid", func(n *Manager) http.Handler {
			m := http.NewServeMux()
			m.Handle("GET /my/grid", n.Handler())
			return m
		}},
		{"a gorilla router with a path of its own", "127.0.0.1:0", "http://127.0.0.1", false, "/my/grid", func(m *Manager) http.Handler {
			r := mux.NewRouter()
			m.AddToMux(r)
			return r
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Contains(test.address, "::1") && ipv6 == nil {
				t.Skip("no IPv6 here")
			}
			c := new(cluster)
			for range 2 {
				c.nodes = append(c.nodes, listenTCP(t, test.address, test.base))
			}
			var clientConfig *tls.Config
			if test.tls {
				c.tls, clientConfig = testTLS(t)
			}
			for _, n := range c.nodes {
				n.route = test.route
				c.startNode(t, n, func(o *ManagerOptions) {
					o.TLSConfig = clientConfig
					o.RoutePath = test.path
				})
			}
			c.waitConnected(t)
			c.handle(t, echo)
			for i := range c.nodes {
				got, err := c.conn(i, 1-i).Request(t.Context(), testSingle, []byte("hello"))
				if err != nil || string(got) != "hello" {
					t.Errorf("got %q, %v", got, err)
				}
				want := Flags(FlagCRCxxh3)
				if test.tls {
					want = 0
				}
				if got := c.conn(i, 1-i).current.Load().checksum; got != want {
					t.Errorf("messages carry %v, want %v", got, want)
				}
			}
		})
	}
}

// testTLS makes a certificate for loopback, and the configurations of both ends, which offer HTTP/2 as shared ones do.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	protocols := []string{"h2", "http/1.1"}
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: protocols}
	client = &tls.Config{RootCAs: roots, NextProtos: protocols}
	return server, client
}

func TestRequestsThatAreNoPeersAreTurnedAway(t *testing.T) {
	var refuse atomic.Bool
	c := startCluster(t, 1, func(_ int, o *ManagerOptions) {
		o.AuthRequest = func(r *http.Request) error {
			if refuse.Load() {
				return errors.New("not you")
			}
			return nil
		}
	})
	upgrade := map[string]string{
		"Connection":            "keep-alive, Upgrade",
		"Upgrade":               "websocket",
		"Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key":     "dGhlIHNhbXBsZSBub25jZQ==",
	}
	without := func(name string) map[string]string {
		h := make(map[string]string)
		for k, v := range upgrade {
			if k != name {
				h[k] = v
			}
		}
		return h
	}
	for _, test := range []struct {
		name    string
		method  string
		headers map[string]string
		refuse  bool
		want    int
	}{
		{"a plain GET", "GET", nil, false, 426},
		{"a POST", "POST", upgrade, false, 426},
		{"no Upgrade header", "GET", without("Upgrade"), false, 426},
		{"no Connection header", "GET", without("Connection"), false, 426},
		{"no version", "GET", without("Sec-WebSocket-Version"), false, 426},
		{"no key", "GET", without("Sec-WebSocket-Key"), false, 426},
		{"wrong credentials", "GET", upgrade, true, 403},
		{"wrong credentials without an upgrade", "GET", nil, true, 403},
	} {
		refuse.Store(test.refuse)
		req, err := http.NewRequestWithContext(t.Context(), test.method, c.nodes[0].host+RoutePath, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range test.headers {
			req.Header.Set(k, v)
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != test.want {
			t.Errorf("%s: answered %d, want %d", test.name, resp.StatusCode, test.want)
		}
		if test.want == 426 && resp.Header.Get("Upgrade") != "websocket" {
			t.Errorf("%s: the answer does not say what to upgrade to", test.name)
		}
	}
}

func TestTheDialerShowsItsToken(t *testing.T) {
	for name, auth := range map[string]AuthFn{
		"Bearer secret": func(string) string { return "secret" },
		"":              nil,
	} {
		seen := make(chan *http.Request, 8)
		startCluster(t, 2, func(_ int, o *ManagerOptions) {
			o.AddAuth = auth
			o.AuthRequest = func(r *http.Request) error {
				seen <- r
				return nil
			}
		})
		r := <-seen
		if got := r.Header.Get("Authorization"); got != name {
			t.Errorf("Authorization is %q, want %q", got, name)
		}
		sent, err := time.Parse(time.RFC3339, r.Header.Get("X-Minio-Time"))
		if err != nil || time.Since(sent).Abs() > time.Minute {
			t.Errorf("X-Minio-Time is %q", r.Header.Get("X-Minio-Time"))
		}
	}
}

// fakePeer speaks the wire by hand, from the dialer's side.
type fakePeer struct {
	socket net.Conn
	frames *wsframe.Reader
}

// knock upgrades a connection to a node and sends nothing.
func (c *cluster) knock(t *testing.T, n *node) *fakePeer {
	t.Helper()
	d := ws.Dialer{NetDial: c.dial}
	socket, br, _, err := d.Dial(t.Context(), "ws"+strings.TrimPrefix(n.host, "http")+RoutePath)
	if err != nil {
		t.Fatal(err)
	}
	var early []byte
	if br != nil {
		early, _ = buffered(br)
	}
	t.Cleanup(func() { socket.Close() })
	return &fakePeer{socket: socket, frames: wsframe.NewReader(socket, early, wsframe.Config{Client: true})}
}

// introduce goes through the handshake as host.
func (p *fakePeer) introduce(t *testing.T, host string) *connectResp {
	t.Helper()
	payload, err := (&connectReq{Host: host, Time: time.Now()}).MarshalMsg(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.send(t, message{Op: OpConnect, Payload: payload})
	var resp connectResp
	if err := readHandshake(p.frames, OpConnectResponse, &resp); err != nil {
		t.Fatal(err)
	}
	return &resp
}

func (p *fakePeer) send(t *testing.T, m message) {
	t.Helper()
	if err := writeHandshake(p.socket, m, true); err != nil {
		t.Fatal(err)
	}
}

// next returns the next message that is no ping.
func (p *fakePeer) next(t *testing.T) message {
	t.Helper()
	for {
		b, err := p.frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		var m message
		if err := m.parse(b); err != nil {
			t.Fatal(err)
		}
		if m.Op == OpMerged {
			t.Fatal("a merged message where one was expected")
		}
		if m.Op != OpPing || m.MuxID != 0 {
			return m
		}
	}
}

// fakeHost is a name that has to dial local.
func fakeHost(local string) string {
	for i := 1; ; i++ {
		if host := fmt.Sprintf("http://10.0.0.1:%d", i); shouldDial(host, local) {
			return host
		}
	}
}

// startForFake starts one node that waits for a fake peer, whose name it returns.
func startForFake(t *testing.T, c *cluster, edit func(o *ManagerOptions)) (*node, string) {
	n := c.nodes[0]
	host := fakeHost(n.host)
	c.startNode(t, n, func(o *ManagerOptions) {
		o.Hosts = []string{n.host, host}
		if edit != nil {
			edit(o)
		}
	})
	return n, host
}

func TestPeersThatDoNotBelongAreRejected(t *testing.T) {
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n := c.nodes[0]
	dialed := "http://10.0.0.2:1"
	for i := 1; !shouldDial(n.host, dialed); i++ {
		dialed = fmt.Sprintf("http://10.0.0.2:%d", i)
	}
	block := make(chan struct{})
	c.startNode(t, n, func(o *ManagerOptions) {
		o.Hosts = []string{n.host, dialed}
		o.BlockConnect = block
	})
	for _, test := range []struct{ name, host, reason string }{
		{"a stranger", "http://10.9.9.9:1", "unknown"},
		{"nobody", "", "unknown"},
		{"the node itself", n.host, "unknown"},
		{"a host that should be dialed", dialed, "should not dial"},
	} {
		resp := c.knock(t, n).introduce(t, test.host)
		if resp.Accepted || !strings.Contains(resp.RejectedReason, test.reason) {
			t.Errorf("%s: answered %+v", test.name, resp)
		}
	}
	for name, m := range map[string]message{
		"another operation":        {Op: OpPing},
		"a payload that is no map": {Op: OpConnect, Payload: []byte("soup")},
	} {
		p := c.knock(t, n)
		p.send(t, m)
		var resp connectResp
		if err := readHandshake(p.frames, OpConnectResponse, &resp); err != nil || resp.Accepted || resp.RejectedReason == "" {
			t.Errorf("%s: answered %+v, %v", name, resp, err)
		}
		if _, err := p.frames.Next(); err == nil {
			t.Errorf("%s: the connection stays", name)
		}
	}
	if st := n.Connection(dialed).State(); st != StateUnconnected {
		t.Errorf("the state is %v", st)
	}
}

func TestASilentUpgradedConnectionIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, _ := startForFake(t, c, nil)
		start := time.Now()
		p := c.knock(t, n)
		for {
			if _, err := p.frames.Next(); err != nil {
				break
			}
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("it was held for %v", took)
		}
	})
}

func TestADeadPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		for _, name := range []string{"one that reads", "one that does not read"} {
			p := c.knock(t, n)
			if resp := p.introduce(t, host); !resp.Accepted {
				t.Fatalf("rejected: %s", resp.RejectedReason)
			}
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "reads") {
				go func() {
					for {
						if _, err := p.frames.Next(); err != nil {
							return
						}
					}
				}()
			}
			start := time.Now()
			done := make(chan error)
			go func() {
				_, err := conn.Request(t.Context(), testSingle, nil)
				done <- err
			}()
			if err := <-done; !errors.Is(err, ErrDisconnected) {
				t.Errorf("%s: a call got %v", name, err)
			}
			if took := time.Since(start); took > 21*time.Second {
				t.Errorf("%s: noticed after %v", name, took)
			}
			synctest.Wait()
			if st := conn.State(); st != StateConnectionError {
				t.Errorf("%s: the state is %v", name, st)
			}
		}
	})
}

func TestALivePeerStaysConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		time.Sleep(24 * time.Hour)
		for i, n := range c.nodes {
			conn := c.conn(i, 1-i)
			if n.log.count("lost") != 0 || conn.State() != StateConnected {
				t.Errorf("the connection was lost:\n%s", n.log)
			}
			if pong := time.Unix(0, atomic.LoadInt64(&conn.LastPong)); time.Since(pong) > pingInterval+time.Second {
				t.Errorf("the last pong came %v ago", time.Since(pong))
			}
		}
	})
}

func TestASecondConnectionReplacesTheFirst(t *testing.T) {
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	first := c.knock(t, n)
	first.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := conn.Request(t.Context(), testSingle, nil)
		done <- err
	}()
	if m := first.next(t); m.Op != OpRequest {
		t.Fatalf("got %v", m.Op)
	}
	second := c.knock(t, n)
	if resp := second.introduce(t, host); !resp.Accepted {
		t.Fatalf("rejected: %s", resp.RejectedReason)
	}
	if err := <-done; !errors.Is(err, ErrDisconnected) {
		t.Errorf("a call on the first got %v", err)
	}
	if _, err := first.frames.Next(); err == nil {
		t.Error("the first connection is still there")
	}
	eventually(t, "the second", func() bool { return conn.current.Load() != nil })
	go func() {
		_, err := conn.Request(t.Context(), testSingle, []byte("soup"))
		done <- err
	}()
	m := second.next(t)
	second.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
	if err := <-done; err != nil {
		t.Errorf("a call on the second got %v", err)
	}
	if conn.State() != StateConnected {
		t.Errorf("the state is %v", conn.State())
	}
}

func TestNothingIsSentWhereAnOriginalsCallerGivesUp(t *testing.T) {
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	p := c.knock(t, n)
	p.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := conn.Request(ctx, testSingle, nil)
		done <- err
	}()
	if m := p.next(t); m.Op != OpRequest || m.MuxID < 1<<31 {
		t.Fatalf("got %v of mux %d", m.Op, m.MuxID)
	}
	cancel()
	<-done
	go func() {
		_, err := conn.Request(t.Context(), testSingle, nil)
		done <- err
	}()
	m := p.next(t)
	if m.Op != OpRequest {
		t.Errorf("the caller's end sent %v", m.Op)
	}
	p.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
	<-done
}

func TestTheReasonOfALossIsLogged(t *testing.T) {
	for _, test := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"a close frame", wsframe.AppendClose(nil, ws.StatusCode(4321), "tired", true, newMask()), "4321"},
		{"a broken frame", []byte{0xff, 0xff}, "protocol error"},
		{"a malformed message", append(ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame([]byte("soup")))), 0), "malformed"},
	} {
		c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduce(t, host)
		if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.socket.Write(test.frame); err != nil {
			t.Fatal(err)
		}
		eventually(t, test.name, func() bool {
			return n.log.count("connection lost") == 1 && n.log.count(test.want) == 1
		}, n.log.String)
	}
}

func TestACutConnectionComesBack(t *testing.T) {
	c := startCluster(t, 3, nil)
	c.handle(t, echo)
	for range 3 {
		c.cut()
		for i := range c.nodes {
			for j := range c.nodes {
				if i == j {
					continue
				}
				eventually(t, "a request to get through", func() bool {
					got, err := c.conn(i, j).Request(t.Context(), testSingle, []byte("x"))
					if err != nil && !errors.Is(err, ErrDisconnected) {
						t.Errorf("a request got %v", err)
					}
					return err == nil && string(got) == "x"
				})
			}
		}
	}
	c.waitIdle(t)
}

func TestANodeMayBeRestarted(t *testing.T) {
	for restarted := range 2 {
		c := startCluster(t, 2, nil)
		n, other := c.nodes[restarted], c.conn(1-restarted, restarted)
		id := n.ID
		n.Close()
		n.server.Close()
		address := strings.TrimPrefix(n.host, "http://")
		eventually(t, "the loss to be seen", func() bool { return other.State() != StateConnected })
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		n.listener = l
		c.startNode(t, n, func(*ManagerOptions) {})
		if n.ID == id {
			t.Error("the new process has the ID of the old one")
		}
		n.RegisterSingleHandler(testSingle, func([]byte) ([]byte, *RemoteErr) { return []byte("new"), nil })
		c.waitConnected(t)
		got, err := other.Request(t.Context(), testSingle, nil)
		if err != nil || string(got) != "new" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestWrongOptionsAreNamedAndNothingIsStarted(t *testing.T) {
	before := len(ownGoroutines())
	accept := func(*http.Request) error { return nil }
	const a, b = "http://a:1", "http://b:1"
	for _, test := range []struct {
		name  string
		o     ManagerOptions
		names string
	}{
		{"no AuthRequest", ManagerOptions{Local: a, Hosts: []string{a, b}}, "AuthRequest"},
		{"no Local", ManagerOptions{Hosts: []string{a, b}, AuthRequest: accept}, "Local"},
		{"Local not among Hosts", ManagerOptions{Local: "http://c:1", Hosts: []string{a, b}, AuthRequest: accept}, "http://c:1"},
		{"no Hosts", ManagerOptions{Local: a, AuthRequest: accept}, a},
		{"Local twice", ManagerOptions{Local: a, Hosts: []string{a, b, a}, AuthRequest: accept}, a},
		{"a host twice", ManagerOptions{Local: a, Hosts: []string{a, b, b}, AuthRequest: accept}, b},
		{"an empty host", ManagerOptions{Local: a, Hosts: []string{a, ""}, AuthRequest: accept}, "Hosts[1]"},
		{"a host without scheme", ManagerOptions{Local: a, Hosts: []string{a, "b:1"}, AuthRequest: accept}, "b:1"},
		{"a host with another scheme", ManagerOptions{Local: a, Hosts: []string{a, "ftp://b"}, AuthRequest: accept}, "ftp://b"},
		{"a host with a path", ManagerOptions{Local: a, Hosts: []string{a, b + "/x"}, AuthRequest: accept}, b + "/x"},
		{"a host that is no URL", ManagerOptions{Local: a, Hosts: []string{a, "http://[::1"}, AuthRequest: accept}, "http://[::1"},
		{"a route path without slash", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, RoutePath: "grid"}, "RoutePath"},
		{"a tiny limit", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, Limits: Limits{MaxMessageSize: 10}}, "MaxMessageSize"},
		{"a negative limit", ManagerOptions{Local: a, Hosts: []string{a, b}, AuthRequest: accept, Limits: Limits{MaxMessageSize: -1}}, "MaxMessageSize"},
	} {
		test.o.Dialer = func(context.Context, string, string) (net.Conn, error) {
			t.Errorf("%s: dialed", test.name)
			return nil, io.EOF
		}
		m, err := NewManager(t.Context(), test.o)
		if err == nil || m != nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
	var none context.Context
	if _, err := NewManager(none, ManagerOptions{Local: a, Hosts: []string{a}, AuthRequest: accept}); err == nil {
		t.Error("a nil context was taken")
	}
	if n := len(ownGoroutines()); n > before {
		t.Errorf("%d goroutines were started", n-before)
	}
}

func TestNilReceiversAreNeverConnected(t *testing.T) {
	ctx := t.Context()
	var c *Connection
	var sub *Subroute
	var st *Stream
	var m *Manager
	never := func([]byte) error { t.Error("called"); return nil }
	request := func(r Requester) error { _, err := r.Request(ctx, testSingle, nil); return err }
	stream := func(s Streamer) error { _, err := s.NewStream(ctx, testStream, nil); return err }
	all := func() (err error) {
		for _, e := range st.All() {
			err = e
		}
		return err
	}
	for name, err := range map[string]error{
		"Connection.Request":            request(c),
		"Connection.NewStream":          stream(c),
		"Connection.WaitForConnect":     c.WaitForConnect(ctx),
		"Connection.Subroute.Request":   request(c.Subroute("a").Subroute("b")),
		"Connection.Subroute.NewStream": stream(c.Subroute("a")),
		"Subroute.Request":              request(sub),
		"Subroute.NewStream":            stream(sub),
		"Subroute.WaitForConnect":       sub.WaitForConnect(ctx),
		"an empty Subroute's Request":   request(&Subroute{}),
		"Stream.Send":                   st.Send(nil),
		"Stream.Results":                st.Results(never),
		"Stream.All":                    all(),
		"a nil Manager's connection":    request(m.Connection("http://a:1")),
	} {
		if !errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if c.State() != StateUnconnected || sub.State() != StateUnconnected {
		t.Error("a nil connection has a state")
	}
	if c.Stats() != (ConnectionStats{}) || sub.Stats() != (ConnectionStats{}) {
		t.Error("a nil connection counts something")
	}
	for _, s := range []string{c.String(), c.StringReverse(), sub.String(), sub.StringReverse()} {
		if s != "<nil>" {
			t.Errorf("a nil connection is called %q", s)
		}
	}
	if m.HostName() != "" || m.Targets() != nil || m.Close() != nil || m.Shutdown(ctx) != nil {
		t.Error("a nil Manager does something")
	}
	if err := m.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, nil }); err == nil {
		t.Error("a nil Manager took a handler")
	}
	if err := m.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack}); err == nil {
		t.Error("a nil Manager took a stream handler")
	}
}

func TestUseAfterTheEndGivesErrShutdown(t *testing.T) {
	for name, end := range map[string]func(n *node, cancel func()) error{
		"Close":    func(n *node, _ func()) error { return n.Close() },
		"Shutdown": func(n *node, _ func()) error { return n.Shutdown(context.Background()) },
		"the end of NewManager's context": func(_ *node, cancel func()) error {
			cancel()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTCPPair(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			n := c.nodes[0]
			c.startNodeContext(ctx, t, n, func(*ManagerOptions) {})
			c.startNode(t, c.nodes[1], func(*ManagerOptions) {})
			c.waitConnected(t)
			c.stream(t, 0, 1, count)
			if err := end(n, cancel); err != nil {
				t.Error(err)
			}
			conn := c.conn(0, 1)
			eventually(t, "the end", func() bool { return conn.State() == StateShutdown })
			within(t, "use after the end", func() {
				if _, err := conn.Request(t.Context(), testSingle, nil); !errors.Is(err, ErrShutdown) {
					t.Errorf("a request got %v", err)
				}
				if _, err := conn.NewStream(t.Context(), testStream, nil); !errors.Is(err, ErrShutdown) {
					t.Errorf("a stream got %v", err)
				}
				if err := conn.WaitForConnect(t.Context()); !errors.Is(err, ErrShutdown) {
					t.Errorf("WaitForConnect got %v", err)
				}
				if err := errors.Join(n.Close(), n.Shutdown(t.Context()), n.Close()); err != nil {
					t.Errorf("a second end got %v", err)
				}
			})
			c.nodes[1].Close()
			waitGoroutines(t, 0)
		})
	}
}

func TestAManagerMayBeMadeWithAContextThatIsOver(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 50 {
		c := newTCPPair(t)
		c.startNodeContext(ctx, t, c.nodes[0], func(*ManagerOptions) {})
		within(t, "Close", func() { c.nodes[0].Close() })
		if st := c.conn(0, 1).State(); st != StateShutdown {
			t.Fatalf("the state is %v", st)
		}
	}
	waitGoroutines(t, 0)
}

func TestShutdownWaitsForWhatRunsAndRefusesTheRest(t *testing.T) {
	c := startCluster(t, 2, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, *RemoteErr) {
		entered <- struct{}{}
		<-release
		return payload, nil
	})
	c.stream(t, 0, 1, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		entered <- struct{}{}
		<-release
		out <- []byte("done")
		return nil
	})
	here, there := c.conn(0, 1), c.conn(1, 0)
	var running sync.WaitGroup
	running.Go(func() {
		if got, err := there.Request(t.Context(), testSingle, []byte("done")); err != nil || string(got) != "done" {
			t.Errorf("a request that ran got %q, %v", got, err)
		}
	})
	running.Go(func() {
		st, err := there.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		if err := st.Results(func([]byte) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("a stream that ran got %d messages and %v", n, err)
		}
	})
	<-entered
	<-entered
	ends := make(chan error, 3)
	for range cap(ends) {
		go func() { ends <- c.nodes[0].Shutdown(context.Background()) }()
	}
	eventually(t, "the shutdown to begin", func() bool { return here.active.draining.Load() })
	calls := map[string]func() error{
		"a request from here":  func() error { _, err := here.Request(t.Context(), testSingle, nil); return err },
		"a stream from here":   func() error { _, err := here.NewStream(t.Context(), testStream, nil); return err },
		"a request from there": func() error { _, err := there.Request(t.Context(), testSingle, nil); return err },
		"a stream from there": func() error {
			st, err := there.NewStream(t.Context(), testStream, nil)
			if err != nil {
				return err
			}
			return st.Results(func([]byte) error { return nil })
		},
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, ErrShutdown) {
			t.Errorf("%s got %v", name, err)
		}
	}
	if len(ends) != 0 {
		t.Error("Shutdown did not wait")
	}
	close(release)
	within(t, "Shutdown", func() {
		running.Wait()
		for range cap(ends) {
			if err := <-ends; err != nil {
				t.Error(err)
			}
		}
	})
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	c := startCluster(t, 2, nil)
	entered := make(chan struct{})
	c.handle(t, func(ctx context.Context, _ []byte) ([]byte, *RemoteErr) {
		close(entered)
		<-ctx.Done()
		return nil, nil
	})
	done := make(chan error)
	go func() {
		_, err := c.conn(1, 0).Request(t.Context(), testSingle, nil)
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithCancelCause(t.Context())
	hurry := errors.New("hurry")
	cancel(hurry)
	within(t, "Shutdown", func() {
		if err := c.nodes[0].Shutdown(ctx); err != hurry {
			t.Errorf("got %v", err)
		}
		if err := <-done; !errors.Is(err, ErrDisconnected) {
			t.Errorf("the caller got %v", err)
		}
	})
	c.nodes[1].Close()
	waitGoroutines(t, 0)
}

func TestCanceledStreamsHurtNobodyElse(t *testing.T) {
	c := startCluster(t, 2, nil)
	c.handle(t, echo)
	c.stream(t, 2, 4, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		for i := range 100 {
			select {
			case out <- number(i):
			case <-ctx.Done():
				return nil
			}
		}
		return nil
	})
	stop := make(chan struct{})
	var cancelers, callers sync.WaitGroup
	for n := range 16 {
		conn := c.conn(n%2, 1-n%2)
		cancelers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithCancel(t.Context())
				st, err := conn.NewStream(ctx, testStream, nil)
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				left := i % 5
				st.Results(func([]byte) error {
					if left--; left < 0 {
						cancel()
					}
					return nil
				})
				cancel()
			}
		})
		callers.Go(func() {
			for range 100 {
				if _, err := conn.Request(t.Context(), testSingle, []byte("x")); err != nil {
					t.Errorf("a request failed on a healthy connection: %v", err)
					return
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	cancelers.Wait()
	c.waitIdle(t)
}

func TestAnIdleConnectionIsSmall(t *testing.T) {
	measure := func(n int) (bytes uint64, goroutines int) {
		g, err := SetupTestGrid(n)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Cleanup()
		var stats runtime.MemStats
		eventually(t, "the handshakes to end", func() bool { return len(ownGoroutines()) == n*(n-1)/2*perConnection }, func() string {
			return fmt.Sprint(len(ownGoroutines()), " goroutines")
		})
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc + stats.StackInuse, len(ownGoroutines())
	}
	small, few := measure(2)
	large, many := measure(10)
	ends := uint64(10*9 - 2*1)
	t.Logf("%d bytes for each end of an idle connection, %d goroutines for %d ends", (large-small)/ends, many-few, ends)
	if each := int64(large-small) / int64(ends); each > 100<<10 {
		t.Errorf("each end of an idle connection takes %d bytes", each)
	}
}

func TestRepeatedDialFailuresAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(2)
		dialer := 0
		if shouldDial(c.nodes[1].host, c.nodes[0].host) {
			dialer = 1
		}
		c.nodes[1-dialer].listener.Close()
		n := c.nodes[dialer]
		c.startNode(t, n, func(*ManagerOptions) {})
		conn := c.conn(dialer, 1-dialer)
		time.Sleep(10*time.Minute + time.Second)
		if got := n.log.count("cannot connect"); got < 10 || got > 11 {
			t.Errorf("%d lines in ten minutes", got)
		}
		if conn.State() != StateConnecting {
			t.Errorf("the state is %v", conn.State())
		}
		c.mu.Lock()
		dials := c.dials
		c.mu.Unlock()
		if dials < 10*60/2 || dials > 10*60*2 {
			t.Errorf("%d dials in ten minutes", dials)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, io.ErrNoProgress)
		defer cancel()
		if err := conn.WaitForConnect(ctx); err != io.ErrNoProgress {
			t.Errorf("WaitForConnect got %v", err)
		}
	})
}

func TestTrafficIsCounted(t *testing.T) {
	var in, out [2]atomic.Int64
	c := startCluster(t, 2, func(i int, o *ManagerOptions) {
		o.Incoming = func(n int64) { in[i].Add(n) }
		o.Outgoing = func(n int64) { out[i].Add(n) }
	})
	c.handle(t, echo)
	if _, err := c.conn(0, 1).Request(t.Context(), testSingle, make([]byte, 10000)); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		if n := in[i].Load(); n < 10000 || n > 11000 {
			t.Errorf("node %d counts %d bytes in", i, n)
		}
		eventually(t, "the bytes out", func() bool { return out[i].Load() >= 10000 })
	}
}
