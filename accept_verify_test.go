package grid

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// answer is what one HTTP request to a node gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends one request and returns the answer, without what differs by the time.
func ask(t *testing.T, r *http.Request) answer {
	t.Helper()
	client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := answer{status: resp.StatusCode, header: resp.Header}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		got.body = string(body)
	}
	got.header.Del("Date")
	return got
}

// Who is not let in by AuthRequest gets the same answer to whatever it asks.
func TestAuthRequestComesBeforeAllElse(t *testing.T) {
	l, local := listen(t)
	o := playerOptions(local, nameThat(func(name string) bool { return shouldDial(name, local) }))
	o.AuthRequest = func(*http.Request) error { return errors.New("no token of this grid") }
	o.AllowOrigin = func(string) bool {
		t.Error("AllowOrigin was asked")
		return true
	}
	o.VerifyPeer = func(*http.Request, string) error {
		t.Error("VerifyPeer was asked")
		return nil
	}
	serveNode(t, l, newTestNode(t, o))
	var first *answer
	for name, change := range map[string]func(*http.Request){
		"an upgrade":               func(*http.Request) {},
		"one of a browser":         func(r *http.Request) { r.Header.Set("Origin", "https://page.example") },
		"a plain request":          func(r *http.Request) { r.Header = http.Header{} },
		"a POST":                   func(r *http.Request) { r.Method = http.MethodPost },
		"another WebSocket":        func(r *http.Request) { r.Header.Set("Sec-WebSocket-Version", "8") },
		"an upgrade without a key": func(r *http.Request) { r.Header.Del("Sec-WebSocket-Key") },
	} {
		r := testkit.UpgradeRequest(t, local+RoutePath)
		change(r)
		got := ask(t, r)
		if first == nil {
			first = &got
		}
		if got.status != http.StatusForbidden || got.body != "Forbidden\n" || len(got.header) != len(first.header) {
			t.Errorf("%s got %+v", name, got)
		}
	}
}

func TestBrowsersAreRefused(t *testing.T) {
	l, local := listen(t)
	peer := nameThat(func(name string) bool { return shouldDial(name, local) })
	m := newTestNode(t, playerOptions(local, peer))
	serveNode(t, l, m)
	open, openLocal := listen(t)
	peer = nameThat(func(name string) bool { return shouldDial(name, openLocal) })
	o := playerOptions(openLocal, peer)
	o.AllowOrigin = func(origin string) bool { return origin == "https://ours.example" }
	serveNode(t, open, newTestNode(t, o))

	for _, test := range []struct {
		name    string
		node    string
		origins []string
		want    int
	}{
		{"a node, which sends no Origin", local, nil, http.StatusSwitchingProtocols},
		{"a page", local, []string{"https://page.example"}, http.StatusForbidden},
		{"a page without a name", local, []string{"null"}, http.StatusForbidden},
		{"an empty Origin", local, []string{""}, http.StatusForbidden},
		{"a page of the node itself", local, []string{local}, http.StatusForbidden},
		{"no Origin where some are allowed", openLocal, nil, http.StatusSwitchingProtocols},
		{"an allowed one", openLocal, []string{"https://ours.example"}, http.StatusSwitchingProtocols},
		{"one that is not allowed", openLocal, []string{"https://page.example"}, http.StatusForbidden},
		{"two, one of them allowed", openLocal, []string{"https://ours.example", "https://page.example"}, http.StatusForbidden},
	} {
		r := testkit.UpgradeRequest(t, test.node+RoutePath)
		if test.origins != nil {
			r.Header["Origin"] = test.origins
		}
		if got := ask(t, r); got.status != test.want {
			t.Errorf("%s got %+v, want %d", test.name, got, test.want)
		}
	}
}

// verifyingNode is a node that asks verify who the player is.
func verifyingNode(t *testing.T, verify func(r *http.Request, host string) error) (m *Manager, log *testkit.LogLines, peer string) {
	t.Helper()
	l, local := listen(t)
	peer = nameThat(func(name string) bool { return shouldDial(name, local) })
	dialed := nameThat(func(name string) bool { return shouldDial(local, name) })
	log = testkit.NewLogLines()
	o := playerOptions(local, peer, dialed)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	o.VerifyPeer = verify
	o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done() // the other node is not up
		return nil, ctx.Err()
	}
	m = newTestNode(t, o)
	serveNode(t, l, m)
	return m, log, peer
}

func TestVerifyPeerSeesTheRequestAndTheHost(t *testing.T) {
	var asked atomic.Int32
	type seen struct {
		auth, host, remote string
	}
	saw := make(chan seen, 2)
	m, _, peer := verifyingNode(t, func(r *http.Request, host string) error {
		asked.Add(1)
		saw <- seen{r.Header.Get("Authorization"), host, r.RemoteAddr}
		return nil
	})
	p := dialPlayer(t, m.HostName(), peer)
	p.handshake(m, generations[0]) // with the node's ID, as ever
	if got, want := <-saw, (seen{"Bearer token", peer, p.Conn.LocalAddr().String()}); got != want {
		t.Errorf("VerifyPeer saw %+v, want %+v", got, want)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("VerifyPeer was asked %d times", n)
	}
}

// A peer that has not shown who it is learns that it is rejected, and nothing of why.
func TestAnUnverifiedPeerLearnsNothing(t *testing.T) {
	refuse := func(*http.Request, string) error { return errors.New("certificate of somebody else") }
	unasked := func(*http.Request, string) error { panic("asked about a host that may not connect") }
	for _, test := range []struct {
		name   string
		verify func(*http.Request, string) error
		send   func(p *player, m *Manager)
		log    string
	}{
		{"one that is not verified", refuse, func(p *player, _ *Manager) { p.claim(p.Name) }, "certificate of somebody else"},
		{"a stranger", unasked, func(p *player, _ *Manager) { p.claim("http://stranger:9000") }, "host=http://stranger:9000 reason=\"unknown incoming host\""},
		{"a stranger with a long name", unasked, func(p *player, _ *Manager) { p.claim(strings.Repeat("x", 20000)) }, "xxx... reason="},
		{"one that should be dialed", unasked, func(p *player, m *Manager) { p.claim(m.Targets()[1]) }, "should not dial"},
		{"one that sends something else", unasked, func(p *player, _ *Manager) { p.send(message{Op: OpPing}) }, "expected Connect"},
		{
			"one where VerifyPeer panics", func(*http.Request, string) error { panic("out of order") },
			func(p *player, _ *Manager) { p.claim(p.Name) }, "out of order",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, log, peer := verifyingNode(t, test.verify)
			p := dialPlayer(t, m.HostName(), peer)
			test.send(p, m)
			want := message{Op: OpConnectResponse, Payload: encoded(t, &connectResp{RejectedReason: "rejected"})}
			p.expect("rejection", want)
			p.ExpectClose(p.t)
			if line := log.Wait(t, "peer rejected"); !strings.Contains(line, test.log) || len(line) > 1000 {
				t.Errorf("no %q in %s", test.log, line)
			}
			if st := m.Connection(peer).State(); st != StateUnconnected {
				t.Errorf("the state is %v", st)
			}
		})
	}
}

// claim says in the handshake that the player is host, as nodes of this project do.
func (p *player) claim(host string) {
	p.t.Helper()
	p.send(message{Op: OpConnect, Payload: encoded(p.t, &connectReq{ID: p.ID, Host: host, Time: time.Now(), Grid: nativeFeatures})})
}

// An impostor does not take the place of the one who is connected.
func TestAnImpostorReplacesNobody(t *testing.T) {
	m, log, peer := verifyingNode(t, func(r *http.Request, _ string) error {
		if r.Header.Get("Authorization") != "Bearer token" {
			return errors.New("token of somebody else")
		}
		return nil
	})
	p := dialPlayer(t, m.HostName(), peer)
	p.handshake(m, generations[0])
	conn := m.Connection(peer)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := conn.current.Load()
	impostor := knock(t, m.HostName(), peer, "Bearer other")
	impostor.claim(peer)
	impostor.expect("rejection", message{Op: OpConnectResponse, Payload: encoded(t, &connectResp{RejectedReason: "rejected"})})
	log.Wait(t, "peer rejected", "token of somebody else", "not verified as "+peer)
	if conn.State() != StateConnected || conn.current.Load() != first {
		t.Errorf("the state is %v", conn.State())
	}
}

func TestVerifyPeerCertificate(t *testing.T) {
	ca := newTestCA(t)
	leaf := func(names ...string) *x509.Certificate {
		c, err := x509.ParseCertificate(ca.issue(t, nil, names...).Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	verified := func(names ...string) *tls.ConnectionState {
		c := leaf(names...)
		return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}, VerifiedChains: [][]*x509.Certificate{{c, ca.cert}}}
	}
	for _, test := range []struct {
		name  string
		state *tls.ConnectionState
		host  string
		want  string // empty for no error
	}{
		{"a name", verified("node1.example"), "https://node1.example:9000", ""},
		{"a name in other letters", verified("node1.example"), "https://Node1.Example:9000", ""},
		{"one of several names", verified("node0.example", "node1.example"), "https://node1.example", ""},
		{"an address", verified("10.0.0.1"), "https://10.0.0.1:9000", ""},
		{"an IPv6 address", verified("fd00::1"), "https://[fd00::1]:9000", ""},
		{"a wildcard", verified("*.example"), "https://node1.example:9000", ""},
		{"another name", verified("node2.example"), "https://node1.example:9000", "valid for node2.example, not node1.example"},
		{"a longer name", verified("node1.example"), "https://node1.example.evil:9000", "not node1.example.evil"},
		{"a name below", verified("node1.example"), "https://a.node1.example:9000", "not a.node1.example"},
		{"another address", verified("10.0.0.2"), "https://10.0.0.1:9000", "valid for 10.0.0.2, not 10.0.0.1"},
		{"an address as a name", verified("node1.example"), "https://10.0.0.1:9000", "10.0.0.1"},
		{"a guest", verified("agent.example"), "agent.example", ""},
		{"a guest with an address", verified("10.0.0.1"), "10.0.0.1", ""},
		{"another guest", verified("agent.example"), "other.example", "not other.example"},
		{"a guest in other letters", verified("agent.example"), "Agent.example", `"Agent.example" is not how a certificate spells a name`},
		{"a guest with a dot", verified("agent.example"), "agent.example.", "is not how a certificate spells a name"},
		{"a guest in brackets", verified("agent.example"), "[agent.example]", "is not how a certificate spells a name"},
		{"no names", verified(), "https://node1.example:9000", "certificate is not valid for any names"},
		{"no TLS", nil, "https://node1.example:9000", "no client certificate: the connection came in without TLS"},
		{"no certificate", &tls.ConnectionState{}, "https://node1.example:9000", "no client certificate: set ClientAuth"},
		{
			"a certificate that nobody verified", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf("node1.example")}},
			"https://node1.example:9000", "client certificate not verified: set ClientAuth",
		},
	} {
		err := VerifyPeerCertificate(&http.Request{TLS: test.state}, test.host)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// Whatever fails between two nodes, neither logs the token.
func TestNoTokenIsLogged(t *testing.T) {
	const token = "the-secret-token"
	log := testkit.NewLogLines()
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	edit := func(o *ManagerOptions) {
		o.AddAuth = func(string) string { return token }
		o.Logger = logger
	}

	// A node that takes connections, and all that may fail there.
	mode := make(chan string, 1)
	l, local := listen(t)
	peer := nameThat(func(name string) bool { return shouldDial(name, local) })
	o := playerOptions(local, peer)
	edit(&o)
	o.AuthRequest = func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer "+token {
			return errors.New("wrong token")
		}
		return nil
	}
	o.VerifyPeer = func(*http.Request, string) error {
		if what := <-mode; what != "" {
			return errors.New(what)
		}
		return nil
	}
	node := newTestNode(t, o)
	serveNode(t, l, node)
	requests := map[string]func(*http.Request){ // by what is logged, if anything
		"wrong token":         func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token+token) },
		"came from a browser": func(r *http.Request) { r.Header.Set("Origin", "null") },
		"":                    func(r *http.Request) { r.Header.Set("Upgrade", token) },
	}
	for want, change := range requests {
		r := testkit.UpgradeRequest(t, local+RoutePath)
		r.Header.Set("Authorization", "Bearer "+token)
		change(r)
		ask(t, r)
		if want != "" {
			log.Wait(t, want)
		}
	}
	for _, fault := range []struct {
		mode string
		req  connectReq
		want string
	}{
		{"", connectReq{Host: "http://stranger:1", Token: token}, "unknown incoming host"},
		{"not you", connectReq{Host: peer, Token: token}, "not verified as"},
	} {
		if fault.mode != "" {
			mode <- fault.mode
		}
		p := knock(t, local, peer, "Bearer "+token)
		p.send(message{Op: OpConnect, Payload: encoded(t, &fault.req)})
		log.Wait(t, fault.want)
	}
	p := knock(t, local, peer, "Bearer "+token)
	p.send(message{Op: OpPing, Payload: encoded(t, &connectReq{Token: token})})
	log.Wait(t, "expected Connect")

	// A connection that comes and goes, and one that is lost.
	mode <- ""
	p = knock(t, local, peer, "Bearer "+token)
	p.claim(peer)
	p.send(noFacts)
	log.Wait(t, "grid: connected")
	p.send(message{Op: OpConnect, MuxID: 7, Payload: encoded(t, &connectReq{Token: token})})
	p.Conn.Close()
	log.Wait(t, "connection lost")

	// Nodes that connect to what does not take them.
	ca := newTestCA(t)
	for want, serve := range map[string]http.HandlerFunc{
		"403 Forbidden": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Echo", r.Header.Get("Authorization"))
			http.Error(w, r.Header.Get("Authorization"), http.StatusForbidden)
		},
		"502 Bad Gateway": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"malformed": func(w http.ResponseWriter, r *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Write([]byte(r.Header.Get("Authorization") + "\r\n\r\n"))
				c.Close()
			}
		},
		"unknown authority": nil,
	} {
		l, remote := listen(t)
		if serve == nil {
			remote = "https" + strings.TrimPrefix(remote, "http")
			l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*ca.local}})
		}
		server := &http.Server{Handler: serve, ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn)}
		go server.Serve(l)
		defer server.Close()
		o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
		edit(&o)
		newTestNode(t, o)
		log.Wait(t, "cannot connect", want, remote)
	}
	node.Close()
	for _, text := range []string{token, "Authorization", "Bearer"} {
		if strings.Contains(log.String(), text) {
			t.Errorf("%q is in the log:\n%s", text, log)
		}
	}
}

// knock returns a player with a connection to a node that was opened with credentials of its own,
// before the handshake.
func knock(t *testing.T, node, name, authorization string) *player {
	t.Helper()
	r := testkit.UpgradeRequest(t, node+RoutePath)
	r.Header.Set("Authorization", authorization)
	resp, err := (&http.Transport{ResponseHeaderTimeout: testkit.Patience}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return &player{testkit.NewPeer(t, testkit.Peer{Conn: upgraded{resp.Body.(io.ReadWriteCloser)}, Dialed: true, Name: name}), t}
}

// upgraded is the body of an answer to an upgrade, as the connection that it is.
type upgraded struct{ io.ReadWriteCloser }

func (upgraded) LocalAddr() net.Addr              { return nil }
func (upgraded) RemoteAddr() net.Addr             { return nil }
func (upgraded) SetDeadline(time.Time) error      { return nil }
func (upgraded) SetReadDeadline(time.Time) error  { return nil }
func (upgraded) SetWriteDeadline(time.Time) error { return nil }
