package debugz

import (
	"context"
	"encoding/json"
	"errors"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
)

const (
	echo    = grid.HandlerUserFirst
	waiting = grid.HandlerUserFirst + 1
	status  = grid.HandlerUserFirst + 2
)

// startGrid returns connected nodes whose echo fails where it is told to. waiting handles until the
// test ends.
func startGrid(t *testing.T, n int) []*grid.Manager {
	t.Helper()
	g, err := grid.SetupTestGrid(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Cleanup)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, m := range g.Managers {
		err := m.RegisterSingleHandler(echo, func(b []byte) ([]byte, *grid.RemoteErr) {
			if text, fail := strings.CutPrefix(string(b), "fail:"); fail {
				return nil, grid.NewRemoteErrString(text)
			}
			return b, nil
		}, "disks/sda")
		if err != nil {
			t.Fatal(err)
		}
		err = m.RegisterSingleHandler(waiting, func([]byte) ([]byte, *grid.RemoteErr) {
			<-release
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return g.Managers
}

func call(t *testing.T, from, to *grid.Manager, text string) {
	t.Helper()
	b, err := from.Connection(to.HostName()).Subroute("disks/sda").Request(t.Context(), echo, []byte(text))
	if (err != nil) != strings.HasPrefix(text, "fail:") {
		t.Errorf("%q: %v", text, err)
	}
	grid.PutByteBuffer(b)
}

func get(t *testing.T, h http.Handler, target string) *httptest.ResponseRecorder {
	t.Helper()
	return sendTo(h, "GET", target, nil)
}

// sendTo sends a request to localhost, with some headers, of which Host is one.
func sendTo(h http.Handler, method, target string, header map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "localhost:8080"
	for name, value := range header {
		if name == "Host" {
			r.Host = value
		} else {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// watchTraces asks for traces.
func watchTraces(t *testing.T, h http.Handler) {
	t.Helper()
	if w := sendTo(h, "POST", "/debug/status.json?traces=1", nil); w.Code != http.StatusOK {
		t.Fatalf("answered with %d: %s", w.Code, w.Body)
	}
}

func getStatus(t *testing.T, h http.Handler, query string) (s Status) {
	t.Helper()
	w := get(t, h, "/debug/status.json"+query)
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return s
}

// eventually polls until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestPageShowsWhatHappens(t *testing.T) {
	nodes := startGrid(t, 3)
	for range 5 {
		call(t, nodes[0], nodes[1], "hello")
	}
	call(t, nodes[0], nodes[2], "fail:no luck")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go nodes[0].Connection(nodes[1].HostName()).Request(ctx, waiting, nil)
	eventually(t, "the call", func() bool { // nodes[1] may still be busy with the end of another
		open := nodes[1].Open()
		return len(open) == 1 && open[0].Handler == waiting
	})
	h := Handler(nodes[0], Options{})
	page := get(t, h, "/debug/grid/")
	if page.Code != 200 || page.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", page.Code, page.Header())
	}
	body := page.Body.String()
	for _, want := range []string{
		nodes[0].HostName(), "2 of 2 peers connected", "no luck", "<table", "disks/sda", "1 request or stream<", `data-state="Connected"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	s := getStatus(t, h, "")
	if s.Node != nodes[0].HostName() || len(s.Peers) != 2 || s.OpenTotal != 1 || len(s.Open) != 1 || len(s.Errors) == 0 || s.Tracing {
		t.Errorf("%+v", s)
	}
	for _, p := range s.Peers {
		calls := map[string]int64{nodes[1].HostName(): 5, nodes[2].HostName(): 1}
		if got := p.CallLatency.Count(); got != calls[p.Remote] {
			t.Errorf("%d calls to %s have a latency, want %d", got, p.Remote, calls[p.Remote])
		}
	}
	if len(s.Cluster) != 3 || !s.Cluster[0].Known || s.Cluster[1].Known || s.Cluster[0].Links[nodes[1].HostName()].State != grid.StateConnected {
		t.Errorf("%+v", s.Cluster)
	}
	found := false
	for _, g := range s.Handlers {
		found = found || g.ID == echo && g.Role == grid.RoleClient && g.Calls == 6 && g.Errors.Handler == 1
		if g.ID == waiting && g.Role == grid.RoleClient && g.InFlight != 1 {
			t.Errorf("%+v", g)
		}
	}
	if !found {
		t.Errorf("%+v", s.Handlers)
	}
}

func TestFilter(t *testing.T) {
	nodes := startGrid(t, 3)
	call(t, nodes[0], nodes[1], "fail:spilled soup")
	call(t, nodes[0], nodes[2], "fail:no luck")
	h := Handler(nodes[0], Options{})
	one := nodes[1].HostName()
	for q, want := range map[string]struct{ peers, errors int }{
		"":                                  {2, 2},
		one:                                 {1, 1},
		strings.ToUpper(one):                {1, 1},
		"SOUP":                              {0, 1},
		"connected":                         {2, 0},
		"nobody has this":                   {0, 0},
		"  " + one[len("http://"):] + "   ": {1, 1},
	} {
		s := getStatus(t, h, "?q="+strings.ReplaceAll(q, " ", "+"))
		if len(s.Peers) != want.peers || len(s.Errors) != want.errors {
			t.Errorf("%q: %d peers and %d errors, want %+v", q, len(s.Peers), len(s.Errors), want)
		}
	}
	body := get(t, h, "/debug/?q=soup").Body.String()
	if strings.Contains(body, "no luck") || !strings.Contains(body, "spilled soup") || !strings.Contains(body, `value="soup"`) {
		t.Error("the page is not filtered")
	}
}

var tag = regexp.MustCompile(`<[^>]*`)

// Nothing that a peer, a handler or the address says becomes part of the page.
func TestTextsAreEscaped(t *testing.T) {
	nodes := startGrid(t, 2)
	const evil = `<script>alert("x")</script><img src=x onerror='alert(1)'>"'`
	if err := grid.NameHandler(echo, evil); err != nil {
		t.Fatal(err)
	}
	defer grid.NameHandler(echo, "echo")
	call(t, nodes[0], nodes[1], "fail:"+evil)
	h := Handler(nodes[0], Options{})
	watchTraces(t, h)
	call(t, nodes[0], nodes[1], "fail:"+evil)
	eventually(t, "a trace", func() bool { return len(getStatus(t, h, "?traces=1").Traces) > 0 })
	for _, target := range []string{"/?traces=1", "/?traces=1&q=script", "/?q=%3Cscript%3Ealert(%22x%22)"} {
		body := get(t, h, target).Body.String()
		if n := strings.Count(body, "<script"); n != 1 || strings.Contains(body, "<img") {
			t.Errorf("%s: %d scripts in %s", target, n, body)
		}
		for _, start := range tag.FindAllString(body, -1) {
			if strings.Contains(start, "onerror") && !strings.Contains(start, html.EscapeString("onerror='")) {
				t.Errorf("%s: %s", target, start)
			}
			if strings.Contains(start, " style=") || strings.Contains(start, "javascript:") {
				t.Errorf("%s: the policy forbids %s", target, start)
			}
		}
	}
	if body := get(t, h, "/?traces=1").Body.String(); strings.Count(body, "alert(") < 3 {
		t.Error("the texts are not on the page")
	}
}

func TestFilesAndPolicy(t *testing.T) {
	h := Handler(startGrid(t, 1)[0], Options{})
	for target, want := range map[string]string{
		"/":                  "text/html; charset=utf-8",
		"/a/b/":              "text/html; charset=utf-8",
		"/a/b/live.html":     "text/html; charset=utf-8",
		"/a/b/debugz.css":    "text/css; charset=utf-8",
		"/a/debugz.js":       "text/javascript; charset=utf-8",
		"/icon.svg":          "image/svg+xml",
		"/a/status.json?q=x": "application/json",
	} {
		w := get(t, h, target)
		if w.Code != 200 || w.Header().Get("Content-Type") != want || w.Body.Len() == 0 {
			t.Errorf("%s: %d %q with %d bytes", target, w.Code, w.Header().Get("Content-Type"), w.Body.Len())
		}
		csp := w.Header().Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", target, w.Header())
		}
		if strings.Contains(w.Body.String(), "//") && regexp.MustCompile(`(src|href)="?(https?:)?//`).MatchString(w.Body.String()) {
			t.Errorf("%s names a resource from elsewhere", target)
		}
	}
	if w := sendTo(h, "POST", "/", nil); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered with %d", w.Code)
	}
}

// A path without its last slash is sent on, behind http.StripPrefix too.
func TestRedirect(t *testing.T) {
	mux := http.NewServeMux()
	h := Handler(startGrid(t, 1)[0], Options{})
	mux.Handle("/debug/grid", http.StripPrefix("/debug/grid", h))
	mux.Handle("/debug/grid/", http.StripPrefix("/debug/grid", h))
	server := httptest.NewServer(mux)
	defer server.Close()
	resp, err := http.Get(server.URL + "/debug/grid?q=a%26b")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Request.URL.RequestURI(); got != "/debug/grid/?q=a%26b" || resp.StatusCode != 200 {
		t.Errorf("it ends at %s with %s", got, resp.Status)
	}
	for _, path := range []string{"//evil.example", "/%2f%2fevil.example", "/a/..%2f"} {
		w := get(t, h, path)
		if to := w.Header().Get("Location"); to != "" && !strings.HasPrefix(to, "./") {
			t.Errorf("%s is sent to %s", path, to)
		}
	}
}

func TestClusterOfAllNodes(t *testing.T) {
	nodes := startGrid(t, 4)
	for _, m := range nodes[:3] { // the last one does not tell
		if err := RegisterCluster(m); err != nil {
			t.Fatal(err)
		}
	}
	s := getStatus(t, Handler(nodes[0], Options{Cluster: true}), "")
	for i, row := range s.Cluster {
		if row.Node != nodes[i].HostName() || row.Known != (i < 3) || i < 3 && len(row.Links) != 3 {
			t.Errorf("%+v", row)
		}
	}
	if l := s.Cluster[1].Links[nodes[2].HostName()]; l.State != grid.StateConnected {
		t.Errorf("%+v", l)
	}
	if err := RegisterCluster(nodes[0]); err == nil {
		t.Error("it can be registered twice")
	}
}

// What other nodes answer is not believed.
func TestClusterOfLiars(t *testing.T) {
	nodes := startGrid(t, 2)
	var answer string
	err := nodes[1].Handle(clusterMethod, func(context.Context, []byte) ([]byte, error) { return []byte(answer), nil })
	if err != nil {
		t.Fatal(err)
	}
	here := nodes[0].HostName()
	for text, want := range map[string]struct {
		known bool
		links int
	}{
		"":    {false, 0},
		"[1]": {false, 0},
		"{}":  {false, 0},
		`{"Links":{"` + here + `":{"State":"Odd"}}}`:                                                               {false, 0},
		`{"Links":{"` + here + `":{"State":"Connected","RoundTrip":-5,"Silent":-1}},"Page":"javascript:alert(1)"}`: {true, 1},
		`{"Links":{"http://<b>":{"State":"Connected"}}}`:                                                           {true, 0},
		`{"Links":` + strings.Repeat(" ", maxRowSize) + `{}}`:                                                      {false, 0},
	} {
		answer = text
		row := getStatus(t, Handler(nodes[0], Options{Cluster: true}), "").Cluster[1]
		if row.Known != want.known || len(row.Links) != want.links || row.Links[here].RoundTrip < 0 || row.Links[here].Silent < 0 || row.Page != "" {
			t.Errorf("%.50s: %+v", text, row)
		}
	}
}

// Requests are traced while somebody looks, and not much longer.
func TestTracesOnlyWhileWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
			Local:       "http://a:1",
			Hosts:       []string{"http://a:1", "http://b:1"},
			AuthRequest: func(*http.Request) error { return nil },
			Dialer:      func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		h := Handler(m, Options{})
		request := func() { m.Connection("http://b:1").Request(t.Context(), echo, nil) }
		watched := func() int { synctest.Wait(); return m.Traces().NumSubscribers(grid.TraceInternode) }
		for _, query := range []string{"", "?traces=1"} { // a GET changes nothing
			getStatus(t, h, query)
			get(t, h, "/"+query)
			get(t, h, "/live.html"+query)
			sendTo(h, "HEAD", "/"+query, nil)
		}
		if watched() != 0 {
			t.Error("requests are traced although nobody asked for it")
		}
		for range 3 {
			watchTraces(t, h)
			request()
			time.Sleep(watchPatience - time.Second)
		}
		for range 2 * maxTraces {
			request()
			synctest.Wait()
		}
		if s := getStatus(t, h, "?traces=1"); watched() != 1 || len(s.Traces) != maxTraces || !s.Tracing {
			t.Errorf("%d watch, and %d traces are kept", watched(), len(s.Traces))
		}
		time.Sleep(watchPatience + time.Second)
		if watched() != 0 {
			t.Error("requests are traced although nobody looks any more")
		}
		if s := getStatus(t, h, "?traces=1"); len(s.Traces) != 0 || watched() != 0 || s.Tracing {
			t.Errorf("%d old traces, and %d watch", len(s.Traces), watched())
		}
		watchTraces(t, h)
		if s := getStatus(t, h, "?traces=1"); len(s.Traces) != 0 || watched() != 1 || !s.Tracing {
			t.Errorf("%d old traces, and %d watch", len(s.Traces), watched())
		}
		time.Sleep(watchPatience + time.Second)
	})
}

func TestHistory(t *testing.T) {
	var h history
	start := time.Now()
	at := func(d time.Duration, in int64) []sample {
		return h.add(&grid.Stats{
			Time:     start.Add(d),
			Peers:    []grid.ConnectionStats{{Remote: "b", In: grid.FlowStats{Bytes: in}}},
			Handlers: []grid.HandlerStats{{ID: echo, Calls: in / 10}},
		})
	}
	at(0, 0)
	at(historyStep/2, 999) // too soon to count
	points := peerSeries(at(2*time.Second, 1000), "b", bytesIn)
	if len(points) != 1 || points[0].rate != 500 {
		t.Errorf("%v", points)
	}
	calls := handlerSeries(at(3*time.Second, 2000), handlerKey{id: echo})
	if len(calls) != 2 || calls[1].rate != 100 {
		t.Errorf("%v", calls)
	}
	if points := peerSeries(h.samples, "c", bytesIn); len(points) != 0 {
		t.Errorf("a peer that there is not has %v", points)
	}
	var samples []sample
	for i := range 200 {
		samples = at(time.Duration(4+i)*time.Second, 0)
	}
	if n := len(samples); n < 60 || n > 62 {
		t.Errorf("%d samples of a minute", n)
	}
	spark := newSpark(peerSeries(samples, "b", bytesIn), samples[len(samples)-1].time)
	if n := strings.Count(spark.Line, ","); n < 59 || strings.Contains(spark.Line, "NaN") {
		t.Errorf("%d points: %s", n, spark.Line)
	}
}

func TestShortNames(t *testing.T) {
	for _, test := range []struct{ nodes, want string }{
		{"http://10.0.0.1:9000", "10.0.0.1:9000"},
		{"http://10.0.0.1:9000 http://10.0.0.2:9000", "10.0.0.1 10.0.0.2"},
		{"http://127.0.0.1:1 http://127.0.0.1:2", ":1 :2"},
		{"https://a.grid.example:9 https://b.grid.example:9", "a b"},
		{"https://a.grid.example:9 https://b.other.example:9", "a.grid.example b.other.example"},
		{"http://a:1 http://b:2", "a:1 b:2"},
		{"http://[::1]:1 http://[::2]:1", "::1 ::2"},
	} {
		nodes := strings.Fields(test.nodes)
		short := shortNames(nodes)
		var got []string
		for _, n := range nodes {
			got = append(got, short[n])
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %v, want %s", test.nodes, got, test.want)
		}
	}
}

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		bytesText(0): "0 B", bytesText(999): "999 B", bytesText(1000): "1.00 kB", bytesText(123456): "123 kB", bytesText(999999): "1.00 MB",
		perSecond(0): "0/s", perSecond(0.25): "0.2/s", perSecond(0.01): "<0.1/s", perSecond(9999): "9999/s", perSecond(12345): "12.3k/s", perSecond(2e6): "2.00M/s",
		count(99999): "99999", count(int64(1234567)): "1.23M", duration(0): "–", duration(1500): "1.50 µs", duration(20 * time.Millisecond): "20.0 ms",
		age(59 * time.Second): "59s", age(61 * time.Second): "1m 1s", age(25 * time.Hour): "1d 1h", age(-1): "0s",
		percent(0, 5): "", percent(1, 5): "20.0%", percent(1, 5000): "<0.1%",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Who has never been there is told apart from who has been lost: in the table, the matrix, the
// drawing and the filter.
func TestAbsentPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const local, dialed, awaited = "http://c:1", "http://b:1", "http://a:1" // the names decide who dials
		m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
			Local:       local,
			Hosts:       []string{local, dialed, awaited},
			AuthRequest: func(*http.Request) error { return nil },
			Logger:      slog.New(slog.DiscardHandler),
			Dialer:      func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("nobody is at home") },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		h := Handler(m, Options{})
		time.Sleep(time.Minute) // a peer that has to dial this node is missed after some seconds

		const missed = "not connected yet; it dials this node"
		body := get(t, h, "/").Body.String()
		for _, want := range []string{
			`<span class="pill bad" id="summary">0 of 2 peers connected</span>`,
			`<line class="bad" x1=`, `<title>c → a: absent</title>`, `<td class="bad" title="c → a: absent">absent</td>`,
			`<line class="warn" x1=`, `<title>c → b: connecting</title>`, `<td class="warn" title="c → b: connecting">connecting</td>`,
			`<span class="pill bad" title="` + missed + `">absent</span>`,
			`<span class="pill warn" title="dial http://b:1: nobody is at home">connecting</span>`,
		} {
			if !strings.Contains(body, want) {
				t.Errorf("the page has no %q", want)
			}
		}
		s := getStatus(t, h, "")
		if links := s.Cluster[0].Links; !links[awaited].Absent || links[dialed].Absent {
			t.Errorf("%+v", links)
		}
		for query, want := range map[string][]string{"absent": {awaited}, "connecting": {dialed}, "lost": nil} {
			var found []string
			for _, p := range getStatus(t, h, "?q="+query).Peers {
				found = append(found, p.Remote)
			}
			if !slices.Equal(found, want) {
				t.Errorf("the filter %q finds %q, want %q", query, found, want)
			}
		}
	})
}

// The words and colors of all states.
func TestStatesOnThePage(t *testing.T) {
	for _, test := range []struct {
		state      grid.State
		connects   int64
		text, mood string
	}{
		{grid.StateUnconnected, 0, "waiting", moodWarn},
		{grid.StateConnecting, 0, "connecting", moodWarn},
		{grid.StateConnected, 1, "connected", moodGood},
		{grid.StateConnectionError, 0, "absent", moodBad},
		{grid.StateConnectionError, 1, "lost", moodBad},
		{grid.StateShutdown, 1, "shut down", moodNone},
		{grid.StateShutdown, 0, "shut down", moodNone},
	} {
		stats := grid.ConnectionStats{Remote: "http://b:1", State: test.state, Connects: test.connects}
		row := peerRow{Peer: Peer{ConnectionStats: stats}}
		if mood := linkOf(&stats).mood(); row.StateText() != test.text || mood != test.mood {
			t.Errorf("%v after %d connects is %q and %s, want %q and %s", test.state, test.connects,
				row.StateText(), mood, test.text, test.mood)
		}
	}
}

// The page shows which peers are draining, and what nodes say of themselves, whatever that is.
func TestThePageShowsWhatNodesSay(t *testing.T) {
	nodes := startGrid(t, 2)
	h := Handler(nodes[0], Options{})
	for i, m := range nodes {
		if err := m.SetLabels(map[string]string{"zone": "<b>" + string(rune('a'+i)), "role": "storage"}); err != nil {
			t.Fatal(err)
		}
		m.Drain()
	}
	peer := nodes[0].Connection(nodes[1].HostName())
	eventually(t, "the peer to be draining", func() bool { return peer.Peer().Draining })
	s := getStatus(t, h, "")
	if !s.Draining || s.Labels["zone"] != "<b>a" || !s.Peers[0].Draining || s.Peers[0].Labels["zone"] != "<b>b" {
		t.Errorf("%+v", s)
	}
	page := get(t, h, "/debug/").Body.String()
	if got := strings.Count(page, ">draining</span>"); got != 2 {
		t.Errorf("draining is there %d times", got)
	}
	for _, text := range []string{"role=storage", "zone=&lt;b&gt;a", "zone=&lt;b&gt;b"} {
		if !strings.Contains(page, text) {
			t.Errorf("no %s in\n%s", text, page)
		}
	}
	for q, want := range map[string]int{"zone%3D%3Cb%3Eb": 1, "draining": 1, "zone%3Dc": 0} {
		if got := len(getStatus(t, h, "?q="+q).Peers); got != want {
			t.Errorf("%s: %d peers, want %d", q, got, want)
		}
	}
}

// The page has a line about guests where there are any.
func TestGuestsOnThePage(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       url,
		AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(*http.Request, string) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = m.Handler()
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(func() { m.Close() })
	h := Handler(m, Options{})
	if page := get(t, h, "/").Body.String(); strings.Contains(page, `id="guests"`) {
		t.Error("a node without guests says something about them")
	}
	guest, err := grid.Join(t.Context(), url, grid.ManagerOptions{Local: "probe 7", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	eventually(t, "the guest", func() bool { return getStatus(t, h, "").Guests.Connected == 1 })
	if page := get(t, h, "/").Body.String(); !strings.Contains(page, "1 guests connected") {
		t.Errorf("no line about guests:\n%s", page)
	}
	// The guest has a page of its own.
	if err := guest.Connection(url).WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	own := Handler(guest, Options{Hosts: []string{"example.com"}})
	if page := get(t, own, "/").Body.String(); !strings.Contains(page, "probe 7") || !strings.Contains(page, "1 of 1 peers connected") {
		t.Errorf("the guest's own page:\n%s", page)
	}
}

// What was wrong with a connection that is good now fades, and is gone after five minutes.
func TestOldErrorsFade(t *testing.T) {
	now := time.Unix(10_000, 0)
	for _, test := range []struct {
		state      grid.State
		ago        time.Duration
		unanswered time.Duration
		class      string
		text       string
	}{
		{grid.StateConnected, time.Second, 0, "old", "cut"},
		{grid.StateConnected, 4 * time.Minute, 0, "old", "cut"},
		{grid.StateConnected, 6 * time.Minute, 0, "", ""},
		{grid.StateConnectionError, time.Second, 0, moodBad, "cut"},
		{grid.StateConnecting, time.Hour, 0, moodBad, "cut"},
		{grid.StateConnected, time.Second, 2 * time.Second, moodBad, "does not answer a ping of 2s ago; 3 requests wait for it, the oldest for 1s"},
	} {
		p := Peer{OldestRequest: time.Second, ConnectionStats: grid.ConnectionStats{
			State: test.state, Unanswered: test.unanswered, OutgoingRequests: 3, LastError: "cut", LastErrorTime: now.Add(-test.ago),
		}}
		if got := noteOf(&p, now); got.Class != test.class || got.Text != test.text {
			t.Errorf("%v, %v ago: %+v", test.state, test.ago, got)
		}
	}
	v := &view{Status: &Status{Time: now, Cluster: []Row{{Links: map[string]Link{
		"good": {State: grid.StateConnected}, "bad": {State: grid.StateConnectionError},
	}}}}}
	for _, test := range []struct {
		peer, handler string
		ago           time.Duration
		old           bool
	}{
		{"good", "", time.Second, false},
		{"good", "", time.Minute, true},
		{"good", "get", time.Minute, false},
		{"good", "get", 6 * time.Minute, true},
		{"bad", "", time.Minute, false},
		{"a stranger", "", time.Minute, false},
	} {
		if v.IsOld(grid.RecentError{Peer: test.peer, Handler: test.handler, Time: now.Add(-test.ago)}) != test.old {
			t.Errorf("%+v", test)
		}
	}
}
