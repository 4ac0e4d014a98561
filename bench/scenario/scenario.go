// Package scenario has the cases that are measured, in the sections of the report.
package scenario

import (
	"fmt"
	"slices"
	"time"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/measure"
)

// Options say how much is measured.
type Options struct {
	Warm   time.Duration // before each measurement
	Time   time.Duration // of each measurement
	Rounds int
	Small  bool // fewer nodes and streams, for tests
}

// Section is one table of the report.
type Section struct {
	Name  string // for choosing it
	Title string
	Text  string
	Cases []Case
}

// Case is one load, put on several contenders.
type Case struct {
	Name       string // the heading of its column
	Columns    []Column
	Contenders []string
	Baseline   string // the contender that ratios are to, or empty

	run func(o Options, c contender.Contender) ([]float64, error)
}

// Column is a figure that a case gives. Less is better for the first of a case.
type Column struct {
	Name string
	Unit string
}

// Result is what a case has given for its contenders, in their order.
type Result struct {
	Case
	Series []measure.Series
}

// Run measures the case. It tells progress before each measurement.
func (c Case) Run(o Options, progress func(contender string)) Result {
	r := Result{Case: c}
	r.Series = measure.Interleave(o.Rounds, len(c.Contenders), func(i int) ([]float64, error) {
		progress(c.Contenders[i])
		ct, err := contender.Find(c.Contenders[i])
		if err != nil {
			return nil, err
		}
		return c.run(o, ct)
	})
	return r
}

// Of returns the series of a contender, and whether the case has it.
func (r Result) Of(name string) (measure.Series, bool) {
	i := slices.Index(r.Contenders, name)
	if i < 0 {
		return measure.Series{}, false
	}
	return r.Series[i], true
}

// Contenders returns the names of all contenders of the section, in the order of contender.All.
func (s Section) Contenders() []string {
	var names []string
	for _, c := range contender.All() {
		if slices.ContainsFunc(s.Cases, func(k Case) bool { return slices.Contains(k.Contenders, c.Name) }) {
			names = append(names, c.Name)
		}
	}
	return names
}

const (
	limitName = "limit"
	tcpName   = "tcp"
)

// small is the size of a small payload, in bytes.
const small = 512

var callColumns = []Column{{"time", "ns"}, {"allocations", ""}}

// Sections returns what is measured, in the order of the report. The memory
// of whole meshes is left out unless it is asked for.
func Sections(o Options, meshMemory bool) []Section {
	all := []Section{
		echoSection(), secureSection(), meshSection(o),
		streamSection(), secureStreamSection(), shortStreamSection(),
		largeSection(), mixedSection(), idleSection(o),
	}
	if meshMemory {
		all = append(all, meshMemorySection(o))
	}
	return all
}

// names returns the names of the contenders that ok accepts.
func names(ok func(contender.Contender) bool) []string {
	var all []string
	for _, c := range contender.All() {
		if ok(c) {
			all = append(all, c.Name)
		}
	}
	return all
}

// start starts a contender's nodes and gives them to use.
func start(c contender.Contender, s contender.Setup, use func(contender.Nodes) ([]float64, error)) (figures []float64, err error) {
	nodes, err := c.Start(s)
	if err != nil {
		return nil, fmt.Errorf("%s: start: %w", c.Name, err)
	}
	defer func() {
		if cerr := nodes.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("%s: close: %w", c.Name, cerr)
		}
	}()
	if figures, err = use(nodes); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	return figures, nil
}

func callFigures(r measure.Rate, err error) ([]float64, error) {
	if err != nil {
		return nil, err
	}
	return []float64{r.Nanoseconds(), r.AllocsPerOperation()}, nil
}
