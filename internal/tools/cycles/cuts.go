package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// cut says what is gained where one file no longer refers to another.
type cut struct {
	from, to string
	names    []string // What from uses of to.
	left     int      // Files in the largest cycle without it.
}

func (c cut) String() string {
	return fmt.Sprintf("%3d left without %s -> %s: %v", c.left, c.from, c.to, c.names)
}

// bestCuts lists up to n references that make the largest cycle smallest when
// each is taken away after those before it.
func bestCuts(g graph, n int) []cut {
	g = g.clone()
	var cuts []cut
	for range n {
		best, ok := bestCut(g)
		if !ok {
			break
		}
		delete(g[best.from], best.to)
		cuts = append(cuts, best)
	}
	return cuts
}

// bestCut finds the one reference within the largest cycle that holds most of it
// together; of equal ones that with the fewest names.
func bestCut(g graph) (cut, bool) {
	cycle := largestCycle(g)
	var all []cut
	for _, from := range cycle {
		for _, to := range cycle {
			names, ok := g[from][to]
			if !ok {
				continue
			}
			delete(g[from], to)
			all = append(all, cut{from, to, sortedKeys(names), len(largestCycle(g))})
			g[from][to] = names
		}
	}
	if len(all) == 0 {
		return cut{}, false
	}
	return slices.MinFunc(all, func(a, b cut) int {
		return cmp.Or(cmp.Compare(a.left, b.left), cmp.Compare(len(a.names), len(b.names)))
	}), true
}

func (g graph) clone() graph {
	c := make(graph, len(g))
	for from, tos := range g {
		c[from] = make(map[string]map[string]bool, len(tos))
		maps.Copy(c[from], tos)
	}
	return c
}
