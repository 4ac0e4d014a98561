package main

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/gridmesh/grid/bench/pair"
)

func TestMain(m *testing.M) {
	pair.BeNode()
	os.Exit(m.Run())
}

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
	if plot, err := os.ReadFile(filepath.Join(dir, "benchmarks.svg")); err != nil || !strings.Contains(string(plot), "<svg") {
		t.Errorf("the plot: %v", err)
	}
}

// TestResultsOfSeveralRuns measures one section after another, and writes a report of both.
func TestResultsOfSeveralRuns(t *testing.T) {
	keepProcs(t)
	file, dir := filepath.Join(t.TempDir(), "results"), t.TempDir()
	for _, args := range [][]string{
		{"-short", "-run", "^callers$", "-cases", "^1 caller", "-contenders", "grid", "-results", file},
		{"-short", "-run", "^short$", "-contenders", "limit", "-results", file},
		{"-run", "^$", "-results", file, "-out", dir},
	} {
		if err := run(args, io.Discard, io.Discard); err != nil {
			t.Fatal(args, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, textFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Callers in two processes", "Short streams", "(benchmarks-callers.svg)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "benchmarks-callers.svg")); err != nil {
		t.Error(err)
	}
	if strings.Contains(string(text), file) {
		t.Error("the report has a file name of this machine")
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
