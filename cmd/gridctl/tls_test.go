package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestGridWithTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, "127.0.0.1")
	hosts := freeHosts(t, "https", 3)
	list := strings.Join(hosts, ",")
	flags := []string{"-hosts", list, "-cert", cert, "-key", key, "-ca", a.file}
	var nodes []*process
	for _, host := range hosts[:2] {
		nodes = append(nodes, startNode(t, append([]string{"-local", host}, flags...)...))
	}
	p := start(t, append([]string{"bench", "-local", hosts[2], "-duration", "200ms", "-concurrency", "3", "-json"}, flags...)...)
	if code := p.wait(t); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	checkReport(t, []byte(p.stdout.String()), "echo", 512, hosts[:2])

	_, err := tls.Dial("tcp", strings.TrimPrefix(hosts[0], "https://"), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		t.Error("TLS 1.1 was taken")
	}
	for _, n := range nodes {
		n.signal(t, syscall.SIGTERM)
		if code := n.wait(t); code != exitOK {
			t.Errorf("exit code %d of a node", code)
		}
	}
}

func TestBenchSaysWhatIsWrongWithACertificate(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	cert, key := a.issue(t, "127.0.0.1")
	foreign, foreignKey := a.issue(t, "192.0.2.1")
	for _, c := range []struct{ name, scheme, cert, key, ca, want string }{
		{"unknown authority", "https", cert, key, other.file, "signed by somebody unknown; give the file with that certificate with -ca"},
		{"another name", "https", foreign, foreignKey, a.file, "its certificate is for another name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			hosts := hostsWhere(t, c.scheme, true)
			list := strings.Join(hosts, ",")
			startNode(t, "-local", hosts[0], "-hosts", list, "-cert", c.cert, "-key", c.key, "-ca", a.file)
			p := start(t, "bench", "-local", hosts[1], "-hosts", list, "-cert", cert, "-key", key, "-ca", c.ca, "-wait", "25s")
			if code := p.wait(t); code != exitUsage {
				t.Errorf("exit code %d", code)
			}
			checkLine(t, p.stderr.String(), "gridctl bench: no connection to "+hosts[0]+": ", c.want)
		})
	}
}

func TestBenchSaysThatTheSchemeIsWrong(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue(t, "127.0.0.1")
	hosts := freeHosts(t, "http", 2)
	secure := strings.Replace(hosts[0], "http:", "https:", 1)
	startNode(t, "-local", secure, "-hosts", secure, "-cert", cert, "-key", key)
	code, _, stderr := runHere(t, "bench", "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-wait", "1s")
	if code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	checkLine(t, stderr, "gridctl bench: no connection to "+hosts[0]+": ", "is its name https://?")

	memberHere(t, memberConfig{local: hosts[1], hosts: hosts[1:]})
	list := strings.Replace(hosts[1], "http:", "https:", 1) + "," + hosts[0]
	third := freeHosts(t, "http", 1)[0]
	code, _, stderr = runHere(t, "bench", "-local", third, "-hosts", list+","+third, "-wait", "1s")
	if code != exitUsage {
		t.Errorf("exit code %d", code)
	}
	checkLine(t, stderr, "gridctl bench: no connection to ", "is its name http://?")
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	file string // with its own certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = writePEM(t, a.dir, "ca.pem", "CERTIFICATE", der)
	return a
}

// issue returns files with a certificate for an IP address and with its key.
func (a *authority) issue(t *testing.T, ip string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: ip},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.ParseIP(ip)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, a.dir, ip+".pem", "CERTIFICATE", der), writePEM(t, a.dir, ip+".key", "PRIVATE KEY", keyDER)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, dir, name, kind string, der []byte) string {
	t.Helper()
	return writeFile(t, dir, name, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}
