package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

func TestTLS(t *testing.T) {
	now := time.Now()
	good := func(c *x509.Certificate) {}
	for _, c := range []struct {
		name   string
		scheme string
		change func(c *x509.Certificate) // nil for a server without TLS
		server func(c *tls.Config)
		known  bool // who signed it
		level  Level
		want   string
	}{
		{"well", "https", good, nil, true, OK, "round trip"},
		{"plain HTTP to TLS", "http", good, nil, true, Problem, "it does not speak plain HTTP; is its name https://"},
		{"TLS to plain HTTP", "https", nil, nil, true, Problem, "it does not speak TLS; is its name http://"},
		{"unknown authority", "https", good, nil, false, Problem, "signed by somebody unknown here"},
		{"another name", "https", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"a.test", "b.test"} }, nil, true, Problem, "for another name: a.test, b.test"},
		{"expired", "https", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Hour) }, nil, true, Problem, "expired on"},
		{"not yet valid", "https", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Hour) }, nil, true, Problem, "valid only from"},
		{"expires soon", "https", func(c *x509.Certificate) { c.NotAfter = now.Add(time.Hour) }, nil, true, Note, "its certificate expires on"},
		{"wants a certificate", "https", good, func(c *tls.Config) { c.ClientAuth = tls.RequireAndVerifyClientCert }, true, Problem, "it wants a certificate of this node"},
		{"an old version", "https", good, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }, true, Problem, "it does not speak TLS 1.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t, c.scheme)
			h := p.node(t, nil, p.name).Handler()
			roots := x509.NewCertPool()
			if c.change == nil {
				p.serve(t, h)
			} else {
				authority, cert := issue(t, c.change)
				if c.known {
					roots.AddCert(authority)
				}
				s := httptest.NewUnstartedServer(h)
				s.Listener.Close()
				s.Listener = p.listener
				s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
				if c.server != nil {
					c.server(s.TLS)
				}
				s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
				s.StartTLS()
				t.Cleanup(s.Close)
			}
			r := Examine(t.Context(), Options{
				Local: "probe", Guest: true, Hosts: []string{p.name}, Secret: "sesame", Path: grid.RoutePath,
				TLS: &tls.Config{RootCAs: roots}, Timeout: patience,
			})[0]
			found := false
			for _, f := range r.Findings {
				found = found || f.Level == c.level && strings.Contains(f.Text, c.want)
			}
			if !found || r.Well() != (c.level != Problem) {
				t.Errorf("%+v", r.Findings)
			}
		})
	}
}

// issue returns a certificate for 127.0.0.1 and that of who signed it.
func issue(t *testing.T, change func(c *x509.Certificate)) (*x509.Certificate, tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if authority, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-23 * time.Hour), NotAfter: time.Now().Add(999 * time.Hour),
	}
	change(leaf)
	if der, err = x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	return authority, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
