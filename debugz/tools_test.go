package debugz

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
)

func registerTools(t *testing.T, m *grid.Manager, allow func(string) bool) {
	t.Helper()
	if err := RegisterTools(m, allow); err != nil {
		t.Fatal(err)
	}
}

func TestHandlersOfANode(t *testing.T) {
	nodes := startGrid(t, 2)
	registerTools(t, nodes[1], nil)
	if err := nodes[1].HandleStream("kv.Watch", func(context.Context, *grid.RawStream) error { return nil }); err != nil {
		t.Fatal(err)
	}
	all, err := Handlers(t.Context(), nodes[0].Connection(nodes[1].HostName()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []HandlerInfo{
		{ID: echo, Name: echo.String(), Subroute: "disks/sda"},
		{ID: waiting, Name: waiting.String()},
		{ID: grid.HandlerNamed, Name: "kv.Watch", Stream: true},
		{ID: grid.HandlerNamed, Name: "debugz.Traces"},
	} {
		if !slices.Contains(all, want) {
			t.Errorf("no %+v in %+v", want, all)
		}
	}
}

func TestToolsAreForThoseWhoMay(t *testing.T) {
	nodes := startGrid(t, 2)
	asked := make(chan string, 2)
	registerTools(t, nodes[1], func(caller string) bool { asked <- caller; return false })
	conn := nodes[0].Connection(nodes[1].HostName())
	if _, err := Handlers(t.Context(), conn); !errors.Is(err, grid.PermissionDenied) {
		t.Errorf("handlers: %v", err)
	}
	for _, err := range Tap(t.Context(), conn, TapOptions{}) {
		if !errors.Is(err, grid.PermissionDenied) {
			t.Errorf("traces: %v", err)
		}
	}
	if got := <-asked; got != nodes[0].HostName() {
		t.Errorf("%s was asked about", got)
	}
	if err := RegisterTools(nil, nil); err == nil {
		t.Error("registered at no manager")
	}
}

// Unless it says otherwise, a node tells hosts, and no guests.
func TestToolsAreNotForGuests(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	defer server.Close()
	name := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
		Local:       name,
		AuthRequest: func(*http.Request) error { return nil },
		AcceptGuest: func(*http.Request, string) error { return nil },
		Logger:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	registerTools(t, m, nil)
	server.Config.Handler = m.Handler()
	server.Start()
	guest, err := grid.Join(t.Context(), name, grid.ManagerOptions{Local: "guest", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	conn := guest.Connection(name)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Handlers(t.Context(), conn); !errors.Is(err, grid.PermissionDenied) {
		t.Error(err)
	}
}

// Every call of a node is compared with what a tap is for.
func TestTapsAreBounded(t *testing.T) {
	nodes := startGrid(t, 2)
	registerTools(t, nodes[1], nil)
	conn := nodes[0].Connection(nodes[1].HostName())
	long := strings.Repeat("a", maxTapText)
	for _, o := range []TapOptions{{Handler: "*" + long}, {Peer: long + "a"}, {Handler: "[a"}} {
		for _, err := range Tap(t.Context(), conn, o) {
			if !errors.Is(err, grid.InvalidArgument) {
				t.Errorf("got %v", err)
			}
			break
		}
	}
}

// taking returns the first n traces that a tap has, once it is there.
func taking(t *testing.T, from, at *grid.Manager, o TapOptions, n int) <-chan []grid.TraceInfo {
	t.Helper()
	before := at.Traces().NumSubscribers(grid.TraceServed)
	got := make(chan []grid.TraceInfo, 1)
	go func() {
		var all []grid.TraceInfo
		for batch, err := range Tap(t.Context(), from.Connection(at.HostName()), o) {
			if err != nil {
				t.Error(err)
				break
			}
			if all = append(all, batch.Traces...); len(all) >= n {
				break
			}
		}
		got <- all
	}()
	eventually(t, "the tap", func() bool { return at.Traces().NumSubscribers(grid.TraceServed) > before })
	return got
}

func TestTapSeesBothSides(t *testing.T) {
	nodes := startGrid(t, 2)
	registerTools(t, nodes[1], nil)
	got := taking(t, nodes[0], nodes[1], TapOptions{}, 2)
	call(t, nodes[0], nodes[1], "hello")
	call(t, nodes[1], nodes[0], "fail:oops")
	all := <-got
	// The trace of what was served may come after that of the next call: the answer does not wait for it.
	slices.SortFunc(all, func(a, b grid.TraceInfo) int { return cmp.Compare(b.Type, a.Type) })
	if len(all) != 2 || all[0].Type != grid.TraceServed || all[0].BytesIn != 5 || all[0].Error != "" || all[0].Remote != nodes[0].HostName() ||
		all[1].Type != grid.TraceInternode || !strings.Contains(all[1].Error, "oops") || all[1].Handler != "grid."+echo.String() {
		t.Errorf("%+v", all)
	}
	eventually(t, "the end of the tap", func() bool { return !nodes[1].Traces().Wants(grid.TraceServed) })
}

func TestTapOptions(t *testing.T) {
	info := grid.TraceInfo{Handler: "grid.disks/sda/kv.Get", Remote: "http://b.example:9000", Duration: time.Second, Error: "no"}
	own, well := info, info
	own.Handler, well.Error = "grid.debugz.Cluster", ""
	for _, c := range []struct {
		o    TapOptions
		info grid.TraceInfo
		want bool
	}{
		{TapOptions{}, info, true},
		{TapOptions{}, own, false},
		{TapOptions{Handler: "debugz.*"}, own, true},
		{TapOptions{Handler: "*"}, own, true},
		{TapOptions{Handler: "disks/*"}, info, true},
		{TapOptions{Handler: "*Get"}, info, true},
		{TapOptions{Handler: "kv.Get"}, info, false},
		{TapOptions{Peer: "b.example"}, info, true},
		{TapOptions{Peer: "c.example"}, info, false},
		{TapOptions{Errors: true}, info, true},
		{TapOptions{Errors: true}, well, false},
		{TapOptions{Slower: time.Second}, info, true},
		{TapOptions{Slower: time.Second + 1}, info, false},
	} {
		if got := c.o.wants(&c.info); got != c.want {
			t.Errorf("%+v wants %+v: %t", c.o, c.info, got)
		}
	}
}

func TestTapCountsWhatItDrops(t *testing.T) {
	nodes := startGrid(t, 1)
	ts := &taps{m: nodes[0], open: make(map[tapKey]*tap)}
	look := func() *Tapped {
		t.Helper()
		got, err := ts.look(t.Context(), "a", &tapRequest{ID: "1"})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	one, err := ts.get(tapKey{"a", "1"}, &TapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range tapBuffer + 3 {
		nodes[0].Traces().Publish(grid.TraceInfo{Type: grid.TraceServed, Handler: "grid.x", Error: "a\nb"})
	}
	got := look()
	if got.Dropped != 3 || len(got.Traces) != tapBatch || strings.Contains(got.Traces[0].Error, "\n") {
		t.Errorf("%d, %d dropped", len(got.Traces), got.Dropped)
	}
	for len(one.ch) > 0 {
		look()
	}
	ts.end(tapKey{"a", "1"})
}

func TestTapsAreFew(t *testing.T) {
	nodes := startGrid(t, 1)
	ts := &taps{m: nodes[0], open: make(map[tapKey]*tap)}
	for i := range maxTaps + 1 {
		_, err := ts.get(tapKey{"a", string(rune('a' + i))}, &TapOptions{})
		if errors.Is(err, grid.ResourceExhausted) != (i == maxTaps) {
			t.Errorf("tap %d: %v", i, err)
		}
	}
	for i := range maxTaps {
		if _, err := ts.look(t.Context(), "a", &tapRequest{ID: string(rune('a' + i)), End: true}); err != nil {
			t.Error(err)
		}
	}
	if nodes[0].Traces().Wants(grid.TraceServed) && len(ts.open) > 0 {
		t.Error("taps are left")
	}
	if _, err := ts.get(tapKey{"a", "a"}, &TapOptions{Handler: "["}); !errors.Is(err, grid.InvalidArgument) {
		t.Errorf("a wrong pattern: %v", err)
	}
}

// Who has died looks no more.
func TestTapEndsWithoutALook(t *testing.T) {
	nodes := startGrid(t, 1)
	traces := nodes[0].Traces()
	ts := &taps{m: nodes[0], open: make(map[tapKey]*tap)}
	synctest.Test(t, func(t *testing.T) {
		if _, err := ts.get(tapKey{"a", "1"}, &TapOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tapIdle - 1)
		synctest.Wait()
		if !traces.Wants(grid.TraceServed) {
			t.Error("it ended too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if traces.Wants(grid.TraceServed) {
			t.Error("it goes on")
		}
	})
}

// A node that shuts down waits no longer than for a look.
func TestTapDoesNotHoldUpAShutdown(t *testing.T) {
	nodes := startGrid(t, 2)
	registerTools(t, nodes[1], nil)
	ended := make(chan error, 1)
	go func() {
		for _, err := range Tap(t.Context(), nodes[0].Connection(nodes[1].HostName()), TapOptions{}) {
			if err != nil {
				ended <- err
			}
		}
	}()
	eventually(t, "the tap", func() bool { return nodes[1].Traces().Wants(grid.TraceServed) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := nodes[1].Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-ended; grid.CodeOf(err) != grid.Unavailable {
		t.Error(err)
	}
}
