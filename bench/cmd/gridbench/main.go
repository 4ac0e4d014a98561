// Gridbench compares grid with other ways of calling another node, and writes
// docs/benchmarks.md and its plots.
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
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid/bench/pair"
	"github.com/gridmesh/grid/bench/report"
	"github.com/gridmesh/grid/bench/scenario"
)

// textFile is the name of the report. Those of its plots are report's.
const textFile = "benchmarks.md"

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
	results  string
	command  string
}

func run(args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(c.Procs)
	all := scenario.Sections(c.Options)
	r := report.Report{Command: c.command}
	if c.results != "" {
		if err := r.Load(c.results, all); err != nil {
			return err
		}
	}
	chosen := c.choose(all)
	if len(chosen) > 0 {
		r.Machine = report.ThisMachine()
	}
	if len(chosen) == 0 && len(r.Sections) == 0 {
		return fmt.Errorf("no section is named like %q, or no case of it as asked for", c.sections)
	}
	p := newProgress(stderr, chosen, c.Options)
	c.Tell = func(text string) { p.tell("%s", text) }
	for _, s := range chosen {
		if s.Able != nil {
			if err := s.Able(); err != nil {
				p.tell("SKIPPED: %s: %v", s.Title, err)
				continue
			}
		}
		r.Add(measureSection(s, c.Options, p), all)
		if err := c.save(&r); err != nil { // what was measured is not lost if the rest takes too long
			return err
		}
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

// choose returns the sections that are to be measured.
func (c *config) choose(all []scenario.Section) []scenario.Section {
	return slices.DeleteFunc(slices.Clone(all), func(s scenario.Section) bool {
		return !c.sections.MatchString(s.Name) || s.Extra && !c.mesh || len(s.Chosen(c.Options)) == 0
	})
}

func (c *config) save(r *report.Report) error {
	if c.results == "" {
		return nil
	}
	return r.Store(c.results)
}

func parse(args []string, stderr io.Writer) (c config, err error) {
	f := flag.NewFlagSet("gridbench", flag.ContinueOnError)
	f.SetOutput(stderr)
	short := f.Bool("short", false, "run everything once, as briefly as possible, and write no files")
	sections := f.String("run", "", "measure only the sections whose names match this `expression`: "+sectionNames()+"; writes no files")
	cases := f.String("cases", "", "measure only the cases whose names, as in the tables, match this `expression`; writes no files")
	contenders := f.String("contenders", "", "measure only the contenders whose names match this `expression`; writes no files")
	f.BoolVar(&c.mesh, "mesh", false, "also measure the memory of meshes of up to 100 nodes (needs 10,000 open files)")
	f.IntVar(&c.Rounds, "rounds", 5, "`rounds` of each case")
	f.DurationVar(&c.Time, "time", 500*time.Millisecond, "of each measurement")
	f.DurationVar(&c.Warm, "warm", 100*time.Millisecond, "before each measurement")
	f.IntVar(&c.Procs, "procs", 2, "GOMAXPROCS of each process")
	f.StringVar(&c.Before, "before", "", "the path of another gridbench, `program`, whose grid is measured as well, as \"before\", in two processes")
	f.StringVar(&c.out, "out", "", "`directory` to write "+textFile+" and its plots to (default ../docs after a full run)")
	f.StringVar(&c.results, "results", "", "`file` to which what was measured is added, and from which the rest of the report is")
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
	c.command = "go run ./cmd/gridbench"
	if c.results != "" {
		c.command += " -results FILE"
		return c, nil // some sections at a time, by other flags
	}
	f.Visit(func(set *flag.Flag) {
		if !slices.Contains([]string{"before", "out", "results"}, set.Name) { // files of this machine
			c.command += " -" + set.Name
			if value := set.Value.String(); value != "true" {
				c.command += " '" + value + "'"
			}
		}
	})
	return c, nil
}

func sectionNames() string {
	var all []string
	for _, s := range scenario.Sections(scenario.Options{}) {
		all = append(all, s.Name)
	}
	return strings.Join(all, ", ")
}

// measureSection measures all cases of a section.
func measureSection(s scenario.Section, o scenario.Options, p *progress) report.Section {
	measured := report.Section{Section: s}
	for _, c := range s.Chosen(o) {
		p.begin(s.Title, c.Name)
		measured.Results = append(measured.Results, c.Run(o, p.measuring))
		p.end()
	}
	return measured
}

// write writes the report's files to a directory.
func write(r *report.Report, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r.Plotted = true
	for _, p := range r.Plots() {
		write := func(w io.Writer) error { return r.WritePlot(p, w) }
		if err := writeFile(filepath.Join(dir, p.File), write); err != nil {
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
