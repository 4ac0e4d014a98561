package main

import (
	"bytes"
	"context"
	"errors"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
)

// patience bounds how long a test waits for something that must happen.
const patience = 30 * time.Second

var (
	program    string // the built program
	buildFlags []string
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "gridctl")
	if err != nil {
		log.Fatal(err)
	}
	program = filepath.Join(dir, "gridctl.exe")
	args := append([]string{"build", "-o", program}, buildFlags...)
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func TestHelpAndItsExitCodes(t *testing.T) {
	for _, c := range []struct {
		args   string
		code   int
		stdout string // the start of it
		stderr string
	}{
		{"", exitUsage, "", "gridctl shows"},
		{"help", exitOK, "gridctl shows", ""},
		{"-h", exitOK, "gridctl shows", ""},
		{"--help", exitOK, "gridctl shows", ""},
		{"help demo", exitOK, "gridctl demo runs", ""},
		{"help node", exitOK, "gridctl node runs", ""},
		{"node -h", exitOK, "gridctl node runs", ""},
		{"node --help", exitOK, "gridctl node runs", ""},
		{"help doctor", exitOK, "gridctl doctor looks", ""},
		{"--version", exitOK, "gridctl ", ""},
		{"-version", exitOK, "gridctl ", ""},
		{"help call", exitOK, "gridctl call calls", ""},
		{"help tap", exitOK, "gridctl tap prints", ""},
		{"help dump", exitOK, "gridctl dump prints", ""},
		{"bench -h", exitOK, "gridctl bench joins", ""},
		{"help soak", exitOK, "gridctl soak runs", ""},
		{"help version", exitOK, "gridctl version prints", ""},
		{"version", exitOK, "gridctl ", ""},
		{"version now", exitUsage, "", `gridctl version: unexpected argument "now"`},
		{"serve", exitUsage, "", `gridctl: there is no command "serve"`},
		{"help serve", exitUsage, "", `gridctl: there is no command "serve"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, stdout, stderr := runHere(t, strings.Fields(c.args)...)
			if code != c.code || !starts(stdout, c.stdout) || !starts(stderr, c.stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, c.code, stdout, stderr)
			}
		})
	}
}

// starts reports whether text starts so; where start is empty, whether text is.
func starts(text, start string) bool {
	return strings.HasPrefix(text, start) && (start != "") == (text != "")
}

func TestUsageNamesEveryFlag(t *testing.T) {
	for _, c := range []struct{ command, flags string }{
		{"demo", "-size -concurrency -duration -http -v"},
		{"node", "-local -hosts -join -accept-guests -tools -discover -etcd-user-file -etcd-ca -etcd-cert -etcd-key -listen -secret-file -cert -key -ca -ping-interval -peer-timeout -busy-poll -http -http-hosts"},
		{"doctor", "-local -hosts -join -secret-file -cert -key -ca -path -timeout -json"},
		{"call", "-to -local -hosts -secret-file -ca -path -wait -subroute -H -file -format -timeout -list -json -v -stream -messages -in-capacity -out-capacity"},
		{"tap", "-to -local -hosts -secret-file -ca -path -wait -handler -peer -errors -slower -side -n -json"},
		{"dump", "-names -payloads -json"},
		{"bench", "-local -hosts -listen -secret-file -cert -key -ca -ping-interval -peer-timeout -busy-poll -op -size -concurrency -duration -wait -json -v"},
		{"soak", "-duration -seed -nodes -callers -rest -cut-every -restart-every -allowance -ping-interval -peer-timeout -v"},
	} {
		_, stdout, _ := runHere(t, "help", c.command)
		for flag := range strings.FieldsSeq(c.flags) {
			if !strings.Contains(stdout, "\n  "+flag) {
				t.Errorf("help %s does not name %s", c.command, flag)
			}
		}
	}
}

func TestDemoSucceeds(t *testing.T) {
	p := start(t, "demo", "-duration", "300ms")
	if code := p.wait(t); code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, p.stdout.String(), p.stderr.String())
	}
	for _, want := range []string{
		"6 connections", "12 requests with bytes", "12 requests with typed values", "1,000 messages",
		"MANY CALLS SHARE ONE WIRE", "calls worked again after", "none of which failed", "A -> B", "D -> C", "none lost",
	} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, p.stdout.String())
		}
	}
	if p.stderr.String() != "" {
		t.Errorf("stderr: %s", p.stderr.String())
	}
}

func TestDemoCanBeInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"demo"}, &stdout, &stderr); code != exitInterrupted {
		t.Errorf("exit code %d\n%s%s", code, &stdout, &stderr)
	}
}

// runHere runs a command in this process.
func runHere(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

// process is a running gridctl.
type process struct {
	cmd            *exec.Cmd
	args           []string
	stdout, stderr output
	done           chan struct{} // closed when it has ended
}

// start starts gridctl as a process of its own. The end of the test kills it.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), args: args, done: make(chan struct{})}
	p.stdout.changed, p.stderr.changed = make(chan struct{}, 1), make(chan struct{}, 1)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("gridctl %s\n%s", strings.Join(args, " "), p.stderr.String())
		}
	})
	return p
}

// startNode starts a node and waits until it is up.
func startNode(t *testing.T, args ...string) *process {
	t.Helper()
	p := start(t, append([]string{"node"}, args...)...)
	p.waitFor(t, "node is up")
	return p
}

// waitFor waits until text is in what the process has written to stderr.
func (p *process) waitFor(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(patience)
	for !strings.Contains(p.stderr.String(), text) {
		select {
		case <-p.stderr.changed:
		case <-p.done:
			if !strings.Contains(p.stderr.String(), text) {
				t.Fatalf("it ended without %q: %s", text, p.stderr.String())
			}
			return
		case <-timeout:
			t.Fatalf("no %q after %v: %s", text, patience, p.stderr.String())
		}
	}
}

// wait returns the exit code, which is -1 after a signal.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("gridctl %s did not end within %v", strings.Join(p.args, " "), patience)
		return 0
	}
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// output collects what a process writes.
type output struct {
	changed chan struct{} // room for one signal

	mu sync.Mutex // Protects following.
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// until waits for a condition that nothing tells about.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %v", what, patience)
		}
	}
}

// freeHosts returns names of nodes on ports where nobody listens.
func freeHosts(t *testing.T, scheme string, n int) []string {
	t.Helper()
	var hosts []string
	for range n {
		hosts = append(hosts, scheme+"://"+testkit.FreeAddress(t))
	}
	return hosts
}
