package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gridmesh/grid/bench/scenario"
)

// progress tells how far the measurement is: on a terminal in a line that is written again and
// again, elsewhere with a line for each case.
type progress struct {
	w        io.Writer
	terminal bool
	total    int // measurements
	done     int
	began    time.Time

	section, name string    // of the case
	caseBegan     time.Time // when the case has begun
}

func newProgress(w io.Writer, sections []scenario.Section, o scenario.Options) *progress {
	p := &progress{w: w, terminal: isTerminal(w), began: time.Now()}
	for _, s := range sections {
		for _, c := range s.Chosen(o) {
			p.total += c.Measurements(o)
		}
	}
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// clearLine moves to the start of the line and clears it.
const clearLine = "\r\x1b[K"

func (p *progress) begin(section, name string) {
	p.section, p.name, p.caseBegan = section, name, time.Now()
	if !p.terminal {
		fmt.Fprintf(p.w, "%s, %s:", section, name)
	}
}

// measuring is called before each measurement.
func (p *progress) measuring(contender string) {
	if !p.terminal {
		fmt.Fprint(p.w, ".")
	} else {
		fmt.Fprintf(p.w, "%s%d of %d%s: %s, %s, %s", clearLine, p.done+1, p.total, p.left(), p.section, p.name, contender)
	}
	p.done++
}

// left says how long the rest takes if it goes on as until now.
func (p *progress) left() string {
	const enough = 10 // measurements, to tell
	if p.done < enough {
		return ""
	}
	left := time.Since(p.began) / time.Duration(p.done) * time.Duration(p.total-p.done)
	if left < time.Minute {
		return fmt.Sprintf(", %.0f s left", left.Seconds())
	}
	return fmt.Sprintf(", %.0f min left", left.Minutes())
}

func (p *progress) end() {
	took := time.Since(p.caseBegan).Seconds()
	if p.terminal {
		fmt.Fprintf(p.w, "%s%s, %s: %.1fs\n", clearLine, p.section, p.name, took)
	} else {
		fmt.Fprintf(p.w, " %.1fs\n", took)
	}
}

// tell says something beside the measurements.
func (p *progress) tell(format string, a ...any) {
	if p.terminal {
		fmt.Fprint(p.w, clearLine)
	}
	fmt.Fprintf(p.w, format+"\n", a...)
}
