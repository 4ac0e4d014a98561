package debugz

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gridmesh/grid"
)

// counted is a clock and what is counted of one handler with one peer.
type counted struct {
	marks   marks
	started time.Time
	now     time.Time
	sum     tally
}

var someHandler = tallyKey{peer: "b", handlerKey: handlerKey{role: grid.RoleClient, id: echo}}

// calls counts calls that took d.
func (c *counted) calls(n int64, d time.Duration) {
	c.sum.calls += n
	for i := range c.sum.latency.Buckets {
		if d <= grid.LatencyBound(i) {
			c.sum.latency.Buckets[i] += n
			break
		}
	}
	c.sum.latency.Sum += time.Duration(n) * d
}

// look is a look at what was counted.
func (c *counted) look() *recent {
	sum := c.sum
	m := mark{c.now, tallies{someHandler: &sum}}
	return newRecent(m, c.marks.add(m, c.started))
}

// pass lets some time pass in which there are calls, and somebody looks each second.
func (c *counted) pass(seconds int, perSecond int64, d time.Duration) {
	for range seconds {
		c.now = c.now.Add(time.Second)
		c.calls(perSecond, d)
		c.look()
	}
}

// A few seconds of slow calls show, however many quick ones there were before.
func TestWindowsShowThePresent(t *testing.T) {
	c := &counted{started: time.Unix(1000, 0)}
	c.now = c.started
	c.pass(30, 200_000/30, 60*time.Microsecond)
	c.pass(70, 10, 60*time.Microsecond)
	c.pass(5, 20, 50*time.Millisecond)
	since := c.sum.latency
	if got := since.Quantile(0.99); got > time.Millisecond {
		t.Fatalf("since the start p99 is %v", got)
	}
	w := c.look().windows(someHandler)
	for name, got := range map[string]Window{"ten seconds": w.TenSeconds, "a minute": w.Minute} {
		if got.P99 < 30*time.Millisecond {
			t.Errorf("p99 of %s is %v after five seconds of 50 ms", name, got.P99)
		}
	}
	if w.FiveMinutes.Calls != c.sum.calls || w.FiveMinutes.P99 > time.Millisecond {
		t.Errorf("five minutes, which reach back to the start: %+v", w.FiveMinutes)
	}
	points := c.look().p99s(someHandler)
	if last := points[len(points)-1]; len(points) < 10 || last.rate < 30e6 || points[0].rate > 1e6 {
		t.Errorf("the curve is %v", points)
	}
	c.pass(70, 20, 60*time.Microsecond)
	w = c.look().windows(someHandler)
	if w.Minute.P50 > time.Millisecond || w.Minute.P99 > time.Millisecond || w.FiveMinutes.P99 > time.Millisecond {
		t.Errorf("a minute later: %+v", w)
	}
}

// Windows are as long as they say, and what is remembered for them is bounded.
func TestLengthOfWindows(t *testing.T) {
	for _, test := range []struct {
		each                  time.Duration // between looks
		short, minute, longer [2]time.Duration
	}{
		{time.Second, [2]time.Duration{10 * time.Second, 15 * time.Second}, [2]time.Duration{minute, minute + markStep}, [2]time.Duration{longWindow, longWindow + oldMarkStep}},
		{7 * time.Second, [2]time.Duration{7 * time.Second, 17 * time.Second}, [2]time.Duration{minute, minute + 15*time.Second}, [2]time.Duration{longWindow, longWindow + oldMarkStep + 7*time.Second}},
		{time.Minute, [2]time.Duration{0, 0}, [2]time.Duration{minute, minute}, [2]time.Duration{longWindow, longWindow}},
		{10 * time.Minute, [2]time.Duration{0, 0}, [2]time.Duration{0, 0}, [2]time.Duration{0, 0}},
	} {
		c := &counted{started: time.Unix(1000, 0), now: time.Unix(1_000_000, 0)}
		first := c.look().windows(someHandler)
		if first != (Windows{}) {
			t.Errorf("the first look knows %+v", first)
		}
		for range 2000 {
			c.now = c.now.Add(test.each)
			c.calls(10, time.Millisecond)
			c.look()
			if n := len(c.marks.all); n > 26 {
				t.Fatalf("with a look each %v there are %d marks", test.each, n)
			}
		}
		w := c.look().windows(someHandler)
		for name, got := range map[string]struct {
			Window
			want [2]time.Duration
		}{"ten seconds": {w.TenSeconds, test.short}, "a minute": {w.Minute, test.minute}, "five minutes": {w.FiveMinutes, test.longer}} {
			calls := 10 * int64(got.Over/test.each)
			if got.Over < got.want[0] || got.Over > got.want[1] || got.Calls != calls {
				t.Errorf("with a look each %v, %s are %v with %d calls; want %v, with %d", test.each, name, got.Over, got.Calls, got.want, calls)
			}
		}
	}
}

// The start of a node is as good as a look.
func TestFirstLookAtAYoungNode(t *testing.T) {
	c := &counted{started: time.Unix(1000, 0), now: time.Unix(1040, 0)}
	c.calls(80, time.Millisecond)
	w := c.look().windows(someHandler)
	if w.Minute.Over != 40*time.Second || w.Minute.Calls != 80 || w.Minute.CallRate() != 2 || w.FiveMinutes != w.Minute || w.TenSeconds.Over != 0 {
		t.Errorf("%+v", w)
	}
}

// A peer that is removed and added again begins anew.
func TestTallyThatBeginsAnew(t *testing.T) {
	c := &counted{started: time.Unix(1000, 0), now: time.Unix(1_000_000, 0)}
	c.pass(30, 10, time.Second)
	c.sum = tally{}
	c.pass(2, 5, time.Second)
	if w := c.look().windows(someHandler); w.Minute.Calls != 10 || w.Minute.P99 > 2*time.Second {
		t.Errorf("%+v", w.Minute)
	}
}

// What is not known is not 0.
func TestFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := grid.NewManager(t.Context(), grid.ManagerOptions{
			Local:       "http://a:1",
			Hosts:       []string{"http://a:1", "http://b:1"},
			AuthRequest: func(*http.Request) error { return nil },
			Logger:      slog.New(slog.DiscardHandler),
			Dialer:      func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		h := Handler(m, Options{})
		m.Connection("http://b:1").Request(t.Context(), echo, nil)
		time.Sleep(time.Hour)
		body := get(t, h, "/").Body.String()
		for _, want := range []string{"<b>–</b>", "5 min –", "of which nothing is known yet", `<td class="n" data-label="In, 1 / 5 min" title="0 B in all, – messages per frame">–<small class="past">–</small></td>`} {
			if !strings.Contains(body, want) {
				t.Errorf("the first look has no %q", want)
			}
		}
		if s := getStatus(t, h, ""); s.Peers[0].Minute.Over != 0 || s.Peers[0].Calls != 1 {
			t.Errorf("%+v", s.Peers[0])
		}
		time.Sleep(6 * time.Second)
		m.Connection("http://b:1").Request(t.Context(), echo, nil)
		body = get(t, h, "/").Body.String()
		for _, want := range []string{"<b>0.2/s</b>", "<b>0 B/s</b>", "of which 6s are known"} {
			if !strings.Contains(body, want) {
				t.Errorf("the second look has no %q", want)
			}
		}
		s := getStatus(t, h, "")
		if p := s.Peers[0]; p.Minute.Over != 6*time.Second || p.Minute.Calls != 1 || p.Minute.Errors != 1 || p.Calls != 2 || p.CallErrors != 2 {
			t.Errorf("%+v", p)
		}
		if len(s.Pairs) != 1 || s.Pairs[0].Peer != "http://b:1" || s.Pairs[0].Minute.Errors != 1 || s.Pairs[0].Errors != 2 {
			t.Errorf("%+v", s.Pairs)
		}
		time.Sleep(time.Minute)
		if p := getStatus(t, h, "").Pairs[0]; p.Minute.Errors != 0 || p.Minute.Over == 0 || p.FiveMinutes.Errors != 1 || p.Errors != 2 {
			t.Errorf("a minute later: %+v", p)
		}
	})
}

// How long a stream was open is no latency.
func TestStreamsHaveNoLatency(t *testing.T) {
	nodes := startGrid(t, 2)
	const feed = status + 1
	for _, m := range nodes {
		err := m.RegisterStreamingHandler(feed, grid.StreamHandler{
			Handle: func(context.Context, []byte, <-chan []byte, chan<- []byte) *grid.RemoteErr { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	conn := nodes[0].Connection(nodes[1].HostName())
	eventually(t, "the handler to be known", func() bool { return conn.Handles(feed) })
	st, err := conn.NewStream(t.Context(), feed, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range st.All() {
	}
	h := Handler(nodes[0], Options{})
	eventually(t, "the end of the stream", func() bool { return getStatus(t, h, "").Peers[0].Calls == 1 })
	s := getStatus(t, h, "")
	if p := s.Peers[0]; p.CallLatency.Count() != 0 || p.Minute.Calls != 1 || p.Minute.P99 != 0 {
		t.Errorf("the peer has %+v", p)
	}
	if p := s.Pairs[0]; !p.Stream || p.Calls != 1 || p.P99 != 0 || p.Minute.P99 != 0 {
		t.Errorf("the pair is %+v", p)
	}
	for _, g := range s.Handlers {
		if g.ID == feed && g.Role == grid.RoleClient && (!g.IsStream() || g.Minute.P99 != 0) {
			t.Errorf("the handler is %+v", g)
		}
	}
	if body := get(t, h, "/").Body.String(); !strings.Contains(body, "open for") || strings.Contains(body, `class="histogram"`) {
		t.Error("the time of the stream is shown as a latency")
	}
}
