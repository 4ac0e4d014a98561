package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMistakesGetOneLineThatHelps(t *testing.T) {
	dir := t.TempDir()
	empty := writeFile(t, dir, "empty", "\n")
	spaces := writeFile(t, dir, "spaces", "two words\n")
	noPEM := writeFile(t, dir, "nopem", "hello\n")
	missing := filepath.Join(dir, "missing")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const pair = "-local http://127.0.0.1:1 -hosts http://127.0.0.1:1,http://127.0.0.1:2"
	for _, c := range []struct{ name, args, want string }{
		{"nothing", "node", "-local and -hosts are missing"},
		{"no local", "node -hosts http://a", "-local is missing"},
		{"no hosts", "bench -local http://a", "-hosts is missing"},
		{"unknown flag", "node -port 80", "flag provided but not defined: -port; see gridctl help node"},
		{"flag without value", "node -local", "flag needs an argument: -local"},
		{"spaces in list", "node -local http://a -hosts http://a, http://b", `unexpected argument "http://b"`},
		{"no scheme", "node -local localhost:9001 -hosts localhost:9001", "did you mean http://localhost:9001?"},
		{"other scheme", "node -local tcp://a -hosts tcp://a", "http:// or https://"},
		{"no host in the URL", "node -local http://:9001 -hosts http://:9001", "has no host"},
		{"path in the URL", "node -local http://a:1/grid -hosts http://a:1", "write http://a:1"},
		{"bad port", "node -local http://a:b -hosts http://a:b", "is not a URL"},
		{"twice", "node -local http://a -hosts http://a,http://b,http://b/", "http://b twice"},
		{"local not in hosts", "node -local http://a -hosts http://b,http://c", "-local http://a is not in -hosts http://b,http://c"},
		{"local not in hosts of bench", "bench -local http://a -hosts http://b", "-local http://a is not in -hosts http://b"},
		{"nobody to measure", "bench -local http://a -hosts http://a", "-hosts has no node but this one"},
		{"listen without port", "node " + pair + " -listen 127.0.0.1", "write host:port or :port"},
		{"taken port", "node " + pair + " -listen " + taken.Addr().String(), "already in use"},
		{"taken port of bench", "bench " + pair + " -listen " + taken.Addr().String(), "already in use"},
		{"foreign address", "node -local http://192.0.2.1:9001 -hosts http://192.0.2.1:9001", "is not an address of this machine"},
		{"missing secret", "node " + pair + " -secret-file " + missing, "cannot read -secret-file"},
		{"empty secret", "bench " + pair + " -secret-file " + empty, "is empty"},
		{"secret of two words", "node " + pair + " -secret-file " + spaces, "more than one word"},
		{"https without certificate", "node -local https://a -hosts https://a", "needs a certificate"},
		{"certificate without key", "node -local https://a -hosts https://a -cert " + noPEM, "give -key"},
		{"certificate without https", "node " + pair + " -cert " + noPEM, "are for https:// names"},
		{"missing certificate", "node -local https://a -hosts https://a -cert " + missing + " -key " + missing, "cannot use -cert"},
		{"no certificate in the file", "node -local https://a -hosts https://a -cert " + noPEM + " -key " + noPEM, "cannot use -cert"},
		{"missing ca", "node " + pair + " -ca " + missing, "cannot read -ca"},
		{"no certificate in ca", "node " + pair + " -ca " + noPEM, "no certificate in PEM form"},
		{"unknown operation", "bench " + pair + " -op ping", "use echo, sink or source"},
		{"size that is no number", "bench " + pair + " -size big", "such as 512, 64k or 1m"},
		{"size too large", "bench " + pair + " -size 1000m", "want 0 to 32m"},
		{"too much ahead", "bench " + pair + " -op sink -size 32m -concurrency 64", "takes too much memory"},
		{"no callers", "bench " + pair + " -concurrency 0", "-concurrency 0 is out of range"},
		{"no unit", "bench " + pair + " -duration 5", "such as 500ms, 10s or 1m"},
		{"negative duration", "bench " + pair + " -duration -5s", "is too short"},
		{"no wait", "bench " + pair + " -wait 0s", "is too short"},
		{"pings in no unit", "node " + pair + " -ping-interval 5", "such as 500ms, 10s or 1m"},
		{"pings too often", "node " + pair + " -ping-interval 1us", "-ping-interval: 1µs is less than 1ms"},
		{"polls for too long", "node " + pair + " -busy-poll 1s", "-busy-poll: 1s is not between 0 and 10ms"},
		{"pings too rarely for the timeout", "bench " + pair + " -ping-interval 2s -peer-timeout 3s", "-peer-timeout: 3s is less than 4s"},
		{"demo too long", "demo -duration 1m", "use up to 5s"},
		{"soak without nodes", "soak -nodes 1", "-nodes 1 is out of range; use 2 to 32"},
		{"soak without callers", "soak -callers 0", "-callers 0 is out of range"},
		{"soak of no time", "soak -duration 0s", "is too short"},
		{"soak without a unit", "soak -duration 5", "such as 500ms, 10s or 1m"},
		{"soak with a bad seed", "soak -seed -1", "invalid value"},
		{"soak with negative rest", "soak -rest -1s", "-rest -1s is out of range"},
		{"soak of cuts alone", "soak -cut-every 0s", "-cut-every 0s is out of range"},
		{"soak of restarts alone", "soak -restart-every -1s", "-restart-every -1s is out of range"},
		{"soak without allowance", "soak -allowance 0s", "-allowance 0s is too short"},
		{"soak with long silence", "soak -peer-timeout 1m", "-peer-timeout 1m0s is too long"},
		{"soak with wrong pings", "soak -ping-interval 4s", "-peer-timeout: 5s is less than 8s"},
		{"soak with an argument", "soak 1h", "unexpected argument"},
		{"demo without callers", "demo -concurrency -1", "out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Fields(c.args)
			code, stdout, stderr := runHere(t, args...)
			if code != exitUsage || stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q", code, exitUsage, stdout)
			}
			checkLine(t, stderr, "gridctl "+args[0]+": ", c.want)
		})
	}
}

// checkLine checks that stderr is one line that starts and contains so.
func checkLine(t *testing.T, stderr, start string, contains ...string) {
	t.Helper()
	if strings.Count(stderr, "\n") != 1 || !strings.HasSuffix(stderr, "\n") || !strings.HasPrefix(stderr, start) {
		t.Errorf("want one line that starts with %q, got %q", start, stderr)
	}
	for _, want := range contains {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %q", want, stderr)
		}
	}
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostsAreForgiving(t *testing.T) {
	c := memberConfig{local: "http://a:1/", hostList: " http://a:1, http://b:2/,"}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.local != "http://a:1" || strings.Join(c.hosts, " ") != "http://a:1 http://b:2" {
		t.Errorf("local %q, hosts %q", c.local, c.hosts)
	}
}

func TestDefaultListen(t *testing.T) {
	for local, want := range map[string]string{
		"http://127.0.0.1:9001":    "127.0.0.1:9001",
		"http://[::1]:9001":        "[::1]:9001",
		"http://localhost:9001":    "localhost:9001",
		"http://node1.example:900": ":900",
		"http://node1.example":     ":80",
		"https://node1.example":    ":443",
		"https://10.0.0.1":         "10.0.0.1:443",
	} {
		if got := defaultListen(local); got != want {
			t.Errorf("%s: %q, want %q", local, got, want)
		}
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{
		"0": 0, "512": 512, "64k": 64 << 10, "64K": 64 << 10, "64KiB": 64 << 10, "1m": 1 << 20, "32MB": 32 << 20, "100b": 100,
	} {
		var got byteSize
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "k", "-1", "33m", "1g", "1.5k", "1kk", "1mk", "9223372036854775807", "9223372036854775807m"} {
		var got byteSize
		if err := got.Set(text); err == nil {
			t.Errorf("%q was taken as %d", text, got)
		}
	}
}

func TestTimesOfSilenceAreLimits(t *testing.T) {
	var c nodeConfig
	if err := parse(c.flags(), []string{"-ping-interval", "1s", "-peer-timeout", "3s"}); err != nil {
		t.Fatal(err)
	}
	if c.member.limits.PingInterval != time.Second || c.member.limits.PeerTimeout != 3*time.Second {
		t.Errorf("%+v", c.member.limits)
	}
}
