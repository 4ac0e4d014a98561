package debugz

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
)

func TestSortedTables(t *testing.T) {
	s := &Status{
		Peers: []Peer{
			{ConnectionStats: grid.ConnectionStats{Remote: "b"}, Minute: PeerWindow{Window: Window{P99: 3}}},
			{ConnectionStats: grid.ConnectionStats{Remote: "a"}, Minute: PeerWindow{Window: Window{P99: 9}}},
			{ConnectionStats: grid.ConnectionStats{Remote: "c"}, Minute: PeerWindow{Window: Window{P99: 3}}},
		},
		Pairs: []Pair{{Peer: "x", Calls: 1}, {Peer: "y", Calls: 3}, {Peer: "z", Calls: 2}},
	}
	for _, test := range []struct{ by, peers, pairs string }{
		{"", "bac", "xyz"},
		{"peers.p99", "abc", "xyz"},
		{"-peers.p99", "bca", "xyz"},
		{"peers.peer", "abc", "xyz"},
		{"-peers.peer pairs.calls", "cba", "yzx"},
		{"-pairs.calls peers.nothing", "bac", "xzy"},
		{"peers.p99 peers.peer", "abc", "xyz"},
		{"peers. . - nonsense pairs", "bac", "xyz"},
	} {
		sorted := Status{Peers: slices.Clone(s.Peers), Pairs: slices.Clone(s.Pairs)}
		sorted.sort(strings.Fields(test.by))
		peers, pairs := "", ""
		for _, p := range sorted.Peers {
			peers += p.Remote
		}
		for _, p := range sorted.Pairs {
			pairs += p.Peer
		}
		if peers != test.peers || pairs != test.pairs {
			t.Errorf("%q: %s and %s, want %s and %s", test.by, peers, pairs, test.peers, test.pairs)
		}
	}
}

// Each head of a column leads to the page sorted by it, and then the other way around, with the filter
// and the order of the other tables.
func TestHeadsOfColumns(t *testing.T) {
	nodes := startGrid(t, 3)
	for range 3 {
		call(t, nodes[0], nodes[1], "hello")
	}
	call(t, nodes[0], nodes[2], "fail:no luck")
	h := Handler(nodes[0], Options{})
	head := regexp.MustCompile(`<th[^>]*><a class="sort" href="\./\?([^"]*)">`)
	links := head.FindAllStringSubmatch(get(t, h, "/").Body.String(), -1)
	if len(links) < 30 {
		t.Fatalf("%d heads of columns", len(links))
	}
	for _, link := range links {
		for _, query := range []string{link[1], strings.Replace(link[1], "sort=", "sort=-", 1)} {
			w := get(t, h, "/?"+query)
			if n := strings.Count(w.Body.String(), "aria-sort="); w.Code != http.StatusOK || n != 1 {
				t.Errorf("%s: %d with %d sorted columns", query, w.Code, n)
			}
		}
	}
	body := get(t, h, "/?q=http&sort=pairs.errors&sort=-peers.peer").Body.String()
	for _, want := range []string{
		`aria-sort="descending"><a class="sort" href="./?sort=-pairs.errors&amp;sort=-peers.peer">Errors`,
		`aria-sort="descending"><a class="sort" href="./?sort=peers.peer&amp;sort=pairs.errors">Peer`,
		`<input type="hidden" name="sort" value="-peers.peer">`,
	} {
		want = strings.ReplaceAll(want, "./?sort", "./?q=http&amp;sort")
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	s := getStatus(t, h, "?sort=pairs.errors")
	if s.Pairs[0].Peer != nodes[2].HostName() || s.Pairs[0].Errors != 1 {
		t.Errorf("the first pair is %+v", s.Pairs[0])
	}
	many := "/?" + strings.Repeat("sort=peers.p99&", 1000)
	if body := get(t, h, many).Body.String(); strings.Count(body, `name="sort"`) > maxSorts || len(body) > 200_000 {
		t.Error("the address makes the page long")
	}
}
