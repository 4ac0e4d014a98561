package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/soak"
	"github.com/gridmesh/grid/internal/workload"
)

// soakConfig is the configuration of gridctl soak.
type soakConfig struct {
	soak.Config
	verbose bool
}

func (c *soakConfig) flags() *flag.FlagSet {
	c.Duration, c.Nodes, c.Callers = time.Minute, 4, 16
	c.Rest, c.CutEvery, c.RestartEvery, c.Allowance = 5*time.Millisecond, time.Second, 10*time.Second, 10*time.Second
	c.Times = grid.Limits{PingInterval: time.Second, PeerTimeout: 5 * time.Second}
	fs := newFlags("soak")
	fs.Var((*duration)(&c.Duration), "duration", "how long to call, a `time` such as 1m or 8h")
	fs.Uint64Var(&c.Seed, "seed", 0, "a `number` from which calls and troubles are drawn (default: another one each time)")
	fs.IntVar(&c.Nodes, "nodes", c.Nodes, "the `number` of nodes, 2 to 32")
	fs.IntVar(&c.Callers, "callers", c.Callers, "the `number` of callers, all nodes together")
	fs.Var((*duration)(&c.Rest), "rest", "how long a caller rests after a call, a `time`, on the average")
	fs.Var((*duration)(&c.CutEvery), "cut-every", "the `time` between two cuts, on the average")
	fs.Var((*duration)(&c.RestartEvery), "restart-every", "the `time` between two restarts of a node, on the average")
	fs.Var((*duration)(&c.Allowance), "allowance", "the `time` that a call may be late, for a busy machine")
	fs.Var((*duration)(&c.Times.PingInterval), "ping-interval", "the `time` between the pings that ask another node for a sign of life")
	fs.Var((*duration)(&c.Times.PeerTimeout), "peer-timeout", "the `time` that another node may be silent before its connection is dropped, at least\ntwice -ping-interval")
	fs.BoolVar(&c.verbose, "v", false, "log to standard error what happens to the connections")
	return fs
}

func (c *soakConfig) check() error {
	switch {
	case c.Duration <= 0:
		return cannotStart("-duration %v is too short; try 1m", c.Duration)
	case c.Nodes < 2 || c.Nodes > 32:
		return cannotStart("-nodes %d is out of range; use 2 to 32", c.Nodes)
	case c.Callers < 1 || c.Callers > maxSoakCallers:
		return cannotStart("-callers %d is out of range; use 1 to %d", c.Callers, maxSoakCallers)
	case c.Rest < 0 || c.Rest > maxSoakTime:
		return cannotStart("-rest %v is out of range; use up to %v", c.Rest, maxSoakTime)
	case c.CutEvery <= 0 || c.CutEvery > maxSoakTime:
		return cannotStart("-cut-every %v is out of range; use up to %v", c.CutEvery, maxSoakTime)
	case c.RestartEvery <= 0 || c.RestartEvery > maxSoakTime:
		return cannotStart("-restart-every %v is out of range; use up to %v", c.RestartEvery, maxSoakTime)
	case c.Allowance <= 0:
		return cannotStart("-allowance %v is too short; try 10s", c.Allowance)
	case c.Times.PeerTimeout > soak.ComeBack/4:
		return cannotStart("-peer-timeout %v is too long for a soak; use up to %v", c.Times.PeerTimeout, soak.ComeBack/4)
	}
	for c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	return nil
}

const (
	maxSoakCallers = 10_000
	maxSoakTime    = 24 * time.Hour
)

// runSoak puts load on a grid, cuts its connections, and checks what is promised.
func runSoak(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if peer := os.Getenv(soak.BusyEnv); peer != "" {
		return soak.RunBusyNode(peer, os.Stdin, stdout, stderr)
	}
	var c soakConfig
	if err := parse(c.flags(), args); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.Log = slog.New(slog.DiscardHandler)
	if c.verbose {
		c.Log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	s := soak.New(c.Config)
	if err := s.Start(); err != nil {
		return refused(err)
	}
	if _, err := fmt.Fprintf(stdout, "%d nodes, %d callers, for %v; the seed is %d\n\n", c.Nodes, c.Callers, c.Duration, c.Seed); err != nil {
		s.Stop() // the results would be lost
		return err
	}
	line, start := newStatusLine(stderr, c.verbose), time.Now()
	s.Play(ctx, func() {
		r := s.Report()
		line.set("%s of %s: %s calls, %s cuts, %s restarts, %s promises broken", time.Since(start).Round(time.Second), c.Duration,
			thousands(sumOf(r.Calls[:])), thousands(countAll(r.Cuts)), thousands(countAll(r.Restarts)), thousands(r.Broken))
	})
	line.set("a node whose handlers compute, for %v", (c.Duration / soak.BusyShare).Round(time.Second))
	s.PlayBusy(ctx)
	line.clear()
	r := s.Report()
	printSoak(stdout, r, c.Seed)
	if r.Broken > 0 {
		return fmt.Errorf("%s promises were broken", thousands(r.Broken))
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// printSoak prints the tables, and the promises that were broken.
func printSoak(w io.Writer, r *soak.Report, seed uint64) {
	var counts table
	counts.add("calls", thousands(sumOf(r.Calls[:])))
	for k, n := range r.Calls {
		counts.add("  "+workload.Kind(k).String(), thousands(n))
	}
	for _, group := range []struct {
		name   string
		counts map[string]uint64
	}{{"errors", r.Errors}, {"cuts", r.Cuts}, {"restarts", r.Restarts}} {
		counts.add(group.name, thousands(countAll(group.counts)))
		for _, name := range slices.Sorted(maps.Keys(group.counts)) {
			counts.add("  "+name, thousands(group.counts[name]))
		}
	}
	counts.writeTo(w, "")
	fmt.Fprintln(w)
	printUse(w, r)
	if r.Busy != nil {
		fmt.Fprintln(w)
		printBusy(w, r.Busy)
	}
	if r.Broken == 0 {
		fmt.Fprintf(w, "No promise was broken.\n")
		return
	}
	fmt.Fprintf(w, "\n%s promises were broken:\n", thousands(r.Broken))
	for _, text := range r.First {
		fmt.Fprintf(w, "  %s\n", text)
	}
	if more := r.Broken - uint64(len(r.First)); more > 0 {
		fmt.Fprintf(w, "  and %s more\n", thousands(more))
	}
	fmt.Fprintf(w, "To draw the same calls and troubles again: -seed %d\n", seed)
}

func printUse(w io.Writer, r *soak.Report) {
	var use table
	use.add("", "before", "after", "peak")
	for _, row := range []struct {
		name string
		soak.Use
		peak soak.Footprint
	}{{"nodes idle", r.Idle, r.Peak}, {"nodes stopped", r.Stopped, soak.Footprint{}}} {
		peak := []string{"", ""}
		if row.peak.Goroutines > 0 {
			peak = []string{fmt.Sprint(row.peak.Goroutines), mib(row.peak.Heap)}
		}
		use.add("goroutines, "+row.name, fmt.Sprint(row.Before.Goroutines), fmt.Sprint(row.After.Goroutines), peak[0])
		use.add("heap, "+row.name, mib(row.Before.Heap), mib(row.After.Heap), peak[1])
	}
	use.writeTo(w, "")
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	fmt.Fprintf(w, "\n%s of load. %d garbage collections, with pauses of %s in all. After the last call the heap may have grown by %s.\n",
		r.Elapsed.Round(time.Second), mem.NumGC, short(time.Duration(mem.PauseTotalNs)), mib(soak.HeapBound))
}

// printBusy prints the calls of a busy node over both transports.
func printBusy(w io.Writer, b *soak.Busy) {
	var t table
	t.add("a node whose handlers compute", "calls", "median", "longest")
	for _, c := range []struct {
		name  string
		calls *soak.BusyCalls
	}{{"  grid", &b.Grid}, {"  net/rpc, at the same time", &b.RPC}} {
		t.add(c.name, thousands(c.calls.Latencies.Total()), short(c.calls.Latencies.Percentile(50)), short(c.calls.Longest))
	}
	t.writeTo(w, "")
}

func countAll(counts map[string]uint64) uint64 { return sumOf(slices.Collect(maps.Values(counts))) }

func sumOf(counts []uint64) (sum uint64) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// mib is a number of bytes in MiB.
func mib(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
