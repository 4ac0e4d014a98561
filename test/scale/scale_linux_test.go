package scale

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	// promptness bounds how long after its source has named a node another one calls it, and how long
	// after the end of its grace a removed one is cut, beside the time that the nodes have not run.
	promptness = time.Second
	// parked is how long a node lets one wait that it does not know yet, and turnedAway how long that
	// one may pause then, before it tries again.
	parked     = 3 * time.Second
	turnedAway = 10 * time.Second
	// patience bounds how long a test waits for what must happen, and is not judged.
	patience = time.Minute
	// enough is how many calls each node makes to each of the others while nothing changes.
	enough = 25
)

// Three nodes become nine, six and three again, and those that stay never fail to call each other.
func TestScale(t *testing.T) {
	t.Run("DNS", func(t *testing.T) { scale(t, true) })
	t.Run("memberlist", func(t *testing.T) { scale(t, false) })
}

func scale(t *testing.T, byDNS bool) {
	g := &grids{t: t, network: joinProcesses(t)}
	t.Cleanup(g.close)
	if byDNS {
		g.dns = startDNS(t, g.network)
	}
	g.grow(3)
	g.steady()
	grown := g.grow(9)
	g.steady()
	removed := g.remove(3)
	g.steady()
	g.lose(3)
	g.steady()
	calls := g.judge()
	how := "addresses of loopback"
	if g.hub != nil {
		how = "network namespaces"
	}
	fmt.Printf("%s, %s: %d calls; a new node was called %v after it was named (median, at most %v), "+
		"by all within %v of its start; a removed one was cut %v after its removal at most, with a grace of %v; nodes did not run for %v at most\n",
		t.Name(), how, calls, round(grown.named[len(grown.named)/2]), round(grown.named[len(grown.named)-1]), round(grown.all),
		round(removed), grace, round(g.late()))
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// grids is a grid of processes, and what they say.
type grids struct {
	*network
	t       *testing.T
	dns     *dns // nil where nodes gossip
	members []*member
	started []*member // members, and those that were
}

// member is a process of the grid.
type member struct {
	*process
	g       *grids
	address string
	name    string
	log     output
	heard   chan struct{} // closed when all that it says has been read

	mu       sync.Mutex // Protects following.
	told     map[said]report
	failures []report
	calls    map[string]int64
	again    map[string]int64 // reconnects
	late     time.Duration
	broken   error     // of the output
	left     time.Time // from when on its calls may fail
	ended    time.Time // from when on calls to it may fail
}

// said is what a report is about.
type said struct {
	kind kind
	peer string
}

func (g *grids) close() {
	for _, m := range g.started {
		m.kill()
		if g.t.Failed() {
			text := m.log.String()
			g.t.Logf("%s says:\n%s", m.name, text[max(0, len(text)-4000):])
		}
	}
}

// name has DNS name all members.
func (g *grids) name() {
	if g.dns == nil {
		return // they do that themselves
	}
	var addresses []string
	for _, m := range g.members {
		addresses = append(addresses, m.address)
	}
	g.dns.name(addresses...)
}

// growth is how long it took to call new nodes.
type growth struct {
	named []time.Duration // since both nodes were named to each other, sorted
	all   time.Duration   // since the first of them was started, until each has called all others
}

// grow starts nodes until there are so many, and waits until all call each other.
func (g *grids) grow(to int) growth {
	g.t.Helper()
	before := slices.Clone(g.members)
	start := time.Now()
	for len(g.members) < to {
		g.members = append(g.members, g.startMember())
	}
	for _, m := range g.members {
		m.wait(isUp, m) // a dial in vain would be followed by a pause, which is not what is measured
	}
	g.name()
	var all growth
	for _, m := range g.members {
		for _, other := range g.members {
			if m == other || slices.Contains(before, m) && slices.Contains(before, other) {
				continue
			}
			called := m.wait(isCalled, other)
			here, there := m.wait(isNamed, other).At, other.wait(isNamed, m).At
			named := min(called.At.Sub(here), called.At.Sub(there))
			limit := promptness + settle + m.lateness() + other.lateness()
			if here.Sub(there).Abs() > parked-settle { // gossip may take that long, on a busy machine
				limit += turnedAway
			}
			if named > limit {
				g.t.Errorf("%s has called %s %v after that was named, which may take %v", m.name, other.name, named, limit)
			}
			all.named = append(all.named, named)
			all.all = max(all.all, called.At.Sub(start))
		}
	}
	slices.Sort(all.named)
	return all
}

// remove has the source lack so many nodes that go on, and waits until all others have cut them. It
// returns how long that took at most, from the removal.
func (g *grids) remove(n int) (longest time.Duration) {
	g.t.Helper()
	leaving := g.takeLast(n)
	for _, m := range leaving {
		m.leaves(false)
		if _, err := io.WriteString(m.input, "leave\n"); err != nil {
			g.t.Fatal(err)
		}
	}
	g.name()
	for _, m := range g.members {
		for _, other := range leaving {
			removed, cut := m.wait(isRemoved, other), m.wait(isCut, other)
			missing := m.wait(isMissing, other) // the last time, in case that gossip was wrong before
			late := m.lateness() + other.lateness()
			if held := removed.At.Sub(missing.At); held < hold || held > hold+settle+promptness+late {
				g.t.Errorf("%s has removed %s after %v, want %v", m.name, other.name, held, hold)
			}
			left := cut.At.Sub(removed.At)
			if left+late < grace/2 || left > grace+promptness+late {
				g.t.Errorf("%s has cut %s %v after its removal, with a grace of %v", m.name, other.name, left, grace)
			}
			longest = max(longest, left)
		}
	}
	for _, m := range leaving {
		m.kill()
	}
	return longest
}

// lose kills so many nodes, and waits until all others have removed them.
func (g *grids) lose(n int) {
	g.t.Helper()
	lost := g.takeLast(n)
	for _, m := range lost {
		m.leaves(true)
		m.kill()
	}
	g.name()
	for _, m := range g.members {
		for _, other := range lost {
			removed := m.wait(isRemoved, other)
			missing := m.wait(isMissing, other)
			if held := removed.At.Sub(missing.At); held < hold {
				g.t.Errorf("%s has removed %s after %v, want %v", m.name, other.name, held, hold)
			}
		}
	}
}

// takeLast takes the newest members away.
func (g *grids) takeLast(n int) []*member {
	last := g.members[len(g.members)-n:]
	g.members = g.members[:len(g.members)-n]
	return last
}

// steady waits until all members have called each other for a while.
func (g *grids) steady() {
	g.t.Helper()
	before := make(map[*member]map[string]int64)
	for _, m := range g.members {
		before[m] = m.counts()
	}
	for _, m := range g.members {
		for _, other := range g.members {
			if m != other {
				g.waitFor(m.name+" to call "+other.name, func() bool { return m.counts()[other.name] >= before[m][other.name]+enough })
			}
		}
	}
}

// judge ends the members, and finds what has failed. It returns how many calls were made.
func (g *grids) judge() (calls int64) {
	g.t.Helper()
	for _, m := range g.members {
		m.leaves(true)
	}
	for _, m := range g.members {
		m.end()
		if !m.cmd.ProcessState.Success() {
			g.t.Errorf("%s has ended with %v", m.name, m.cmd.ProcessState)
		}
	}
	named := make(map[string]*member)
	for _, m := range g.started {
		named[m.name] = m
	}
	for _, m := range g.started {
		<-m.heard
		m.mu.Lock()
		for _, f := range m.failures {
			over, gone := m.left, named[f.Peer].ended
			if (over.IsZero() || f.At.Before(over)) && (gone.IsZero() || f.At.Before(gone)) {
				g.t.Errorf("%s: %s", f.At.Format(time.TimeOnly), f.Text)
			}
		}
		for _, n := range m.calls {
			calls += n
		}
		for _, other := range g.members {
			if n := m.again[other.name]; n != 0 && slices.Contains(g.members, m) {
				g.t.Errorf("%s has connected to %s again", m.name, other.name)
			}
		}
		if m.broken != nil {
			g.t.Errorf("%s: %v", m.name, m.broken)
		}
		m.mu.Unlock()
	}
	return calls
}

// late returns the longest time that a process has not run.
func (g *grids) late() (longest time.Duration) {
	for _, m := range g.started {
		longest = max(longest, m.lateness())
	}
	return longest
}

// startMember starts a process, and reads what it says.
func (g *grids) startMember() *member {
	g.t.Helper()
	number := len(g.started) + 1
	m := &member{g: g, address: g.network.address(number), heard: make(chan struct{}), told: make(map[said]report)}
	m.name = nodeName(m.address)
	output, stdout := io.Pipe()
	var err error
	if m.process, err = g.network.start("node", stdout, &m.log); err != nil {
		g.t.Fatal(err)
	}
	g.started = append(g.started, m)
	go func() {
		<-m.exited
		stdout.Close()
	}()
	go m.read(output)
	if err := g.plug(m.process, number); err != nil {
		g.t.Fatal(err)
	}
	c := nodeConfig{Address: m.address, Cable: g.hub != nil}
	if g.dns != nil {
		c.DNS = g.dns.address
	} else {
		for i := range 2 {
			c.Join = append(c.Join, fmt.Sprintf("%s:%d", g.network.address(i+1), gossipPort))
		}
	}
	if err := json.NewEncoder(m.input).Encode(c); err != nil {
		g.t.Fatal(err)
	}
	return m
}

// read takes the reports.
func (m *member) read(output io.Reader) {
	defer close(m.heard)
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var r report
		err := json.Unmarshal(lines.Bytes(), &r)
		m.mu.Lock()
		switch {
		case err != nil:
			if m.left.IsZero() { // else it may have been killed in the middle of a line
				m.broken = fmt.Errorf("%w: %s", err, bytes.Clone(lines.Bytes()))
			}
		case r.Kind == hasFailed:
			m.failures = append(m.failures, r)
		case r.Kind == hasCalled:
			m.calls, m.again = r.Calls, r.Reconnects
		default:
			if _, ok := m.told[said{r.Kind, r.Peer}]; !ok || r.Kind == isMissing {
				m.told[said{r.Kind, r.Peer}] = r
			}
		}
		m.late = max(m.late, r.Late)
		m.mu.Unlock()
	}
}

// wait waits for a report: the first of its kind, or the last that a node is missing.
func (m *member) wait(k kind, about *member) (r report) {
	m.g.t.Helper()
	m.g.waitFor(fmt.Sprintf("%s to say that %s is %s", m.name, about.name, k), func() (ok bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		r, ok = m.told[said{k, about.name}]
		return ok
	})
	return r
}

// leaves says that calls of the node may fail from now on, and those to it if it also ends.
func (m *member) leaves(ends bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = time.Now()
	if ends {
		m.ended = m.left
	}
}

func (m *member) counts() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls // is never changed
}

func (m *member) lateness() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.late
}

// waitFor waits for a condition, and ends the test where it does not come.
func (g *grids) waitFor(what string, condition func() bool) {
	g.t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("waited %v for %s", patience, what)
		}
		for _, m := range g.members {
			select {
			case <-m.exited:
				g.t.Fatalf("%s has ended while waiting for %s: %v", m.name, what, m.cmd.ProcessState)
			default:
			}
		}
	}
}
