// Gridbench compares grid with other ways of calling another node, and writes
// docs/benchmarks.md and its plot.
//
//	go run ./cmd/gridbench                  # everything but whole meshes
//	go run ./cmd/gridbench -run 'echo|tls'  # some sections; writes no files
//	go run ./cmd/gridbench -short           # that all of it works; its figures mean nothing
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/gridmesh/grid/bench/pair"
	"github.com/gridmesh/grid/bench/report"
	"github.com/gridmesh/grid/bench/scenario"
)

// The names of the files that are written.
const (
	textFile = "benchmarks.md"
	plotFile = "benchmarks.svg"
)

func main() {
	pair.BeNode()
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "gridbench:", err)
		}
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	scenario.Options
	sections *regexp.Regexp
	mesh     bool
	out      string
	command  string
}

func run(args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(c.Procs)
	r := report.Report{Machine: report.ThisMachine(), Command: c.command, Rounds: c.Rounds}
	skipped := 0
	for _, s := range scenario.Sections(c.Options, c.mesh) {
		if c.sections.MatchString(s.Name) {
			if s.Able != nil {
				if err := s.Able(); err != nil {
					fmt.Fprintf(stderr, "SKIPPED: %s: %v\n", s.Title, err)
					skipped++
					continue
				}
			}
			r.Sections = append(r.Sections, measureSection(s, c.Options, stderr))
		}
	}
	if len(r.Sections)+skipped == 0 {
		return fmt.Errorf("no section is named like %q", c.sections)
	}
	if c.out != "" {
		if err := write(&r, c.out); err != nil {
			return err
		}
	}
	if err := r.WriteMarkdown(stdout); err != nil {
		return err
	}
	return errors.Join(r.Failures()...)
}

func parse(args []string, stderr io.Writer) (c config, err error) {
	f := flag.NewFlagSet("gridbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	short := f.Bool("short", false, "run everything once, as briefly as possible, and write no files")
	sections := f.String("run", "", "measure only the sections whose names match this `expression`: "+sectionNames()+"; writes no files")
	cases := f.String("cases", "", "measure only the cases whose names, as in the heads of tables, match this `expression`; writes no files")
	contenders := f.String("contenders", "", "measure only the contenders whose names match this `expression`; writes no files")
	f.BoolVar(&c.mesh, "mesh", false, "also measure the memory of meshes of up to 100 nodes (needs 10,000 open files)")
	f.IntVar(&c.Rounds, "rounds", 5, "`rounds` of each case")
	f.DurationVar(&c.Time, "time", 500*time.Millisecond, "of each measurement")
	f.DurationVar(&c.Warm, "warm", 100*time.Millisecond, "before each measurement")
	f.IntVar(&c.Procs, "procs", 2, "GOMAXPROCS of each process")
	f.StringVar(&c.Before, "before", "", "the path of another gridbench, `program`, whose grid is measured as well, as \"before\", in two processes")
	f.StringVar(&c.out, "out", "", "`directory` to write "+textFile+" and "+plotFile+" to (default ../docs after a full run)")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	if c.Rounds < 1 || c.Procs < 1 || c.Time <= 0 {
		return c, errors.New("-rounds, -procs and -time must be positive")
	}
	if c.sections, err = regexp.Compile(*sections); err != nil {
		return c, err
	}
	if c.Cases, err = regexp.Compile(*cases); err != nil {
		return c, err
	}
	if c.Contenders, err = regexp.Compile(*contenders); err != nil {
		return c, err
	}
	if *short {
		c.Small, c.Rounds, c.Time, c.Warm = true, 1, 20*time.Millisecond, 5*time.Millisecond
	}
	if c.out == "" && !*short && *sections+*cases+*contenders == "" {
		c.out = filepath.Join("..", "docs")
	}
	c.command = strings.TrimSpace("go run ./cmd/gridbench " + strings.Join(args, " "))
	return c, nil
}

func sectionNames() string {
	var all []string
	for _, s := range scenario.Sections(scenario.Options{}, true) {
		all = append(all, s.Name)
	}
	return strings.Join(all, ", ")
}

// measureSection measures all cases of a section and tells about it.
func measureSection(s scenario.Section, o scenario.Options, progress io.Writer) report.Section {
	measured := report.Section{Section: s}
	for _, c := range s.Chosen(o) {
		began := time.Now()
		fmt.Fprintf(progress, "%s, %s:", s.Title, c.Name)
		measured.Results = append(measured.Results, c.Run(o, func(string) { fmt.Fprint(progress, ".") }))
		fmt.Fprintf(progress, " %.1fs\n", time.Since(began).Seconds())
	}
	return measured
}

// write writes the report's files to a directory. The plot needs its section.
func write(r *report.Report, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, s := range r.Sections {
		if s.Name == report.Plotted {
			r.Plot = plotFile
		}
	}
	if r.Plot != "" {
		if err := writeFile(filepath.Join(dir, plotFile), r.WritePlot); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, textFile), r.WriteMarkdown)
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
