package gridtest

import (
	"flag"
	"time"

	"github.com/gridmesh/grid"
)

var (
	seedFlag  = flag.Uint64("gridtest.seed", 0, "the only `seed`, or with -gridtest.seeds the first one, that tests of package gridtest run")
	seedsFlag = flag.Int("gridtest.seeds", 0, "how many `seeds` gridtest.Run runs")
	hangsFlag = flag.Duration("gridtest.hangs", 2*time.Minute, "the real `time` after which gridtest.Run takes a seed for hung")
)

// Option is an option of New and Run.
type Option func(*config)

type config struct {
	nodes  int
	seed   uint64
	seeds  int
	link   Link
	limit  time.Duration
	panics bool // are allowed
	setup  []func(*Node) error
	edit   []func(int, *grid.ManagerOptions)
	ofRun  bool // which prints the command that repeats a seed
}

func newConfig(options []Option) config {
	c := config{
		nodes: 3,
		seed:  1,
		seeds: 20,
		link:  Link{Delay: time.Millisecond, Jitter: time.Millisecond},
		limit: 24 * time.Hour,
	}
	for _, o := range options {
		o(&c)
	}
	if *seedFlag != 0 {
		c.seed, c.seeds = *seedFlag, 1
	}
	if *seedsFlag > 0 {
		c.seeds = *seedsFlag
	}
	return c
}

// Nodes sets the number of nodes, 3 without it.
func Nodes(n int) Option { return func(c *config) { c.nodes = n } }

// Seed sets the seed of New, and the first one of Run, 1 without it. The flag -gridtest.seed
// replaces it.
func Seed(seed uint64) Option { return func(c *config) { c.seed = seed } }

// Seeds sets how many seeds Run runs, 20 without it. The flag -gridtest.seeds replaces it.
func Seeds(n int) Option { return func(c *config) { c.seeds = n } }

// Setup has f called with each node that starts, also when it starts again, before anybody can call
// it. It registers handlers, starts what else belongs to the node with Node.Go, and may keep in
// Node.Value what the test needs. It must not start or stop nodes. An error fails the test. Several
// Setups are called in their order.
func Setup(f func(n *Node) error) Option {
	return func(c *config) { c.setup = append(c.setup, f) }
}

// Managers has f called with the options of each node i that starts, also when it starts again. It
// may change all but Local and Dialer.
func Managers(f func(i int, o *grid.ManagerOptions)) Option {
	return func(c *config) { c.edit = append(c.edit, f) }
}

// Links sets how the connections between all nodes are as long as there is no fault: with a Delay
// of a millisecond, and a Jitter of one, without it.
func Links(l Link) Option { return func(c *config) { c.link = l } }

// Limit sets how much virtual time a test may take, 24 hours without it. A test that waits for
// something that does not come would run for ever, as nodes ping each other; at the limit it fails,
// and its nodes are closed.
func Limit(d time.Duration) Option { return func(c *config) { c.limit = d } }

// AllowPanics lets handlers panic. Without it that fails the test, although a grid survives it.
func AllowPanics() Option { return func(c *config) { c.panics = true } }

// Link says how bytes travel on the connections between two nodes, one way. The zero value is
// without delay or limit.
type Link struct {
	// Delay is how long they travel. At random, up to Jitter is added to it for each write.
	Delay, Jitter time.Duration
	// Bandwidth is in bytes per second for each connection; 0 is without limit.
	Bandwidth int
	// Loss is how likely a write is lost, from 0 to 1. As TCP does, the sender repeats it after 200
	// ms, then 400 ms, and so on, at most eight times, and all that it sends after that waits for
	// it. So a loss is a delay. While connecting, it begins with a second.
	Loss float64
}
