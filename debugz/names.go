package debugz

import (
	"cmp"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Short is the short name of a node.
func (v *view) Short(name string) string { return cmp.Or(v.names[name], trimScheme(name)) }

func nodesOf(rows []Row) (nodes []string) {
	for _, r := range rows {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

func trimScheme(name string) string {
	_, rest, ok := strings.Cut(name, "://")
	if !ok {
		return name
	}
	return rest
}

// shortNames strips from the names of nodes what they have in common.
func shortNames(nodes []string) map[string]string {
	var hosts, ports []string
	for _, n := range nodes {
		u, err := url.Parse(n)
		if err != nil {
			return nil
		}
		hosts, ports = append(hosts, u.Hostname()), append(ports, u.Port())
	}
	same := func(all []string) bool { return len(slices.Compact(slices.Clone(all))) == 1 }
	short := make(map[string]string, len(nodes))
	for i, n := range nodes {
		switch {
		case len(nodes) == 1:
			short[n] = trimScheme(n)
		case same(hosts):
			short[n] = ":" + ports[i]
		case same(ports):
			short[n] = strings.TrimSuffix(hosts[i], commonDomain(hosts))
		default:
			short[n] = trimScheme(n)
		}
	}
	return short
}

// commonDomain returns what follows the first label of all host names, with its dot; empty if that
// differs.
func commonDomain(hosts []string) string {
	domain := ""
	for i, h := range hosts {
		first, rest, ok := strings.Cut(h, ".")
		if _, err := strconv.Atoi(first); !ok || err == nil || i > 0 && rest != domain {
			return ""
		}
		domain = rest
	}
	return "." + domain
}
