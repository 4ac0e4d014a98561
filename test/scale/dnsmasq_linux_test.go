package scale

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// domain leads to the addresses of all nodes.
const domain = "nodes.grid.test"

// dns is a dnsmasq that answers for domain, and for nothing else.
type dns struct {
	t       *testing.T
	cmd     *exec.Cmd
	hosts   string // a file
	address string
	log     output
}

// output is what a process has written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func startDNS(t *testing.T, n *network) *dns {
	t.Helper()
	program := testkit.Program(t, "dnsmasq", "dnsmasq-base")
	d := &dns{t: t, hosts: filepath.Join(t.TempDir(), "hosts")}
	ip, port := n.address(hubNumber), "53"
	if n.hub == nil {
		c, err := net.ListenPacket("udp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		c.Close() // dnsmasq takes its port
		_, port, _ = net.SplitHostPort(c.LocalAddr().String())
	}
	d.address = net.JoinHostPort(ip, port)
	d.name()
	d.cmd = n.command(program, "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=", "--pid-file",
		"--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address="+ip, "--port="+port, "--local=/grid.test/", "--addn-hosts="+d.hosts)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq says:\n%s", &d.log)
		}
	})
	testkit.Eventually(t, "dnsmasq to start", func() bool { return strings.Contains(d.log.String(), "started") })
	return d
}

// name has the domain lead to these addresses.
func (d *dns) name(addresses ...string) {
	d.t.Helper()
	var lines strings.Builder
	for _, a := range addresses {
		fmt.Fprintln(&lines, a, domain)
	}
	if err := os.WriteFile(d.hosts, []byte(lines.String()), 0o644); err != nil {
		d.t.Fatal(err)
	}
	if d.cmd != nil {
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			d.t.Fatal(err)
		}
	}
}
