package main

import (
	"strings"
	"syscall"
	"testing"
)

// quickSoak is a soak with much trouble.
var quickSoak = []string{
	"soak", "-nodes", "3", "-callers", "8", "-seed", "7", "-cut-every", "100ms", "-restart-every", "1s",
	"-ping-interval", "100ms", "-peer-timeout", "1s", "-allowance", "20s",
}

func TestSoakKeepsItsPromises(t *testing.T) {
	p := start(t, append(quickSoak, "-duration", "3s")...)
	code := p.wait(t)
	out := p.stdout.String()
	if code != exitOK || p.stderr.String() != "" {
		t.Fatalf("exit code %d\n%s%s", code, out, p.stderr.String())
	}
	for _, want := range []string{
		"the seed is 7", "\ncalls ", "\n  typed stream ", "\nerrors ", "\ncuts ", "\nrestarts ", "\ngoroutines, nodes idle", "\nheap, nodes stopped",
		"garbage collections", "\na node whose handlers compute ", "\n  net/rpc", "No promise was broken.",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestSoakEndsInGoodOrderWhenInterrupted(t *testing.T) {
	p := start(t, append(quickSoak, "-duration", "1h")...)
	until(t, "the start", func() bool { return p.stdout.String() != "" })
	p.signal(t, syscall.SIGINT)
	if code := p.wait(t); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	if out := p.stdout.String(); !strings.Contains(out, "No promise was broken.") {
		t.Errorf("no results in\n%s%s", out, p.stderr.String())
	}
}
