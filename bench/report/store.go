package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/gridmesh/grid/bench/measure"
	"github.com/gridmesh/grid/bench/scenario"
)

// stored is what a file has of a report: what was measured, but not how it is shown.
type stored struct {
	Machine  Machine
	Sections []storedSection
}

type storedSection struct {
	Name    string
	Results []storedResult
}

type storedResult struct {
	Case       string
	Columns    []scenario.Column
	Contenders []string
	Baseline   string
	Rounds     [][][]float64 // by contender
	Errors     []string      // by contender, empty for none
}

// Load adds what a file has to the report, unless the report has it. A file that is not there has
// nothing. all are all sections, in the order of the report.
func (r *Report) Load(file string, all []scenario.Section) error {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var from stored
	if err := json.Unmarshal(b, &from); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	r.Machine = from.Machine
	for _, s := range from.Sections {
		for _, res := range s.Results {
			r.add(s.Name, res.result(), all, false)
		}
	}
	return nil
}

// Add adds the results of a section, and replaces those of the same cases.
func (r *Report) Add(s Section, all []scenario.Section) {
	for _, res := range s.Results {
		r.add(s.Name, res, all, true)
	}
}

// add puts a result where it belongs in the order of all. What is not in all is left out.
func (r *Report) add(section string, res scenario.Result, all []scenario.Section, replace bool) {
	at := slices.IndexFunc(all, func(s scenario.Section) bool { return s.Name == section })
	if at < 0 || !slices.ContainsFunc(all[at].Cases, func(c scenario.Case) bool { return c.Name == res.Name }) {
		return
	}
	i := slices.IndexFunc(r.Sections, func(s Section) bool { return s.Name == section })
	if i < 0 {
		i = len(r.Sections)
		r.Sections = append(r.Sections, Section{Section: all[at]})
	}
	results := r.Sections[i].Results
	if j := slices.IndexFunc(results, func(other scenario.Result) bool { return other.Name == res.Name }); j < 0 {
		results = append(results, res)
	} else if replace {
		results[j] = res
	}
	order := func(name string) int {
		return slices.IndexFunc(all[at].Cases, func(c scenario.Case) bool { return c.Name == name })
	}
	slices.SortFunc(results, func(a, b scenario.Result) int { return order(a.Name) - order(b.Name) })
	r.Sections[i].Results = results
	place := func(name string) int {
		return slices.IndexFunc(all, func(s scenario.Section) bool { return s.Name == name })
	}
	slices.SortFunc(r.Sections, func(a, b Section) int { return place(a.Name) - place(b.Name) })
}

// Store writes what was measured to a file.
func (r *Report) Store(file string) error {
	to := stored{Machine: r.Machine}
	for _, s := range r.Sections {
		section := storedSection{Name: s.Name}
		for _, res := range s.Results {
			section.Results = append(section.Results, storedOf(res))
		}
		to.Sections = append(to.Sections, section)
	}
	b, err := json.Marshal(to)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o600)
}

func storedOf(res scenario.Result) storedResult {
	to := storedResult{Case: res.Name, Columns: res.Columns, Contenders: res.Contenders, Baseline: res.Baseline}
	for _, series := range res.Series {
		text := ""
		if series.Err != nil {
			text = series.Err.Error()
		}
		to.Rounds, to.Errors = append(to.Rounds, series.Rounds), append(to.Errors, text)
	}
	return to
}

func (s storedResult) result() scenario.Result {
	res := scenario.Result{Case: scenario.Case{Name: s.Case, Columns: s.Columns, Contenders: s.Contenders, Baseline: s.Baseline}}
	for i := range s.Contenders {
		series := measure.Series{Rounds: s.Rounds[i]}
		if s.Errors[i] != "" {
			series.Err = errors.New(s.Errors[i])
		}
		res.Series = append(res.Series, series)
	}
	return res
}
