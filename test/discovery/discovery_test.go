package discovery

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/discovery"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

const hold = time.Second

// loopback are addresses of one machine that are free for tests.
func loopback(i int) string { return fmt.Sprintf("127.77.0.%d", i+1) }

// listen listens at the same port of n addresses.
func listen(t *testing.T, n int) (all []net.Listener, port int) {
	t.Helper()
	for range 20 {
		all = nil
		for i := range n {
			l, err := net.Listen("tcp", net.JoinHostPort(loopback(i), fmt.Sprint(port)))
			if err != nil {
				break
			}
			t.Cleanup(func() { l.Close() })
			all = append(all, l)
			port = l.Addr().(*net.TCPAddr).Port
		}
		if len(all) == n {
			return all, port
		}
		port = 0
	}
	t.Skip("needs all of 127.0.0.0/8, as Linux has it")
	return nil, 0
}

// The addresses of a name, as a headless Service of Kubernetes has those of its pods.
func TestNodesFollowAddresses(t *testing.T) {
	s := newServer(t)
	listeners, port := listen(t, 4)
	hosts := func(of ...int) (lines []string) {
		for _, i := range of {
			lines = append(lines, loopback(i)+" nodes.grid.test")
		}
		return lines
	}
	s.write(hosts(0, 1, 2)...)
	s.start()
	var nodes []*testnode.Discovering
	for _, l := range listeners {
		source := discovery.DNSWith(s.resolver(), fmt.Sprintf("http://nodes.grid.test.:%d", port))
		source.Every = 50 * time.Millisecond
		nodes = append(nodes, testnode.Discover(t, l, source, hold))
	}
	testnode.WaitMesh(t, nodes[:3]...)
	nodes[3].Log.Wait(t, "grid: discovery does not find this node")

	s.write(hosts(0, 1, 2, 3)...)
	testnode.WaitMesh(t, nodes...)

	// The server forgets everything, dies, and comes back without anything.
	failed := func(reason string) {
		t.Helper()
		before := time.Now()
		for _, d := range nodes {
			testkit.Eventually(t, reason, func() bool {
				stats := d.Runner.Stats()
				return stats.LastErrorTime.After(before) && strings.Contains(stats.LastError, reason)
			}, func() string { return d.Runner.Stats().LastError })
		}
	}
	s.write()
	failed("no such host")
	s.kill()
	failed("connection refused")
	s.start()
	failed("no such host")
	testnode.WaitMesh(t, nodes...)
	for _, d := range nodes {
		if removed := strings.Count(d.Log.String(), "grid: connection closed"); removed != 0 {
			t.Errorf("%s has lost %d connections:\n%s", d.HostName(), removed, d.Log)
		}
	}

	// It is back with one node less.
	s.write(hosts(0, 2, 3)...)
	nodes[1].Stop() // or it would find the others for ever
	testnode.WaitMesh(t, nodes[0], nodes[2], nodes[3])
}

// SRV records have names, which certificates are for.
func TestNodesFollowServices(t *testing.T) {
	s := newServer(t)
	roots, certificate := authority(t)
	var nodes []*testnode.Discovering
	var lines, records []string
	var names []string
	for i := range 3 {
		l, _ := testkit.Listen(t)
		host := fmt.Sprintf("node%d.grid.test", i)
		port := l.Addr().(*net.TCPAddr).Port
		lines = append(lines, "127.0.0.1 "+host)
		records = append(records, fmt.Sprintf("--srv-host=_grid._tcp.grid.test,%s,%d", strings.ToUpper(host[:1])+host[1:], port))
		names = append(names, fmt.Sprintf("https://%s:%d", host, port))
		source := discovery.DNSWith(s.resolver(), "https://_grid._tcp.grid.test.")
		source.Every = 50 * time.Millisecond
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate(host)}})
		nodes = append(nodes, testnode.Discover(t, l, source, hold, func(o *grid.ManagerOptions) {
			o.Local = names[i]
			o.TLSConfig = &tls.Config{RootCAs: roots}
			o.Dialer = (&net.Dialer{Resolver: s.resolver()}).DialContext
		}))
	}
	s.write(lines...)
	s.start(records[:2]...)
	testnode.WaitMesh(t, nodes[:2]...)
	s.kill()
	s.start(records...)
	testnode.WaitMesh(t, nodes...)
	s.kill()
	nodes[0].Stop()
	s.start(records[1:]...)
	testnode.WaitMesh(t, nodes[1:]...)
}

// authority returns a root, and what makes certificates by it.
func authority(t *testing.T) (roots *x509.CertPool, certificate func(host string) tls.Certificate) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	sign := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
		template.SerialNumber = big.NewInt(1)
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rootKey := newKey()
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root := sign(template, template, rootKey, rootKey)
	roots = x509.NewCertPool()
	roots.AddCert(root)
	return roots, func(host string) tls.Certificate {
		key := newKey()
		c := sign(&x509.Certificate{DNSNames: []string{host}}, root, key, rootKey)
		return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
	}
}

// What fits no UDP packet comes over TCP.
func TestAnswersMayBeLong(t *testing.T) {
	s := newServer(t)
	s.write(addresses(250, "10.0.0.%d many.grid.test")...)
	s.start()
	hosts, err := discovery.DNSWith(s.resolver(), "http://many.grid.test.:9000").Find(t.Context())
	if err != nil || len(hosts) != 250 || !slices.Contains(hosts, "http://10.0.0.250:9000") {
		t.Errorf("%d hosts, %v", len(hosts), err)
	}
}

func TestKindsOfAddresses(t *testing.T) {
	s := newServer(t)
	s.write("10.0.0.1 both.grid.test", "fd00::1 both.grid.test", "fd00::1 six.grid.test", "fd00::2 six.grid.test")
	s.start()
	for target, want := range map[string]string{
		"http://both.grid.test.:9000": "[http://10.0.0.1:9000]",
		"https://six.grid.test.":      "[https://[fd00::1] https://[fd00::2]]",
	} {
		hosts, err := discovery.DNSWith(s.resolver(), target).Find(t.Context())
		slices.Sort(hosts)
		if got := fmt.Sprint(hosts); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", target, got, err, want)
		}
	}
	if hosts, err := discovery.DNSWith(s.resolver(), "http://none.grid.test.").Find(t.Context()); err == nil {
		t.Errorf("found %q for a name that is not there", hosts)
	}
}
