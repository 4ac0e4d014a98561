package report

import (
	"errors"
	"image/color"
	"io"
	"slices"

	"github.com/gridmesh/grid/bench/scenario"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plotted is the name of the section that WritePlot draws.
const Plotted = "echo"

var errNoPlot = errors.New("the section that is plotted was not measured")

// The plot's measures.
const (
	plotWidth = 20 * vg.Centimeter
	lineSpace = 1.1 * vg.Centimeter // for each contender
	margins   = 3 * vg.Centimeter
	barSpace  = 0.8 * vg.Centimeter // for the bars of a contender
)

var barColors = []color.Color{
	color.RGBA{R: 0x9e, G: 0xca, B: 0xe1, A: 0xff},
	color.RGBA{R: 0x42, G: 0x92, B: 0xc6, A: 0xff},
	color.RGBA{R: 0x08, G: 0x45, B: 0x94, A: 0xff},
}

// WritePlot writes an SVG: calls per second of each contender, with a bar for each number of
// callers.
func (r Report) WritePlot(w io.Writer) error {
	p, lines, err := r.plot()
	if err != nil {
		return err
	}
	canvas := vgsvg.New(plotWidth, margins+vg.Length(lines)*lineSpace)
	p.Draw(draw.New(canvas))
	_, err = canvas.WriteTo(w)
	return err
}

// plot draws the bars and returns the number of contenders.
func (r Report) plot() (p *plot.Plot, lines int, err error) {
	i := slices.IndexFunc(r.Sections, func(s Section) bool { return s.Name == Plotted && len(s.Results) > 0 })
	if i < 0 {
		return nil, 0, errNoPlot
	}
	s := r.Sections[i]
	p = plot.New()
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
	return p, len(names), nil
}

// rates returns thousands of calls per second, 0 where there are none.
func rates(s Section, result int, names []string) plotter.Values {
	values := make(plotter.Values, len(names))
	for i, name := range names {
		series, ok := s.Results[result].Of(name)
		if ok && series.Err == nil && len(series.Rounds) > 0 {
			values[i] = 1e6 / series.Median(0)
		}
	}
	return values
}
