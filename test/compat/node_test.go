package compat

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// patience bounds every wait for a report.
const patience = time.Minute

// config and report are what the program of a node reads and writes.
type config struct {
	Local      string
	Hosts      []string
	Guest      bool
	MaxMessage int
	Cert, Key  string
}

type report struct{ Kind, Name, Got, Want string }

// node is a process.
type node struct {
	version version
	name    string
	cmd     *exec.Cmd
	input   io.WriteCloser
	reports chan report
	log     *testkit.LogLines
}

// start starts a node that ends with the test, and waits until it is up.
func start(t *testing.T, v version, c config) *node {
	t.Helper()
	if v.missing != "" {
		t.Skip(v.missing)
	}
	n := &node{version: v, name: c.Local, cmd: exec.Command(v.program), reports: make(chan report, 1000), log: testkit.NewLogLines()}
	n.cmd.Stderr = n.log
	input, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.input = input
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(n.reports)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			var r report
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				r = report{Kind: "broken", Got: err.Error()}
			}
			n.reports <- r
		}
	})
	t.Cleanup(func() {
		input.Close()
		n.cmd.Process.Kill()
		for range n.reports { // so that nobody waits for room
		}
		reading.Wait()
		_ = n.cmd.Wait()
		if t.Failed() {
			t.Logf("%s, a node of %s, says:\n%s", n.name, v.name, n.log)
		}
	})
	line, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	n.tell(t, "%s", line)
	n.wait(t, "up")
	return n
}

// tell sends the node a command.
func (n *node) tell(t *testing.T, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(n.input, format+"\n", args...); err != nil {
		t.Fatalf("%s is gone: %v", n.name, err)
	}
}

// wait waits for a report of a kind, and judges all that come.
func (n *node) wait(t *testing.T, kind string) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case r, more := <-n.reports:
			if !more {
				t.Fatalf("%s has ended before it said %q", n.name, kind)
			}
			if r.Got != r.Want {
				t.Errorf("%s, a node of %s: %s %s: got %q, want %q", n.name, n.version.name, r.Kind, r.Name, r.Got, r.Want)
			}
			if r.Kind == kind {
				return
			}
		case <-late.C:
			t.Fatalf("%s, a node of %s, does not say %q", n.name, n.version.name, kind)
		}
	}
}

// check lets each of some nodes run all scenarios with each of the others, all at the same time: one
// after the other, and then so many of each at once.
func check(t *testing.T, atOnce int, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer != n {
				n.tell(t, "check %s %d %s", peer.name, atOnce, strings.Join(peer.version.has, " "))
			}
		}
	}
	for _, n := range nodes {
		for range len(nodes) - 1 {
			n.wait(t, "checked")
		}
	}
}

// shutDown shuts a node down, while a handler of it runs that others have called. That may finish;
// new calls are refused.
func shutDown(t *testing.T, n *node, others ...*node) {
	t.Helper()
	for _, other := range others {
		other.tell(t, "hold %s", n.name)
		other.wait(t, "held")
	}
	n.tell(t, "shutdown")
	for _, other := range others {
		other.tell(t, "refused %s", n.name)
		other.wait(t, "refused")
	}
	n.tell(t, "release")
	for _, other := range others {
		other.wait(t, "released")
	}
	n.wait(t, "down")
	if err := n.cmd.Wait(); err != nil {
		t.Errorf("%s ends with %v", n.name, err)
	}
}

// certificate writes a certificate for all nodes, and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		var b bytes.Buffer
		if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return write("cert.pem", "CERTIFICATE", signed), write("key.pem", "PRIVATE KEY", encoded)
}
