package discovery

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// server is a dnsmasq that answers for the domain grid.test, and for nothing else.
type server struct {
	t         *testing.T
	path, dir string
	address   string
	cmd       *exec.Cmd
	log       bytes.Buffer
}

func newServer(t *testing.T) *server {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Close() // dnsmasq takes its port
	s := &server{t: t, path: testkit.Program(t, "dnsmasq", "dnsmasq-base"), dir: t.TempDir(), address: c.LocalAddr().String()}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("dnsmasq says:\n%s", &s.log)
		}
	})
	s.write()
	return s
}

// start starts the server, with records in the words of its command line.
func (s *server) start(records ...string) {
	s.t.Helper()
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	args := append([]string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=", "--pid-file",
		"--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--port=" + port,
		"--local=/grid.test/", "--addn-hosts=" + s.hostsFile(),
	}, records...)
	s.cmd = exec.Command(s.path, args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, "dnsmasq", func() bool {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (s *server) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) hostsFile() string { return filepath.Join(s.dir, "hosts") }

// write changes what names lead to, each given as an address and a name.
func (s *server) write(hosts ...string) {
	s.t.Helper()
	if err := os.WriteFile(s.hostsFile(), []byte(strings.Join(hosts, "\n")+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if s.cmd != nil {
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			s.t.Fatal(err)
		}
	}
}

// resolver asks the server and nobody else.
func (s *server) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.address)
	}}
}

// addresses has n lines for the same name.
func addresses(n int, format string) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf(format, i+1))
	}
	return lines
}
