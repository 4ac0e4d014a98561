package top

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

var now = time.Unix(10_000, 0)

// someStatus is that of node a, which is connected to b, and to c, which hangs. d has not answered.
func someStatus() *debugz.Status {
	window := func(calls, failed int64, p99 time.Duration) debugz.Window {
		return debugz.Window{Over: time.Minute, Calls: calls, Errors: failed, P50: p99 / 10, P99: p99}
	}
	peer := func(name string, w debugz.Window) debugz.Peer {
		return debugz.Peer{
			ConnectionStats: grid.ConnectionStats{Remote: name, State: grid.StateConnected, Connects: 1},
			Minute:          debugz.PeerWindow{Window: w, BytesIn: 60_000}, Calls: 100_000,
		}
	}
	pair := func(peer, name string, w debugz.Window) debugz.Pair {
		return debugz.Pair{Peer: peer, Role: grid.RoleClient, Name: name, Calls: 7, Windows: debugz.Windows{Minute: w}}
	}
	handler := func(name string, w debugz.Window) debugz.Handling {
		return debugz.Handling{HandlerStats: grid.HandlerStats{Role: grid.RoleClient, Name: name}, Windows: debugz.Windows{Minute: w}}
	}
	c := peer("http://c:1", window(60, 6, time.Second))
	c.Unanswered, c.OutgoingRequests, c.OldestRequest = 3*time.Second, 4, 2*time.Second
	return &debugz.Status{
		Node: "http://a:1", Started: now.Add(-time.Hour), Time: now,
		Peers:    []debugz.Peer{peer("http://b:1", window(600, 0, time.Millisecond)), c},
		Handlers: []debugz.Handling{handler("get", window(600, 0, time.Millisecond)), handler("put\x1b[2J\u202e", window(60, 6, time.Second))},
		Pairs:    []debugz.Pair{pair("http://b:1", "get", window(600, 0, time.Millisecond)), pair("http://c:1", "put", window(60, 6, time.Second))},
		Errors:   []grid.RecentError{{Time: now.Add(-time.Minute), Count: 6, Peer: "http://c:1", Handler: "put", Text: "disk \x1b]0;full\a"}},
		Nodes: []debugz.NodeStatus{
			{Node: "http://b:1", Status: &debugz.Status{
				Node: "http://b:1", Started: now.Add(-time.Minute), Time: now,
				Handlers: []debugz.Handling{handler("get", window(1200, 12, 30*time.Millisecond))},
			}},
			{Node: "http://c:1", Error: "no answer"},
			{Node: "http://d:1", Error: "not connected"},
		},
	}
}

// texts returns the texts of a column.
func (t *table) texts(head string) (texts []string) {
	for _, row := range t.rows {
		texts = append(texts, row[t.find(head)].text)
	}
	return texts
}

func TestTables(t *testing.T) {
	s := newSnapshot(someStatus())
	for _, test := range []struct {
		view       string
		of         span
		head, want string
	}{
		{"nodes", minute, "node", "a:1 b:1 c:1 d:1"},
		{"nodes", minute, "state", "1 missing,up,silent 3s,not connected"},
		{"nodes", minute, "calls/s", "11,–,,"},
		{"nodes", minute, "p99", "1.0 s,–,,"},
		{"nodes", minute, "waiting", "4,0,,"},
		{"nodes", minute, "in", "2.0 kB/s,–,,"},
		{"pairs", minute, "state", "up,silent 3s"},
		{"pairs", minute, "oldest", "–,2s"},
		{"pairs", tenSeconds, "errors", "–,–"},
		{"pairs", sinceStart, "calls/s", "28,28"},
		{"handlers", minute, "calls/s", "30,1.0"},
		{"handlers", minute, "errors", "12,6"},
		{"handlers", minute, "slowest at", "b:1,a:1"},
		{"handlers", minute, "handler", `get,put\u001b[2J\u202e`},
		{"calls", minute, "handler", "get,put"},
		{"calls", tenSeconds, "calls/s", "–,–"},
		{"errors", minute, "error", `disk \u001b]0;full\u0007`},
		{"errors", minute, "ago", "1m0s"},
	} {
		v := views[slices.IndexFunc(views, func(v view) bool { return v.name == test.view })]
		table := v.table(s, test.of)
		separator := ","
		if test.head == "node" {
			separator = " "
		}
		if got := strings.Join(table.texts(test.head), separator); got != test.want {
			t.Errorf("%s of %s of the last %v: %s, want %s", test.head, test.view, test.of, got, test.want)
		}
	}
}

func TestSortAndFilter(t *testing.T) {
	some := func() *table {
		t := &table{columns: []column{{"name", false, 0}, {"n", true, 0}}}
		t.add(text("b"), number("900", 900))
		t.add(text("a"), number("1.0 k", 1000))
		t.add(text("C"), number("–", 0))
		return t
	}
	for _, test := range []struct {
		head, filter string
		reverse      bool
		want         string
	}{
		{"", "", false, "baC"},
		{"n", "", false, "abC"},
		{"n", "", true, "Cba"},
		{"name", "", false, "Cab"},
		{"nothing", "", true, "baC"},
		{"n", "c", false, "C"},
		{"n", "1.0 K", false, "a"},
		{"n", "nobody", false, ""},
	} {
		table := some()
		table.filter(test.filter)
		table.sort(test.head, test.reverse)
		if got := strings.Join(table.texts("name"), ""); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// Columns that matter less are left out where there is no room, then names are cut.
func TestNarrowTables(t *testing.T) {
	table := &table{columns: []column{{"node", false, 0}, {"p50", true, 4}, {"p99", true, 1}, {"error", false, 0}}}
	table.add(text("http://node1"), number("10 ms", 10), number("1.0 s", 1000), text("ключ не найден 鍵がない"))
	asIs := func(s string, _ mood) string { return s }
	for width := 1; width < 80; width++ {
		lines := table.lines(width, asIs, func(s string, _ column) string { return s })
		for _, line := range lines {
			if ansi.StringWidth(line) > width {
				t.Errorf("at %d: %q", width, line)
			}
		}
		if width > 20 && (strings.Contains(lines[0], "p50") && !strings.Contains(lines[0], "p99") || !strings.Contains(lines[0], "node")) {
			t.Errorf("at %d: %q", width, lines[0])
		}
	}
}

func (m *model) keys(keys ...string) (last tea.Cmd) {
	for _, key := range keys {
		code := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "space": tea.KeySpace, "tab": tea.KeyTab, "down": tea.KeyDown, "backspace": tea.KeyBackspace}[key]
		k := tea.KeyPressMsg{Code: code}
		if code == 0 {
			k = tea.KeyPressMsg{Code: []rune(key)[0], Text: key}
		} else if key == "space" {
			k.Text = " "
		}
		_, last = m.Update(k)
	}
	return last
}

func newTestModel(t *testing.T) *model {
	m := newModel(t.Context(), Options{Interval: time.Second})
	m.take(answer{status: someStatus()})
	return m
}

func screenOf(m *model) string { return ansi.Strip(strings.Join(m.lines(), "\n")) }

func TestKeys(t *testing.T) {
	for _, test := range []struct {
		keys, want, not string // texts on the screen
	}{
		{"", "1 missing", ""},
		{"2", "up", "1 missing"},
		{"tab tab", "slowest at", ""},
		{"4", "get", "slowest at"},
		{"2 / c : 1 enter", "silent 3s", "b:1"},
		{"2 / x enter", "nothing matches", ""},
		{"2 / x esc", "silent 3s", "nothing matches"},
		{"2 / x x backspace backspace c enter", "/c", "b:1"},
		{"/ q ?", "filter: q?", ""},
		{"t", "last 5 minutes", ""},
		{"t t", "since the start", ""},
		{"space", "paused", ""},
		{"space space", "grid", "paused"},
		{"?", "the slowest first", "peers"},
		{"? ?", "peers", "the slowest first"},
		{"3 w r", "reverse", ""},
	} {
		m := newTestModel(t)
		m.width = 120
		m.keys(strings.Fields(test.keys)...)
		screen := screenOf(m)
		if !strings.Contains(screen, test.want) || test.not != "" && strings.Contains(screen, test.not) {
			t.Errorf("%s: no %q, or %q, in\n%s", test.keys, test.want, test.not, screen)
		}
	}
	first := func(keys ...string) string {
		m := newTestModel(t)
		m.keys(keys...)
		return m.table().rows[0][1].text
	}
	if slow, fast := first("2", "w"), first("2", "w", "r"); slow != "c:1" || fast != "b:1" {
		t.Errorf("the slowest is %s, the fastest %s", slow, fast)
	}
	if got := first("5", "f"); got != "c:1" { // of a table that has no such column
		t.Errorf("the failing first: %s", got)
	}
	for _, key := range []string{"q"} {
		if cmd := newTestModel(t).keys(key); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not end it", key)
		}
	}
}

// Whatever the size, the screen has it, with the table's head, and nothing on it controls the terminal.
func TestScreenFits(t *testing.T) {
	for _, width := range []int{1, 10, 20, 40, 80, 200} {
		for _, height := range []int{1, 4, 5, 24} {
			for i := range views {
				m := newTestModel(t)
				m.Update(tea.WindowSizeMsg{Width: width, Height: height})
				m.show(i)
				m.Filter = ""
				for _, help := range []bool{false, true} {
					m.help = help
					lines := m.lines()
					if len(lines) > max(height, chrome+1) {
						t.Errorf("%d×%d: %d lines", width, height, len(lines))
					}
					for _, line := range lines {
						if ansi.StringWidth(line) > width {
							t.Errorf("%d×%d: %q", width, height, line)
						}
						if text := ansi.Strip(line); strings.ContainsAny(text, "\x1b\a\u202e") {
							t.Errorf("%q controls the terminal", text)
						}
					}
				}
			}
		}
	}
}

// A node that does not answer any more leaves its last figures, and a line that says so.
func TestLostPage(t *testing.T) {
	m := newTestModel(t)
	m.Update(answer{err: errors.New("cannot ask the status page at http://x: connection refused")})
	if screen := screenOf(m); !strings.Contains(screen, "no answer for 0s: cannot ask the status page at http://x") || !strings.Contains(screen, "b:1") {
		t.Errorf("%s", screen)
	}
	m.Update(answer{status: someStatus()})
	if screen := screenOf(m); strings.Contains(screen, "no answer for") {
		t.Errorf("%s", screen)
	}
}

// While it is paused nobody asks.
func TestPause(t *testing.T) {
	m := newTestModel(t)
	m.keys("space")
	if _, cmd := m.Update(due{}); cmd != nil {
		t.Error("it asks although it is paused")
	}
	if cmd := m.keys("space"); cmd == nil {
		t.Error("it does not go on")
	}
	if _, cmd := m.Update(due{}); cmd == nil {
		t.Error("it does not ask")
	}
}

// The page is found from any address that leads to it.
func TestPage(t *testing.T) {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	for _, m := range g.Managers {
		if err := debugz.RegisterCluster(m); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/a/", debugz.Handler(g.Managers[0], debugz.Options{Cluster: true}))
	mux.Handle("/{$}", http.RedirectHandler("/a/", http.StatusFound))
	mux.HandleFunc("/html/", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<p>hello")) })
	mux.HandleFunc("/secret/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "log in first\x1b[2J", http.StatusUnauthorized)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	for _, path := range []string{"", "/", "/a", "/a/", "/a/status.json", "/a/?q=x#y"} {
		for _, base := range []string{address, server.URL} {
			for _, single := range []bool{false, true} {
				p, err := NewPage(base+path, single)
				if err != nil {
					t.Fatal(err)
				}
				s, err := p.status(t.Context())
				if err != nil || s.Node != g.Managers[0].HostName() || (len(s.Nodes) == 1) == single {
					t.Errorf("%s: %+v, %v", base+path, s, err)
				}
			}
		}
	}
	for path, want := range map[string]string{
		"/nowhere": "answers with 404: 404 page not found",
		"/html/":   "is not the status page of a node",
		"/secret/": "answers with 401: log in first",
	} {
		p, err := NewPage(server.URL+path, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.status(t.Context()); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), server.URL+path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, address := range []string{"", "ftp://x", "http://", "://", "http://[::1"} {
		if _, err := NewPage(address, false); err == nil {
			t.Errorf("%q is taken for an address", address)
		}
	}
}
