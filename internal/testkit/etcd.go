package testkit

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// Etcd is a server of a test's own, which it kills and starts again.
type Etcd struct {
	Endpoint string // its URL

	t       *testing.T
	path    string
	dir     string
	between string // where other members would find it
	flags   []string
	cmd     *exec.Cmd
	log     bytes.Buffer
}

// StartEtcd starts a server of http or https, with more flags. It ends with the test. Where there is
// none, the test is skipped.
func StartEtcd(t *testing.T, scheme string, flags ...string) *Etcd {
	t.Helper()
	e := &Etcd{t: t, path: Program(t, "etcd", "etcd-server"), dir: t.TempDir(), flags: flags}
	e.Endpoint, e.between = scheme+"://"+FreeAddress(t), "http://"+FreeAddress(t)
	e.Start()
	t.Cleanup(func() {
		e.Kill()
		if t.Failed() {
			t.Logf("etcd says:\n%s", &e.log)
		}
	})
	return e
}

// Start starts the server again. It does not wait until it answers.
func (e *Etcd) Start() {
	e.t.Helper()
	e.cmd = exec.Command(e.path, append([]string{
		"--data-dir", e.dir, "--name", "one",
		"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint,
		"--listen-peer-urls", e.between, "--initial-advertise-peer-urls", e.between, "--initial-cluster", "one=" + e.between,
		"--heartbeat-interval", "10", "--election-timeout", "100",
	}, e.flags...)...)
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	if err := e.cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
}

// Kill kills the server, which keeps its data.
func (e *Etcd) Kill() {
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

// Address returns the host and port of Endpoint.
func (e *Etcd) Address() string {
	_, address, _ := strings.Cut(e.Endpoint, "://")
	return address
}
