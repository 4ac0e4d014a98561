package grid

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// Whatever is wrong with TLS between two nodes: the one that dials says which
// host it is and what the matter is, tries again, and connects once it is right.
func TestTLSFaultsAreNamedAndRepaired(t *testing.T) {
	ours, other := newTestCA(t), newTestCA(t)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	tooEarly := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	present := func(c *tls.Certificate) func(*tlsPair) {
		return func(p *tlsPair) { p.server.Certificates = []tls.Certificate{*c} }
	}
	show := func(c *tls.Certificate) func(*tlsPair) {
		return func(p *tlsPair) { p.client = withClientCertificate(ours, c) }
	}
	const local = "127.0.0.1"
	for _, test := range []struct {
		name    string
		scheme  string // of the acceptor's name; https where empty
		spoil   func(p *tlsPair)
		dialer  string // what the dialer logs as the reason
		dialer3 string // the same with TLS 1.3, where it differs
		accept  string // what the acceptor logs; nothing where empty
	}{
		{
			name:   "the acceptor's certificate is of a wrong authority",
			spoil:  present(other.issue(t, nil, local)),
			dialer: "certificate signed by unknown authority",
		},
		{
			name:   "the acceptor's certificate has expired",
			spoil:  present(ours.issue(t, expired, local)),
			dialer: "certificate has expired",
		},
		{
			name:   "the acceptor's certificate is not valid yet",
			spoil:  present(ours.issue(t, tooEarly, local)),
			dialer: "not yet valid",
		},
		{
			name:   "the acceptor's certificate is for another host",
			spoil:  present(ours.issue(t, nil, "127.0.0.2")),
			dialer: "certificate is valid for 127.0.0.2, not 127.0.0.1",
		},
		{
			name:   "the dialer has the wrong roots",
			spoil:  func(p *tlsPair) { p.client.RootCAs = other.pool },
			dialer: "certificate signed by unknown authority",
		},
		{
			name:   "the dialer has no configuration",
			spoil:  func(p *tlsPair) { p.client = nil },
			dialer: "GetTLSConfig: no configuration today",
		},
		{
			name: "the dialer cannot read its certificate",
			spoil: func(p *tlsPair) {
				p.client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return nil, errors.New("disk on fire")
				}
			},
			dialer: "TLS handshake: disk on fire",
		},
		{
			name:    "the dialer shows no certificate",
			spoil:   func(p *tlsPair) { p.client.GetClientCertificate = nil },
			dialer:  "certificate of this node",
			dialer3: "does not accept this node's certificate: remote error: tls: certificate required",
		},
		{
			name:   "the dialer's certificate is of a wrong authority",
			spoil:  show(other.issue(t, nil, local)),
			dialer: "does not accept this node's certificate: remote error: tls: unknown certificate authority",
		},
		{
			name:   "the dialer's certificate has expired",
			spoil:  show(ours.issue(t, expired, local)),
			dialer: "does not accept this node's certificate: remote error: tls: expired certificate",
		},
		{
			name:   "the acceptor has the wrong roots",
			spoil:  func(p *tlsPair) { p.server.ClientCAs = other.pool },
			dialer: "does not accept this node's certificate: remote error: tls: unknown certificate authority",
		},
		{
			name:   "the dialer's certificate is for another host",
			spoil:  show(ours.issue(t, nil, "127.0.0.2", "other.example")),
			dialer: "rejected; the peer's log says why",
			accept: "client certificate: x509: certificate is valid for 127.0.0.2, not 127.0.0.1",
		},
		{
			name:   "the acceptor asks for no certificate",
			spoil:  func(p *tlsPair) { p.server.ClientAuth = tls.NoClientCert },
			dialer: "rejected; the peer's log says why",
			accept: "no client certificate: set ClientAuth",
		},
		{
			name:   "the acceptor does not verify the certificate",
			spoil:  func(p *tlsPair) { p.server.ClientAuth = tls.RequireAnyClientCert },
			dialer: "rejected; the peer's log says why",
			accept: "client certificate not verified: set ClientAuth",
		},
		{
			name:   "the acceptor speaks plain HTTP under an https name",
			spoil:  func(p *tlsPair) { p.server = nil },
			dialer: "does not speak TLS; is its name http://127.0.0.1:",
		},
		{
			name:   "the acceptor speaks TLS under an http name",
			scheme: "http",
			spoil:  func(p *tlsPair) { p.server = p.serverTLS() },
			dialer: "does not speak plain HTTP/1.1; is its name https://127.0.0.1:",
		},
		{
			name:   "the acceptor has only an old version of TLS",
			spoil:  func(p *tlsPair) { p.server.MinVersion, p.server.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			dialer: "it does not speak TLS 1.2 or later: ",
		},
	} {
		for version, name := range map[uint16]string{tls.VersionTLS12: "TLS 1.2", tls.VersionTLS13: "TLS 1.3"} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := newTLSPair(t, ours, cmp.Or(test.scheme, "https"), version)
				p.set(test.spoil)
				p.start(t)
				line := p.dialerLog.Wait(t, "cannot connect")
				reason := test.dialer
				if version == tls.VersionTLS13 {
					reason = cmp.Or(test.dialer3, reason)
				}
				for _, want := range []string{"peer=" + p.remote, reason} {
					if !strings.Contains(line, want) {
						t.Errorf("no %q in the dialer's %s", want, line)
					}
				}
				if test.accept != "" {
					if line := p.acceptorLog.Wait(t, "rejected"); !strings.Contains(line, test.accept) || !strings.Contains(line, p.local) {
						t.Errorf("the acceptor logs %s", line)
					}
				}
				if st := p.acceptor.Connection(p.local).State(); st == StateConnected {
					t.Error("they are connected")
				}
				p.set(func(*tlsPair) {})
				p.waitConnected(t)
				state, secure := p.dialer.Connection(p.remote).current.Load().socket.(*tls.Conn)
				if secure != (test.scheme == "") || secure && state.ConnectionState().Version != version {
					t.Errorf("connected with TLS: %v", secure)
				}
			})
		}
	}
}

// A node that runs takes up new certificates and roots from the callbacks of
// the tls.Config of its server, and from GetTLSConfig.
func TestCertificatesAreReloaded(t *testing.T) {
	first, second := newTestCA(t), newTestCA(t)
	p := newTLSPair(t, first, "https", tls.VersionTLS13)
	p.set(func(*tlsPair) {})
	p.start(t)
	p.waitConnected(t)
	signer := func() *x509.Certificate {
		s := p.dialer.Connection(p.remote).current.Load()
		if s == nil {
			return nil
		}
		return s.socket.(*tls.Conn).ConnectionState().VerifiedChains[0][1]
	}
	if !signer().Equal(first.cert) {
		t.Error("connected with another certificate")
	}
	p.ca = second
	p.set(func(*tlsPair) {})
	if conn := p.dialer.Connection(p.remote); conn.State() != StateConnected {
		t.Errorf("the state is %v after the change", conn.State())
	}
	p.dialer.Connection(p.remote).current.Load().socket.Close()
	eventually(t, "a connection with the new certificates", func() bool {
		p.waitConnected(t)
		s := signer()
		return s != nil && s.Equal(second.cert)
	})
}

// The roots of a client can also be reloaded with the callback of crypto/tls for it.
func TestVerifyConnectionIsAskedForEachDial(t *testing.T) {
	ca := newTestCA(t)
	p := newTLSPair(t, ca, "https", tls.VersionTLS13)
	var roots atomic.Pointer[x509.CertPool]
	roots.Store(newTestCA(t).pool)
	p.set(func(p *tlsPair) {
		p.client.RootCAs = nil
		p.client.InsecureSkipVerify = true
		p.client.VerifyConnection = func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots.Load(), DNSName: s.ServerName})
			return err
		}
	})
	p.start(t)
	p.dialerLog.Wait(t, "cannot connect", p.remote, "unknown authority")
	roots.Store(ca.pool)
	p.waitConnected(t)
}

func TestClientTLS(t *testing.T) {
	for _, test := range []struct {
		name   string
		config *tls.Config
		server string
		min    uint16
	}{
		{"no configuration", nil, "host", tls.VersionTLS12},
		{"an empty one", new(tls.Config), "host", tls.VersionTLS12},
		{"a server name of its own", &tls.Config{ServerName: "other"}, "other", tls.VersionTLS12},
		{"TLS 1.3 and later", &tls.Config{MinVersion: tls.VersionTLS13}, "host", tls.VersionTLS13},
		{"too old a version", &tls.Config{MinVersion: tls.VersionTLS10}, "host", tls.VersionTLS12},
	} {
		got := clientTLS(test.config, "host")
		if got.ServerName != test.server || got.MinVersion != test.min || len(got.NextProtos) != 1 || got == test.config {
			t.Errorf("%s: got %+v", test.name, got)
		}
	}
}

// tlsPair is two nodes, of which one dials the other. Their configurations can be changed while
// they run.
type tlsPair struct {
	ca            *testCA // signs what set makes
	version       uint16  // of TLS
	scheme        string  // of remote
	local, remote string  // names of the dialer and the acceptor

	// What set hands out. nil is plain HTTP for the server, and an error for the client.
	server, client *tls.Config

	listener               *switchListener
	dialer, acceptor       *Manager
	dialerLog, acceptorLog *testkit.LogLines
	clientConfig           atomic.Pointer[tls.Config]
}

func newTLSPair(t *testing.T, ca *testCA, scheme string, version uint16) *tlsPair {
	t.Helper()
	l, name := listen(t)
	p := &tlsPair{ca: ca, version: version, scheme: scheme, listener: &switchListener{Listener: l}}
	p.remote = scheme + strings.TrimPrefix(name, "http")
	p.local = nameThat(func(name string) bool { return shouldDial("https"+strings.TrimPrefix(name, "http"), p.remote) })
	p.local = "https" + strings.TrimPrefix(p.local, "http")
	p.dialerLog, p.acceptorLog = testkit.NewLogLines(), testkit.NewLogLines()
	return p
}

// set makes good configurations, which edit may spoil, and gives them to the nodes.
func (p *tlsPair) set(edit func(*tlsPair)) {
	p.server, p.client = nil, withClientCertificate(p.ca, p.ca.local)
	if p.scheme == "https" {
		p.server = p.serverTLS()
	}
	edit(p)
	p.clientConfig.Store(p.client)
	p.listener.config.Store(p.server)
}

func (p *tlsPair) serverTLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{*p.ca.local},
		ClientCAs:    p.ca.pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MaxVersion:   p.version,
		NextProtos:   []string{"h2", "http/1.1"},
	}
}

func withClientCertificate(ca *testCA, c *tls.Certificate) *tls.Config {
	return &tls.Config{
		RootCAs: ca.pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c, nil
		},
	}
}

// start starts both nodes, the acceptor first.
func (p *tlsPair) start(t *testing.T) {
	t.Helper()
	o := playerOptions(p.remote, p.local)
	o.Logger = slog.New(slog.NewTextHandler(p.acceptorLog, nil))
	if p.scheme == "https" {
		o.VerifyPeer = VerifyPeerCertificate
	}
	p.acceptor = newTestNode(t, o)
	serveNode(t, p.listener, p.acceptor)
	o = playerOptions(p.local, p.remote)
	o.Logger = slog.New(slog.NewTextHandler(p.dialerLog, nil))
	o.GetTLSConfig = func() (*tls.Config, error) {
		if c := p.clientConfig.Load(); c != nil {
			return c, nil
		}
		return nil, errors.New("no configuration today")
	}
	p.dialer = newTestNode(t, o)
}

func (p *tlsPair) waitConnected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, c := range []*Connection{p.dialer.Connection(p.remote), p.acceptor.Connection(p.local)} {
		if err := c.WaitForConnect(ctx); err != nil {
			t.Fatalf("%v does not connect: %v\n%s\n%s", c, err, p.dialerLog, p.acceptorLog)
		}
	}
}

// switchListener speaks TLS while it has a configuration, and plain TCP without.
type switchListener struct {
	net.Listener
	config atomic.Pointer[tls.Config]
}

func (l *switchListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || l.config.Load() == nil {
		return c, err
	}
	return tls.Server(c, &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.config.Load(), nil },
	}), nil
}
