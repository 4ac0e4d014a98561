package debugz

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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
	Mood      string // of the connections: good, warn or bad
	Uptime    time.Duration
	Traffic   []tile
	Matrix    matrix
	Picture   picture
	PeerRows  []peerRow
	Handling  []handlerRow
	OpenMore  int
	names     map[string]string
}

// tile is a figure on top of the page.
type tile struct {
	Label, Value, Note string
	Spark              spark
}

// peerRow is a connection in the table.
type peerRow struct {
	Peer
	Name     string
	Mood     string
	In, Out  spark
	P50, P99 time.Duration // of calls to it
}

// handlerRow is a handler in the table.
type handlerRow struct {
	Handling
	Rate      spark
	Histogram histogram
	P50, P99  time.Duration
	Failed    int64
}

func (h *handler) view(r *http.Request) *view {
	status, samples := h.take(r)
	v := &view{
		Status:   status,
		Query:    strings.TrimSpace(r.URL.Query().Get("q")),
		Refresh:  h.options.Refresh.Milliseconds(),
		RefreshS: max(int64(h.options.Refresh.Seconds()), 2),
		Uptime:   status.Time.Sub(status.Started),
		OpenMore: status.OpenTotal - len(status.Open),
		names:    shortNames(nodesOf(status.Cluster)),
	}
	v.Name = v.Short(status.Node)
	own := status.Cluster[0].Links
	for _, l := range own {
		if l.State == grid.StateConnected {
			v.Connected++
		}
	}
	switch {
	case v.Connected == len(own):
		v.Mood = moodGood
	case 2*(v.Connected+1) > len(own)+1:
		v.Mood = moodWarn
	default:
		v.Mood = moodBad
	}
	v.Matrix = newMatrix(status.Cluster, v.Short)
	v.Picture = newPicture(status.Cluster, v.Short)
	for _, p := range status.Peers {
		v.PeerRows = append(v.PeerRows, peerRow{
			Peer: p,
			Name: v.Short(p.Remote),
			Mood: moodOf(p.State),
			In:   newSpark(peerSeries(samples, p.Remote, bytesIn), status.Time),
			Out:  newSpark(peerSeries(samples, p.Remote, bytesOut), status.Time),
			P50:  p.CallLatency.Quantile(0.5),
			P99:  p.CallLatency.Quantile(0.99),
		})
	}
	for i := range status.Handlers {
		g := &status.Handlers[i]
		v.Handling = append(v.Handling, handlerRow{
			Handling:  *g,
			Rate:      newSpark(handlerSeries(samples, keyOf(&g.HandlerStats)), status.Time),
			Histogram: newHistogram(&g.Latency),
			P50:       g.Latency.Quantile(0.5),
			P99:       g.Latency.Quantile(0.99),
			Failed:    g.Errors.Total(),
		})
	}
	v.Traffic = tiles(v, samples)
	return v
}

// tiles sums up what the node does.
func tiles(v *view, samples []sample) []tile {
	sum := func(f func(*flows) int64) []point {
		return series(samples, func(s *sample) (n int64, ok bool) {
			for _, p := range s.peers {
				n += f(&p)
			}
			return n, true
		})
	}
	calls := func(role grid.Role) []point {
		return series(samples, func(s *sample) (n int64, ok bool) {
			for key, calls := range s.handlers {
				if key.role == role {
					n += calls
				}
			}
			return n, true
		})
	}
	in, out, served, made := sum(bytesIn), sum(bytesOut), calls(grid.RoleServer), calls(grid.RoleClient)
	now := v.Time
	return []tile{
		{"Calls served", perSecond(lastRate(served)), "", newSpark(served, now)},
		{"Calls made", perSecond(lastRate(made)), "", newSpark(made, now)},
		{"Received", bytesRate(lastRate(in)), count(int64(lastRate(sum(messagesIn)))) + " msg/s", newSpark(in, now)},
		{"Sent", bytesRate(lastRate(out)), count(int64(lastRate(sum(messagesOut)))) + " msg/s", newSpark(out, now)},
	}
}

// TraceLink is the address of the page with traces turned on or off, and the same filter. Turning
// them on takes a POST.
func (v *view) TraceLink(on bool) string {
	q := make(url.Values)
	if v.Query != "" {
		q.Set("q", v.Query)
	}
	if on {
		q.Set("traces", "1")
	}
	if len(q) == 0 {
		return "./"
	}
	return "./?" + q.Encode()
}

// Short is the short name of a node.
func (v *view) Short(name string) string { return cmp.Or(v.names[name], trimScheme(name)) }

func nodesOf(rows []Row) (nodes []string) {
	for _, r := range rows {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

func trimScheme(name string) string {
	_, rest, ok := strings.Cut(name, "://")
	if !ok {
		return name
	}
	return rest
}

// shortNames strips from the names of nodes what they have in common.
func shortNames(nodes []string) map[string]string {
	var hosts, ports []string
	for _, n := range nodes {
		u, err := url.Parse(n)
		if err != nil {
			return nil
		}
		hosts, ports = append(hosts, u.Hostname()), append(ports, u.Port())
	}
	same := func(all []string) bool { return len(slices.Compact(slices.Clone(all))) == 1 }
	short := make(map[string]string, len(nodes))
	for i, n := range nodes {
		switch {
		case len(nodes) == 1:
			short[n] = trimScheme(n)
		case same(hosts):
			short[n] = ":" + ports[i]
		case same(ports):
			short[n] = strings.TrimSuffix(hosts[i], commonDomain(hosts))
		default:
			short[n] = trimScheme(n)
		}
	}
	return short
}

// commonDomain returns what follows the first label of all host names, with its dot; empty if that
// differs.
func commonDomain(hosts []string) string {
	domain := ""
	for i, h := range hosts {
		first, rest, ok := strings.Cut(h, ".")
		if _, err := strconv.Atoi(first); !ok || err == nil || i > 0 && rest != domain {
			return ""
		}
		domain = rest
	}
	return "." + domain
}

// The moods of a connection, as classes of the style sheet.
const (
	moodGood = "good"
	moodWarn = "warn"
	moodBad  = "bad"
	moodNone = "none"
)

func moodOf(s grid.State) string {
	switch s {
	case grid.StateConnected:
		return moodGood
	case grid.StateConnectionError:
		return moodBad
	case grid.StateShutdown:
		return moodNone
	}
	return moodWarn
}

// StateText is the state of the connection in words.
func (p peerRow) StateText() string { return linkOf(&p.ConnectionStats).text() }

// Why is the reason that there is no connection; empty while there is one.
func (p peerRow) Why() string {
	if p.State == grid.StateConnected {
		return ""
	}
	return p.LastError
}

// funcs are what the templates may call.
var funcs = map[string]any{
	"bytes":     func(n int64) string { return bytesText(float64(n)) },
	"bytesInt":  func(n int) string { return bytesText(float64(n)) },
	"bytesRate": bytesRate,
	"perSecond": perSecond,
	"count":     count,
	"duration":  duration,
	"age":       age,
	"ago":       func(now, t time.Time) string { return age(now.Sub(t)) },
	"clock":     func(t time.Time) string { return t.Format("15:04:05") },
	"stamp":     func(t time.Time) string { return t.Format(time.RFC3339Nano) },
	"percent":   percent,
	"perFrame":  perFrame,
	"kind":      kindOf,
	"trim":      func(handler string) string { return strings.TrimPrefix(handler, "grid.") },
}

// bytesText is a number of bytes in a unit that fits.
func bytesText(n float64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%.0f B", n)
	}
	i := -1
	for n >= 999.5 && i < len(units)-1 {
		n /= 1000
		i++
	}
	return fmt.Sprintf("%s %cB", digits(n), units[i])
}

func bytesRate(n float64) string { return bytesText(n) + "/s" }

func perSecond(n float64) string {
	switch {
	case n >= 1e6:
		return digits(n/1e6) + "M/s"
	case n >= 1e4:
		return digits(n/1e3) + "k/s"
	case n > 0 && n < 10:
		return fmt.Sprintf("%.1f/s", n)
	}
	return fmt.Sprintf("%.0f/s", n)
}

// digits is a number below 1000 with three digits or so.
func digits(n float64) string {
	switch {
	case n < 10:
		return fmt.Sprintf("%.2f", n)
	case n < 100:
		return fmt.Sprintf("%.1f", n)
	}
	return fmt.Sprintf("%.0f", n)
}

// count is a whole number, short where it is large.
func count(v any) string {
	var n float64
	switch v := v.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	}
	switch {
	case n >= 1e9:
		return digits(n/1e9) + "G"
	case n >= 1e6:
		return digits(n/1e6) + "M"
	case n >= 1e5:
		return digits(n/1e3) + "k"
	}
	return fmt.Sprintf("%.0f", n)
}

// duration is a short time in a unit that fits; a dash for none.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return digits(float64(d)/1e3) + " µs"
	case d < time.Second:
		return digits(float64(d)/1e6) + " ms"
	}
	return digits(d.Seconds()) + " s"
}

// age is a time that goes by, in its two largest units.
func age(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm %ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh %dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd %dh", s/86400, s/3600%24)
}

// percent is part of whole; empty for nothing.
func percent(part, whole int64) string {
	if whole == 0 || part == 0 {
		return ""
	}
	p := 100 * float64(part) / float64(whole)
	if p < 0.1 {
		return "<0.1%"
	}
	return fmt.Sprintf("%.1f%%", p)
}

// perFrame is how many messages share a frame.
func perFrame(f grid.FlowStats) string {
	if f.Frames == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", float64(f.Messages)/float64(f.Frames))
}
