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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/mux"
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
				want := FlagCRCxxh3
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

// testTLS makes a certificate for loopback, and the configurations of both ends, which offer HTTP/2
// as shared ones do.
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

func TestPeersThatDoNotBelongAreRejected(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
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

func TestALivePeerStaysConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := startPipes(t, 2, nil)
		time.Sleep(24 * time.Hour)
		for i, n := range c.nodes {
			conn := c.conn(i, 1-i)
			if n.log.count("lost") != 0 || conn.State() != StateConnected {
				t.Errorf("the connection was lost:\n%s", n.log)
			}
			if pong := time.Unix(0, atomic.LoadInt64(&conn.LastPong)); time.Since(pong) > defaultPingInterval+time.Second {
				t.Errorf("the last pong came %v ago", time.Since(pong))
			}
		}
	})
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
		eventually(t, "the bytes in", func() bool { return in[i].Load() >= 10000 })
		if n := in[i].Load(); n > 11000 {
			t.Errorf("node %d counts %d bytes in", i, n)
		}
		eventually(t, "the bytes out", func() bool { return out[i].Load() >= 10000 })
	}
}
