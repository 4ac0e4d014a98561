package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

func TestTapShowsCalls(t *testing.T) {
	host := freeHosts(t, "http", 1)[0]
	n := calledNode(t, host)
	for _, json := range []bool{false, true} {
		args := []string{"tap", "-to", host, "-handler", "kv.*", "-n", "2"}
		if json {
			args = append(args, "-json")
		}
		stdout, stderr, stop := runUntilStopped(t, args...)
		until(t, "the tap", func() bool { return n.Traces().Wants(grid.TraceServed) })
		for _, body := range []string{"hello", "none"} {
			runHere(t, "call", "-to", host, "-local", "caller", "echo", "x")
			runHere(t, "call", "-to", host, "-local", "caller", "kv.Get", body)
		}
		until(t, "the end", func() bool { return strings.Contains(stderr.String(), "2 calls, and 0 dropped") })
		if code := stop(); code != exitOK {
			t.Errorf("exit code %d: %s", code, stderr.String())
		}
		lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
		if len(lines) != 2 {
			t.Fatalf("%q", lines)
		}
		if json {
			checkTapJSON(t, host, lines)
			continue
		}
		for i, want := range []string{" B out  ok", "error: no such key"} {
			if !strings.Contains(lines[i], host+" <- caller  kv.Get  ") || !strings.HasSuffix(lines[i], want) {
				t.Errorf("line %d: %s", i, lines[i])
			}
		}
		until(t, "the end of the tap", func() bool { return !n.Traces().Wants(grid.TraceServed) })
	}
}

func checkTapJSON(t *testing.T, host string, lines []string) {
	t.Helper()
	for i, line := range lines {
		var got tapLine
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got.Node != host || got.Side != "served" || got.Peer != "caller" || got.Handler != "kv.Get" || got.Seconds <= 0 || got.Time.IsZero() ||
			(got.Error != "") != (i == 1) {
			t.Errorf("%+v", got)
		}
	}
}

// A node that restarts is watched again.
func TestTapSurvivesARestart(t *testing.T) {
	host := freeHosts(t, "http", 1)[0]
	args := []string{"-local", host, "-hosts", host, "-accept-guests", "-tools"}
	first := startNode(t, args...)
	stdout, stderr, stop := runUntilStopped(t, "tap", "-to", host, "-handler", "*cho*", "-wait", patience.String())
	called := func() bool {
		runHere(t, "call", "-to", host, "128", "x")
		return strings.Contains(stdout.String(), "HandlerID(128)") || strings.Contains(stdout.String(), "echo")
	}
	until(t, "a call", called)
	first.cmd.Process.Kill()
	<-first.done
	before := len(stdout.String())
	until(t, "the loss", func() bool { return strings.Contains(stderr.String(), "waiting for it") })
	startNode(t, args...)
	until(t, "another call", func() bool { called(); return len(stdout.String()) > before })
	if code := stop(); code != exitOK {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestTapSaysWhatTheNodeLacks(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	memberHere(t, memberConfig{local: hosts[0], hosts: hosts[:1], acceptGuests: true})
	code, _, stderr := runHere(t, "tap", "-to", hosts[0])
	if code != exitFailed || !strings.Contains(stderr, "does not offer its calls: it has to call debugz.RegisterTools") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	n := memberHere(t, memberConfig{local: hosts[1], hosts: hosts[1:], acceptGuests: true})
	if err := debugz.RegisterTools(n.Manager, nil); err != nil {
		t.Fatal(err)
	}
	code, _, stderr = runHere(t, "tap", "-to", hosts[1])
	if code != exitFailed || !strings.Contains(stderr, "does not tell that to everybody") {
		t.Errorf("as a guest: exit code %d: %s", code, stderr)
	}
	for args, want := range map[string]string{"-handler [": "is no pattern", "-side up": "-side up is not known", "-n -1": "negative", "-to x": "not a URL"} {
		if code, _, stderr := runHere(t, append([]string{"tap"}, strings.Fields(args)...)...); code != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d: %s", args, code, stderr)
		}
	}
}
