package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/gridmesh/grid"
)

const evilText = "evil\x1b]0;title\a\x1b[2J\u009b2J\u202egnp\nforged\xff"

// What a node answers controls no terminal, and hides nothing of what gridctl prints.
func TestTextsOfNodesAreEscaped(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	l, err := net.Listen("tcp", strings.TrimPrefix(hosts[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       hosts[0],
		Hosts:       hosts,
		AuthRequest: func(*http.Request) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	err = m.RegisterSingleHandler(handlerEcho, func([]byte) ([]byte, *grid.RemoteErr) { return nil, grid.NewRemoteErrString(evilText) })
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: m.Handler()}
	go server.Serve(l)
	defer server.Close()
	for _, more := range [][]string{{}, {"-json"}, {"-v"}} {
		var stdout, stderr bytes.Buffer
		args := append([]string{"bench", "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-duration", "50ms", "-wait", "20s"}, more...)
		if code := run(t.Context(), args, &stdout, &stderr); code != exitFailed {
			t.Errorf("%v: exit code %d: %s", more, code, &stderr)
		}
		for _, text := range []string{stdout.String(), stderr.String()} {
			if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' && r != '\t' }); i >= 0 || strings.Contains(text, "\nforged") {
				t.Errorf("%v prints %q", more, text)
			}
		}
		if !strings.Contains(stderr.String(), `evil\u001b]0;title`) {
			t.Errorf("%v does not say what the node has said: %s", more, &stderr)
		}
	}
}

func TestPlainWriter(t *testing.T) {
	var b strings.Builder
	n, err := fmt.Fprintf(plainWriter{&b}, "\rline %s\n\tnext ä\n", "\x1b[2J\u202e\xff")
	if want := "\rline " + `\u001b[2J\u202e\xff` + "\n\tnext ä\n"; b.String() != want || err != nil || n != 24 {
		t.Errorf("%q, %d, %v", b.String(), n, err)
	}
}

// A secret that others can read is told of, one that they can change is refused.
func TestSecretsThatOthersReach(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such bits")
	}
	dir := t.TempDir()
	for _, test := range []struct {
		mode    os.FileMode
		warning bool
		err     bool
	}{
		{0o600, false, false},
		{0o400, false, false},
		{0o700, false, false},
		{0o640, true, false},
		{0o644, true, false},
		{0o604, true, false},
		{0o444, true, false},
		{0o620, false, true},
		{0o602, false, true},
		{0o666, false, true},
		{0o646, false, true},
		{0o777, false, true},
	} {
		name := filepath.Join(dir, fmt.Sprintf("secret-%04o", test.mode))
		if err := os.WriteFile(name, []byte("6f1c0ffee\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, test.mode); err != nil {
			t.Fatal(err)
		}
		c := memberConfig{secretFile: name}
		err := c.readSecret()
		if (err != nil) != test.err || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%04o: %v", test.mode, err)
		}
		var stderr strings.Builder
		c.warn("node", &stderr)
		if got := stderr.String(); (got != "") != test.warning || test.warning && !strings.Contains(got, name) {
			t.Errorf("%04o: warned with %q", test.mode, got)
		}
		if err == nil && c.secret != "6f1c0ffee" {
			t.Errorf("%04o: the secret is %q", test.mode, c.secret)
		}
		linked := filepath.Join(dir, "link-"+filepath.Base(name))
		if err := os.Symlink(name, linked); err != nil {
			t.Fatal(err)
		}
		if err := (&memberConfig{secretFile: linked}).readSecret(); (err != nil) != test.err {
			t.Errorf("%04o behind a link: %v", test.mode, err)
		}
	}
}

// Strangers cannot fill the log with TLS handshakes that fail.
func TestErrorLogOfServersIsBounded(t *testing.T) {
	log := &output{changed: make(chan struct{}, 1)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errorLog := newErrorLog(slog.New(slog.NewTextHandler(log, nil)))
	var failed atomic.Int32
	errorLog.SetOutput(countedWrites{errorLog.Writer(), &failed})
	server := &http.Server{
		ErrorLog:  errorLog,
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, fmt.Errorf("none") }},
	}
	go server.ServeTLS(l, "", "")
	defer server.Close()
	for range 5 * strangerLines {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
		io.Copy(io.Discard, conn) // until the server has hung up, which it does before it logs
		conn.Close()
	}
	until(t, "all failures reach the log", func() bool { return failed.Load() == 5*strangerLines })
	if n := strings.Count(log.String(), "TLS handshake error"); n != strangerLines {
		t.Errorf("%d lines for %d handshakes that failed: %s", n, 5*strangerLines, log.String())
	}
}

// countedWrites counts the writes that have ended.
type countedWrites struct {
	io.Writer
	n *atomic.Int32
}

func (w countedWrites) Write(p []byte) (int, error) {
	defer w.n.Add(1)
	return w.Writer.Write(p)
}

// The page is served at the names that it was given, and no others.
func TestStatusPageKnowsItsNames(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	_, stderr, stop := runUntilStopped(t, "node", "-local", hosts[0], "-hosts", strings.Join(hosts, ","),
		"-http", "127.0.0.1:0", "-http-hosts", "status.example,other.example")
	defer stop()
	url := pageURL(t, stderr)
	for host, want := range map[string]int{"status.example": 200, "other.example:8080": 200, "evil.example": 421} {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s is answered with %s", host, resp.Status)
		}
	}
}
