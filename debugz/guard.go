package debugz

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// guard decides which requests the page answers. A browser sends whatever any page tells it to, to
// whatever address that page's own name resolves to at the moment (DNS rebinding). So the reader of
// an answer must have asked for this server by one of its own names.
type guard struct {
	hosts       []string // in lower case, without ports
	crossOrigin *http.CrossOriginProtection
}

// newGuard returns the guard of a node's page.
func newGuard(node string, hosts []string) *guard {
	g := &guard{crossOrigin: http.NewCrossOriginProtection()}
	if u, err := url.Parse(node); err == nil && u.Host != "" {
		g.hosts = append(g.hosts, hostOf(u.Host))
	}
	for _, host := range hosts {
		g.hosts = append(g.hosts, hostOf(host))
	}
	return g
}

// known reports whether the page is served at the name in a Host header. An address cannot be
// somebody else's name.
func (g *guard) known(host string) bool {
	host = hostOf(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(g.hosts, host) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// ownOrigin reports whether a POST did not come from a page of another site.
func (g *guard) ownOrigin(r *http.Request) bool { return g.crossOrigin.Check(r) == nil }

// hostOf returns a Host header without its port, in lower case.
func hostOf(host string) string {
	u := url.URL{Host: host}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
}
