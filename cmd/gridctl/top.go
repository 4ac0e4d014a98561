package main

import (
	"context"
	"flag"
	"io"
	"os"
	"time"

	"github.com/gridmesh/grid/cmd/gridctl/internal/top"
)

// topConfig is the configuration of gridctl top.
type topConfig struct {
	url      string
	single   bool
	once     bool
	interval time.Duration
	filter   string
}

func (c *topConfig) flags() *flag.FlagSet {
	c.interval = time.Second
	fs := newFlags("top")
	fs.StringVar(&c.url, "url", "http://localhost:8080/", "the `address` of the status page of any node")
	fs.BoolVar(&c.single, "single", false, "show that node alone, also where its page knows the others")
	fs.BoolVar(&c.once, "once", false, "print all tables once, as where standard output is not a terminal")
	fs.Var((*duration)(&c.interval), "interval", "the `time` between two looks")
	fs.StringVar(&c.filter, "filter", "", "show only rows with this `text`")
	return fs
}

func topUsage() string {
	return `gridctl top shows what the nodes of a grid do, and which of them are slow, failing or silent, as
the status page of one of them tells it: all nodes, where that is served with debugz.Options.Cluster
and they have called debugz.RegisterCluster, as gridctl node and demo do. Tables are sorted and
filtered with the keys named in the last line.

Usage: gridctl top [flags]

Example: gridctl demo -http localhost:8080, and in another terminal gridctl top

` + flagList(new(topConfig).flags())
}

// runTop shows tables until the user has enough.
func runTop(ctx context.Context, args []string, stdout, _ io.Writer) error {
	var c topConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if c.interval < 100*time.Millisecond {
		return cannotStart("-interval %v is too short; try 1s", c.interval)
	}
	page, err := top.NewPage(c.url, c.single)
	if err != nil {
		return cannotStart("-url: %v", err)
	}
	o := top.Options{Page: page, Interval: c.interval, Filter: c.filter}
	terminal := terminalOf(stdout)
	if c.once || terminal == nil || !isTerminal(os.Stdin) {
		err = top.Print(ctx, stdout, o)
	} else {
		err = top.Follow(ctx, os.Stdin, terminal, o)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// terminalOf returns the terminal that a command's output goes to, nil if it goes elsewhere.
func terminalOf(w io.Writer) *os.File {
	if p, ok := w.(plainWriter); ok {
		w = p.w
	}
	if f, ok := w.(*firstError); ok {
		w = f.w
	}
	if f, ok := w.(*os.File); ok && isTerminal(f) {
		return f
	}
	return nil
}
