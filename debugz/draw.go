package debugz

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

// spark is a small curve of the last minute, as points of an SVG polyline.
type spark struct {
	Line string // empty for nothing to show
	Area string // the same, closed along the bottom
}

// Size of a spark, in its own units.
const (
	sparkWidth  = 96
	sparkHeight = 20
)

func newSpark(points []point, now time.Time) spark {
	top := 0.0
	for _, p := range points {
		top = max(top, p.rate)
	}
	if len(points) < 2 {
		return spark{}
	}
	var line strings.Builder
	x := func(t time.Time) float64 { return sparkWidth * (1 - now.Sub(t).Seconds()/historyLength.Seconds()) }
	for _, p := range points {
		y := float64(sparkHeight - 1)
		if top > 0 {
			y -= p.rate / top * (sparkHeight - 2)
		}
		fmt.Fprintf(&line, "%.1f,%.1f ", max(x(p.time), 0), y)
	}
	first, last := max(x(points[0].time), 0), x(points[len(points)-1].time)
	return spark{
		Line: strings.TrimSpace(line.String()),
		Area: fmt.Sprintf("%.1f,%d %s%.1f,%d", first, sparkHeight, line.String(), last, sparkHeight),
	}
}

// histogram is a row of bars, one for each bucket between the first and the last that are not
// empty.
type histogram struct {
	Bars  []bar
	Width int
	Label string
}

// bar is a bucket. Its size is in the histogram's units.
type bar struct {
	X, Y, H float64
	Title   string
}

const (
	barStep       = 6
	histogramSize = 20
	leastBars     = 10
)

func newHistogram(l *grid.Latency) (h histogram) {
	first, last, top, all := -1, 0, int64(0), l.Count()
	for i, n := range l.Buckets {
		if n > 0 {
			if first < 0 {
				first = i
			}
			last, top = i, max(top, n)
		}
	}
	if first < 0 {
		return histogram{}
	}
	for i := first; i <= last; i++ {
		n := l.Buckets[i]
		size := 0.0
		if n > 0 {
			size = max(histogramSize*math.Sqrt(float64(n)/float64(top)), 1.5) // the root, so that a thin tail shows
		}
		h.Bars = append(h.Bars, bar{
			X: float64((i - first) * barStep), Y: histogramSize - size, H: size,
			Title: fmt.Sprintf("%s: %s calls, %.1f%%", bucketText(i), count(n), 100*float64(n)/float64(all)),
		})
	}
	h.Width = max(len(h.Bars), leastBars) * barStep
	h.Label = fmt.Sprintf("%s to %s", lowerText(first), upperText(last))
	return h
}

func lowerText(bucket int) string {
	if bucket == 0 {
		return "0"
	}
	return duration(grid.LatencyBound(bucket - 1))
}

func upperText(bucket int) string {
	if bucket == grid.LatencyBuckets-1 {
		return "more"
	}
	return duration(grid.LatencyBound(bucket))
}

func bucketText(bucket int) string { return lowerText(bucket) + " to " + upperText(bucket) }

// matrix is who is connected to whom, as each row's node sees it.
type matrix struct {
	Columns []string
	Rows    []matrixRow
}

type matrixRow struct {
	Name, Full, Page string
	Cells            []cell
}

// cell is one link, or the corner where a node meets itself.
type cell struct {
	Mood, Text, Title string
}

func newMatrix(rows []Row, short func(string) string) (m matrix) {
	for _, r := range rows {
		m.Columns = append(m.Columns, short(r.Node))
	}
	for _, r := range rows {
		row := matrixRow{Name: short(r.Node), Full: r.Node, Page: r.Page}
		for _, other := range rows {
			row.Cells = append(row.Cells, newCell(&r, other.Node, short))
		}
		m.Rows = append(m.Rows, row)
	}
	return m
}

func newCell(r *Row, other string, short func(string) string) cell {
	l, ok := r.Links[other]
	title := short(r.Node) + " → " + short(other) + ": "
	switch {
	case r.Node == other:
		return cell{"self", "", short(r.Node)}
	case !ok:
		return cell{moodNone, "?", title + "not known here"}
	case l.Silent > 0:
		return cell{moodBad, "silent", title + "does not answer a ping of " + age(l.Silent) + " ago"}
	case l.State == grid.StateConnected && l.RoundTrip > 0:
		return cell{moodGood, duration(l.RoundTrip), title + "connected, round trip " + duration(l.RoundTrip)}
	case l.State == grid.StateConnected:
		return cell{moodGood, "up", title + "connected"}
	}
	return cell{l.mood(), l.text(), title + l.text()}
}

// picture is the cluster as a drawing: nodes in a circle, with lines for their connections.
type picture struct {
	Nodes []node
	Edges []edge
}

type node struct {
	X, Y          float64
	Page          string // address of its page; empty for none
	LabelX        float64
	LabelY        float64
	Anchor        string
	Name, Title   string
	Local, Silent bool
}

type edge struct {
	X1, Y1, X2, Y2 float64
	Mood, Title    string
}

// The picture's geometry, in its own units.
const (
	pictureWidth  = 440
	pictureHeight = 250
	circleX       = 130
	circleY       = 95
)

func newPicture(rows []Row, short func(string) string) (p picture) {
	star := true // nothing is known but this node's own row
	for _, r := range rows[1:] {
		star = star && !r.Known
	}
	n := len(rows)
	if star {
		n-- // this node is in the middle
	}
	for i, r := range rows {
		slot := i
		if star {
			slot--
		}
		angle := 2*math.Pi*float64(slot)/float64(max(n, 1)) - math.Pi/2
		dx, dy := math.Cos(angle), math.Sin(angle)
		if star && i == 0 {
			dx, dy = 0, 0
		}
		nd := node{
			X: pictureWidth/2 + circleX*dx, Y: pictureHeight/2 + circleY*dy,
			Anchor: "middle", Name: clip(short(r.Node), 22), Title: r.Node, Page: r.Page, Local: i == 0, Silent: !r.Known && !star,
		}
		nd.LabelX, nd.LabelY = nd.X, nd.Y+4+20*cmp.Or(sign(dy), 1)
		if math.Abs(dx) > 0.3 {
			nd.LabelX, nd.LabelY = nd.X+14*sign(dx), nd.Y+4
			nd.Anchor = map[bool]string{true: "start", false: "end"}[dx > 0]
		}
		p.Nodes = append(p.Nodes, nd)
	}
	for i := range rows {
		for k := i + 1; k < len(rows); k++ {
			if mood, title := newEdge(&rows[i], &rows[k], short); mood != "" {
				a, b := p.Nodes[i], p.Nodes[k]
				p.Edges = append(p.Edges, edge{a.X, a.Y, b.X, b.Y, mood, title})
			}
		}
	}
	return p
}

// newEdge returns the connection of two nodes as seen by the end that sees it worse. Its mood is
// empty if neither is known.
func newEdge(a, b *Row, short func(string) string) (mood, title string) {
	rank := map[string]int{"": 0, moodGood: 1, moodNone: 2, moodWarn: 3, moodBad: 4}
	for _, ends := range [][2]*Row{{a, b}, {b, a}} {
		if !ends[0].Known {
			continue
		}
		if c := newCell(ends[0], ends[1].Node, short); rank[c.Mood] > rank[mood] {
			mood, title = c.Mood, c.Title
		}
	}
	return mood, title
}

func sign(x float64) float64 {
	switch {
	case x > 1e-9:
		return 1
	case x < -1e-9:
		return -1
	}
	return 0
}

// clip shortens a text to n characters.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
