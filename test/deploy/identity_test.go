package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/gridmesh/grid"
)

// authority signs the identities of one trust domain, as SPIRE does.
type authority struct {
	domain spiffeid.TrustDomain
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, domain string) *authority {
	t.Helper()
	a := &authority{domain: spiffeid.RequireTrustDomainFromString(domain)}
	a.cert, a.key = certificate(t, &x509.Certificate{
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{a.domain.ID().URL()},
	}, nil)
	return a
}

func certificate(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// identity returns the SVID of a path.
func (a *authority) identity(t *testing.T, path string) *x509svid.SVID {
	t.Helper()
	id, err := spiffeid.FromPath(a.domain, path)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := certificate(t, &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

func (a *authority) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(a.domain, []*x509.Certificate{a.cert})
}

// verifySPIFFE is VerifyPeer as docs/deployment.md has it: node1.example has the identity
// spiffe://grid.example/node/node1.example.
func verifySPIFFE(r *http.Request, name string) error {
	u, err := url.Parse(name)
	if err != nil {
		return err
	}
	id, err := x509svid.IDFromCert(r.TLS.PeerCertificates[0])
	if want := "/node/" + u.Hostname(); err == nil && id.Path() != want {
		err = fmt.Errorf("%s does not have the path %s", id, want)
	}
	return err
}

// listen returns a listener, and the name of a node there. The nodes of a test have addresses of their
// own, since identities are for hosts, not ports.
func listen(t *testing.T, i int, scheme string) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.%d:0", i+1))
	if err != nil {
		t.Skipf("SKIPPED: %v", err) // not every system has all of 127.0.0.0/8
	}
	return l, scheme + "://" + l.Addr().String()
}

// serve runs a node until the test ends, or end is called.
func serve(t *testing.T, l net.Listener, config *tls.Config, o grid.ManagerOptions) (m *grid.Manager, end func()) {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	m, err := grid.NewManager(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	m.Handle("name", func(context.Context, []byte) ([]byte, error) { return []byte(o.Local), nil })
	server := &http.Server{Handler: m.Handler(), TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	go server.Serve(l)
	end = func() {
		m.Close()
		server.Close()
	}
	t.Cleanup(end)
	return m, end
}

func spiffeGrid(t *testing.T, identities []func(host string) *x509svid.SVID, bundle *x509bundle.Bundle) []*grid.Manager {
	t.Helper()
	var listeners []net.Listener
	var hosts []string
	for i := range identities {
		l, name := listen(t, i, "https")
		listeners, hosts = append(listeners, l), append(hosts, name)
	}
	var managers []*grid.Manager
	for i, l := range listeners {
		host, _, _ := net.SplitHostPort(l.Addr().String())
		source, member := identities[i](host), tlsconfig.AuthorizeMemberOf(bundle.TrustDomain())
		m, _ := serve(t, l, tlsconfig.MTLSServerConfig(source, bundle, member), grid.ManagerOptions{
			Local:       hosts[i],
			Hosts:       hosts,
			AuthRequest: func(*http.Request) error { return nil }, // TLS has verified the identity
			VerifyPeer:  verifySPIFFE,
			GetTLSConfig: func() (*tls.Config, error) {
				return tlsconfig.MTLSClientConfig(source, bundle, member), nil
			},
		})
		managers = append(managers, m)
	}
	return managers
}

func TestNodesHaveSPIFFEIdentities(t *testing.T) {
	a := newAuthority(t, "grid.example")
	own := func(host string) *x509svid.SVID { return a.identity(t, "/node/"+host) }
	managers := spiffeGrid(t, []func(string) *x509svid.SVID{own, own, own}, a.bundle())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, m := range managers {
		for _, host := range m.Targets() {
			c := m.Connection(host)
			if err := c.WaitForConnect(ctx); err != nil {
				t.Fatal(err)
			}
			if got, err := c.Call(ctx, "name", nil); err != nil || string(got) != host {
				t.Errorf("%q, %v", got, err)
			}
		}
	}
}

func TestASPIFFEIdentityIsForOneNode(t *testing.T) {
	a, stranger := newAuthority(t, "grid.example"), newAuthority(t, "other.example")
	for name, wrong := range map[string]func(string) *x509svid.SVID{
		"of another node":   func(string) *x509svid.SVID { return a.identity(t, "/node/10.0.0.1") },
		"of another domain": func(host string) *x509svid.SVID { return stranger.identity(t, "/node/"+host) },
	} {
		t.Run(name, func(t *testing.T) {
			managers := spiffeGrid(t, []func(string) *x509svid.SVID{wrong, wrong}, a.bundle()) // either may be the one that dials
			for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {      // between looks
				if len(managers[0].RecentErrors())+len(managers[1].RecentErrors()) > 0 {
					break
				}
				if time.Now().After(end) {
					t.Fatal("nobody says why the two are not connected")
				}
			}
			for _, m := range managers {
				if c := m.Connection(m.Targets()[0]); c.State() == grid.StateConnected {
					t.Error("connected")
				}
			}
		})
	}
}

// A token that Kubernetes projects into a file is replaced before it expires: by a link to a new
// folder, after which the old one is removed.
func TestATokenIsReplaced(t *testing.T) {
	dir := t.TempDir()
	project := func(token string) {
		version := filepath.Join(dir, "..version of "+strings.TrimSpace(token))
		err := errors.Join(os.Mkdir(version, 0o700), os.WriteFile(filepath.Join(version, "token"), []byte(token), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		next := filepath.Join(dir, "..next")
		if err := errors.Join(os.Symlink(version, next), os.Rename(next, filepath.Join(dir, "token.d"))); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "token.d", "token")
	token := func(context.Context) (string, error) { // AddAuthContext, as docs/deployment.md has it
		b, err := os.ReadFile(file)
		return strings.TrimSpace(string(b)), err
	}
	valid := make(chan string, 1)
	check := func(r *http.Request) error {
		now := <-valid
		valid <- now
		if r.Header.Get("Authorization") != "Bearer "+now {
			return errors.New("the token is not valid")
		}
		return nil
	}
	valid <- "first"
	project("first\n")
	var listeners []net.Listener
	var hosts []string
	for i := range 2 {
		l, name := listen(t, i, "http")
		listeners, hosts = append(listeners, l), append(hosts, name)
	}
	node := func(i int) (*grid.Manager, func()) {
		return serve(t, listeners[i], nil, grid.ManagerOptions{Local: hosts[i], Hosts: hosts, AddAuthContext: token, AuthRequest: check})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a, _ := node(0)
	_, endOther := node(1)
	if err := a.Connection(hosts[1]).WaitForConnect(ctx); err != nil {
		t.Fatal(err)
	}
	<-valid
	valid <- "second"
	project("second\n")
	endOther()
	l, err := net.Listen("tcp", listeners[1].Addr().String())
	if err != nil {
		t.Skipf("SKIPPED: the address is taken: %v", err)
	}
	listeners[1] = l
	node(1)
	for { // until a has noticed the end of the other one, and is connected again
		if err := a.Connection(hosts[1]).WaitForConnect(ctx); err != nil {
			t.Fatalf("with the new token: %v", err)
		}
		if _, err := a.Connection(hosts[1]).Call(ctx, "name", nil); err == nil {
			break
		}
	}
}
