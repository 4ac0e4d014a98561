package netns

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
	"golang.org/x/sys/unix"
)

// What is promised, with the default options.
const (
	noticeLimit   = 20 * time.Second // from the fault until a dead peer is known to be dead
	recoveryLimit = 3 * time.Second  // from the heal until calls succeed again
)

// brisk are limits with which dead peers are noticed soon. What is promised of the defaults is seen
// in other scenarios.
var brisk = grid.Limits{PingInterval: time.Second, PeerTimeout: 4 * time.Second}

// scenario is something that happens to the victim, or to its links.
type scenario struct {
	name   string
	limits grid.Limits  // of all nodes; the zero value is the defaults
	needs  func() error // says why it cannot run here; nil needs nothing special

	fault func(w *world, l *load)
	// lasts waits until the fault has lasted long enough. Where dead is set it begins when all have
	// noticed; nil is no longer than that.
	lasts func(w *world, l *load)
	heal  func(w *world, l *load) (healed time.Time)

	affected []pair        // whose link to the victim suffers; nil is all
	dead     bool          // they have to notice that it is dead
	keeps    bool          // their connections must live through it
	harm     int           // frames to be harmed, at the least
	slack    time.Duration // how much longer than recoveryLimit recovery may take
}

func scenarios() []scenario {
	return []scenario{
		{
			name:  "delay and jitter",
			fault: impair(fault{delay: 50 * time.Millisecond, jitter: 20 * time.Millisecond}),
			keeps: true, harm: 500,
		},
		{
			name:  "loss",
			fault: impair(fault{loss: 0.08}),
			keeps: true, harm: 50,
		},
		{
			name:  "reordering",
			fault: impair(fault{reorder: 0.2}),
			keeps: true, harm: 100,
		},
		{
			name:  "corruption that TCP notices",
			fault: impair(fault{corrupt: 0.05}),
			keeps: true, harm: 50,
		},
		{
			name:   "corruption that TCP does not notice",
			limits: brisk,
			fault:  impair(fault{forge: 0.02}),
			harm:   20,
			// A length that is wrong looks like a large message that is slow to come, until the
			// peer is taken for silent.
			slack: brisk.PeerTimeout,
		},
		{
			name:   "asymmetric partition",
			limits: brisk,
			fault: func(w *world, _ *load) {
				w.wire.set("x", victim, false, fault{drop: true})
				w.wire.set(victim, "y", false, fault{drop: true})
				w.wire.set("a", victim, false, fault{drop: true})
			},
			affected: []pair{{"x", victim}, {"y", victim}, {"a", victim}},
			dead:     true, harm: 10,
		},
		{
			name:   "partition of one node",
			limits: brisk,
			fault:  impair(fault{drop: true}),
			dead:   true, harm: 10,
		},
		{
			name: "pulled cable",
			fault: func(w *world, l *load) {
				must(w.t, w.machine(victim).port.tap.setCarrier(false))
				impair(fault{drop: true})(w, l)
			},
			heal: func(w *world, _ *load) time.Time {
				must(w.t, w.machine(victim).port.tap.setCarrier(true))
				w.wire.repair()
				return time.Now()
			},
			dead: true, harm: 10,
		},
		{
			name:  "cable pulled for 13 s",
			needs: retransmitLimit,
			fault: impair(fault{drop: true}),
			lasts: func(*world, *load) { time.Sleep(13 * time.Second) }, // time itself makes the kernel's retransmissions rare
			keeps: true, harm: 10,
		},
		{
			name:  "killed and restarted",
			fault: func(w *world, _ *load) { w.kill(victim) },
			heal: func(w *world, _ *load) time.Time {
				healed := time.Now()
				w.startNode(victim)
				return healed
			},
			dead: true,
		},
		{
			name: "power cut and restart behind a pulled cable",
			fault: func(w *world, l *load) {
				impair(fault{drop: true})(w, l)
				w.powerOff(victim)
			},
			lasts: func(w *world, _ *load) {
				w.powerOn(victim, slices.Index(members, victim)+1)
				w.startNode(victim)
				w.waitFor("the node to be up", func() bool { _, err := w.status(victim); return err == nil })
				for _, p := range allAffected {
					if state, _, err := w.link(p.from, p.to); err != nil || state != grid.StateConnected {
						w.t.Errorf("%s has noticed already: %v, %v", p.from, state, err)
					}
				}
			},
		},
		{
			name:   "frozen process",
			limits: brisk,
			fault:  func(w *world, _ *load) { w.signal(victim, unix.SIGSTOP) },
			heal: func(w *world, _ *load) time.Time {
				w.signal(victim, unix.SIGCONT)
				return time.Now()
			},
			dead: true,
		},
		{
			name: "full socket buffers",
			fault: func(w *world, l *load) {
				w.signal(victim, unix.SIGSTOP)
				for _, from := range callers {
					for range 4 {
						l.add(pair{from, victim}, flood)
					}
				}
			},
			heal: func(w *world, _ *load) time.Time {
				w.signal(victim, unix.SIGCONT)
				return time.Now()
			},
			// Nobody floods the processes: they find out by pings.
			dead: true,
		},
		{
			name:   "changed address behind the same name",
			limits: brisk,
			fault:  func(w *world, _ *load) { w.powerOff(victim) },
			lasts: func(w *world, _ *load) {
				w.mu.Lock()
				w.addresses[victim] = address(100)
				w.mu.Unlock()
				w.writeHosts()
				time.Sleep(resolverAge)
			},
			heal: func(w *world, _ *load) time.Time {
				w.powerOn(victim, 100)
				healed := time.Now()
				w.startNode(victim)
				return healed
			},
			dead: true,
		},
	}
}

// resolverAge is how long Go's resolver may take no notice of a change of /etc/hosts, and a bit.
const resolverAge = 5500 * time.Millisecond

// allAffected are the connections to the victim, as the others see them.
var allAffected = []pair{{"x", victim}, {"y", victim}, {"a", victim}, {"c", victim}}

// impair makes all links of the victim fail, in both directions.
func impair(f fault) func(*world, *load) {
	return func(w *world, _ *load) {
		for _, name := range members {
			if name != victim {
				w.wire.set(victim, name, true, f)
			}
		}
	}
}

// retransmitLimit reports whether the kernel lacks what the library uses to have retransmissions
// not become rare.
func retransmitLimit() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const rtoMaxMS = 44 // TCP_RTO_MAX_MS
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, rtoMaxMS, 2000); err != nil {
		return fmt.Errorf("the kernel has no TCP_RTO_MAX_MS, which came with Linux 6.15: %w", err)
	}
	return nil
}

func TestFaults(t *testing.T) {
	if reason != nil {
		t.Skip("SKIPPED:", reason)
	}
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			if s.needs != nil {
				if err := s.needs(); err != nil {
					fmt.Printf("SKIPPED: %s: %v\n", s.name, err)
					t.Skip(err)
				}
			}
			t.Parallel()
			s.run(t)
		})
	}
}

func (s *scenario) run(t *testing.T) {
	if s.affected == nil {
		s.affected = allAffected
	}
	r := new(result)
	report(s.name, r)
	defer func() { r.failure = t.Failed() }()
	w := newWorld(t, s.limits)
	w.waitForAll()
	s.checkRoles(w)
	l := startLoad(w)
	l.settle(before)

	began := l.enter(during)
	harmedBefore := w.wire.seen().harmed()
	s.fault(w, l)
	if s.dead {
		r.noticed = s.notice(w, began)
	}
	s.last(w, l, harmedBefore)
	s.checkHealthyNodes(w)

	healed := s.repair(w, l)
	r.recovered = s.recover(w, l, healed)
	w.waitForAll()
	l.settle(after)
	s.checkConnections(w, began)
	l.finish()
	s.checkCalls(w, l)
	r.ok, r.failed = l.total()
	r.overdue = l.overdue
	seen := w.wire.seen()
	r.harmed = seen.harmed() - harmedBefore
	t.Logf("frames: %+v", seen)
	w.stopNodes()
}

// checkRoles sees to it that the scenario has both: connections that the victim dials, and others.
func (s *scenario) checkRoles(w *world) {
	dials := map[bool]int{}
	for _, name := range callers {
		dials[w.machine(name).manager.Connection(gridName(victim)).Stats().Dialed]++
	}
	if dials[true] == 0 || dials[false] == 0 {
		w.t.Fatalf("of the callers %d dial the victim and %d are dialed by it; other names would give both", dials[true], dials[false])
	}
}

// notice waits until all that are affected have noticed that the victim is dead. It returns how
// long that took.
func (s *scenario) notice(w *world, began time.Time) (longest time.Duration) {
	for _, p := range s.affected {
		var at time.Time
		w.waitFor(p.from+" to notice that "+p.to+" is dead", func() bool {
			state, since, err := w.link(p.from, p.to)
			at = since
			return err == nil && state != grid.StateConnected
		})
		took := at.Sub(began)
		longest = max(longest, took)
		if took > noticeLimit {
			w.t.Errorf("%s has noticed after %v that %s is dead, want at most %v", p.from, took, p.to, noticeLimit)
		}
	}
	return longest
}

// last waits until the fault has lasted long enough to show what it does.
func (s *scenario) last(w *world, l *load, harmedBefore int) {
	if s.lasts != nil {
		s.lasts(w, l)
	}
	for _, p := range s.affected {
		if l.tallies[p] == nil {
			continue // not a caller
		}
		w.waitFor(fmt.Sprintf("calls from %s to %s during the fault", p.from, p.to), func() bool {
			ok, failed, _ := l.count(p, during)
			if s.keeps && s.lasts == nil {
				return ok >= 50
			}
			return ok+failed >= 5
		})
	}
	w.waitFor(fmt.Sprintf("%d frames to be harmed", s.harm), func() bool { return w.wire.seen().harmed()-harmedBefore >= s.harm })
}

// checkHealthyNodes sees whether calls go on between nodes that nothing has happened to, with nodes
// that are processes.
func (s *scenario) checkHealthyNodes(w *world) {
	w.waitFor("an answer of c to a during the fault", func() bool {
		status, err := w.status("a")
		return err == nil && slices.ContainsFunc(status.Cluster, func(row debugz.Row) bool { return row.Node == gridName("c") && row.Known })
	})
}

// repair ends the fault. It returns when that was.
func (s *scenario) repair(w *world, l *load) (healed time.Time) {
	if s.heal != nil {
		w.wire.repair()
		healed = s.heal(w, l)
	} else {
		healed = time.Now()
		w.wire.repair()
	}
	l.enter(after)
	return healed
}

// recover waits until all that were affected reach the victim again. It returns how long that took.
func (s *scenario) recover(w *world, l *load, healed time.Time) (longest time.Duration) {
	for _, p := range s.affected {
		var at time.Time
		if l.tallies[p] != nil {
			w.waitFor(fmt.Sprintf("a call from %s to %s after the heal", p.from, p.to), func() bool {
				at = l.recovered(p)
				return !at.IsZero()
			})
		} else {
			w.waitFor(fmt.Sprintf("%s to be connected to %s after the heal", p.from, p.to), func() bool {
				state, since, err := w.link(p.from, p.to)
				at = since
				return err == nil && state == grid.StateConnected
			})
		}
		took := at.Sub(healed)
		longest = max(longest, took)
		if limit := recoveryLimit + s.slack; took > limit {
			w.t.Errorf("%s reaches %s %v after the heal, want at most %v", p.from, p.to, took, limit)
		}
	}
	return longest
}

// checkConnections sees whether connections have lived through the fault that had to.
func (s *scenario) checkConnections(w *world, began time.Time) {
	for _, from := range members {
		for _, to := range members {
			if from == to {
				continue
			}
			suffers := slices.Contains(s.affected, pair{from, to}) || slices.Contains(s.affected, pair{to, from})
			if suffers && !s.keeps {
				continue
			}
			_, since, err := w.link(from, to)
			must(w.t, err)
			if since.After(began) {
				w.t.Errorf("%s has lost its connection to %s", from, to)
			}
		}
	}
}

// checkCalls sees whether calls between nodes that nothing has happened to have gone on.
func (s *scenario) checkCalls(w *world, l *load) {
	for p := range l.tallies {
		if slices.Contains(s.affected, p) {
			continue
		}
		for _, in := range []phase{before, during, after} {
			ok, _, longFailed := l.count(p, in)
			if ok == 0 || longFailed > 0 {
				w.t.Errorf("from %s to %s, which nothing happens to: %d calls have succeeded and %d have failed in phase %d", p.from, p.to, ok, longFailed, in)
			}
		}
	}
}
