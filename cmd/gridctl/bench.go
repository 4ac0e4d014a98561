package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// benchConfig is the configuration of gridctl bench.
type benchConfig struct {
	member  memberConfig
	load    load
	size    byteSize
	wait    time.Duration
	json    bool
	verbose bool
}

func (c *benchConfig) flags() *flag.FlagSet {
	c.size, c.load.duration, c.wait = 512, 10*time.Second, 10*time.Second
	fs := newFlags("bench")
	c.member.addTo(fs)
	fs.StringVar(&c.load.op, "op", "echo", "the `operation` to measure: echo, sink or source")
	fs.Var(&c.size, "size", "`bytes` of a payload, such as 512, 64k or 1m")
	fs.IntVar(&c.load.callers, "concurrency", 16, "`callers` per node at the same time")
	fs.Var((*duration)(&c.load.duration), "duration", "how long to measure, a `time` such as 500ms or 1m")
	fs.Var((*duration)(&c.wait), "wait", "how long to wait for the connections first, a `time`")
	fs.BoolVar(&c.json, "json", false, "print the results as JSON on standard output")
	fs.BoolVar(&c.verbose, "v", false, "log to standard error what happens to the connections")
	return fs
}

// maxCallers keeps a mistyped number from taking all memory.
const maxCallers = 100_000

// maxAhead bounds what the streams of one connection may hold, in bytes.
const maxAhead = 2 << 30

func (c *benchConfig) check() error {
	c.load.size = int(c.size)
	switch {
	case operations[c.load.op] == nil:
		return cannotStart("-op %s is not known; use echo, sink or source", c.load.op)
	case c.load.callers < 1 || c.load.callers > maxCallers:
		return cannotStart("-concurrency %d is out of range; use 1 to %d", c.load.callers, maxCallers)
	case c.load.op != "echo" && int64(c.load.size)*int64(c.load.callers)*streamWindow > maxAhead:
		return cannotStart("-size %s with -concurrency %d takes too much memory on each node; use less of one", bytesText(c.load.size), c.load.callers)
	case c.load.duration <= 0:
		return cannotStart("-duration %v is too short; try 10s", c.load.duration)
	case c.wait <= 0:
		return cannotStart("-wait %v is too short; try 10s", c.wait)
	}
	if err := c.member.check(); err != nil {
		return err
	}
	if len(c.member.hosts) == 1 {
		return cannotStart("-hosts has no node but this one; add those to measure")
	}
	return nil
}

// runBench measures calls to all other nodes.
func runBench(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c benchConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.member.warn("bench", stderr)
	listener, err := listen(&c.member)
	if err != nil {
		return err
	}
	logs := slog.DiscardHandler
	if c.verbose {
		logs = slog.NewTextHandler(stderr, nil)
	}
	reasons := newReasonLog(logs)
	n, err := startMember(&c.member, listener, nil, slog.New(reasons), c.member.registerHandlers)
	if err != nil {
		listener.Close()
		return refused(err)
	}
	defer func() { _ = n.stop(time.Second) }() // nothing runs any more
	line := newStatusLine(stderr, c.verbose)
	absent, err := c.connect(ctx, n, reasons, line)
	if err != nil {
		return err
	}
	for _, a := range absent {
		fmt.Fprintf(stderr, "gridctl bench: %s is absent: %s\n", a.Host, a.Reason)
	}
	results := c.load.drive(ctx, connections(n.Manager, absent...), func(sum counts, elapsed time.Duration) {
		line.set("%s of %s: %s", elapsed.Round(time.Second), c.load.duration, progressText(sum, elapsed))
	})
	line.clear()
	if err := c.print(stdout, results, absent); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	if all := total(results); all.errors > 0 {
		return fmt.Errorf("%s of %s calls failed; the first with: %w", thousands(all.errors), thousands(all.errors+all.calls), all.failure)
	}
	if len(absent) > 0 {
		return fmt.Errorf("%d of %d nodes were not measured, because they are absent", len(absent), len(n.Targets()))
	}
	return nil
}

// connect waits for the connections to all other nodes, and returns those that are absent. It fails
// if all are.
func (c *benchConfig) connect(ctx context.Context, n *member, reasons *reasonLog, line *statusLine) ([]absence, error) {
	defer line.clear()
	line.set("waiting for the connections to %d nodes, up to %v", len(n.Targets()), c.wait)
	r := reach{member: n, config: &c.member, reasons: reasons}
	absent, err := r.waitForAll(ctx, c.wait)
	if len(absent) < len(n.Targets()) || err != nil {
		return absent, err
	}
	var texts []string
	for _, a := range absent {
		texts = append(texts, a.Host+": "+a.Reason)
	}
	return nil, cannotStart("no connection to %s", strings.Join(texts, "; "))
}

// connections returns the connections of a node, in the order of its hosts, but for absent ones.
func connections(m *grid.Manager, absent ...absence) (all []*grid.Connection) {
	for _, host := range m.Targets() {
		if !slices.ContainsFunc(absent, func(a absence) bool { return a.Host == host }) {
			all = append(all, m.Connection(host))
		}
	}
	return all
}

func progressText(sum counts, elapsed time.Duration) string {
	r := result{counts: sum, elapsed: elapsed}
	return fmt.Sprintf("%s calls/s, %.1f MB/s, %s errors", thousands(uint64(r.perSecond())), r.megabytes(), thousands(sum.errors))
}

// print prints the results, as a table or as JSON.
func (c *benchConfig) print(w io.Writer, results []result, absent []absence) error {
	if c.json {
		return c.printJSON(w, results, absent)
	}
	fmt.Fprintf(w, "%s, %s, %d callers per node, from %s\n\n", c.load.op, bytesText(c.load.size), c.load.callers, c.member.local)
	var t table
	t.add("to", "calls", "calls/s", "median", "p99", "p99.9", "MB/s", "errors")
	rows := results
	if len(results) > 1 {
		rows = append(rows, total(results))
	}
	for i := range rows {
		r := &rows[i]
		t.add(r.remote, thousands(r.calls), thousands(uint64(r.perSecond())),
			short(r.latencies.Percentile(50)), short(r.latencies.Percentile(99)), short(r.latencies.Percentile(99.9)),
			fmt.Sprintf("%.1f", r.megabytes()), thousands(r.errors))
	}
	t.writeTo(w, "")
	return nil
}

// benchReport is what -json prints.
type benchReport struct {
	Op          string        `json:"op"`
	SizeBytes   int           `json:"size_bytes"`
	Concurrency int           `json:"concurrency"` // per target
	Local       string        `json:"local"`
	Targets     []targetEntry `json:"targets"`
	Total       targetEntry   `json:"total"`
	Absent      []absence     `json:"absent,omitempty"` // not measured
}

// targetEntry is a row of the table. Latencies are in microseconds, a MB is 1,000,000 bytes.
type targetEntry struct {
	Host           string  `json:"host"`
	Seconds        float64 `json:"seconds"`
	Calls          uint64  `json:"calls"`
	CallsPerSecond float64 `json:"calls_per_second"`
	MedianMicros   float64 `json:"median_us"`
	P99Micros      float64 `json:"p99_us"`
	P999Micros     float64 `json:"p99_9_us"`
	MBPerSecond    float64 `json:"mb_per_second"`
	Errors         uint64  `json:"errors"`
	FirstError     string  `json:"first_error,omitempty"`
}

func (c *benchConfig) printJSON(w io.Writer, results []result, absent []absence) error {
	all := total(results)
	out := benchReport{
		Op:          c.load.op,
		SizeBytes:   c.load.size,
		Concurrency: c.load.callers,
		Local:       c.member.local,
		Total:       entry(&all),
		Absent:      absent,
	}
	for i := range results {
		out.Targets = append(out.Targets, entry(&results[i]))
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(out)
}

func entry(r *result) targetEntry {
	micros := func(p float64) float64 { return float64(r.latencies.Percentile(p)) / 1e3 }
	e := targetEntry{
		Host:           r.remote,
		Seconds:        r.elapsed.Seconds(),
		Calls:          r.calls,
		CallsPerSecond: r.perSecond(),
		MedianMicros:   micros(50),
		P99Micros:      micros(99),
		P999Micros:     micros(99.9),
		MBPerSecond:    r.megabytes(),
		Errors:         r.errors,
	}
	if r.failure != nil {
		e.FirstError = oneLine(r.failure)
	}
	return e
}
