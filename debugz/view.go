package debugz

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// view is what the templates show.
type view struct {
	*Status
	Name      string // short, of this node
	Query     string
	Refresh   int64 // milliseconds
	RefreshS  int64 // seconds, at least 2, for pages without JavaScript
	Connected int
	Silent    int    // how many of the connected peers are
	Mood      string // of the connections: good, warn or bad
	Uptime    time.Duration
	Lately    string // what the figures of windows are of
	Looking   string // for how long somebody has looked; empty if for long enough
	Traffic   []tile
	Matrix    matrix
	Picture   picture
	PeerRows  []peerRow
	Handling  []handlerRow
	PairRows  []pairRow
	PairsMore int
	OpenMore  int
	query     url.Values
	names     map[string]string
}

// tile is a figure on top of the page.
type tile struct {
	Label, Value, Note, Title string
	Spark                     spark
}

// peerRow is a connection in the table.
type peerRow struct {
	Peer
	Name    string
	Mood    string
	In, Out spark
	Slow    spark // the 99th percentile
	Note    note
	// P50 and P99 are of calls to it, since the start.
	P50, P99 time.Duration
}

// note is a line below a connection; there is none without a text.
type note struct {
	Class, Text string
	Ago         time.Duration // when it was; 0 for now
}

// handlerRow is a handler in the table.
type handlerRow struct {
	Handling
	Rate, Slow spark
	Histogram  histogram // of five minutes
	P50, P99   time.Duration
	Failed     int64
}

// pairRow is a pair of a peer and a handler in the table.
type pairRow struct {
	Pair
	Short string // name of the peer
	Page  string // address of its page
}

func (h *handler) view(r *http.Request) *view {
	o := h.take(r)
	v := &view{
		Status:    o.Status,
		Query:     strings.TrimSpace(r.URL.Query().Get("q")),
		Refresh:   h.options.Refresh.Milliseconds(),
		RefreshS:  max(int64(h.options.Refresh.Seconds()), 2),
		Uptime:    o.Time.Sub(o.Started),
		Looking:   o.recent.looking(),
		PairsMore: o.PairsTotal - len(o.Pairs),
		OpenMore:  o.OpenTotal - len(o.Open),
		query:     r.URL.Query(),
		names:     shortNames(nodesOf(o.Cluster)),
	}
	v.Name = v.Short(o.Node)
	v.Lately = cmp.Or(v.Looking, "of the last minute") + ", and in small of the last 5 minutes / since the start"
	v.judge(o.Cluster[0].Links)
	v.Matrix = newMatrix(o.Cluster, v.Short)
	v.Picture = newPicture(o.Cluster, v.Short)
	pages := make(map[string]string)
	for _, row := range o.Cluster {
		pages[row.Node] = row.Page
	}
	for _, p := range o.Peers {
		v.PeerRows = append(v.PeerRows, peerRow{
			Peer: p,
			Name: v.Short(p.Remote),
			Mood: linkOf(&p.ConnectionStats).mood(),
			In:   newSpark(peerSeries(o.samples, p.Remote, bytesIn), o.Time),
			Out:  newSpark(peerSeries(o.samples, p.Remote, bytesOut), o.Time),
			Slow: newSpark(o.recent.p99s(tallyKey{peer: p.Remote}), o.Time),
			P50:  p.CallLatency.Quantile(0.5),
			P99:  p.CallLatency.Quantile(0.99),
			Note: noteOf(&p, o.Time),
		})
	}
	for i := range o.Handlers {
		g := &o.Handlers[i]
		key := tallyKey{handlerKey: keyOf(&g.HandlerStats)}
		lately := o.recent.latency(key)
		v.Handling = append(v.Handling, handlerRow{
			Handling:  *g,
			Rate:      newSpark(handlerSeries(o.samples, key.handlerKey), o.Time),
			Slow:      newSpark(o.recent.p99s(key), o.Time),
			Histogram: newHistogram(&lately),
			P50:       g.Latency.Quantile(0.5),
			P99:       g.Latency.Quantile(0.99),
			Failed:    g.Errors.Total(),
		})
	}
	for _, p := range o.Pairs {
		v.PairRows = append(v.PairRows, pairRow{p, v.Short(p.Peer), pages[p.Peer]})
	}
	v.Traffic = tiles(v, o)
	return v
}

// judge counts the peers that are there, and says how good that is.
func (v *view) judge(links map[string]Link) {
	for _, l := range links {
		if l.State == grid.StateConnected {
			v.Connected++
		}
		if l.Silent > 0 {
			v.Silent++
		}
	}
	switch answering := v.Connected - v.Silent; {
	case answering == len(links):
		v.Mood = moodGood
	case 2*(answering+1) > len(links)+1:
		v.Mood = moodWarn
	default:
		v.Mood = moodBad
	}
}

// noteOf says what is wrong with a connection. What was wrong with one that is good now fades, and
// is gone after five minutes.
func noteOf(p *Peer, now time.Time) note {
	ago := max(now.Sub(p.LastErrorTime), time.Second)
	switch silent := p.Silent(); {
	case silent > 0:
		text := "does not answer a ping of " + age(silent) + " ago"
		if n := p.OutgoingRequests; n > 0 {
			text += fmt.Sprintf("; %d requests wait for it, the oldest for %s", n, age(p.OldestRequest))
		}
		return note{Class: moodBad, Text: text}
	case p.LastError == "" || p.State == grid.StateConnected && ago > longWindow:
		return note{}
	case p.State == grid.StateConnected:
		return note{"old", p.LastError, ago}
	}
	return note{moodBad, p.LastError, ago}
}

// IsOld reports whether an error says nothing of the present: it is one of a connection that is good
// now, or was five minutes ago.
func (v *view) IsOld(e grid.RecentError) bool {
	ago := v.Time.Sub(e.Time)
	return ago > longWindow || ago > 10*time.Second && e.Handler == "" && v.Cluster[0].Links[e.Peer].mood() == moodGood
}

// tiles sums up what the node does.
func tiles(v *view, o *observation) []tile {
	bytes := func(label string, direction, messages func(*flows) int64) tile {
		points := series(o.samples, func(s *sample) (n int64, ok bool) {
			for _, p := range s.peers {
				n += direction(&p)
			}
			return n, true
		})
		sum := func(of func(*flows) int64, from *mark) rate { return o.recent.sumOfPeers(from, of) }
		return tile{
			Label: label,
			Value: sum(direction, o.recent.minute).text(bytesRate),
			Note:  "5 min " + sum(direction, o.recent.longer).text(bytesRate),
			Title: "In the last minute " + sum(messages, o.recent.minute).text(perSecond) + " messages",
			Spark: newSpark(points, v.Time),
		}
	}
	calls := func(label string, role grid.Role) tile {
		points := series(o.samples, func(s *sample) (n int64, ok bool) {
			for key, calls := range s.handlers {
				if key.role == role {
					n += calls
				}
			}
			return n, true
		})
		return tile{
			Label: label,
			Value: o.recent.sumOfHandlers(o.recent.minute, role).text(perSecond),
			Note:  "5 min " + o.recent.sumOfHandlers(o.recent.longer, role).text(perSecond),
			Title: "In the last minute; the curve is of its seconds",
			Spark: newSpark(points, v.Time),
		}
	}
	return []tile{
		calls("Calls served", grid.RoleServer),
		calls("Calls made", grid.RoleClient),
		bytes("Received", bytesIn, messagesIn),
		bytes("Sent", bytesOut, messagesOut),
	}
}

// kept returns the parameters that links keep, without those for sorting.
func (v *view) kept() url.Values {
	q := make(url.Values)
	if v.Query != "" {
		q.Set("q", v.Query)
	}
	if v.Tracing {
		q.Set("traces", "1")
	}
	return q
}

// Sorts returns the values of the parameter sort.
func (v *view) Sorts() []string { return v.query["sort"][:min(len(v.query["sort"]), maxSorts)] }

// TraceLink is the address of the page with traces turned on or off, and the same filter and order.
// Turning them on takes a POST.
func (v *view) TraceLink(on bool) string {
	q := v.kept()
	q.Del("traces")
	if on {
		q.Set("traces", "1")
	}
	if sorts := v.Sorts(); len(sorts) > 0 {
		q["sort"] = sorts
	}
	if len(q) == 0 {
		return "./"
	}
	return "./?" + q.Encode()
}

// The moods of a connection, as classes of the style sheet.
const (
	moodGood = "good"
	moodWarn = "warn"
	moodBad  = "bad"
	moodNone = "none"
)

// StateText is the state of the connection in words.
func (p peerRow) StateText() string { return linkOf(&p.ConnectionStats).text() }

// StateAge is how long it has been in that state.
func (p peerRow) StateAge(now time.Time) time.Duration {
	if silent := p.Silent(); silent > 0 {
		return silent
	}
	return now.Sub(p.Since)
}

// Why is the reason that there is no connection; empty while there is one.
func (p peerRow) Why() string {
	if p.State == grid.StateConnected {
		return ""
	}
	return p.LastError
}
