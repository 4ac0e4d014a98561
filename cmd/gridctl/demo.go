package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/gridmesh/grid"
)

const (
	demoNodes = 4
	// demoTime bounds the whole demonstration, beside its load.
	demoTime = 10 * time.Second
	// maxDemoLoad keeps a demonstration within 15 seconds.
	maxDemoLoad = 5 * time.Second
)

// demoConfig is the configuration of gridctl demo.
type demoConfig struct {
	load    load
	size    byteSize
	verbose bool
	http    string
}

func (c *demoConfig) flags() *flag.FlagSet {
	c.size, c.load.duration = 512, 3*time.Second
	fs := newFlags("demo")
	fs.Var(&c.size, "size", "`bytes` of a payload in the measurement, such as 512, 64k or 1m")
	fs.IntVar(&c.load.callers, "concurrency", 8, "`callers` per pair of nodes in the measurement")
	fs.Var((*duration)(&c.load.duration), "duration", "how long to measure, a `time` of at most 5s")
	fs.BoolVar(&c.verbose, "v", false, "log to standard error what happens to the connections")
	fs.StringVar(&c.http, "http", "", "an `address` for the nodes' status pages, such as localhost:8080; the demonstration then goes on until it\nis interrupted (default: none)")
	return fs
}

func (c *demoConfig) check() error {
	c.load.op = "echo"
	c.load.size = int(c.size)
	switch {
	case c.load.callers < 1 || c.load.callers > maxCallers:
		return cannotStart("-concurrency %d is out of range; use 1 to %d", c.load.callers, maxCallers)
	case c.load.duration <= 0 || c.load.duration > maxDemoLoad:
		return cannotStart("-duration %v is out of range; use up to %v", c.load.duration, maxDemoLoad)
	}
	return nil
}

// runDemo shows all that a grid does.
func runDemo(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c demoConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	if c.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	limit, cancel := context.WithTimeoutCause(ctx, c.load.duration+demoTime, errors.New("it took too long"))
	defer cancel()
	d := &demo{out: stdout, load: c.load, line: newStatusLine(stderr, c.verbose)}
	if c.http != "" {
		var err error
		if d.page, err = newStatusPage(c.http); err != nil {
			return err
		}
		defer d.page.close()
	}
	defer func() { _ = d.stop() }() // the scenes have been judged
	err := d.play(limit, log)
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err == nil && d.page != nil {
		d.live(ctx)
	}
	return err
}

// demo is a grid of four nodes in one process, and of a fifth for a while.
type demo struct {
	out     io.Writer
	line    *statusLine
	page    *statusPage // nil for none
	load    load
	nodes   []*demoNode
	stopped bool
}

// scene is a part of the demonstration. play returns what it has shown.
type scene struct {
	title string
	play  func(ctx context.Context) (string, error)
}

// play goes through all scenes and prints a line for each, up to the first that fails.
func (d *demo) play(ctx context.Context, log *slog.Logger) error {
	defer d.line.clear()
	fmt.Fprintf(d.out, "Four nodes of a grid, in one process. Each two share one connection.\n\n")
	scenes := []scene{
		{"start", func(context.Context) (string, error) { return d.start(log) }},
		{"connect", d.connect},
		{"requests", d.requests},
		{"typed", d.typedRequests},
		{"stream down", d.streamDown},
		{"stream both", d.streamBoth},
		{"cut", d.cut},
		{"come and go", func(ctx context.Context) (string, error) { return d.comeAndGo(ctx, log) }},
	}
	if d.page != nil {
		scenes = slices.Insert(scenes, 1, scene{"status page", d.serve})
	}
	for _, s := range scenes {
		if err := d.show(ctx, s); err != nil {
			return err
		}
	}
	return d.measure(ctx)
}

// serve serves the status pages of the nodes, which are started.
func (d *demo) serve(context.Context) (string, error) {
	for _, n := range d.nodes {
		d.page.add("/"+n.name+"/", n.Manager)
	}
	d.page.mux.Handle("/{$}", http.RedirectHandler("/"+d.nodes[0].name+"/", http.StatusFound))
	d.page.serve()
	return d.page.url("/A/") + ", and of B, C and D beside it", nil
}

// show plays one scene and prints what it has shown.
func (d *demo) show(ctx context.Context, s scene) error {
	text, err := s.play(ctx)
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		fmt.Fprintf(d.out, "  %-12s FAILED\n", s.title)
		return fmt.Errorf("%s: %w", s.title, err)
	}
	fmt.Fprintf(d.out, "  %-12s %s\n", s.title, text)
	return nil
}

// measure puts load on all pairs and prints the table.
func (d *demo) measure(ctx context.Context) error {
	fmt.Fprintf(d.out, "\nEvery node calls every other for %v: %d callers for each direction, %s a call.\n\n",
		d.load.duration, d.load.callers, bytesText(d.load.size))
	var conns []*grid.Connection
	for _, n := range d.nodes {
		conns = append(conns, connections(n.Manager)...)
	}
	results := d.load.drive(ctx, conns, func(sum counts, elapsed time.Duration) {
		d.line.set("  %s of %s: %s", elapsed.Round(time.Second), d.load.duration, progressText(sum, elapsed))
	})
	d.line.clear()
	all := total(results)
	var t table
	t.add("from -> to", "calls", "median", "p99", "MB/s")
	for i := range results {
		r := &results[i]
		t.add(d.name(r.local)+" -> "+d.name(r.remote), thousands(r.calls),
			short(r.latencies.Percentile(50)), short(r.latencies.Percentile(99)), fmt.Sprintf("%.1f", r.megabytes()))
	}
	t.add("all", thousands(all.calls), short(all.latencies.Percentile(50)), short(all.latencies.Percentile(99)), fmt.Sprintf("%.1f", all.megabytes()))
	t.writeTo(d.out, "  ")
	if all.errors > 0 {
		return fmt.Errorf("%s calls failed; the first with: %w", thousands(all.errors), all.failure)
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if d.page != nil {
		fmt.Fprintf(d.out, "\n%s calls a second, none lost. The nodes go on calling each other; Ctrl-C ends them.\n", thousands(uint64(all.perSecond())))
		return nil
	}
	if err := d.stop(); err != nil {
		return err
	}
	fmt.Fprintf(d.out, "\n%s calls a second, none lost. All nodes have shut down.\n", thousands(uint64(all.perSecond())))
	fmt.Fprintf(d.out, "Next: gridctl help node, to run nodes of your own.\n")
	return nil
}

// name is what the demonstration calls a host.
func (d *demo) name(host string) string {
	for _, n := range d.nodes {
		if n.HostName() == host {
			return n.name
		}
	}
	return host
}
