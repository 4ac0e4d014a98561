package doctor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/debugz"
)

// patience bounds what must happen.
const patience = 30 * time.Second

// place is where a node is to be.
type place struct {
	name     string
	listener net.Listener
}

func newPlace(t *testing.T, scheme string) place {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return place{scheme + "://" + l.Addr().String(), l}
}

// pair returns two places of which the first is dialed by the second, or dials it.
func pair(t *testing.T, firstDials bool) (a, b place) {
	t.Helper()
	a, b = newPlace(t, "http"), newPlace(t, "http")
	if dials(a.name, b.name) != firstDials {
		a, b = b, a
	}
	return a, b
}

// serve serves a handler there.
func (p place) serve(t *testing.T, h http.Handler) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = p.listener
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
}

// node makes a node of a place, which nobody reaches yet.
func (p place) node(t *testing.T, change func(o *grid.ManagerOptions), hosts ...string) *grid.Manager {
	t.Helper()
	o := grid.ManagerOptions{
		Local: p.name, Hosts: hosts, Logger: slog.New(slog.DiscardHandler),
		AuthRequest: func(r *http.Request) error {
			if r.Header.Get("Authorization") != "Bearer sesame" {
				return errors.New("another secret")
			}
			return nil
		},
		AddAuth:     func(string) string { return "sesame" },
		AcceptGuest: func(*http.Request, string) error { return nil },
	}
	if change != nil {
		change(&o)
	}
	m, err := grid.NewManager(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// examine examines the hosts for the node local.
func examine(t *testing.T, local string, hosts ...string) []Report {
	t.Helper()
	return Examine(t.Context(), Options{Local: local, Hosts: hosts, Secret: "sesame", Path: grid.RoutePath, Timeout: patience})
}

// check checks that a report has one finding with each of the texts, and no other.
func check(t *testing.T, r *Report, level Level, texts ...string) {
	t.Helper()
	for _, text := range texts {
		found := 0
		for _, f := range r.Findings {
			if f.Level == level && strings.Contains(f.Text, text) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d times %s %q in %+v", found, level, text, r.Findings)
		}
	}
	if len(r.Findings) != len(texts) {
		t.Errorf("want %d findings: %+v", len(texts), r.Findings)
	}
}

func waitConnected(t *testing.T, c *grid.Connection) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitForConnect(ctx); err != nil {
		t.Fatal(err)
	}
}

func guestless(o *grid.ManagerOptions) { o.AcceptGuest = nil }

func TestNodesThatAreWell(t *testing.T) {
	for _, guests := range []bool{true, false} {
		a, b := pair(t, true)
		var change func(o *grid.ManagerOptions)
		if !guests {
			change = guestless
		}
		var managers []*grid.Manager
		for _, p := range []place{a, b} {
			m := p.node(t, change, a.name, b.name)
			if err := debugz.RegisterCluster(m); err != nil {
				t.Fatal(err)
			}
			p.serve(t, m.Handler())
			defer func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_ = m.Shutdown(ctx)
			}()
			managers = append(managers, m)
		}
		waitConnected(t, managers[0].Connection(b.name))
		waitConnected(t, managers[1].Connection(a.name))
		reports := examine(t, b.name, a.name, b.name)
		for i := range reports {
			r := &reports[i]
			if !r.Well() || r.Clock.Abs() > time.Hour || len(r.Features) < 10 || len(r.Addresses) != 1 {
				t.Errorf("guests %t: %+v", guests, r)
			}
			if guests && (r.RoundTrip <= 0 || len(r.links) != 1) {
				t.Errorf("guests %t: no round trip or links: %+v", guests, r)
			}
		}
		if guests {
			check(t, &reports[0], OK, "connected to 1 of 1 others")
			check(t, &reports[1], OK, "this node")
		} else {
			if f := reports[0].Findings; len(f) != 2 || !strings.Contains(f[1].Text, "it dials "+b.name) {
				t.Errorf("%+v", f)
			}
		}
	}
}

// Where the examined node runs and is connected, it keeps its connection.
func TestAConnectedNodeIsNotDisturbed(t *testing.T) {
	a, b := pair(t, true) // a dials b
	ma, mb := a.node(t, guestless, a.name, b.name), b.node(t, guestless, a.name, b.name)
	a.serve(t, ma.Handler())
	b.serve(t, mb.Handler())
	waitConnected(t, ma.Connection(b.name))
	waitConnected(t, mb.Connection(a.name))
	reports := examine(t, a.name, a.name, b.name)
	if f := reports[1].Findings; len(f) != 2 || f[1].Level != Note || !strings.Contains(f[1].Text, a.name+" is connected to it, from 127.0.0.1:") {
		t.Errorf("%+v", f)
	}
	if n := ma.Connection(b.name); n.State() != grid.StateConnected {
		t.Errorf("the node is %v", n.State())
	}
	for _, p := range ma.Stats().Peers {
		if p.Connects != 1 {
			t.Errorf("it connected %d times", p.Connects)
		}
	}
}

// A node that is not running is examined under its own name.
func TestANodeThatDoesNotRunYet(t *testing.T) {
	a, b := pair(t, true)
	a.listener.Close()
	m := b.node(t, func(o *grid.ManagerOptions) { o.AcceptGuest, o.Version = nil, "2.6" }, a.name, b.name)
	b.serve(t, m.Handler())
	reports := examine(t, a.name, a.name, b.name)
	check(t, &reports[0], Problem, "nothing listens at")
	check(t, &reports[1], OK, "version 2.6")
	if reports[1].RoundTrip <= 0 {
		t.Error("no round trip")
	}
}

func TestWhatOneReportSays(t *testing.T) {
	plain := func(status int, header ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		})
	}
	// upgrades answers as a node does to other requests.
	upgrades := func(h http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") == "" {
				w.WriteHeader(http.StatusUpgradeRequired)
				return
			}
			h(w, r)
		})
	}
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			key := acceptKey(r.Header.Get("Sec-WebSocket-Key"))
			io.WriteString(conn, strings.ReplaceAll(text, "KEY", key))
			conn.Close()
		}
	}
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n"
	for _, c := range []struct {
		name string
		h    http.Handler
		want string
	}{
		{"not found", plain(404), "no node at the path /minio/grid/v1; correct the port, or give the nodes' path with -path"},
		{"another server", plain(200, "Server", "Apache"), "status 200 by Apache: what answers there is no node"},
		{"a login", plain(401), "wants a login"},
		{"refused", plain(403), "it refused the secret"},
		{"a redirect", plain(301, "Location", "https://elsewhere/"), "it redirects to https://elsewhere/"},
		{"a proxy without a backend", plain(502), "a proxy that does not reach the node"},
		{"nobody behind it", plain(503), "shutting down or has too many handshakes"},
		{"limited", plain(429), "limits requests"},
		{"plain HTTP refused", plain(400), "is its name https://"},
		{"the upgrade fails", upgrades(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), "of the upgrade to a WebSocket: answered with status 500"},
		{"a wrong upgrade", upgrades(raw(strings.Replace(switching, "KEY", "x", 1))), "in a wrong way"},
		{"it hangs up on the upgrade", upgrades(raw("")), "it hung up on the upgrade"},
		{"it hangs up on the handshake", upgrades(raw(switching)), "the handshake"},
		{"it closes the handshake", upgrades(raw(switching + "\x88\x07\x03\xf0later")), "it closed the connection during the handshake"},
		{"it sends something else", upgrades(raw(switching + "\x82\x02hi")), "no message of a grid"},
		{"its clock is ahead", plain(426, "Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)), "ahead of this one"},
		{"its clock is behind", plain(426, "Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)), "behind this one"},
		{"what is no HTTP", raw("SSH-2.0-OpenSSH\r\n"), "does not speak HTTP; correct the port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlace(t, "http")
			p.serve(t, c.h)
			r := examine(t, "http://elsewhere:1", p.name)[0]
			if strings.Contains(c.name, "clock") { // and it is no node
				if r.Well() || !strings.Contains(r.Findings[0].Text, c.want) {
					t.Errorf("%+v", r.Findings)
				}
				return
			}
			check(t, &r, Problem, c.want)
		})
	}
}

func TestASilentServer(t *testing.T) {
	for _, upgrades := range []bool{false, true} {
		p := newPlace(t, "http")
		p.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if upgrades && r.Header.Get("Upgrade") == "" {
				w.WriteHeader(http.StatusUpgradeRequired)
				return
			}
			<-r.Context().Done()
		}))
		r := Examine(t.Context(), Options{Local: "http://a:1", Hosts: []string{p.name}, Path: "/", Timeout: 200 * time.Millisecond})[0]
		if upgrades {
			check(t, &r, Problem, "have the proxy on the way pass WebSockets on")
		} else {
			check(t, &r, Problem, "it accepts connections, but does not answer an HTTP request")
		}
	}
}

// A proxy that does what proxies do unless they are told otherwise.
func TestAProxyThatDropsTheUpgrade(t *testing.T) {
	a, b := pair(t, true)
	backend := newPlace(t, "http")
	backend.serve(t, b.node(t, nil, a.name, b.name).Handler())
	to, err := url.Parse(backend.name)
	if err != nil {
		t.Fatal(err)
	}
	b.serve(t, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Header.Del("Upgrade")
		r.Out.Header.Del("Connection")
	}})
	r := examine(t, a.name, b.name)[0]
	check(t, &r, Problem, "header Upgrade is missing); have the proxy on the way pass on the headers Upgrade and Connection")
}

func TestNames(t *testing.T) {
	for _, guests := range []bool{true, false} {
		change := guestless
		if guests {
			change = nil
		}
		t.Run("a node that does not know this one", func(t *testing.T) {
			a, b := pair(t, false)
			m := b.node(t, change, b.name)
			if err := debugz.RegisterCluster(m); err != nil {
				t.Fatal(err)
			}
			b.serve(t, m.Handler())
			a.listener.Close()
			r := examine(t, a.name, b.name, a.name)[0]
			check(t, &r, Problem, "it does not have "+a.name+" among its hosts")
		})
		t.Run("another node", func(t *testing.T) {
			a, b := pair(t, true)
			c := newPlace(t, "http")
			b.serve(t, c.node(t, change, a.name, c.name).Handler())
			r := examine(t, a.name, b.name)[0]
			check(t, &r, Problem, "the node there is "+c.name)
		})
	}
	t.Run("one process by two names", func(t *testing.T) {
		a, b := pair(t, true)
		m := b.node(t, nil, a.name, b.name)
		b.serve(t, m.Handler())
		a.serve(t, m.Handler())
		reports := examine(t, b.name, a.name, b.name)
		check(t, &reports[0], Problem, "the node there is "+b.name)
		check(t, &reports[1], Problem, "it is the same process as "+a.name)
	})
	t.Run("hosts that differ", func(t *testing.T) {
		a, b := pair(t, true)
		m := b.node(t, nil, a.name, b.name, "http://left.over:1")
		if err := debugz.RegisterCluster(m); err != nil {
			t.Fatal(err)
		}
		b.serve(t, m.Handler())
		a.serve(t, a.node(t, nil, a.name).Handler())
		r := examine(t, a.name, b.name, a.name)[0]
		check(t, &r, Problem, "it has http://left.over:1 among its hosts", "it is not connected to "+a.name+", which has to dial it")
	})
	t.Run("a node that says nothing", func(t *testing.T) {
		a, b := pair(t, true)
		m := b.node(t, func(o *grid.ManagerOptions) {
			o.VerifyPeer = func(*http.Request, string) error { return errors.New("no") }
		}, a.name, b.name)
		b.serve(t, m.Handler())
		r := examine(t, a.name, b.name)[0]
		check(t, &r, Problem, "it rejected "+a.name+"; its log says why")
	})
}

func TestTwoProcessesByOneName(t *testing.T) {
	a := newPlace(t, "http")
	_, port, _ := net.SplitHostPort(a.listener.Addr().String())
	second, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		t.Skip(err)
	}
	b := place{"http://grid.test:" + port, second}
	name := b.name
	for _, p := range []place{a, b} {
		at := p
		p.name = name
		at.serve(t, p.node(t, nil, name).Handler())
	}
	r := Examine(t.Context(), Options{
		Local: "probe", Guest: true, Hosts: []string{name}, Secret: "sesame", Path: grid.RoutePath, Timeout: patience,
		lookup: func(context.Context, string) ([]string, error) { return []string{"127.0.0.1", "127.0.0.2"}, nil },
	})[0]
	check(t, &r, Problem, "one name leads to several processes, at 127.0.0.1:"+port+" and 127.0.0.2:"+port)
}

func TestAnotherProcessWithTheNameOfThisNode(t *testing.T) {
	for address, want := range map[string]Level{"127.0.0.1:9": Note, "192.0.2.77:4711": Problem} {
		v := &visit{ctx: t.Context(), report: new(Report), Options: &Options{Local: "http://127.0.0.1:9001", Timeout: patience}}
		p := &probe{visit: v}
		p.judgeTwin("another process with the name http://127.0.0.1:9001 is connected, from " + address)
		if f := v.report.Findings; len(f) != 1 || f[0].Level != want || !strings.Contains(f[0].Text, address) {
			t.Errorf("%s: %+v", address, f)
		}
	}
}

func TestGuests(t *testing.T) {
	a, b := pair(t, true)
	a.serve(t, a.node(t, nil, a.name).Handler())
	b.serve(t, b.node(t, guestless, b.name).Handler())
	reports := Examine(t.Context(), Options{
		Local: "probe", Guest: true, Hosts: []string{a.name, b.name}, Secret: "sesame", Path: grid.RoutePath, Timeout: patience,
	})
	check(t, &reports[0], OK, "round trip")
	check(t, &reports[1], Problem, "it accepts no guests")
}

func TestVersionsAndSizesThatDiffer(t *testing.T) {
	a, b := pair(t, true)
	a.serve(t, a.node(t, func(o *grid.ManagerOptions) { o.Version = "1" }, a.name).Handler())
	b.serve(t, b.node(t, func(o *grid.ManagerOptions) { o.Version, o.Limits.MaxMessageSize = "2", 1<<20 }, b.name).Handler())
	reports := Examine(t.Context(), Options{
		Local: "probe", Guest: true, Hosts: []string{a.name, b.name}, Secret: "sesame", Path: grid.RoutePath, Timeout: patience,
	})
	for i, version := range []string{"1", "2"} {
		text := ""
		for _, f := range reports[i].Findings {
			text += string(f.Level) + " " + f.Text + "\n"
		}
		for _, want := range []string{"ok ", "version " + version, "note its version is", "note it takes messages of up to"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in %s", want, text)
			}
		}
	}
}

func TestErrorsOfTheNetwork(t *testing.T) {
	v := &visit{Options: &Options{Timeout: time.Second}}
	for _, c := range []struct{ got, want string }{
		{resolveProblem("a.b", &net.DNSError{IsNotFound: true}), "there is no host a.b"},
		{resolveProblem("a.b", &net.DNSError{IsTimeout: true}), "DNS does not answer"},
		{resolveProblem("a.b", errors.New("x")), "cannot find the address of a.b: x"},
		{v.dialProblem("a.b:1", syscall.EHOSTUNREACH), "no route to a.b:1"},
		{v.dialProblem("a.b:1", context.DeadlineExceeded), "does a firewall let port 1 through"},
		{v.dialProblem("a.b:1", errors.New("x")), "cannot connect to a.b:1: x"},
	} {
		if !strings.Contains(c.got, c.want) {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}
