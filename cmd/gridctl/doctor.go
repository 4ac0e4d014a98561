package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/doctor"
)

// doctorConfig is the configuration of gridctl doctor.
type doctorConfig struct {
	member  memberConfig
	path    string
	timeout time.Duration
	json    bool
}

func (c *doctorConfig) flags() *flag.FlagSet {
	c.timeout = 5 * time.Second
	fs := newFlags("doctor")
	c.member.addTo(fs)
	c.member.addGuests(fs)
	fs.StringVar(&c.path, "path", grid.RoutePath, "the `path` at which nodes connect to each other")
	fs.Var((*duration)(&c.timeout), "timeout", "how long to wait for each answer, a `time`")
	fs.BoolVar(&c.json, "json", false, "print what was found as JSON on standard output")
	return fs
}

// runDoctor examines all nodes of a grid.
func runDoctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c doctorConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.member.check(); err != nil {
		return err
	}
	switch {
	case c.timeout <= 0:
		return cannotStart("-timeout %v is too short; try 5s", c.timeout)
	case !strings.HasPrefix(c.path, "/"):
		return cannotStart("-path %s does not start with a slash", c.path)
	}
	c.member.warn("doctor", stderr)
	line := newStatusLine(stderr, false)
	line.set("asking %d nodes", len(c.options().Hosts))
	reports := doctor.Examine(ctx, c.options())
	line.clear()
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err := c.print(stdout, reports); err != nil {
		return err
	}
	if sick := countSick(reports); sick > 0 {
		return fmt.Errorf("%d of %d nodes have problems", sick, len(reports))
	}
	return nil
}

func (c *doctorConfig) options() doctor.Options { return doctorOptions(&c.member, c.path, c.timeout) }

// doctorOptions are those to examine the hosts of a member, or the servers of a guest.
func doctorOptions(m *memberConfig, path string, timeout time.Duration) doctor.Options {
	o := doctor.Options{
		Local: m.local, Guest: m.join != "", Hosts: slices.Clone(m.hosts), Secret: m.secret,
		TLS: m.clientTLS.Clone(), Path: path, Timeout: timeout,
	}
	if o.Guest {
		o.Hosts = m.servers
	}
	if m.serverTLS != nil {
		o.TLS.Certificates = m.serverTLS.Certificates // for nodes that ask for one
	}
	return o
}

func countSick(reports []doctor.Report) (n int) {
	for i := range reports {
		if !reports[i].Well() {
			n++
		}
	}
	return n
}

// print prints the reports: a line for each finding, or JSON.
func (c *doctorConfig) print(w io.Writer, reports []doctor.Report) error {
	if c.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(reports)
	}
	width := 0
	for _, r := range reports {
		width = max(width, len(r.Host))
	}
	for _, r := range reports {
		findings := slices.Clone(r.Findings)
		slices.SortStableFunc(findings, func(a, b doctor.Finding) int { return rank(a.Level) - rank(b.Level) })
		for _, f := range findings {
			fmt.Fprintf(w, "%-7s  %-*s  %s\n", f.Level, width, r.Host, f.Text)
		}
	}
	return nil
}

// rank puts what is wrong first.
func rank(l doctor.Level) int {
	return slices.Index([]doctor.Level{doctor.Problem, doctor.OK, doctor.Note}, l)
}
