package main

import (
	"strings"
	"testing"
)

func TestTopPrintsWhereNobodyLooks(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	list := strings.Join(hosts, ",")
	_, a, _ := runUntilStopped(t, "node", "-local", hosts[0], "-hosts", list, "-http", "127.0.0.1:0")
	_, b, _ := runUntilStopped(t, "node", "-local", hosts[1], "-hosts", list)
	url := pageURL(t, a)
	until(t, "the nodes to be connected", func() bool {
		return strings.Contains(a.String(), "grid: connected") && strings.Contains(b.String(), "grid: connected")
	})
	var stdout string
	until(t, "both nodes to be up", func() bool {
		code, out, stderr := runHere(t, "top", "-url", url, "-once")
		if code != exitOK {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		stdout = out
		return strings.Count(out, "1/1") == 2
	})
	for _, want := range []string{"nodes, last minute", "pairs, last minute", "handlers, ", "calls, ", "errors", "debugz.Cluster"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	code, stdout, stderr := runHere(t, "top", "-url", url, "-single", "-filter", "debugz")
	if code != exitOK || strings.Contains(stdout, "1/1") || !strings.Contains(stdout, "debugz.Cluster") {
		t.Errorf("exit code %d with a filter: %s%s", code, stdout, stderr)
	}
}

func TestTopSaysWhomItCannotAsk(t *testing.T) {
	free := freeHosts(t, "http", 1)[0]
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"-url " + free, exitFailed, "cannot ask the status page at " + free},
		{"-url ftp://x", exitUsage, `"ftp://x" is not the address of a status page`},
		{"-interval 1ms", exitUsage, "-interval 1ms is too short"},
	} {
		code, stdout, stderr := runHere(t, append([]string{"top"}, strings.Fields(test.args)...)...)
		if code != test.code || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%s: exit code %d: %s%s", test.args, code, stdout, stderr)
		}
	}
}
