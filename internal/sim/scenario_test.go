package sim

import (
	"fmt"
	"time"

	"github.com/gridmesh/grid/internal/simnet"
	"github.com/gridmesh/grid/internal/workload"
)

// scenario is everything that a seed decides: what there is and what is done to it, and when. All
// times count from the start. What comes of it also depends on how goroutines are scheduled.
type scenario struct {
	seed    uint64
	hosts   []string        // of the nodes
	late    []time.Duration // when each node starts
	settled bool            // calls begin when all nodes are connected
	links   []linkPlan
	windows [workload.Routes]workload.Window
	queued  int           // Limits.MaxQueuedBytes of all nodes
	largest int           // Limits.MaxMessageSize of all nodes
	encodes time.Duration // each message of a typed stream
	calls   []*workload.Call
	faults  []faultPlan
	stops   []stopPlan
	twins   []twinPlan
	changes []hostPlan
	guest   int           // the node that is a guest of the others; -1 for none
	grace   int           // ManagerOptions.RemovalGrace of all nodes, in seconds
	length  time.Duration // of the part with calls, faults and stops
}

// linkPlan is how bytes travel from one node to another.
type linkPlan struct {
	from, to int
	simnet.Link
}

// newScenario draws the scenario of a seed.
func newScenario(seed uint64) *scenario {
	d := workload.NewDrawer(seed, 0x67726964)
	s := &scenario{seed: seed, length: d.Between(2*time.Second, 45*time.Second)}
	nodes := 2 + min(d.IntN(6), d.IntN(6))
	for i := range nodes {
		s.hosts = append(s.hosts, fmt.Sprintf("n%d-%d", i, seed))
		s.late = append(s.late, 0)
	}
	s.settled = d.Chance(60)
	if !s.settled {
		for i := range s.late {
			if d.Chance(30) {
				s.late[i] = d.Between(0, s.length/2)
			}
		}
	}
	for i := range s.windows {
		s.windows[i] = workload.Window{In: d.Pick(1, 1, 2, 3, 8, 64, 256), Out: d.Pick(1, 1, 2, 3, 8, 64, 256)}
	}
	s.queued = d.Pick(0, 0, 0, 4<<10, 32<<10)
	if d.Chance(50) {
		s.encodes = d.Between(time.Microsecond, 10*time.Millisecond)
	}
	s.drawLinks(d)
	s.drawCalls(d)
	if d.Chance(75) {
		s.drawTwins(d)
		s.drawFaults(d)
		s.drawStops(d)
	}
	s.drawStarving(d)
	s.drawCrowds(d)
	s.drawProxies(workload.NewDrawer(seed, 0x70726f78))
	s.drawLarge(workload.NewDrawer(seed, 0x6c61726765))
	s.drawHosts(workload.NewDrawer(seed, 0x686f737473))
	s.drawGuest(workload.NewDrawer(seed, 0x6775657374))
	return s
}

// drawLarge lets some nodes send each other messages that go in pieces, more of them at a time than
// may be begun, preferably when something happens to one of them. Many are given up. It has numbers
// of its own, so that all else stays as it was.
func (s *scenario) drawLarge(d workload.Drawer) {
	s.largest = workload.MaxMessage
	if !d.Chance(30) {
		return
	}
	s.largest = d.Pick(1, 1, 4) * workload.MaxMessage
	type trouble struct {
		at   time.Duration
		node int
	}
	troubles := []trouble{{d.Between(0, s.length), d.IntN(len(s.hosts))}}
	for _, f := range s.faults {
		troubles = append(troubles, trouble{f.at, f.a})
	}
	for _, st := range s.stops {
		troubles = append(troubles, trouble{st.at, st.node})
	}
	for range 1 + d.IntN(3) {
		near := troubles[d.IntN(len(troubles))]
		from, to := near.node, (near.node+1+d.IntN(len(s.hosts)-1))%len(s.hosts)
		if d.Chance(50) {
			from, to = to, from
		}
		if s.crumbles(from, to) {
			continue
		}
		most := d.Pick(10_000, 100_000, 600_000, s.largest-100_000)
		for left := 2*s.largest + 1<<20; left > 0; {
			c := s.drawCall(d, max(0, near.at-d.Short(time.Second)))
			if c.Kind >= workload.Unknown {
				continue
			}
			size := 32<<10 + d.IntN(most)
			c.From, c.To = from, to
			if d.Chance(70) {
				c.Size = size
				left -= size
			}
			if d.Chance(70) {
				c.Work.Send, c.Work.Size = min(c.Work.Send, 2), size
				left -= size
			}
			if c.Kind.Stream() && d.Chance(70) {
				c.Use.Send, c.Use.Size = min(c.Use.Send, 2), size
				left -= size
			}
			if d.Chance(30) {
				c.Cancel = 1 + d.Short(3*time.Second)
			}
		}
	}
	for _, f := range s.faults {
		if f.kind == faultTamper {
			s.boundStreams(f.a, f.b)
		}
	}
}

// crumbles reports whether bytes go between two nodes in so small parts that much of them would
// take long to simulate.
func (s *scenario) crumbles(a, b int) bool {
	for _, l := range s.links {
		if nodesOf(l.from, l.to) == nodesOf(a, b) && l.Segment > 0 && l.Segment < 1000 {
			return true
		}
	}
	return false
}

func (s *scenario) drawLinks(d workload.Drawer) {
	far := d.Chance(30)
	for from := range s.hosts {
		for to := range s.hosts {
			if from == to {
				continue
			}
			link := simnet.Link{
				Delay:   time.Duration(d.Pick(0, 1, 2, 20)) * time.Millisecond,
				Jitter:  time.Duration(d.Pick(0, 1, 5, 30)) * time.Millisecond,
				Segment: d.Pick(0, 0, 64, 1460, 16<<10),
				Buffer:  d.Pick(16, 64, 256) << 10,
			}
			if far {
				link.Delay += 100 * time.Millisecond
				link.Buffer = 512 << 10 // a write has to be through in three seconds
			}
			if d.Chance(5) {
				link.Segment = 5
				link.Jitter = 0
			}
			s.links = append(s.links, linkPlan{from, to, link})
		}
	}
}

func (s *scenario) drawCalls(d workload.Drawer) {
	n := 20 + d.IntN(60)
	for len(s.calls) < n {
		at := d.Between(0, s.length)
		heavy, askLarge, answerLarge := d.Chance(6), d.Chance(60), d.Chance(60)
		from, to := d.Pair(len(s.hosts))
		for range d.Pick(1, 1, 1, 2, 16) { // callers come in crowds
			c := s.drawCall(d, at)
			if heavy && c.Kind < workload.Unknown { // more at once than the send queue takes, there or back
				c.From, c.To = from, to
				if askLarge {
					c.Size = 100_000
				}
				if answerLarge && !c.Kind.Stream() {
					c.Work.Size = 100_000
				}
			}
		}
	}
}

// drawCall adds a call.
func (s *scenario) drawCall(d workload.Drawer, at time.Duration) *workload.Call {
	c := d.Call(uint64(len(s.calls)+1), len(s.hosts), s.encodes, &workload.Wild)
	c.At = at
	s.calls = append(s.calls, c)
	return c
}
