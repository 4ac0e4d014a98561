package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gridmesh/grid/debugz"
)

// runUntilStopped runs a command in this process. stop ends it as Ctrl-C does and returns its exit
// code.
func runUntilStopped(t *testing.T, args ...string) (stdout, stderr *output, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stdout, stderr = &output{changed: make(chan struct{}, 1)}, &output{changed: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, stdout, stderr) }()
	done := false
	stop = func() int {
		cancel()
		done = true
		return <-code
	}
	t.Cleanup(func() {
		if !done {
			stop()
		}
	})
	return stdout, stderr, stop
}

// pageURL waits for the address of a status page in what a command writes.
func pageURL(t *testing.T, o *output) (url string) {
	t.Helper()
	address := regexp.MustCompile(`status page.*?(http://127\.0\.0\.1:\d+/(A/)?)`)
	until(t, "the address of the status page", func() bool {
		m := address.FindStringSubmatch(o.String())
		if m != nil {
			url = m[1]
		}
		return m != nil
	})
	return url
}

func getPage(t *testing.T, url string) (code int, body string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestDemoServesStatusPages(t *testing.T) {
	stdout, stderr, stop := runUntilStopped(t, "demo", "-duration", "100ms", "-http", "127.0.0.1:0")
	url := pageURL(t, stdout)
	until(t, "the end of the measurement", func() bool { return strings.Contains(stdout.String(), "Ctrl-C") })
	var s debugz.Status
	until(t, "calls that go on, streams, and waiting calls", func() bool {
		_, body := getPage(t, url+"status.json")
		s = debugz.Status{}
		if err := json.Unmarshal([]byte(body), &s); err != nil {
			t.Fatal(err)
		}
		streams, calls := 0, int64(0)
		for _, h := range s.Handlers {
			streams += h.Streams
			if h.Name == "greet" {
				calls += h.Calls
			}
		}
		return streams >= 6 && calls > 20
	})
	root := strings.TrimSuffix(url, "A/")
	until(t, "links to the pages of the other nodes", func() bool {
		_, body := getPage(t, url)
		return strings.Count(body, `href="`+root+`B/"`) > 1 && strings.Count(body, `href="`+root+`D/"`) > 1
	})
	for path, want := range map[string]string{"": "grid", "B/": "peers connected", "D/health/live": `"ok"`, "C/health/ready": `"peers"`} {
		code, body := getPage(t, root+path)
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("/%s: %d without %q: %.200s", path, code, want, body)
		}
	}
	if code := stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestNodeServesStatusPage(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	_, stderr, stop := runUntilStopped(t, "node", "-local", hosts[0], "-hosts", strings.Join(hosts, ","), "-http", "127.0.0.1:0")
	url := pageURL(t, stderr)
	if code, body := getPage(t, url); code != http.StatusOK || !strings.Contains(body, "0 of 1 peers connected") {
		t.Errorf("%d: %.300s", code, body)
	}
	if code, _ := getPage(t, url+"health/live"); code != http.StatusOK {
		t.Errorf("live is %d", code)
	}
	if code, body := getPage(t, url+"health/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, hosts[1]) {
		t.Errorf("ready is %d without the other node: %s", code, body)
	}
	if code := stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestStatusPageNeedsItsAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{l.Addr().String(), "nowhere"} {
		code, _, stderr := runHere(t, "demo", "-http", address)
		if code != exitUsage || !strings.Contains(stderr, "-http "+address) {
			t.Errorf("%s: exit code %d: %s", address, code, stderr)
		}
	}
}

// A page on all addresses is reached at the host of its node.
func TestURLOfThePageForOthers(t *testing.T) {
	for address, want := range map[string]string{"127.0.0.1:0": "http://127.0.0.1:", ":0": "http://node1.example:"} {
		p, err := newStatusPage(address)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if got := p.urlAt("https://node1.example:9000"); !strings.HasPrefix(got, want) || strings.Contains(got, ":9000") {
			t.Errorf("%s: %s", address, got)
		}
	}
}
