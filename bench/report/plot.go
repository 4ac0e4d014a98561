package report

import (
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/gridmesh/grid/bench/measure"
	"github.com/gridmesh/grid/bench/scenario"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plot is a picture of a section.
type Plot struct {
	Section string // its name
	File    string // its name, an SVG
	Alt     string // what it shows, in words

	draw func(Section) (p *plot.Plot, height vg.Length, err error)
}

// allPlots are those of a whole report.
var allPlots = []Plot{
	{"callers", "benchmarks-callers.svg", "CPU of a call by the number of callers", plotCallers},
	{"beside-kernel", "benchmarks-beside.svg", "Small calls beside large ones", plotBeside},
	{"echo", "benchmarks.svg", "Calls per second of each contender", plotEcho},
}

// Plots returns those whose sections were measured.
func (r *Report) Plots() []Plot {
	return slices.DeleteFunc(slices.Clone(allPlots), func(p Plot) bool { return r.section(p.Section) == nil })
}

func (r *Report) section(name string) *Section {
	for i, s := range r.Sections {
		if s.Name == name && len(s.Results) > 0 {
			return &r.Sections[i]
		}
	}
	return nil
}

var errNoPlot = errors.New("the section that is plotted was not measured")

// WritePlot writes a picture as SVG.
func (r *Report) WritePlot(p Plot, w io.Writer) error {
	s := r.section(p.Section)
	if s == nil {
		return errNoPlot
	}
	drawn, height, err := p.draw(*s)
	if err != nil {
		return err
	}
	canvas := vgsvg.New(plotWidth, height)
	drawn.Draw(draw.New(canvas))
	_, err = canvas.WriteTo(w)
	return err
}

// Measures of the plots.
const (
	plotWidth = 20 * vg.Centimeter
	lineSpace = 1.1 * vg.Centimeter // for each contender, or case
	margins   = 3 * vg.Centimeter
	barSpace  = 0.8 * vg.Centimeter // for the bars of a contender
)

var barColors = []color.Color{
	color.RGBA{R: 0x9e, G: 0xca, B: 0xe1, A: 0xff},
	color.RGBA{R: 0x42, G: 0x92, B: 0xc6, A: 0xff},
	color.RGBA{R: 0x08, G: 0x45, B: 0x94, A: 0xff},
}

// plotEcho draws calls per second of each contender, with a bar for each number of callers.
func plotEcho(s Section) (*plot.Plot, vg.Length, error) {
	p := plot.New()
	p.Title.Text = s.Title + ": thousands of calls per second"
	p.X.Min = 0
	p.Legend.Top = false
	names := scenario.Contenders(s.Results)
	slices.Reverse(names) // the first is drawn on top
	width := barSpace / vg.Length(len(s.Results))
	for i, res := range s.Results {
		bars, err := plotter.NewBarChart(rates(s, i, names), width)
		if err != nil {
			return nil, 0, err
		}
		bars.Horizontal = true
		bars.Color = barColors[i%len(barColors)]
		bars.LineStyle.Width = 0
		bars.Offset = width * (vg.Length(len(s.Results)-1)/2 - vg.Length(i))
		p.Add(bars)
		p.Legend.Add(res.Name, bars)
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color = nil
	p.Add(grid)
	p.NominalY(names...)
	p.Y.Min, p.Y.Max = -0.5, float64(len(names))-0.5
	return p, margins + vg.Length(len(names))*lineSpace, nil
}

// rates returns thousands of calls per second, 0 where there are none.
func rates(s Section, result int, names []string) plotter.Values {
	values := make(plotter.Values, len(names))
	for i, name := range names {
		if series, ok := figuresOf(s.Results[result], name); ok {
			values[i] = 1e6 / series.Median(0)
		}
	}
	return values
}

// figuresOf returns the series of a contender, and whether it has figures.
func figuresOf(res scenario.Result, name string) (measure.Series, bool) {
	series, ok := res.Of(name)
	return series, ok && series.Err == nil && len(series.Rounds) > 0
}

// lineColor is that of a contender. The first two, the yardstick and grid, stand out.
func lineColor(i int) color.Color {
	colors := []color.RGBA{
		{R: 0x73, G: 0x73, B: 0x73, A: 0xff},
		{R: 0x08, G: 0x45, B: 0x94, A: 0xff},
		{R: 0xe6, G: 0x55, B: 0x0d, A: 0xff},
		{R: 0x31, G: 0xa3, B: 0x54, A: 0xff},
		{R: 0x75, G: 0x6b, B: 0xb1, A: 0xff},
		{R: 0xe7, G: 0x29, B: 0x8a, A: 0xff},
		{R: 0xb1, G: 0x59, B: 0x28, A: 0xff},
		{R: 0x1b, G: 0x9e, B: 0x9e, A: 0xff},
	}
	return colors[i%len(colors)]
}

// plotCallers draws the CPU of a call, a line for each contender.
func plotCallers(s Section) (*plot.Plot, vg.Length, error) {
	const cpu = 1 // the column
	p := plot.New()
	p.Title.Text = s.Title + ": CPU of a call, µs"
	p.Legend.Top = true
	var cases []string
	for _, res := range s.Results {
		cases = append(cases, res.Name)
	}
	for i, name := range scenario.Contenders(s.Results) {
		var points plotter.XYs
		for x, res := range s.Results {
			if series, ok := figuresOf(res, name); ok {
				points = append(points, plotter.XY{X: float64(x), Y: math.Max(series.Median(cpu), 0.01)})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, 0, err
		}
		line.Color, dots.Color, dots.Shape = lineColor(i), lineColor(i), draw.CircleGlyph{}
		line.Width = vg.Points(1.5)
		p.Add(line, dots)
		p.Legend.Add(name, line, dots)
	}
	p.Add(plotter.NewGrid())
	logarithmic(&p.Y)
	p.NominalX(cases...)
	p.X.Min, p.X.Max = -0.3, float64(len(cases))+0.3 // the legend is beside the lines
	return p, 11 * vg.Centimeter, nil
}

// plotBeside draws how long small calls take: for each case and contender a line from the median to
// the 99th percentile. Beside 1 MiB there is less to see.
func plotBeside(s Section) (*plot.Plot, vg.Length, error) {
	more := slices.DeleteFunc(slices.Clone(s.Results), func(res scenario.Result) bool {
		return strings.Contains(res.Name, ", 1 MiB")
	})
	if len(more) > 0 {
		s.Results = more
	}
	const p50, p99 = 0, 1 // the columns
	p := plot.New()
	p.Title.Text = "Small calls beside large ones, from p50 to p99, ms"
	p.Legend.Top, p.Legend.Left = false, false
	var cases []string
	for _, res := range s.Results {
		cases = append(cases, res.Name)
	}
	slices.Reverse(cases) // the first is drawn on top
	names := scenario.Contenders(s.Results)
	for i, name := range names {
		offset := 0.7 * (float64(len(names)-1)/2 - float64(i)) / float64(len(names))
		shown := false
		for y, res := range s.Results {
			series, ok := figuresOf(res, name)
			if !ok {
				continue
			}
			at := float64(len(cases)-1-y) + offset
			line, dots, err := plotter.NewLinePoints(plotter.XYs{
				{X: math.Max(series.Median(p50), 0.01), Y: at}, {X: math.Max(series.Median(p99), 0.01), Y: at},
			})
			if err != nil {
				return nil, 0, err
			}
			line.Color, dots.Color, dots.Shape = lineColor(i), lineColor(i), draw.CircleGlyph{}
			line.Width = vg.Points(2)
			p.Add(line, dots)
			if !shown {
				p.Legend.Add(name, line, dots)
				shown = true
			}
		}
	}
	p.Add(plotter.NewGrid())
	logarithmic(&p.X)
	p.NominalY(cases...)
	const below = 2 // cases' worth of room for the legend
	p.Y.Min, p.Y.Max = -0.5-below, float64(len(cases))-0.5
	return p, margins + vg.Length(len(cases)+below)*1.6*lineSpace, nil
}

// logarithmic makes the scale of an axis one, once everything has been added.
func logarithmic(a *plot.Axis) {
	a.Scale, a.Tick.Marker = plot.LogScale{}, roundTicks{}
	if a.Min > a.Max { // there is nothing
		a.Min, a.Max = 1, 10
	}
	a.Min, a.Max = a.Min/1.2, a.Max*1.2
}

// roundTicks marks 1, 10, 100 and so on, and 2 and 5 times as much.
type roundTicks struct{}

// Ticks returns the marks between two values.
func (roundTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if v := n * decade; v >= low && v <= high {
				ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprint(v)})
			}
		}
	}
	return ticks
}
