package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"testing"
	"time"
)

func TestTableLinesUp(t *testing.T) {
	var tab table
	tab.add("to", "calls", "median")
	tab.add("http://a", "1,234", "5 µs")
	tab.add("b", "1", "")
	var b bytes.Buffer
	tab.writeTo(&b, "  ")
	const want = "" +
		"  to        calls  median\n" +
		"  http://a  1,234    5 µs\n" +
		"  b             1\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestNumbersAreShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "-", 1500: "1 µs", 999 * time.Microsecond: "999 µs", 1234 * time.Microsecond: "1.23 ms",
		56 * time.Millisecond: "56 ms", 1500 * time.Millisecond: "1.50 s",
	} {
		if got := short(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int]string{0: "0 bytes", 512: "512 bytes", 2048: "2 KiB", 3 << 20: "3 MiB", 1500: "1500 bytes"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestStatusLineLeavesNothingBehind(t *testing.T) {
	var b bytes.Buffer
	l := statusLine{w: &b}
	l.set("waiting %d", 100)
	l.set("done")
	l.clear()
	l.clear()
	if want := "\rwaiting 100\rdone       \r    \r"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestStatusLineIsForTerminals(t *testing.T) {
	var b bytes.Buffer
	l := newStatusLine(&b, false)
	l.set("waiting")
	l.clear()
	if b.Len() > 0 {
		t.Errorf("got %q", b.String())
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if isTerminal(w) {
		t.Error("a pipe is taken for a terminal")
	}
}

func TestReasonLogKeepsTheLastReasonOfEachPeer(t *testing.T) {
	var b bytes.Buffer
	l := newReasonLog(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelError}))
	log := slog.New(l)
	log.Warn("x", "peer", "a", "reason", "one")
	log.Warn("x", "peer", "b", "reason", "two")
	log.Error("x", "peer", "a", "reason", context.Canceled)
	log.Info("x", "peer", "b")
	if l.of("a") != "context canceled" || l.of("b") != "two" || l.of("c") != "" {
		t.Errorf("a %q, b %q, c %q", l.of("a"), l.of("b"), l.of("c"))
	}
	if got := bytes.Count(b.Bytes(), []byte("\n")); got != 1 {
		t.Errorf("%d lines were handed on, want the one above the level:\n%s", got, &b)
	}
}
