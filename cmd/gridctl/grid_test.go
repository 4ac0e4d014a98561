package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

func TestNodeStopsOnSignals(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(s.String(), func(t *testing.T) {
			hosts := freeHosts(t, "http", 2)
			list := strings.Join(hosts, ",")
			a := startNode(t, "-local", hosts[0], "-hosts", list)
			b := startNode(t, "-local", hosts[1], "-hosts", list)
			a.waitFor(t, "grid: connected")
			b.waitFor(t, "grid: connected")
			a.signal(t, s)
			if code := a.wait(t); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			a.waitFor(t, "node has stopped")
			b.signal(t, s)
			if code := b.wait(t); code != exitOK {
				t.Errorf("exit code %d of the other node", code)
			}
		})
	}
}

func TestNodesDiscoverEachOther(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	dir := t.TempDir()
	list := writeFile(t, dir, "nodes", hosts[0]+"\n")
	a := startNode(t, "-local", hosts[0], "-discover", "file:"+list)
	b := startNode(t, "-local", hosts[1], "-discover", "file:"+list)
	b.waitFor(t, "grid: hosts changed")
	if err := os.Rename(writeFile(t, dir, "next", strings.Join(hosts, "\n")+"\n"), list); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{a, b} {
		p.waitFor(t, "grid: connected")
		p.signal(t, syscall.SIGTERM)
		if code := p.wait(t); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	}
}

// A guest joins two nodes, of which one calls it back.
func TestNodeJoinsAsAGuest(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	list := strings.Join(hosts, ",")
	a := startNode(t, "-local", hosts[0], "-hosts", list, "-accept-guests")
	n := memberHere(t, memberConfig{local: hosts[1], hosts: hosts, acceptGuests: true})
	guests := make(chan *grid.Connection, 1)
	n.OnGuest(func(guest *grid.Connection) { guests <- guest })
	p := start(t, "node", "-local", "probe 7", "-join", list)
	p.waitFor(t, "guest is up")
	guest := <-guests
	if b, err := guest.Request(t.Context(), handlerEcho, []byte("hello")); err != nil || string(b) != "hello" || guest.Remote != "probe 7" {
		t.Errorf("%v answered %q, %v", guest, b, err)
	}
	a.waitFor(t, `peer="probe 7"`)
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, wrong := range []struct{ args, says string }{
		{"-join http://127.0.0.1:1", "-local is missing; with -join"},
		{"-local http://127.0.0.1:2 -join http://127.0.0.1:1", "has a colon"},
		{"-local probe -join http://127.0.0.1:1 -listen :1", "leave out -hosts, -listen"},
		{"-local probe -join 127.0.0.1:1", "did you mean http://127.0.0.1:1?"},
		{"-local probe -join http://127.0.0.1:1,http://127.0.0.1:1", "twice"},
		{"-local probe -join ,", "-join names no node"},
	} {
		p := start(t, append([]string{"node"}, strings.Fields(wrong.args)...)...)
		if code := p.wait(t); code == exitOK || !strings.Contains(p.stderr.String(), wrong.says) {
			t.Errorf("%s: exit code %d: %s", wrong.args, code, p.stderr.String())
		}
	}
}

func TestNodeEndsAtOnceOnASecondSignal(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	p := startNode(t, "-local", hosts[0], "-hosts", strings.Join(hosts, ","))
	n := memberHere(t, memberConfig{local: hosts[1], hosts: hosts})
	c := n.Connection(hosts[0])
	waitConnected(t, c)
	st, err := c.NewStream(t.Context(), handlerSink, nil) // keeps a shutdown waiting
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Send(zeros(1)); err != nil {
		t.Fatal(err)
	}
	running := make(chan struct{})
	go st.Results(func([]byte) error { close(running); return nil })
	<-running
	begin := time.Now()
	p.signal(t, syscall.SIGTERM)
	p.waitFor(t, "node is stopping")
	until(t, "the end of the node", func() bool {
		p.signal(t, syscall.SIGTERM)
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if code := p.wait(t); code != -1 {
		t.Errorf("exit code %d, want the end by a signal", code)
	}
	if took := time.Since(begin); took >= shutdownTime {
		t.Errorf("it took %v", took)
	}
}

func TestBenchMeasuresAllOthers(t *testing.T) {
	hosts := freeHosts(t, "http", 3)
	for !dials(t, hosts[2], hosts[0]) || !dials(t, hosts[2], hosts[1]) {
		hosts = freeHosts(t, "http", 3) // else each bench waits for the nodes to dial again
	}
	list := strings.Join(hosts, ",")
	secret := writeFile(t, t.TempDir(), "secret", "sesame\n")
	nodes := []*process{
		startNode(t, "-local", hosts[0], "-hosts", list, "-secret-file", secret),
		startNode(t, "-local", hosts[1], "-hosts", list, "-secret-file", secret),
	}
	bench := func(args ...string) *process {
		t.Helper()
		p := start(t, append([]string{
			"bench", "-local", hosts[2], "-hosts", list, "-secret-file", secret,
			"-duration", "200ms", "-concurrency", "3",
		}, args...)...)
		if code := p.wait(t); code != exitOK {
			t.Fatalf("exit code %d: %s", code, p.stderr.String())
		}
		if p.stderr.String() != "" {
			t.Errorf("stderr: %s", p.stderr.String())
		}
		return p
	}
	t.Run("table", func(t *testing.T) {
		out := bench().stdout.String()
		for _, want := range []string{"echo, 512 bytes, 3 callers", "p99.9", "\n" + hosts[0], "\n" + hosts[1], "\nall"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
	})
	for _, op := range []string{"echo", "sink", "source"} {
		for _, size := range []int{0, 1, 100_000} {
			t.Run(fmt.Sprint(op, size), func(t *testing.T) {
				p := bench("-op", op, "-size", fmt.Sprint(size), "-json")
				checkReport(t, []byte(p.stdout.String()), op, size, hosts[:2])
			})
		}
	}
	for _, n := range nodes {
		n.signal(t, syscall.SIGTERM)
	}
	for _, n := range nodes {
		if code := n.wait(t); code != exitOK {
			t.Errorf("exit code %d of a node", code)
		}
	}
}

// checkReport checks the JSON of a bench without errors.
func checkReport(t *testing.T, b []byte, op string, size int, targets []string) {
	t.Helper()
	var r benchReport
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Errorf("there is more on stdout: %s", b)
	}
	if r.Op != op || r.SizeBytes != size || r.Concurrency != 3 || len(r.Targets) != len(targets) {
		t.Fatalf("not what was asked for: %s", b)
	}
	var calls uint64
	for i, e := range r.Targets {
		calls += e.Calls
		ordered := 0 < e.MedianMicros && e.MedianMicros <= e.P99Micros && e.P99Micros <= e.P999Micros
		if e.Host != targets[i] || e.Calls == 0 || e.CallsPerSecond <= 0 || e.Errors != 0 || e.FirstError != "" || !ordered ||
			(e.MBPerSecond > 0) != (size > 0) || e.Seconds < 0.2 {
			t.Errorf("%+v", e)
		}
	}
	if r.Total.Calls != calls || r.Total.Errors != 0 {
		t.Errorf("total %+v, want %d calls", r.Total, calls)
	}
}

func TestBenchSaysWhichNodeRefusesTheSecret(t *testing.T) {
	dir := t.TempDir()
	right, wrong := writeFile(t, dir, "right", "one"), writeFile(t, dir, "wrong", "two")
	for _, benchDials := range []bool{true, false} {
		for _, c := range []struct{ name, node, bench, want string }{
			{"another one", right, wrong, "it refused the secret"},
			{"none here", right, "", "it refused the secret"},
			{"none there", "", wrong, "it showed another secret"},
		} {
			if c.bench == "" && !benchDials || c.node == "" && benchDials {
				continue // who has no secret takes everybody who dials it
			}
			t.Run(fmt.Sprintf("%s, bench dials: %t", c.name, benchDials), func(t *testing.T) {
				hosts := hostsWhere(t, "http", benchDials)
				list := strings.Join(hosts, ",")
				startNode(t, "-local", hosts[0], "-hosts", list, "-secret-file", c.node)
				p := start(t, "bench", "-local", hosts[1], "-hosts", list, "-secret-file", c.bench, "-wait", "25s")
				if code := p.wait(t); code != exitUsage || p.stdout.String() != "" {
					t.Errorf("exit code %d, stdout %s", code, p.stdout.String())
				}
				checkLine(t, p.stderr.String(), "gridctl bench: no connection to "+hosts[0]+": ", c.want, "check -secret-file there and here")
			})
		}
	}
}

// The nodes that are there are measured, and the others named.
func TestBenchSaysWhichNodesAreAbsent(t *testing.T) {
	hosts := freeHosts(t, "http", 4)
	list := strings.Join(hosts, ",")
	memberHere(t, memberConfig{local: hosts[0], hosts: hosts})
	other := &http.Server{Addr: strings.TrimPrefix(hosts[3], "http://"), Handler: http.NotFoundHandler()}
	l, err := net.Listen("tcp", other.Addr)
	if err != nil {
		t.Fatal(err)
	}
	go other.Serve(l)
	defer other.Close()
	code, stdout, stderr := runHere(t, "bench", "-local", hosts[1], "-hosts", list, "-wait", "10s", "-duration", "100ms", "-concurrency", "3", "-json")
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{
		"gridctl bench: " + hosts[2] + " is absent: nothing listens there", "gridctl bench: " + hosts[3] + " is absent: a web server that is no grid node",
		"2 of 3 nodes were not measured",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
	var r benchReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || len(r.Targets) != 1 || r.Targets[0].Host != hosts[0] || r.Targets[0].Calls == 0 ||
		len(r.Absent) != 2 || r.Absent[0].Host != hosts[2] {
		t.Errorf("%v in %s", err, stdout)
	}
}

func TestBenchSaysThatANodeDoesNotKnowIt(t *testing.T) {
	for _, benchDials := range []bool{true, false} {
		t.Run(fmt.Sprintf("bench dials: %t", benchDials), func(t *testing.T) {
			hosts := hostsWhere(t, "http", benchDials)
			memberHere(t, memberConfig{local: hosts[0], hosts: hosts[:1]})
			code, _, stderr := runHere(t, "bench", "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-wait", "2s")
			if code != exitUsage {
				t.Errorf("exit code %d", code)
			}
			checkLine(t, stderr, "gridctl bench: no connection to "+hosts[0]+": it ", hosts[1]+" in its -hosts")
		})
	}
}

func TestBenchSurvivesTheLossOfANode(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	n := memberHere(t, memberConfig{local: hosts[0], hosts: hosts})
	result := make(chan string, 1)
	go func() {
		code, stdout, stderr := runHere(t, "bench", "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-op", "sink", "-duration", "2s")
		result <- fmt.Sprintf("%d\n%s%s", code, stdout, stderr)
	}()
	untilStreams(t, n.Connection(hosts[1]))
	n.Close()
	n.server.Close()
	got := <-result
	for _, want := range []string{"1\nsink, 512 bytes", "\n" + hosts[0], "calls failed; the first with: grid: stream to sink at "} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestBenchPrintsWhatItHasWhenInterrupted(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	n := memberHere(t, memberConfig{local: hosts[0], hosts: hosts})
	p := start(t, "bench", "-local", hosts[1], "-hosts", strings.Join(hosts, ","), "-op", "sink", "-duration", "10m")
	untilStreams(t, n.Connection(hosts[1]))
	p.signal(t, os.Interrupt)
	if code := p.wait(t); code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, p.stderr.String())
	}
	if out := p.stdout.String(); !strings.Contains(out, "\n"+hosts[0]) || p.stderr.String() != "" {
		t.Errorf("stdout %s, stderr %s", out, p.stderr.String())
	}
}

func TestSourceRefusesWhatItDoesNotUnderstand(t *testing.T) {
	hosts := freeHosts(t, "http", 2)
	memberHere(t, memberConfig{local: hosts[0], hosts: hosts})
	n := memberHere(t, memberConfig{local: hosts[1], hosts: hosts})
	c := n.Connection(hosts[0])
	waitConnected(t, c)
	for _, payload := range []string{"", "many", "1", "-1 1", "1 -1", "1 99999999999", "99999999999999999999 1"} {
		st, err := c.NewStream(t.Context(), handlerSource, []byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		err = st.Results(func([]byte) error { return errors.New("a message") })
		if grid.IsRemoteErr(err) == nil || !strings.HasPrefix(err.Error(), "source: ") {
			t.Errorf("%q: %v", payload, err)
		}
	}
}

// memberHere starts a node in this process.
func memberHere(t *testing.T, c memberConfig) *member {
	t.Helper()
	l, err := net.Listen("tcp", defaultListen(c.local))
	if err != nil {
		t.Fatal(err)
	}
	n, err := startMember(&c, l, nil, slog.New(slog.DiscardHandler), c.registerHandlers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		n.server.Close()
	})
	return n
}

func waitConnected(t *testing.T, c *grid.Connection) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.WaitForConnect(ctx); err != nil {
		t.Fatal(err)
	}
}

// untilStreams waits until the peer has opened a stream.
func untilStreams(t *testing.T, c *grid.Connection) {
	t.Helper()
	until(t, "streams", func() bool { return c.Stats().IncomingStreams > 0 })
}

// hostsWhere returns the names of a node and a bench of which the bench, or the node, dials the
// other.
func hostsWhere(t *testing.T, scheme string, benchDials bool) []string {
	t.Helper()
	for {
		if hosts := freeHosts(t, scheme, 2); dials(t, hosts[1], hosts[0]) == benchDials {
			return hosts
		}
	}
}

// dials reports whether a dials b, and not b a.
func dials(t *testing.T, a, b string) bool {
	t.Helper()
	dialed := make(chan string, 2)
	for _, local := range []string{a, b} {
		m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
			Local:       local,
			Hosts:       []string{a, b},
			AuthRequest: func(*http.Request) error { return nil },
			Logger:      slog.New(slog.DiscardHandler),
			Dialer: func(context.Context, string, string) (net.Conn, error) {
				select {
				case dialed <- local:
				default:
				}
				return nil, errors.New("only asked who dials")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
	}
	select {
	case local := <-dialed:
		return local == a
	case <-time.After(patience):
		t.Fatal("neither dials")
		return false
	}
}
