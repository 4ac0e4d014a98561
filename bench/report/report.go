// Package report writes what was measured as Markdown tables and as a plot.
package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/gridmesh/grid/bench/contender"
	"github.com/gridmesh/grid/bench/scenario"
)

// Report is what was measured, and where.
type Report struct {
	Machine  Machine
	Command  string // that makes the report
	Plotted  bool   // the plots of its sections are beside the report
	Sections []Section
}

// Section is a measured section.
type Section struct {
	scenario.Section
	Results []scenario.Result // of its cases
}

// Failures returns what has gone wrong.
func (r *Report) Failures() []error {
	var all []error
	for _, s := range r.Sections {
		for _, res := range s.Results {
			for _, series := range res.Series {
				if series.Err != nil {
					all = append(all, fmt.Errorf("%s, %s: %w", s.Title, res.Name, series.Err))
				}
			}
		}
	}
	return all
}

// WriteMarkdown writes the whole report.
func (r *Report) WriteMarkdown(w io.Writer) error {
	b := new(strings.Builder)
	fmt.Fprintf(b, "# Benchmarks\n\nWritten by `%s`. Do not edit.\n\n", r.Command)
	r.writeHow(b)
	for _, s := range r.Sections {
		s.write(b, r.plotsOf(s))
	}
	r.writeContenders(b)
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

func (r *Report) writeHow(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "%s, %d cores, %s, %s, GOMAXPROCS=%d", m.CPU, m.Cores, m.OS, m.Go, m.Procs)
	if m.Load != "" {
		fmt.Fprintf(b, "; load average %s before the start", m.Load)
	}
	b.WriteString(".\n\n")
	if m.Busy() {
		b.WriteString("**The machine was busy with other things. These figures are good for a first look only.**\n\n")
	}
	fmt.Fprintf(b, `Both ends run in one process and talk over loopback, unless the section says otherwise. All contenders get the same payloads and the
same number of callers in the same run. They take turns, in rounds that each section counts, each in a different order, with new nodes every time.
A figure is the median of the rounds. The ratio in parentheses is the median of the rounds' ratios to %s, unless the section says
otherwise. Less is better, but for what is done in a second. Every echo is compared with what was sent.

`, r.baseline())
}

// plotsOf returns the plots of a section that are beside the report.
func (r *Report) plotsOf(s Section) []Plot {
	if !r.Plotted {
		return nil
	}
	return slices.DeleteFunc(r.Plots(), func(p Plot) bool { return p.Section != s.Name })
}

// baseline returns the contender to which ratios are, if the section says no other.
func (r *Report) baseline() string {
	for _, s := range r.Sections {
		for _, res := range s.Results {
			if res.Baseline == scenario.Before {
				return "`" + scenario.Before + "`"
			}
		}
	}
	return "`limit`"
}

// rounds says in how many rounds a section was measured.
func (s Section) rounds() string {
	least, most := math.MaxInt, 0
	for _, res := range s.Results {
		for _, series := range res.Series {
			if n := len(series.Rounds); n > 0 {
				least, most = min(least, n), max(most, n)
			}
		}
	}
	switch {
	case most == 0:
		return "No rounds."
	case most == 1:
		return "One round."
	case least < most:
		return fmt.Sprintf("%d to %d rounds.", least, most)
	}
	return fmt.Sprintf("%d rounds.", most)
}

// write writes a table with a line for each contender. All cases give their
// first figure; the last gives its others too.
func (s Section) write(b *strings.Builder, plots []Plot) {
	if len(s.Results) == 0 {
		return
	}
	fmt.Fprintf(b, "## %s\n\n%s %s\n\n", s.Title, strings.TrimSpace(s.Text), s.rounds())
	for _, p := range plots {
		fmt.Fprintf(b, "![%s](%s)\n\n", p.Alt, p.File)
	}
	if len(s.Tables) > 0 {
		for _, t := range s.Tables {
			s.writeTable(b, t)
		}
		return
	}
	b.WriteString("| |")
	columns := 0
	for i, res := range s.Results {
		unit := ""
		if u := res.Columns[0].Unit; u != "" {
			unit = ", " + u
		}
		fmt.Fprintf(b, " %s%s |", res.Name, unit)
		columns++
		if s.showsAll(i) {
			for _, c := range res.Columns[1:] {
				fmt.Fprintf(b, " %s |", c.Name)
				columns++
			}
		}
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", columns) + "\n")
	for _, name := range scenario.Contenders(s.Results) {
		fmt.Fprintf(b, "| %s |", name)
		for i, res := range s.Results {
			writeCells(b, res, name, s.showsAll(i))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// writeTable writes a table of some figures, with a line for each case.
func (s Section) writeTable(b *strings.Builder, t scenario.Table) {
	names := scenario.Contenders(s.Results)
	lines := new(strings.Builder)
	for _, res := range s.Results {
		if t.NotZero && !anyFigure(res, t) {
			continue
		}
		lines.WriteString("| " + res.Name + " |")
		for _, name := range names {
			if cell := tableCell(t, res, name); cell != "" {
				lines.WriteString(" " + cell)
			}
			lines.WriteString(" |")
		}
		lines.WriteString("\n")
	}
	if lines.Len() > 0 {
		fmt.Fprintf(b, "%s:\n\n| | %s |\n|---|%s\n%s\n", t.Title, strings.Join(names, " | "), strings.Repeat("---:|", len(names)), lines.String())
	}
}

// anyFigure reports whether a figure of a table is not 0 in a case.
func anyFigure(res scenario.Result, t scenario.Table) bool {
	for _, series := range res.Series {
		for _, column := range t.Columns {
			if series.Err == nil && series.Median(column) != 0 {
				return true
			}
		}
	}
	return false
}

// tableCell returns what a contender has in a case, empty if it is not there.
func tableCell(t scenario.Table, res scenario.Result, name string) string {
	series, ok := res.Of(name)
	switch {
	case !ok:
		return ""
	case series.Err != nil:
		return "failed"
	}
	var figures []string
	for _, column := range t.Columns {
		figures = append(figures, Number(series.Median(column)))
	}
	cell := strings.Join(figures, " / ")
	if base, ok := res.Of(res.Baseline); ok && base.Err == nil && (t.Ratio || res.Baseline == scenario.Before) && name != res.Baseline {
		if ratio := series.Ratio(base, t.Columns[0]); !math.IsNaN(ratio) && !math.IsInf(ratio, 0) { // as with 0
			cell += fmt.Sprintf(" (%s×)", Ratio(ratio))
		}
	}
	return cell
}

// showsAll reports whether all figures of a case are shown: of the last, and
// of each where the next one has others.
func (s Section) showsAll(i int) bool {
	return i == len(s.Results)-1 || s.Results[i].Columns[0].Name == "memory"
}

func writeCells(b *strings.Builder, res scenario.Result, name string, all bool) {
	series, ok := res.Of(name)
	columns := 1
	if all {
		columns = len(res.Columns)
	}
	for i := range columns {
		switch {
		case !ok:
			b.WriteString(" |")
		case series.Err != nil:
			b.WriteString(" failed |")
		case i > 0:
			fmt.Fprintf(b, " %s |", Number(series.Median(i)))
		default:
			cell := Number(series.Median(0))
			if base, ok := res.Of(res.Baseline); ok && base.Err == nil {
				cell += fmt.Sprintf(" (%s×)", Ratio(series.Ratio(base, 0)))
			}
			fmt.Fprintf(b, " %s |", cell)
		}
	}
}

func (r *Report) writeContenders(b *strings.Builder) {
	b.WriteString("## Contenders\n\n| | What | Version |\n|---|---|---|\n")
	for _, c := range contender.All() {
		version := ""
		if c.Module != "" {
			version = c.Module + " " + r.Machine.Versions[c.Module]
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", c.Name, c.About, version)
	}
}

// Number formats a figure with three digits or more, and thousands apart.
func Number(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case math.Abs(v) < 0.005:
		return "0"
	case math.Abs(v) < 10 && v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) < 1:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 10:
		return fmt.Sprintf("%.1f", v)
	}
	s := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		s = "-" + s
	}
	return s
}

// Ratio formats a ratio.
func Ratio(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}
