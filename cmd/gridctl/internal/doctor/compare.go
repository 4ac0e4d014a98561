package doctor

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/wire"
)

// compare looks at what only several reports together show.
func compare(o *Options, reports []Report) {
	byProcess := make(map[processID]string)
	versions, sizes := make(map[string][]string), make(map[string][]string)
	for i := range reports {
		r := &reports[i]
		if !r.answered {
			continue
		}
		if other, ok := byProcess[r.process]; ok {
			r.add(Problem, fmt.Sprintf("it is the same process as %s; each node needs a name and an address of its own", other))
		} else {
			byProcess[r.process] = r.Host
		}
		if r.RoundTrip > 0 && r.native {
			versions[r.Version] = append(versions[r.Version], r.Host)
		}
		if r.largest != 0 {
			size := fmt.Sprintf("%d bytes", r.largest)
			sizes[size] = append(sizes[size], r.Host)
		}
		if r.links != nil {
			r.checkLinks(o, reports)
		}
	}
	for i := range reports {
		r := &reports[i]
		if len(versions) > 1 && slices.Contains(versions[r.Version], r.Host) {
			r.add(Note, fmt.Sprintf("its version is %q, and others have another", r.Version))
		}
		if size := fmt.Sprintf("%d bytes", r.largest); len(sizes) > 1 && r.largest != 0 {
			r.add(Note, fmt.Sprintf("it takes messages of up to %s (Limits.MaxMessageSize), and others of another size", size))
		}
	}
}

// checkLinks looks at the connections that a node says it has.
func (r *Report) checkLinks(o *Options, reports []Report) {
	for _, host := range slices.Sorted(maps.Keys(r.links)) {
		l := r.links[host]
		switch {
		case !slices.Contains(o.Hosts, host):
			if !o.Guest {
				r.add(Problem, fmt.Sprintf("it has %s among its hosts, which is not in -hosts; all nodes need the same", host))
			}
		case l.State == grid.StateConnected, unreached(reports, host): // which is said there
		case dials(r.Host, host):
			r.add(Problem, fmt.Sprintf("it is not connected to %s, which it has to dial; run this there, or see its log for \"cannot connect\"", host))
		default:
			r.add(Problem, fmt.Sprintf("it is not connected to %s, which has to dial it; see the log there for \"cannot connect\"", host))
		}
	}
	if o.Guest {
		return
	}
	for _, host := range o.Hosts {
		if _, ok := r.links[host]; !ok && host != r.Host {
			r.add(Problem, fmt.Sprintf("it does not have %s among its hosts; add it there, in the same spelling", host))
		}
	}
}

// unreached reports whether a host did not answer.
func unreached(reports []Report, host string) bool {
	return slices.ContainsFunc(reports, func(r Report) bool { return r.Host == host && !r.answered })
}

// sum adds the line for what is well.
func sum(o *Options, r *Report) {
	if !r.Well() || !r.answered && len(r.Findings) > 0 {
		return
	}
	var parts []string
	if r.Host == o.Local {
		parts = append(parts, "this node")
	}
	parts = append(parts, strings.Join(r.Addresses, ", "))
	if r.RoundTrip > 0 {
		parts = append(parts, "round trip "+short(r.RoundTrip))
	} else {
		parts = append(parts, "connects in "+short(r.Connect))
	}
	switch {
	case r.Version != "":
		parts = append(parts, "version "+r.Version)
	case !r.native && r.answered:
		parts = append(parts, "a node of the original")
	}
	if lacks := r.lacks(); r.native && len(lacks) > 0 {
		parts = append(parts, "an earlier version of package grid, without "+strings.Join(lacks, ", "))
	}
	if r.links != nil {
		connected := 0
		for _, l := range r.links {
			if l.State == grid.StateConnected {
				connected++
			}
		}
		parts = append(parts, fmt.Sprintf("connected to %d of %d others", connected, len(r.links)))
	}
	r.Findings = append([]Finding{{OK, strings.Join(parts, ", ")}}, r.Findings...)
}

// lacks returns what nodes of this version can do, and this one cannot.
func (r *Report) lacks() (missing []string) {
	for _, f := range wire.FeatureNames(math.MaxUint32) {
		if !slices.Contains(r.Features, f) {
			missing = append(missing, f)
		}
	}
	return missing
}
