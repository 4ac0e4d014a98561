package discovery

import (
	"slices"
	"strings"
	"time"
)

// plan decides which hosts a node should have, and when it is told. It knows no clock and no lock.
type plan struct {
	settle, hold time.Duration

	set   []string             // what the node has, sorted, without itself
	asked []string             // what it was last told to have, which it may have refused
	lacks map[string]time.Time // the hosts to have; since when answers lack them, zero if the last one does not

	answered bool      // once
	listed   bool      // the last answer has the node itself
	unlisted time.Time // since when answers lack it; zero if the last one does not
	told     bool      // that they do
	unsure   bool      // the source has failed since its last answer
	since    time.Time // when the first change that waits was found; zero if there is none
}

// newPlan returns a plan for a node that has the hosts.
func newPlan(hosts []string, settle, hold time.Duration) plan {
	p := plan{settle: settle, hold: hold, set: slices.Sorted(slices.Values(hosts)), lacks: make(map[string]time.Time)}
	p.asked = p.set
	for _, host := range hosts {
		p.lacks[host] = time.Time{}
	}
	return p
}

// answer takes what a source has found, of which local is the node itself.
func (p *plan) answer(hosts []string, local string, now time.Time) {
	found := make(map[string]bool, len(hosts))
	for _, host := range hosts {
		found[host] = true
	}
	for host, since := range p.lacks {
		switch {
		case found[host]:
		case !contains(p.set, host):
			delete(p.lacks, host) // came and went while changes were collected
		case since.IsZero() || p.unsure:
			p.lacks[host] = now
		}
	}
	if p.listed = found[local] || !strings.Contains(local, ":"); p.listed { // or this node is a guest, which nobody lists
		p.unlisted, p.told = time.Time{}, false
	} else if p.unlisted.IsZero() {
		p.unlisted = now
	}
	delete(found, local)
	for host := range found {
		p.lacks[host] = time.Time{}
	}
	if !p.answered {
		p.since = now.Add(-p.settle) // waits no more
	}
	p.answered, p.unsure = true, false
}

// fail says that the source does not know. Until it does, nothing is removed.
func (p *plan) fail() { p.unsure = true }

// due returns the hosts that the node should be told to have now, if there is something to tell.
func (p *plan) due(now time.Time) (hosts []string, ok bool) {
	for host, since := range p.lacks {
		if since.IsZero() || p.unsure || now.Sub(since) < p.hold {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	if slices.Equal(hosts, p.asked) {
		p.since = time.Time{}
		return nil, false
	}
	if p.since.IsZero() {
		p.since = now
	}
	return hosts, now.Sub(p.since) >= p.settle
}

// lost reports, once, that answers lack the node itself for as long as another would be held.
func (p *plan) lost(now time.Time) bool {
	if p.told || p.unlisted.IsZero() || now.Sub(p.unlisted) < p.hold {
		return false
	}
	p.told = true
	return true
}

// next returns when something may be due after now, or zero.
func (p *plan) next(now time.Time) (at time.Time) {
	if !p.since.IsZero() {
		at = p.since.Add(p.settle)
	}
	holdEnds := func(since time.Time) {
		if end := since.Add(p.hold); !since.IsZero() && end.After(now) && (at.IsZero() || end.Before(at)) {
			at = end
		}
	}
	holdEnds(p.unlisted)
	for _, since := range p.lacks {
		if !p.unsure {
			holdEnds(since)
		}
	}
	return at
}

// tried notes that the node was told to have the hosts, and whether it has them.
func (p *plan) tried(hosts []string, taken bool) {
	for _, host := range without(p.asked, hosts) {
		delete(p.lacks, host)
	}
	p.asked, p.since = hosts, time.Time{}
	if taken {
		p.set = hosts
	}
}

// found returns the other nodes of the last answer, sorted.
func (p *plan) found() (hosts []string) {
	for host, since := range p.lacks {
		if since.IsZero() {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// held returns how many hosts are kept that the last answer lacks.
func (p *plan) held() (n int) {
	for _, since := range p.lacks {
		if !since.IsZero() {
			n++
		}
	}
	return n
}

// without returns the names that are not among others. Both are sorted.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return contains(others, name) })
}

// contains reports whether a name is among others, which are sorted.
func contains(others []string, name string) bool {
	_, found := slices.BinarySearch(others, name)
	return found
}
