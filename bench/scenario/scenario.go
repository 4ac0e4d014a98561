// Package scenario has the cases that are measured, in the sections of the report.
package scenario

import (
	"fmt"
	"regexp"
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
	Small  bool   // fewer nodes, streams and cases, for tests
	Procs  int    // GOMAXPROCS of the processes of a pair, 0 is the default
	Before string // the path of another gridbench, whose grid is a contender of all pairs

	// What is measured of a section; nil is all.
	Cases, Contenders *regexp.Regexp

	Tell func(text string) // is told of failures that do not end a measurement; may be nil
}

// Section is one table of the report.
type Section struct {
	Name  string // for choosing it
	Title string
	Text  string
	Cases []Case

	Tables []Table      // nil is one for all
	Rounds int          // at most, 0 is as many as there are
	Extra  bool         // is measured only if it is asked for
	Able   func() error // returns why it cannot be measured here; nil is that it can be
}

// Table shows some of the figures of all cases of a section.
type Table struct {
	Title   string
	Columns []int // of each case, in one cell
	Ratio   bool  // to the baseline, of the first column; if that is Before, it is always shown
	NotZero bool  // cases whose figures are all 0 are left out
}

// Case is one load, put on several contenders.
type Case struct {
	Name       string // the heading of its column
	Columns    []Column
	Contenders []string
	Baseline   string // the contender that ratios are to, or empty

	rounds int // at most, 0 is as many as there are

	run  func(o Options, c contender.Contender) ([]float64, error)
	pair *pairCase // in place of run
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
	c.Contenders = c.chosen(o)
	if slices.Contains(c.Contenders, Before) {
		c.Baseline = Before
	}
	r := Result{Case: c}
	r.Series = measure.Interleave(c.roundsOf(o), len(c.Contenders), func(i int) ([]float64, error) {
		progress(c.Contenders[i])
		if c.pair != nil {
			return c.pair.run(o, c.Contenders[i])
		}
		ct, err := contender.Find(c.Contenders[i])
		if err != nil {
			return nil, err
		}
		return c.run(o, ct)
	})
	return r
}

// chosen returns the contenders that the options choose.
func (c Case) chosen(o Options) []string {
	all := slices.Clone(c.Contenders)
	if at := slices.Index(all, gridName); at >= 0 && c.pair != nil && o.Before != "" {
		all = slices.Insert(all, at+1, Before)
	}
	return slices.DeleteFunc(all, func(name string) bool { return o.Contenders != nil && !o.Contenders.MatchString(name) })
}

func (c Case) roundsOf(o Options) int {
	if c.rounds > 0 {
		return min(c.rounds, o.Rounds)
	}
	return o.Rounds
}

// Measurements returns how many measurements Run makes.
func (c Case) Measurements(o Options) int { return c.roundsOf(o) * len(c.chosen(o)) }

// Of returns the series of a contender, and whether the case has it.
func (r Result) Of(name string) (measure.Series, bool) {
	i := slices.Index(r.Contenders, name)
	if i < 0 {
		return measure.Series{}, false
	}
	return r.Series[i], true
}

// Contenders returns the names of all contenders of some results, in the order of contender.All.
// Before is behind grid.
func Contenders(results []Result) []string {
	var names []string
	add := func(name string) {
		if slices.ContainsFunc(results, func(r Result) bool { return slices.Contains(r.Contenders, name) }) {
			names = append(names, name)
		}
	}
	for _, c := range contender.All() {
		add(c.Name)
		if c.Name == gridName {
			add(Before)
		}
	}
	return names
}

// Chosen returns the cases of a section that the options choose.
func (s Section) Chosen(o Options) []Case {
	var all []Case
	for _, c := range s.Cases {
		if o.Cases == nil || o.Cases.MatchString(c.Name) {
			c.rounds = s.Rounds
			all = append(all, c)
		}
	}
	return all
}

const (
	limitName = "limit"
	tcpName   = "tcp"
	gridName  = "grid"

	pollingName         = "grid polling"
	protobufPollingName = "gridgrpc polling"
	// highName is grid, whose small calls pass others.
	highName = "grid high"
)

// Before is the name of the grid of another program, Options.Before.
const Before = "before"

// small is the size of a small payload, in bytes.
const small = 512

var callColumns = []Column{{"time", "ns"}, {"allocations", ""}}

// Sections returns what is measured, in the order of the report.
func Sections(o Options) []Section {
	return append(append(pairSections(o), protobufSections()...),
		echoSection(), secureSection(), meshSection(o),
		streamSection(), secureStreamSection(), shortStreamSection(),
		largeSection(), mixedSection(), idleSection(o), meshMemorySection(o),
	)
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
