// Package pair runs a contender in two processes and puts a load on it: one process has node 0,
// which calls, the other all other nodes. Both are started anew for each measurement, by this
// process, which does nothing else meanwhile.
//
// A program that uses it must begin with
//
//	pair.BeNode()
//
// because the two processes are that program again, unless Config.Program is another one, such as
// one of an earlier version.
package pair

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gridmesh/grid/bench/link"
	"github.com/gridmesh/grid/bench/load"
)

// Config says what is measured, and where.
type Config struct {
	Program   string // which has the contender; empty is this one
	Contender string
	Others    int // nodes of the other process; 0 is 1
	Window    int // as in contender.Setup
	Place     Place
	Procs     int // GOMAXPROCS of both where they are Anywhere; 0 is the default
	Link      link.Spec

	// Outage is how long all is lost on a link.Cable, half a second after the measurement has begun.
	Outage time.Duration
}

// Place says on which processors the two processes run.
type Place string

// The places.
const (
	Anywhere Place = ""         // the kernel decides
	Apart    Place = "apart"    // a processor each
	Together Place = "together" // one processor for both
)

// Result is what a load has done.
type Result struct {
	load.Result
	Healed time.Time // when the outage was over
}

// Recovery returns how long after an outage the first answer came, -1 if none did, and how long after it the last of
// the calls was over that began before its end.
func (r Result) Recovery() (first, all time.Duration) {
	first = -1
	for _, s := range r.Samples {
		after := s.Ended.Sub(r.Healed)
		if s.OK && after > 0 && (first < 0 || after < first) {
			first = after
		}
		if s.Began.Before(r.Healed) {
			all = max(all, after)
		}
	}
	return first, all
}

const (
	// outageAfter is how long after the beginning of a measurement the outage comes.
	outageAfter = 500 * time.Millisecond
	// patience is how long a process may take for an order.
	patience = 6 * time.Minute
)

// Run starts the two processes, puts a load on them, and ends them.
func Run(c Config, s load.Spec) (_ Result, err error) {
	c.Others = max(1, c.Others)
	net, err := link.Open(c.Link)
	if err != nil {
		return Result{}, fmt.Errorf("network: %w", err)
	}
	defer net.Close()
	var nodes [2]*process
	defer func() {
		for _, p := range nodes {
			if p == nil {
				continue
			}
			if said := p.end(); err != nil && said != "" {
				err = fmt.Errorf("%w; the process has said %q", err, said)
			}
		}
	}()
	for side := range nodes {
		if nodes[side], err = start(c, net, side); err != nil {
			return Result{}, err
		}
	}
	if err := connect(c, net, nodes); err != nil {
		return Result{}, err
	}
	return measure(c, net, nodes, s)
}

// connect starts the nodes of both processes, those first that are called.
func connect(c Config, net link.Link, nodes [2]*process) error {
	var addrs [2][]string
	counts := [2]int{1, c.Others}
	for side, p := range nodes {
		a, err := p.do(order{Listen: &listenOrder{net.Host(side), counts[side]}})
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		addrs[side] = a.Addrs
	}
	via, err := net.Via(addrs)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	for _, side := range []int{1, 0} {
		_, err := nodes[side].do(order{Start: &startOrder{
			Contender: c.Contender,
			Window:    c.Window,
			First:     side,
			Addrs:     append(append([]string(nil), addrs[0]...), addrs[1]...),
			Via:       via[side],
		}})
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
	}
	return nil
}

func measure(c Config, net link.Link, nodes [2]*process, s load.Spec) (r Result, err error) {
	first := make(chan int, 1)
	began := func() {
		a, err := nodes[1].do(order{Count: true})
		if err == nil {
			first <- a.Accepted
		}
		if c.Outage > 0 {
			time.Sleep(outageAfter)
			net.SetDown(true)
			time.Sleep(c.Outage)
			net.SetDown(false)
			r.Healed = time.Now()
		}
	}
	a, err := nodes[0].run(order{Run: &s, PIDs: [2]int{nodes[0].pid(), nodes[1].pid()}}, began)
	if err != nil {
		return r, err
	}
	if a.Result == nil {
		return r, errors.New("the process has given no result")
	}
	r.Result = *a.Result
	select {
	case before := <-first:
		after, err := nodes[1].do(order{Count: true})
		if err != nil {
			return r, err
		}
		r.Accepted += after.Accepted - before
	default:
	}
	return r, nil
}

// program returns the path of the program that the processes run.
func (c Config) program() (string, error) {
	if c.Program != "" {
		return c.Program, nil
	}
	return os.Executable()
}
