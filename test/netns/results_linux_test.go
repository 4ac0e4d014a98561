package netns

import (
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"
)

// result is a line of the table.
type result struct {
	ok, failed int
	overdue    time.Duration // past its deadline, the longest call
	noticed    time.Duration // since the fault, the last that noticed; 0 where nobody had to
	recovered  time.Duration // since the heal, the last that recovered
	harmed     int           // frames
	failure    bool
}

var results struct {
	mu   sync.Mutex // Protects following.
	rows map[string]*result
}

// report adds a line to the table.
func report(name string, r *result) {
	results.mu.Lock()
	defer results.mu.Unlock()
	if results.rows == nil {
		results.rows = make(map[string]*result)
	}
	results.rows[name] = r
}

// printResults prints the table, in the order of the scenarios.
func printResults(out io.Writer) {
	results.mu.Lock()
	defer results.mu.Unlock()
	if len(results.rows) == 0 {
		return
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "scenario\tcalls ok\tfailed\tpast deadline\tnoticed after\trecovered after\tframes harmed\t")
	for _, s := range scenarios() {
		r := results.rows[s.name]
		if r == nil {
			continue
		}
		verdict := ""
		if r.failure {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%d\t%s\n", s.name, r.ok, r.failed,
			text(r.overdue), text(r.noticed), text(r.recovered), r.harmed, verdict)
	}
}

func text(d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return d.Round(time.Millisecond).String()
}
