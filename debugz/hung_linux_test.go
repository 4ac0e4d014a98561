package debugz

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

// childEnv makes the test binary a node: it has the child's address and its peer's name.
const childEnv = "DEBUGZ_TEST_CHILD"

// TestHungPeerChild is the node that is stopped.
func TestHungPeerChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("a part of TestHungPeer")
	}
	server := httptest.NewUnstartedServer(nil)
	name := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       name,
		Hosts:       []string{name, os.Getenv(childEnv)},
		AuthRequest: func(*http.Request) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := errors.Join(m.Handle("echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil }), RegisterCluster(m)); err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = m.Handler()
	server.Start()
	defer server.Close()
	fmt.Println("child", name)
	io.Copy(io.Discard, os.Stdin) // until the parent ends
}

// startChild starts a process with a node whose only peer is the named one, and returns its name.
func startChild(t *testing.T, peer string) (process *os.Process, name string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHungPeerChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+peer)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "child "); ok {
			go io.Copy(io.Discard, out)
			return cmd.Process, name
		}
	}
	t.Fatal("the other process says nothing")
	return nil, ""
}

// A peer whose process is stopped stands out at the third look, a second each, with what waits for it.
func TestHungPeer(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	name := "http://" + server.Listener.Addr().String()
	process, child := startChild(t, name)
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       name,
		Hosts:       []string{name, child},
		AuthRequest: func(*http.Request) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	server.Config.Handler = m.Handler()
	server.Start()
	t.Cleanup(server.Close)
	conn := m.Connection(child)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := Handler(m, Options{Cluster: true})
	eventually(t, "the peer to answer", func() bool {
		s := getStatus(t, h, "")
		return s.Cluster[1].Known && s.Peers[0].RoundTrip > 0 && s.Peers[0].Unanswered == 0
	})

	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process to stop", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.Pid))
		return err == nil && strings.Contains(string(b), "\nState:\tT")
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 3 {
		go conn.Call(ctx, "echo", nil)
	}
	eventually(t, "the calls to wait", func() bool { return conn.Stats().OutgoingRequests >= 3 })
	get(t, h, "/")
	for range 2 {
		time.Sleep(time.Second) // as the page does
		get(t, h, "/")
	}
	s := getStatus(t, h, "")
	if p := s.Peers[0]; p.Silent() == 0 || p.State != grid.StateConnected || p.OutgoingRequests < 3 || p.OldestRequest < time.Second {
		t.Fatalf("%+v", p)
	}
	if s.Cluster[1].Known || s.Cluster[0].Links[child].Silent == 0 {
		t.Errorf("%+v", s.Cluster)
	}
	body := get(t, h, "/").Body.String()
	for _, want := range []string{
		`class="hung"`, `<span class="pill bad">silent</span>`, `<line class="bad"`, `<td class="bad" title=`, `1 silent</span>`,
		"requests wait for it, the oldest for ", `<span class="pill bad" id="summary">`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}

	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the peer to be back", func() bool {
		s := getStatus(t, h, "")
		return s.Peers[0].Silent() == 0 && s.Peers[0].State == grid.StateConnected && s.Cluster[1].Known
	})
	if body := get(t, h, "/").Body.String(); strings.Contains(body, "hung") || strings.Contains(body, " silent</span>") {
		t.Error("the peer still hangs on the page")
	}
}
