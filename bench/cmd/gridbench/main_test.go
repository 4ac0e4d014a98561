package main

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// keepProcs undoes what run does to the process.
func keepProcs(t *testing.T) {
	procs := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
}

func TestRunWritesReport(t *testing.T) {
	keepProcs(t)
	dir := filepath.Join(t.TempDir(), "docs")
	var out strings.Builder
	if err := run([]string{"-short", "-run", "^echo$", "-out", dir}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, textFile))
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != out.String() || !strings.Contains(out.String(), "| grid |") {
		t.Errorf("the file has\n%s\nand the output is\n%s", text, &out)
	}
	if plot, err := os.ReadFile(filepath.Join(dir, plotFile)); err != nil || !strings.Contains(string(plot), "<svg") {
		t.Errorf("the plot: %v", err)
	}
}

func TestRunOfSomeSectionsWritesNoFiles(t *testing.T) {
	for _, tt := range []struct {
		args []string
		out  string
	}{
		{nil, filepath.Join("..", "docs")},
		{[]string{"-short"}, ""},
		{[]string{"-run", "echo"}, ""},
		{[]string{"-run", "echo", "-out", "x"}, "x"},
	} {
		c, err := parse(tt.args, io.Discard)
		if err != nil || c.out != tt.out {
			t.Errorf("%v: writes to %q, %v; want %q", tt.args, c.out, err, tt.out)
		}
	}
}

func TestBadFlags(t *testing.T) {
	keepProcs(t)
	for _, args := range [][]string{{"-rounds", "0"}, {"-procs", "0"}, {"-time", "-1s"}, {"-run", "("}, {"-run", "nothing"}, {"more"}, {"-what"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
