package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/workload"
)

// simTampered is the deadline of streams that are tampered with and have none.
const simTampered = 25 * time.Second

type faultKind int

const (
	faultStall     faultKind = iota // one way
	faultStallBoth                  // both ways
	faultCut                        // resets what is open
	faultDrop                       // silences what is open
	faultRefuse                     // resets what is open, and new connections
	faultSlow                       // leaves little bandwidth
	faultFlip                       // flips bits
	faultTamper                     // loses, repeats and swaps messages of streams
	faultMisroute                   // resets what is open, and lets new connections reach a third node
	faultStarve                     // lets one of them read and write now and then only; it must not lose a connection
	faultKinds
)

var faultNames = [faultKinds]string{"stall", "stall both ways", "cut", "drop", "refuse", "slow", "flip", "tamper", "misroute", "starve"}

func (k faultKind) String() string { return faultNames[k] }

// faultPlan is something that happens between two nodes.
type faultPlan struct {
	at     time.Duration
	kind   faultKind
	a, b   int
	third  int
	lasts  time.Duration
	amount int // bytes per second, bits or messages
}

// simStarved is the longest time that a starved node stands still: less than a write may make no
// progress. It runs for simRuns in between.
const (
	simStarved = 2500 * time.Millisecond
	simRuns    = 500 * time.Millisecond
)

func (s *scenario) drawFaults(d workload.Drawer) {
	for range d.IntN(8) {
		f := faultPlan{
			at:    d.Between(0, s.length),
			kind:  faultKind(d.IntN(int(faultStarve))),
			lasts: d.Short(40 * time.Second),
		}
		f.a, f.b = d.Pair(len(s.hosts))
		f.third = d.IntN(len(s.hosts))
		if f.kind == faultMisroute && (f.third == f.a || f.third == f.b) {
			continue
		}
		switch f.kind {
		case faultMisroute:
			f.lasts = d.Between(100*time.Millisecond, 15*time.Second)
		case faultSlow:
			f.amount = 1 << (10 + d.IntN(8))
		case faultFlip, faultTamper:
			f.amount = 1 + d.IntN(4)
		}
		s.faults = append(s.faults, f)
		if f.kind == faultTamper {
			s.boundStreams(f.a, f.b)
		}
	}
}

// drawStarving lets a node be starved, in a scenario without twins: a process that stands still has
// to give way to another of its name.
func (s *scenario) drawStarving(d workload.Drawer) {
	if len(s.twins) > 0 || !d.Chance(20) {
		return
	}
	f := faultPlan{at: d.Between(0, s.length), kind: faultStarve, lasts: d.Between(simStarved, 15*time.Second)}
	f.a, f.b = d.Pair(len(s.hosts))
	s.faults = append(s.faults, f)
}

// boundStreams gives the streams between two nodes an end. One that has lost
// its last message may wait for ever, as nothing follows that shows it.
func (s *scenario) boundStreams(a, b int) {
	for _, p := range s.calls {
		if p.Kind.Stream() && nodesOf(p.From, p.To) == nodesOf(a, b) && !p.Ends() {
			p.Deadline = simTampered
		}
	}
}

// harm lets a fault happen.
func (w *world) harm(f faultPlan) {
	w.logf("%v between %s and %s for %v (%d)", f.kind, w.nodes[f.a].host, w.nodes[f.b].host, f.lasts, f.amount)
	if f.kind != faultStarve {
		w.disturb(f.a, f.b)
	}
	a, b := w.nodes[f.a].host, w.nodes[f.b].host
	switch f.kind {
	case faultStall:
		w.net.Stall(a, b, f.lasts)
	case faultStallBoth:
		w.net.Stall(a, b, f.lasts)
		w.net.Stall(b, a, f.lasts)
	case faultCut:
		w.net.Cut(a, b)
	case faultDrop:
		w.net.Drop(a, b)
	case faultRefuse:
		w.net.Refuse(a, b, f.lasts)
		w.net.Refuse(b, a, f.lasts)
		w.net.Cut(a, b)
	case faultSlow:
		link := w.net.Link(a, b)
		link.Bandwidth = f.amount
		w.net.SetLink(a, b, link)
		time.AfterFunc(f.lasts, func() { w.setLink(f.a, f.b) })
	case faultFlip:
		w.net.Flip(a, b, f.amount)
	case faultTamper:
		w.tamper(f)
	case faultMisroute:
		w.net.Misroute(a, b, w.nodes[f.third].host, f.lasts)
		w.net.Misroute(b, a, w.nodes[f.third].host, f.lasts)
		w.net.Cut(a, b)
	case faultStarve:
		w.starve(a, w.Now()+f.lasts)
	}
}

// starve lets a host stand still again and again.
func (w *world) starve(host string, until time.Duration) {
	if left := until - w.Now(); left > 0 {
		w.net.Freeze(host, min(left, simStarved))
		time.AfterFunc(simStarved+simRuns, func() { w.starve(host, until) })
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.logf("heal")
	w.net.Heal()
	for _, l := range w.links {
		w.setLink(l.from, l.to)
	}
	w.stopTampering()
}

// setLink makes a link as it was at first.
func (w *world) setLink(from, to int) {
	for _, l := range w.links {
		if l.from == from && l.to == to {
			w.net.SetLink(w.nodes[from].host, w.nodes[to].host, l.Link)
		}
	}
}

// twinPlan is a second process with the name of a node, which nobody can reach: it dials.
type twinPlan struct {
	at    time.Duration
	node  int
	lasts time.Duration
}

func (s *scenario) drawTwins(d workload.Drawer) {
	if d.Chance(15) {
		s.twins = append(s.twins, twinPlan{d.Between(0, s.length), d.IntN(len(s.hosts)), d.Between(time.Second, 20*time.Second)})
	}
}

// twin runs a twin. Where the node itself is connected, the twin is held back and does no harm.
func (w *world) twin(p twinPlan) {
	n := w.nodes[p.node]
	w.logf("a twin of %s for %v", n.host, p.lasts)
	ready := make(chan struct{})
	m, err := w.newManager(p.node, n.host+"-twin", ready)
	if err != nil {
		w.violate("%v", err)
		return
	}
	close(ready)
	time.Sleep(p.lasts)
	n.mu.Lock()
	n.twinStops = w.Now()
	n.mu.Unlock()
	m.Close()
}

type stopKind int

const (
	stopClose    stopKind = iota
	stopShutdown          // as long as it takes
	stopHurried           // a Shutdown with a context that ends soon
	stopCrash             // without a word to anybody
	stopKinds
)

var stopNames = [stopKinds]string{"close", "shutdown", "hurried shutdown", "crash"}

func (k stopKind) String() string { return stopNames[k] }

// stopPlan is the end of a node, and mostly its return under the same name.
type stopPlan struct {
	at   time.Duration
	kind stopKind
	node int
	down time.Duration // until a new Manager starts; negative for never
}

func (s *scenario) drawStops(d workload.Drawer) {
	stopped := make(map[int]bool)
	for range d.Pick(0, 0, 1, 1, 2, 3) {
		st := stopPlan{
			node: d.IntN(len(s.hosts)),
			kind: stopKind(d.IntN(int(stopKinds))),
			down: d.Short(10 * time.Second),
		}
		if stopped[st.node] {
			continue
		}
		stopped[st.node] = true
		st.at = s.late[st.node] + d.Between(0, s.length-s.late[st.node])
		if d.Chance(15) && len(stopped) < len(s.hosts)-1 {
			st.down = -1
		}
		s.stops = append(s.stops, st)
	}
}

// drawCrowds lets much wait in line for nodes that are about to leave in good order, or to be
// starved.
func (s *scenario) drawCrowds(d workload.Drawer) {
	crowd := func(node int, at time.Duration, callers, ask, answer int) {
		for range callers {
			c := s.drawCall(d, max(0, at-d.Short(500*time.Millisecond)))
			c.From, c.To = (node+1+d.IntN(len(s.hosts)-1))%len(s.hosts), node
			c.Kind = workload.Kind(d.Pick(int(workload.Request), int(workload.Context), int(workload.Typed)))
			c.Deadline, c.Cancel, c.Races = 0, 0, false
			c.Size, c.Work = ask, workload.Work{Pause: d.Short(time.Second), Size: answer}
		}
	}
	for _, st := range s.stops {
		if st.kind == stopShutdown && d.Chance(50) {
			crowd(st.node, st.at, d.Pick(4, 16, 40), 100, 100_000)
		}
	}
	for _, f := range s.faults {
		for i := range 3 {
			if at := f.at + time.Duration(i)*(simStarved+simRuns); f.kind == faultStarve && at < f.at+f.lasts {
				crowd(f.a, at+200*time.Millisecond, d.Pick(4, 16), d.Pick(100, 100_000), d.Pick(100, 100_000))
			}
		}
	}
}

// drawProxies puts proxies between some nodes, and lets nodes shut down under load there. It has
// numbers of its own, so that all else stays as it was.
func (s *scenario) drawProxies(d workload.Drawer) {
	if !d.Chance(40) {
		return
	}
	for i, there := range s.links {
		if there.from < there.to || d.Chance(30) {
			continue
		}
		for j, back := range s.links {
			if nodesOf(there.from, there.to) == nodesOf(back.from, back.to) {
				s.links[i].Proxied, s.links[j].Proxied = true, true
			}
		}
	}
	if len(s.stops) == 0 {
		node := d.IntN(len(s.hosts))
		s.stops = append(s.stops, stopPlan{
			at:   max(s.late[node], d.Between(s.length/2, s.length)),
			kind: stopShutdown,
			node: node,
			down: d.Short(10 * time.Second),
		})
	}
	for _, st := range s.stops {
		for range 40 {
			c := s.drawCall(d, max(0, st.at-d.Short(2*time.Second)))
			if c.Kind < workload.Unknown {
				c.From, c.To = (st.node+1+d.IntN(len(s.hosts)-1))%len(s.hosts), st.node
				if d.Chance(20) {
					c.From, c.To = c.To, c.From
				}
			}
		}
	}
	for _, f := range s.faults {
		if f.kind == faultTamper {
			s.boundStreams(f.a, f.b)
		}
	}
}

// stop ends a node and starts it again.
func (w *world) stop(p stopPlan) {
	n := w.nodes[p.node]
	w.logf("%v of %s, down for %v", p.kind, n.host, p.down)
	m := n.manager.Load()
	if m == nil {
		w.violate("%s was to be stopped before it was started", n.host)
		return
	}
	n.stopping(w.Now())
	switch p.kind {
	case stopClose:
		w.disturbNode(p.node)
		m.Close()
	case stopShutdown:
		n.leaveInGoodOrder(w, m)
	case stopHurried:
		w.disturbNode(p.node)
		ctx, cancel := contextFor(time.Second)
		m.Shutdown(ctx)
		cancel()
	case stopCrash:
		w.disturbNode(p.node)
		for i := range w.nodes {
			if i != p.node {
				w.net.Drop(n.host, w.nodes[i].host)
			}
		}
		m.Close()
	}
	n.unserve()
	if p.down < 0 {
		return
	}
	time.Sleep(p.down)
	if err := w.start(p.node, nil); err != nil {
		w.violate("%s does not start again: %v", n.host, err)
	}
}

// leaveInGoodOrder shuts a node down. What its handlers had begun has to be finished.
func (n *simNode) leaveInGoodOrder(w *world, m *grid.Manager) {
	ctx, cancel := contextFor(10 * time.Minute)
	defer cancel()
	stop := w.pester(n)
	began := w.Now()
	err := m.Shutdown(ctx)
	ended := w.Now()
	stop()
	if err != nil {
		w.violate("Shutdown of %s returned %v after %v", n.host, err, ended-began)
	}
	n.mu.Lock()
	n.left = leave{began, ended}
	n.mu.Unlock()
}

// pester keeps requests on their way to a node that leaves, from those that are behind a proxy: a
// proxy does harm where something is under way. What becomes of them is nobody's concern.
func (w *world) pester(n *simNode) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, from := range w.up() {
		if from == n || !w.net.Link(from.host, n.host).Proxied {
			continue
		}
		all.Go(func() {
			c := from.manager.Load().Connection(n.name)
			for pause := time.Millisecond; ctx.Err() == nil; pause += pause / 256 {
				all.Go(func() { c.Request(ctx, workload.Nobodys, nil) })
				time.Sleep(pause)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

func (l leave) String() string { return fmt.Sprintf("%v to %v", l.began, l.ended) }
