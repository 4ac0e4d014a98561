package grid

import "slices"

// members are the hosts of a node at one moment, and what became of earlier ones: every Connection
// that the node ever had is in list or leaving, or what it counted is in past. A value is never
// changed, another one takes its place. So whoever needs the hosts looks once, and sees all of them
// as they were at one moment.
type members struct {
	list    []*Connection          // to the other hosts, in the order in which they were given
	byName  map[string]*Connection // the same
	leaving []*Connection          // to hosts that were removed, as long as anything of them runs
	past    *pastStats             // of connections of which nothing runs anymore
	changed chan struct{}          // closed when the value with another list takes the place of this
}

func newMembers() *members {
	return &members{past: new(pastStats), changed: make(chan struct{})}
}

// get returns the connection to a host; nil if it is not a member.
func (s *members) get(host string) *Connection { return s.byName[host] }

// names returns the names of the other hosts.
func (s *members) names() (names []string) {
	for _, c := range s.list {
		names = append(names, c.Remote)
	}
	return names
}

// all returns the connections of which something may run.
func (s *members) all() []*Connection { return slices.Concat(s.list, s.leaving) }

// with returns the members once the hosts are these others, each of which is there once. add makes
// the connection to a new one, which has to wait for another one to be gone that left before it,
// unless that is nil.
func (s *members) with(hosts []string, add func(host string, before *Connection) *Connection) (next *members, added, removed []*Connection) {
	next = &members{byName: make(map[string]*Connection, len(hosts)), past: s.past, changed: make(chan struct{})}
	left := make(map[string]*Connection, len(s.leaving))
	for _, c := range s.leaving { // the newest of each name is the last, and is gone last
		left[c.Remote] = c
	}
	for _, host := range hosts {
		c := s.byName[host]
		if c == nil {
			c = add(host, left[host])
			added = append(added, c)
		}
		next.list = append(next.list, c)
		next.byName[host] = c
	}
	for _, c := range s.list {
		if next.byName[c.Remote] != c {
			removed = append(removed, c)
		}
	}
	next.leaving = slices.Concat(s.leaving, removed)
	return next, added, removed
}

// without returns the members when nothing runs anymore of connections that left.
func (s *members) without(gone []*Connection) *members {
	if len(gone) == 0 {
		return s
	}
	next := *s
	left := make(map[*Connection]bool, len(gone))
	for _, c := range gone {
		left[c] = true
		next.past = next.past.with(c.Stats(), c.served.all(), c.called.all())
	}
	next.leaving = slices.DeleteFunc(slices.Clone(s.leaving), func(c *Connection) bool { return left[c] })
	return &next
}
