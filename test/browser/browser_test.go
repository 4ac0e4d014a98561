// Package browser looks at the status page of package debugz with Chromium. It is a module of its
// own because of what drives the browser.
package browser

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// patience bounds how long a test waits for something that must happen.
const patience = 60 * time.Second

// browser is the path of Chromium; empty where there is none.
var browser string

func TestMain(m *testing.M) {
	var err error
	browser, err = findBrowser()
	if err != nil {
		fmt.Println("SKIPPED: the browser tests need Chromium:", err)
	}
	os.Exit(runInTemp(m))
}

// runInTemp has Chromium leave its temporary files in a folder that is removed.
func runInTemp(m *testing.M) int {
	dir, err := os.MkdirTemp("", "browser")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	os.Setenv("TMPDIR", dir)
	return m.Run()
}

// findBrowser returns Chromium, which it installs where it can.
func findBrowser() (string, error) {
	names := []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		return "", errors.New("not found, and not root on Linux to install it")
	}
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", "chromium"}} {
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("apt-get %s: %w: %.300s", args[0], err, out)
		}
	}
	return exec.LookPath(names[0])
}

// cluster is a grid whose cables can be cut, and kept cut.
type cluster struct {
	nodes  []*grid.Manager
	server *httptest.Server // of the page of the first node
	looks  atomic.Int64     // requests for news that the page has begun

	mu    sync.Mutex // Protects following.
	cut   map[string]bool
	conns map[string][]net.Conn // by address
}

const (
	handlerEcho = grid.HandlerUserFirst + iota
	handlerFail
	handlerWait
	handlerFeed
)

var handlerNames = map[grid.HandlerID]string{
	handlerEcho: "ReadVersion", handlerFail: "LockRefresh", handlerWait: "HealBucket", handlerFeed: "Listen",
}

// startCluster starts n connected nodes, all at 127.0.0.1, with handlers.
func startCluster(t *testing.T, n int) *cluster {
	t.Helper()
	c := &cluster{cut: make(map[string]bool), conns: make(map[string][]net.Conn)}
	var listeners []net.Listener
	var hosts []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		hosts = append(hosts, "http://"+l.Addr().String())
	}
	ready := make(chan struct{})
	for i, l := range listeners {
		m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
			Local:        hosts[i],
			Hosts:        hosts,
			AuthRequest:  func(*http.Request) error { return nil },
			Dialer:       c.dial,
			BlockConnect: ready,
			Logger:       slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		c.register(t, m)
		c.nodes = append(c.nodes, m)
		server := &http.Server{Handler: m.Handler()}
		done := make(chan struct{})
		go func() { defer close(done); server.Serve(l) }()
		t.Cleanup(func() { m.Close(); server.Close(); <-done })
	}
	close(ready)
	c.waitConnected(t)
	page := debugz.Handler(c.nodes[0], debugz.Options{Cluster: true})
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "live.html") {
			c.looks.Add(1)
		}
		page.ServeHTTP(w, r)
	}))
	t.Cleanup(c.server.Close)
	return c
}

func (c *cluster) register(t *testing.T, m *grid.Manager) {
	t.Helper()
	for id, name := range handlerNames {
		if err := grid.NameHandler(id, name); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		debugz.RegisterCluster(m),
		m.RegisterSingleHandler(handlerEcho, func(b []byte) ([]byte, *grid.RemoteErr) { return b, nil }, "disks/sda"),
		m.RegisterSingleHandler(handlerFail, func([]byte) ([]byte, *grid.RemoteErr) {
			return nil, grid.NewRemoteErrString("lock not found: bucket/object")
		}),
		m.RegisterSingleHandlerContext(handlerWait, func(ctx context.Context, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, nil
		}),
		m.RegisterStreamingHandler(handlerFeed, grid.StreamHandler{
			Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *grid.RemoteErr {
				<-ctx.Done()
				return nil
			},
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// dial is a grid.ContextDialer.
func (c *cluster) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	cut := c.cut[addr]
	c.mu.Unlock()
	if cut {
		return nil, errors.New("the cable is cut")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		c.mu.Lock()
		c.conns[addr] = append(c.conns[addr], conn)
		c.mu.Unlock()
	}
	return conn, err
}

// setCut cuts the cables that were dialed to addresses, or mends them.
func (c *cluster) setCut(cut bool, hosts ...string) {
	for _, h := range hosts {
		addr := strings.TrimPrefix(h, "http://")
		c.mu.Lock()
		c.cut[addr] = cut
		conns := c.conns[addr]
		if cut {
			c.conns[addr] = nil
		} else {
			conns = nil
		}
		c.mu.Unlock()
		for _, conn := range conns {
			conn.Close()
		}
	}
}

func (c *cluster) waitConnected(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, m := range c.nodes {
		for _, host := range m.Targets() {
			if err := m.Connection(host).WaitForConnect(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// waitState waits until a node's connection to another is in a state.
func (c *cluster) waitState(t *testing.T, from, to int, state grid.State) {
	t.Helper()
	conn := c.nodes[from].Connection(c.nodes[to].HostName())
	for deadline := time.Now().Add(patience); conn.State() != state; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%v is %v, want %v", conn, conn.State(), state)
		}
	}
}

// traffic calls handlers among all nodes until the test ends, and keeps some calls and streams
// open.
func (c *cluster) traffic(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i, m := range c.nodes {
		for k, host := range m.Targets() {
			conn := m.Connection(host)
			wg.Go(func() {
				tick := time.NewTicker(time.Duration(3+2*k) * time.Millisecond)
				defer tick.Stop()
				for n := 0; ctx.Err() == nil; n++ {
					<-tick.C
					for range 1 + (n/150)%5 {
						b, _ := conn.Subroute("disks/sda").Request(ctx, handlerEcho, make([]byte, 100<<(n/100%5)))
						grid.PutByteBuffer(b)
					}
					if n%100 == 99 && (i+k)%3 == 0 {
						conn.Request(ctx, handlerFail, nil)
					}
				}
			})
			if k == 0 {
				wg.Go(func() { conn.Request(ctx, handlerWait, nil) })
				if st, err := conn.NewStream(ctx, handlerFeed, nil); err == nil {
					wg.Go(func() { st.Results(func([]byte) error { return nil }) })
				}
			}
		}
	}
}

// tab is a page in the browser, and what it has complained of.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex // Protects following.
	complaints []string
}

// step is something to be done in a tab.
type step = chromedp.Action[chromedp.Void]

// open opens a page. options come first.
func open(t *testing.T, url string, options ...step) *tab {
	t.Helper()
	if browser == "" {
		t.Skip("SKIPPED: there is no Chromium")
	}
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true))...)
	t.Cleanup(cancel)
	p := &tab{t: t}
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(log.Printf), chromedp.WithListener(p.listen))
	t.Cleanup(cancel)
	p.ctx, cancel = context.WithTimeout(ctx, 3*patience)
	t.Cleanup(cancel)
	p.do(options...)
	p.do(chromedp.Navigate(url), chromedp.WaitVisible(chromedp.CSS("#summary")))
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, text := range p.complaints {
			t.Errorf("the browser complains: %s", text)
		}
	})
	return p
}

// listen collects everything that the console shows, and exceptions.
func (p *tab) listen(event any) {
	var text string
	switch e := event.(type) {
	case *cdpruntime.EventConsoleAPICalled:
		text = "console." + e.Type.String()
		for _, a := range e.Args {
			text += " " + string(a.Value)
		}
	case *cdpruntime.EventExceptionThrown:
		text = (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error()
	case *cdplog.EventEntryAdded:
		text = e.Entry.Level.String() + ": " + e.Entry.Text + " " + e.Entry.URL
	default:
		return
	}
	p.mu.Lock()
	p.complaints = append(p.complaints, text)
	p.mu.Unlock()
}

func (p *tab) do(steps ...step) {
	p.t.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// get takes something from the page.
func get[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, action)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}

// value evaluates an expression on the page.
func value[T any](p *tab, expression string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](expression))
}

// wait waits until an expression is true on the page.
func (p *tab) wait(what, expression string) {
	p.t.Helper()
	err := chromedp.Do(p.ctx, chromedp.Poll[chromedp.Void](expression,
		chromedp.WithPollingInterval(20*time.Millisecond), chromedp.WithPollingTimeout(patience)))
	if err != nil {
		text, _ := chromedp.Run(p.ctx, chromedp.Text(chromedp.CSS("main")))
		p.t.Fatalf("waited in vain for %s: %v\n%s", what, err, text)
	}
}

// run runs a script on the page.
func run(script string) step { return chromedp.Evaluate[chromedp.Void](script) }

// send sends a command of the DevTools protocol.
func send[P any](command cdp.Command[P, cdp.Empty], params P) step {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, command, params)
		return err
	})
}

func size(width, height int64, scheme string) []step {
	return []step{
		send(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
		}),
		send(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		}),
	}
}

// The page shows that a connection is cut, and that it is back, with one of the next two looks:
// within two seconds.
func TestPageFollowsConnection(t *testing.T) {
	c := startCluster(t, 3)
	p := open(t, c.server.URL+"/debug/grid/")
	if got := value[string](p, `document.body.dataset.refresh`); got != "1000" {
		t.Errorf("the page looks every %s ms", got)
	}
	peer := c.nodes[1].HostName()
	row := fmt.Sprintf(`document.querySelector('[data-key="%s"]').dataset.state`, peer)
	p.wait("the connection", row+` === "Connected"`)
	follow := func(what string, change func(), state grid.State) {
		t.Helper()
		change()
		c.waitState(t, 0, 1, state)
		seen, start := c.looks.Load(), time.Now()
		p.wait(what, fmt.Sprintf("%s === %q", row, state.String()))
		if n := c.looks.Load() - seen; n > 2 {
			t.Errorf("%s: the page looked %d times before it showed it", what, n)
		}
		t.Logf("%s: shown after %v", what, time.Since(start))
	}
	p.do(run(fmt.Sprintf(`window.kept = document.querySelector('[data-key="%s"]')`, peer)))
	follow("the cut", func() { c.setCut(true, peer, c.nodes[0].HostName()) }, grid.StateConnectionError)
	p.wait("the summary", `/^[01] of 2/.test(document.getElementById("summary").textContent)`)
	p.wait("the edge", `document.querySelector(".picture line.bad") !== null`)
	p.wait("the cell", `document.querySelector(".matrix td.bad") !== null`)
	p.wait("the reason", `document.getElementById("peers").textContent.includes("the cable is cut") || document.getElementById("peers").textContent.includes("closed")`)
	follow("the recovery", func() { c.setCut(false, peer, c.nodes[0].HostName()) }, grid.StateConnected)
	p.wait("all lines", `document.querySelector(".picture line.bad") === null && document.getElementById("summary").textContent.startsWith("2 of 2")`)
	if !value[bool](p, `window.kept.isConnected`) {
		t.Error("the row was made anew in place of being changed")
	}
}

// clearFilter empties the field, as a click on its cross does.
const clearFilter = `q.value = "", q.dispatchEvent(new Event("input", {bubbles: true})), true`

func TestFilterOnThePage(t *testing.T) {
	c := startCluster(t, 4)
	c.traffic(t)
	p := open(t, c.server.URL+"/")
	const rows = `document.querySelectorAll("#peers tbody tr:not(.note)").length`
	p.wait("all peers", rows+` === 3`)
	p.wait("the handlers", `document.querySelectorAll("#handlers tbody tr").length >= 5`)
	port := c.nodes[2].HostName()[len("http://"):]
	p.do(chromedp.SendKeys(chromedp.CSS("#q"), port))
	p.wait("one peer", rows+` === 1`)
	if got := value[string](p, `location.search`); !strings.HasPrefix(got, "?q=127.0.0.1") {
		t.Errorf("the address does not keep the filter: %q", got)
	}
	p.do(run(clearFilter), chromedp.SendKeys(chromedp.CSS("#q"), "LOCKREFRESH"))
	p.wait("one handler", `document.querySelectorAll("#handlers tbody tr").length > 0 &&
		[...document.querySelectorAll("#handlers tbody tr")].every(r => r.textContent.includes("LockRefresh"))`)
	p.wait("its errors", `document.querySelectorAll("#errors tbody tr").length > 0 &&
		[...document.querySelectorAll("#errors tbody tr")].every(r => r.textContent.includes("lock not found"))`)
	p.do(chromedp.Reload(), chromedp.WaitVisible(chromedp.CSS("#handlers")))
	if n := value[int](p, `[...document.querySelectorAll("#handlers tbody tr")].filter(r => !r.textContent.includes("LockRefresh")).length`); n != 0 {
		t.Errorf("after a reload %d rows do not match", n)
	}
	p.do(run(clearFilter), chromedp.SendKeys(chromedp.CSS("#q"), "no such thing"))
	p.wait("nothing", `document.getElementById("peers") === null && document.body.textContent.includes("No connection matches the filter")`)
}

// A click on the head of a column sorts the table, and it stays sorted while the page follows the node.
func TestSortOnThePage(t *testing.T) {
	c := startCluster(t, 4)
	c.traffic(t)
	p := open(t, c.server.URL+"/")
	p.wait("calls that failed", `document.querySelectorAll("#pairs .failed").length > 0`)
	const first = `document.querySelector("#pairs tbody tr td[data-label=Handler]").textContent`
	p.do(chromedp.Click(chromedp.CSS("#pairs thead th:nth-child(6) a")))
	p.wait("the failing handler on top", first+`.includes("LockRefresh")`)
	seen := c.looks.Load()
	for c.looks.Load() < seen+3 {
		time.Sleep(10 * time.Millisecond)
	}
	if got := value[string](p, `document.querySelector("#pairs th[aria-sort]").textContent + location.search`); got != "Errors, 1 / 5 min / start?sort=pairs.errors" {
		t.Errorf("the order has not stayed: %q", got)
	}
	p.do(chromedp.Click(chromedp.CSS("#pairs thead th:nth-child(6) a")))
	p.wait("another on top", `!`+first+`.includes("LockRefresh")`)
	p.do(chromedp.Reload(), chromedp.WaitVisible(chromedp.CSS("#pairs")))
	if got := value[string](p, `document.querySelector("#pairs th[aria-sort]").getAttribute("aria-sort")`); got != "ascending" {
		t.Errorf("after a reload the order is %q", got)
	}
}

func TestRatesAndTraces(t *testing.T) {
	c := startCluster(t, 3)
	c.traffic(t)
	p := open(t, c.server.URL+"/")
	p.wait("a curve", `document.querySelectorAll("#peers .spark polygon").length >= 4`)
	p.wait("a rate", `/[1-9].*B\/s/.test(document.querySelector("#peers td[data-label^=In]").textContent)`)
	p.wait("a histogram", `document.querySelectorAll("#handlers .histogram rect").length > 2`)
	p.wait("open calls", `document.querySelectorAll("#open tbody tr").length >= 2`)
	p.do(watchTraces)
	p.wait("traces", `document.querySelectorAll("#traces tbody tr").length > 5`)
	p.do(chromedp.Click(chromedp.Search(`//a[text()="stop"]`)), chromedp.WaitVisible(chromedp.Search(`//button[text()="watch"]`)))
}

// watchTraces asks for traces as a user does: no address of the page does.
var watchTraces = chromedp.Steps(
	chromedp.Click(chromedp.Search(`//button[text()="watch"]`)),
	chromedp.WaitVisible(chromedp.Search(`//a[text()="stop"]`)),
)

func TestPause(t *testing.T) {
	c := startCluster(t, 2)
	p := open(t, c.server.URL+"/")
	p.wait("news", `document.querySelector("#pause span").textContent === "live"`)
	p.do(chromedp.Click(chromedp.CSS("#pause")))
	p.wait("the pause", `document.querySelector("#pause span").textContent === "paused"`)
	peer := c.nodes[1].HostName()
	c.setCut(true, peer, c.nodes[0].HostName())
	c.waitState(t, 0, 1, grid.StateConnectionError)
	p.do(chromedp.Click(chromedp.CSS("#pause")))
	p.wait("the news", `document.querySelector("#peers tr[data-state]").dataset.state === "ConnectionError"`)
}

// Without JavaScript the page is the same, made by the server.
func TestPageWithoutScripts(t *testing.T) {
	c := startCluster(t, 3)
	p := open(t, c.server.URL+"/", send(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	text := get(p, chromedp.Text(chromedp.CSS("main")))
	for _, want := range []string{"2 of 2 peers connected", "Connections", "Handlers"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page has no %q: %s", want, text)
		}
	}
	peer := c.nodes[1].HostName()
	c.setCut(true, peer, c.nodes[0].HostName())
	c.waitState(t, 0, 1, grid.StateConnectionError)
	p.do(chromedp.WaitVisible(chromedp.CSS("#peers .pill.bad"))) // the page loads itself again
}

// Nothing is wider than the screen: a phone shows all without scrolling sideways.
func TestPhone(t *testing.T) {
	c := startCluster(t, 5)
	c.traffic(t)
	for _, width := range []int64{360, 390, 768, 1024, 1440} {
		p := open(t, c.server.URL+"/", size(width, 800, "light")...)
		p.do(watchTraces)
		p.wait("rows", `document.querySelectorAll("#handlers tbody tr").length >= 5 && document.querySelectorAll("#traces tbody tr").length > 0`)
		if got := value[int64](p, `document.documentElement.scrollWidth`); got > width {
			t.Errorf("at %d pixels the page has %d", width, got)
		}
	}
}

// Text is readable on its ground, in both colors: WCAG asks for a contrast of 4.5.
func TestContrast(t *testing.T) {
	c := startCluster(t, 3)
	c.traffic(t)
	c.setCut(true, c.nodes[1].HostName(), c.nodes[0].HostName())
	c.waitState(t, 0, 1, grid.StateConnectionError)
	for _, scheme := range []string{"light", "dark"} {
		p := open(t, c.server.URL+"/", size(1280, 900, scheme)...)
		p.do(watchTraces)
		p.wait("rows", `document.querySelectorAll("#handlers tbody tr").length >= 5 && document.querySelector(".pill.bad") !== null`)
		for _, fault := range value[[]string](p, contrastScript) {
			t.Errorf("%s: %s", scheme, fault)
		}
	}
}

// contrastScript returns the elements whose own text has too little contrast to what is behind it.
const contrastScript = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
	const light = (c) => {
		const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const faults = new Set();
	for (const e of document.querySelectorAll("body *:not(svg):not(svg *)")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
		let ground = [0, 0, 0, 0];
		for (let p = e; p && ground[3] < 1; p = p.parentElement) {
			const c = parse(getComputedStyle(p).backgroundColor);
			if (c[3] === 1) ground = c;
		}
		const ink = parse(getComputedStyle(e).color);
		const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		if (ratio < 4.5) faults.add(e.tagName + "." + e.className + " " + ratio.toFixed(2) + ": " + e.textContent.trim().slice(0, 30));
	}
	return [...faults];
})()`

// TestScreenshots writes docs/debugz-*.png again where UPDATE_SCREENSHOTS is set, and else only
// looks whether it could.
func TestScreenshots(t *testing.T) {
	c := startCluster(t, 5)
	c.traffic(t)
	cut := c.nodes[3].HostName()
	for _, p := range c.nodes[0].Stats().Peers {
		if p.Dialed { // else only others have lost it
			cut = p.Remote
		}
	}
	for _, shot := range []struct {
		name          string
		width, height int64
		scheme        string
	}{
		{"debugz-light", 1280, 1000, "light"},
		{"debugz-dark", 1280, 1000, "dark"},
		{"debugz-phone", 390, 844, "light"},
	} {
		p := open(t, c.server.URL+"/", size(shot.width, shot.height, shot.scheme)...)
		if os.Getenv("UPDATE_SCREENSHOTS") != "" {
			p.wait("some history", `document.querySelectorAll("#handlers .spark polyline[points]").length > 5 &&
				Math.max(...[...document.querySelectorAll(".tile polyline")].map(l => l.getAttribute("points").split(" ").length)) > 30`)
		}
		c.setCut(true, cut)
		p.wait("the cut", `document.querySelector("#peers .pill.bad") !== null || document.querySelector(".matrix td.bad") !== null`)
		png := get(p, chromedp.CaptureScreenshot())
		c.setCut(false, cut)
		c.waitConnected(t)
		if len(png) < 10_000 {
			t.Errorf("%s has %d bytes", shot.name, len(png))
		}
		if os.Getenv("UPDATE_SCREENSHOTS") == "" {
			continue
		}
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("../../docs/"+shot.name+".png", png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
