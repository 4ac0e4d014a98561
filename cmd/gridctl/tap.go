package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// tapConfig is the configuration of gridctl tap.
type tapConfig struct {
	target targetConfig
	filter debugz.TapOptions
	side   string
	most   int
	json   bool
}

// sides are the values of -side.
var sides = map[string]grid.TraceType{"both": grid.TraceInternode | grid.TraceServed, "made": grid.TraceInternode, "served": grid.TraceServed}

func (c *tapConfig) flags() *flag.FlagSet {
	c.side = "both"
	fs := newFlags("tap")
	c.target.addTo(fs, "the `URLs` of the nodes to watch, with commas between them")
	fs.StringVar(&c.filter.Handler, "handler", "", "only handlers whose name matches a `pattern`, such as kv.Get, kv.* or *Get\n(default: all but those of tools like this one)")
	fs.StringVar(&c.filter.Peer, "peer", "", "only calls with nodes whose name has a `part` in it")
	fs.BoolVar(&c.filter.Errors, "errors", false, "only calls that failed")
	fs.Var((*duration)(&c.filter.Slower), "slower", "only calls that took a `time` or more, such as 10ms")
	fs.StringVar(&c.side, "side", c.side, "only calls that the nodes have `made`, or served, or both")
	fs.IntVar(&c.most, "n", 0, "end after a `number` of calls (default: never)")
	fs.BoolVar(&c.json, "json", false, "print a line of JSON for each call")
	return fs
}

func (c *tapConfig) check() error {
	types, known := sides[c.side]
	c.filter.Types = types
	switch _, err := path.Match(c.filter.Handler, ""); {
	case err != nil:
		return cannotStart("-handler %s is no pattern; try kv.*", c.filter.Handler)
	case !known:
		return cannotStart("-side %s is not known; use both, made or served", c.side)
	case c.most < 0:
		return cannotStart("-n %d is negative", c.most)
	}
	return c.target.check()
}

// runTap prints the calls of nodes as they end, until ctx ends, which is no failure.
func runTap(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var c tapConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.target.member.warn("tap", stderr)
	n, err := c.target.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = n.stop(time.Second) }() // nothing runs any more
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &tapPrinter{config: &c, stdout: stdout, stderr: stderr, done: cancel}
	var wg sync.WaitGroup
	for _, host := range c.target.targets {
		wg.Go(func() {
			if err := p.watch(ctx, n.Connection(host)); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	p.summary()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// tapPrinter prints calls.
type tapPrinter struct {
	config         *tapConfig
	stdout, stderr io.Writer
	done           context.CancelCauseFunc

	mu      sync.Mutex // Protects following.
	shown   int
	dropped int64
}

// watch prints the calls of a node until ctx ends, across losses of the connection.
func (p *tapPrinter) watch(ctx context.Context, conn *grid.Connection) error {
	for {
		dropped := int64(0) // of this tap
		for batch, err := range debugz.Tap(ctx, conn, p.config.filter) {
			switch {
			case ctx.Err() != nil:
				return nil
			case grid.CodeOf(err) == grid.Unavailable:
				fmt.Fprintf(p.stderr, "gridctl tap: %s: %v; waiting for it\n", conn.Remote, err)
			case err != nil:
				return denied(conn.Remote, "its calls", err)
			default:
				if err := p.print(conn.Remote, batch, batch.Dropped-dropped); err != nil {
					return err
				}
				dropped = batch.Dropped
			}
		}
		if err := conn.WaitForConnect(ctx); err != nil {
			return nil // ctx has ended
		}
	}
}

// print prints some calls. It holds a lock meanwhile: lines do not mix.
func (p *tapPrinter) print(node string, batch *debugz.Tapped, dropped int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range batch.Traces {
		if p.config.most > 0 && p.shown >= p.config.most {
			return nil
		}
		if err := p.line(node, &batch.Traces[i]); err != nil {
			return err
		}
		if p.shown++; p.shown == p.config.most {
			p.done(nil)
		}
	}
	if dropped > 0 {
		p.dropped += dropped
		fmt.Fprintf(p.stderr, "gridctl tap: %s dropped %s calls, which were too many; filters help\n", node, thousands(uint64(dropped)))
	}
	return nil
}

// tapLine is what -json prints for a call.
type tapLine struct {
	Time     time.Time         `json:"time"` // when it began
	Node     string            `json:"node"`
	Side     string            `json:"side"` // made or served
	Peer     string            `json:"peer"`
	Handler  string            `json:"handler"`
	Subroute string            `json:"subroute,omitempty"`
	Seconds  float64           `json:"seconds"`
	BytesIn  int               `json:"bytes_in"`
	BytesOut int               `json:"bytes_out"`
	Error    string            `json:"error,omitempty"`
	Params   map[string]string `json:"params,omitempty"`
}

func (p *tapPrinter) line(node string, info *grid.TraceInfo) error {
	handler := strings.TrimPrefix(info.Handler, "grid.")
	side, arrow := "made", "->"
	if info.Type == grid.TraceServed {
		side, arrow = "served", "<-"
	}
	if p.config.json {
		return json.NewEncoder(p.stdout).Encode(tapLine{
			info.Time, node, side, info.Remote, handler, info.Subroute, info.Duration.Seconds(), info.BytesIn, info.BytesOut, info.Error, info.Params,
		})
	}
	if info.Subroute != "" {
		handler += " on " + info.Subroute
	}
	end := "ok"
	if info.Error != "" {
		end = "error: " + info.Error
	}
	_, err := fmt.Fprintf(p.stdout, "%s  %s %s %s  %s  %s  %d B in, %d B out  %s\n",
		info.Time.Local().Format("15:04:05.000000"), node, arrow, info.Remote, handler, micros(info.Duration), info.BytesIn, info.BytesOut, oneLine(errors.New(end)))
	return err
}

// micros is a duration to the microsecond.
func micros(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.1f µs", d.Seconds()*1e6)
	}
	return short(d)
}

func (p *tapPrinter) summary() {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.stderr, "gridctl tap: %s calls, and %s dropped\n", thousands(uint64(p.shown)), thousands(uint64(p.dropped)))
}
