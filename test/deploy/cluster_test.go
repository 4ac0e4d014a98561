package deploy

import (
	"bytes"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// programs is a folder for what the tests build.
var programs string

// built builds the tool, once.
var built = sync.OnceValues(func() (string, error) {
	program := filepath.Join(programs, "gridctl")
	c := exec.Command("go", "build", "-o", program, ".")
	c.Dir = "../../cmd/gridctl"
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

func gridctl(t *testing.T) string {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "deploy"); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// cluster is what the files of deploy describe, as processes of this machine.
type cluster struct {
	hosts, ops            []string
	hostsFile, secretFile string
}

func newCluster(t *testing.T, n int) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{hostsFile: filepath.Join(dir, "hosts"), secretFile: filepath.Join(dir, "secret")}
	for range n {
		c.hosts = append(c.hosts, "http://"+testkit.FreeAddress(t))
		c.ops = append(c.ops, testkit.FreeAddress(t))
	}
	for name, text := range map[string]string{
		c.hostsFile:  strings.Join(c.hosts, "\n") + "\n",
		c.secretFile: strings.Repeat("5ec2e7", 11) + "\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// start starts a node with the arguments that a file has, with values of this machine.
func (c *cluster) start(t *testing.T, i int, args []string, here func(string) string) {
	t.Helper()
	cmd := exec.Command(gridctl(t))
	for _, arg := range args {
		cmd.Args = append(cmd.Args, here(arg))
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%s of %s: %v\n%s", cmd.Args, c.hosts[i], err, &said)
		}
	})
}

// waitReady waits until each node says that it reaches the others.
func (c *cluster) waitReady(t *testing.T) {
	t.Helper()
	for i, ops := range c.ops {
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // between looks
			resp, err := http.Get("http://" + ops + "/health/ready")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					break
				}
				err = fmt.Errorf("status %s", resp.Status)
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not ready: %v", c.hosts[i], err)
			}
		}
	}
}
