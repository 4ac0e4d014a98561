package compat

import (
	"slices"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
)

// maxMessage is what nodes take, in bytes. Of two nodes, the second takes more.
const maxMessage = 4 << 20

// All kinds of calls work between a node of this state and one of each, in both directions, whoever
// of the two dials. Either may be shut down, and comes back.
func TestTwoNodes(t *testing.T) {
	cert, key := certificate(t)
	for _, other := range versions {
		for _, scheme := range []string{"http", "https"} { // with checksums, and without
			for _, dials := range []string{"now", "the other"} {
				t.Run(other.name+", "+scheme+", "+dials+" dials", func(t *testing.T) {
					t.Parallel()
					one, two := scheme+"://"+testkit.FreeAddress(t), scheme+"://"+testkit.FreeAddress(t)
					if testkit.Dials(one, two) != (dials == "now") {
						one, two = two, one
					}
					c := config{Local: one, Hosts: []string{one, two}, MaxMessage: maxMessage, Cert: cert, Key: key}
					d := c
					d.Local, d.MaxMessage = two, 2*maxMessage
					a, b := start(t, versions[0], c), start(t, other, d)
					check(t, 5, a, b)
					shutDown(t, b, a)
					b = start(t, other, d)
					check(t, 0, a, b)
					shutDown(t, a, b)
					a = start(t, versions[0], c)
					check(t, 0, a, b)
				})
			}
		}
	}
}

// The nodes of a grid are replaced one by one by nodes of this state, and back.
func TestRollingUpgrade(t *testing.T) {
	for _, before := range versions[1:] {
		t.Run(before.name, func(t *testing.T) {
			t.Parallel()
			var hosts []string
			for range 3 {
				hosts = append(hosts, "http://"+testkit.FreeAddress(t))
			}
			nodes := make([]*node, len(hosts))
			begin := func(i int, v version) {
				nodes[i] = start(t, v, config{Local: hosts[i], Hosts: hosts, MaxMessage: maxMessage})
			}
			for i := range hosts {
				begin(i, before)
			}
			check(t, 0, nodes...)
			for _, v := range []version{versions[0], before} {
				for i := range hosts {
					shutDown(t, nodes[i], nodes[(i+1)%len(nodes)], nodes[(i+2)%len(nodes)])
					begin(i, v)
					check(t, 0, nodes...)
				}
			}
		})
	}
}

// A node that knows of no guests turns one away, and goes on.
func TestAGuestIsTurnedAway(t *testing.T) {
	for _, before := range versions[1:] {
		t.Run(before.name, func(t *testing.T) {
			t.Parallel()
			if slices.Contains(before.has, "guests") {
				t.Skip("it knows of guests")
			}
			host := "http://" + testkit.FreeAddress(t)
			n := start(t, before, config{Local: host, Hosts: []string{host}, MaxMessage: maxMessage})
			guest := start(t, versions[0], config{Local: "guest", Hosts: []string{host}, Guest: true, MaxMessage: maxMessage})
			guest.log.Wait(t, "takes no guests")
			n.tell(t, "shutdown")
			n.wait(t, "down")
		})
	}
}
