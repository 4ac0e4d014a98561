package top

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gridmesh/grid/internal/visible"
)

var (
	moods = map[mood]lipgloss.Style{
		good:  lipgloss.NewStyle().Foreground(lipgloss.Color("2")),
		faint: lipgloss.NewStyle().Faint(true),
		bad:   lipgloss.NewStyle().Foreground(lipgloss.Color("1")).Bold(true),
	}
	bold    = lipgloss.NewStyle().Bold(true)
	chosen  = lipgloss.NewStyle().Reverse(true)
	sorted  = lipgloss.NewStyle().Bold(true).Underline(true)
	heading = lipgloss.NewStyle().Faint(true)
)

func color(text string, m mood) string {
	if style, ok := moods[m]; ok {
		return style.Render(text)
	}
	return text
}

// chrome is the number of lines that are no rows: title, tabs, head, and the last one.
const chrome = 4

// rows is how many rows there is room for.
func (m *model) rows() int { return max(m.height-chrome, 1) }

// View is part of tea.Model.
func (m *model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "gridctl top"
	return v
}

// lines are what is on the screen, from the top.
func (m *model) lines() []string {
	if m.help {
		return m.helpPage()
	}
	t := m.table()
	lines := t.lines(m.width, color, func(text string, c column) string {
		if c.head == m.orders[m.view].head {
			return sorted.Render(text)
		}
		return heading.Render(text)
	})
	rows := lines[1:]
	m.top = max(min(m.top, len(rows)-m.rows()), 0)
	end := min(m.top+m.rows(), len(rows))
	screen := append([]string{m.title(), m.tabs(), lines[0]}, rows[m.top:end]...)
	if len(rows) == 0 {
		screen = append(screen, heading.Render(m.nothing()))
	}
	for len(screen) < m.height-1 {
		screen = append(screen, "")
	}
	for i, line := range screen {
		screen[i] = ansi.Truncate(line, m.width, "…")
	}
	return append(screen, m.lastLine(end, len(rows)))
}

func (m *model) nothing() string {
	if m.Filter != "" {
		return "nothing matches the filter; esc clears it"
	}
	return "nothing so far"
}

// title says what is looked at.
func (m *model) title() string {
	s := m.snap
	silent, gone := 0, 0
	for _, n := range s.nodes {
		switch {
		case s.nodes[0].silent(n.name) > 0:
			silent++
		case n.status == nil:
			gone++
		}
	}
	text := bold.Render("grid") + " " + visible.Text(s.nodes[0].name)
	if len(s.nodes) > 1 {
		text += fmt.Sprintf("  %d nodes", len(s.nodes))
	}
	if silent > 0 {
		text += "  " + color(fmt.Sprintf("%d silent", silent), bad)
	}
	if gone > 0 {
		text += "  " + color(fmt.Sprintf("%d not reached", gone), bad)
	}
	switch {
	case m.err != nil:
		text = color(fmt.Sprintf("no answer for %s: %s", age(time.Since(m.asked)), visible.Text(m.err.Error())), bad)
	case m.paused:
		text += "  " + chosen.Render("paused")
	}
	return text
}

// tabs names the tables, and says what the one that is shown has.
func (m *model) tabs() string {
	var b strings.Builder
	for i, v := range views {
		tab := v.key + " " + v.name
		if i == m.view {
			tab = chosen.Render(tab)
		} else if m.width < 60 {
			tab = v.key // the rest is needed
		}
		b.WriteString(tab + "  ")
	}
	b.WriteString(heading.Render(known(m.status, m.span)))
	if m.Filter != "" && !m.typing {
		b.WriteString("  /" + visible.Text(m.Filter))
	}
	return b.String()
}

// keys are what the last line and the page of help explain.
var keys = []struct{ key, short, long string }{
	{"1-5", "tables", "the tables: nodes, pairs of nodes, handlers, calls by node, peer and handler, errors; also tab"},
	{"w", "slowest", "the slowest first: sorts by p99"},
	{"f", "failing", "the failing first: sorts by errors"},
	{"b", "busiest", "the busiest first: sorts by calls"},
	{"o", "oldest", "what waits longest first: sorts by the oldest request that waits"},
	{"t", "time", "the time that figures are of: 10 seconds, a minute, five minutes, since the start"},
	{"/", "filter", "shows only rows with a text; enter keeps it, esc clears it"},
	{"s", "sort", "sorts by the next column"},
	{"r", "reverse", "turns the order around"},
	{"space", "pause", "stops and goes on"},
	{"↑↓", "scroll", "also page up and down, home and end"},
}

// lastLine is the line of help, or the filter while it is typed.
func (m *model) lastLine(end, all int) string {
	if m.typing {
		return ansi.Truncate("filter: "+visible.Text(m.Filter)+"█", m.width, "…")
	}
	const always = "? help  q quit"
	more := ""
	if m.top > 0 || end < all {
		more = fmt.Sprintf("%d-%d of %d  ", m.top+1, end, all)
	}
	line := more
	for _, k := range keys {
		item := k.key + " " + k.short + "  "
		if ansi.StringWidth(line+item+always) > m.width {
			break
		}
		line += item
	}
	return heading.Render(ansi.Truncate(line+always, m.width, "…"))
}

func (m *model) helpPage() []string {
	lines := []string{bold.Render("gridctl top"), ""}
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("%6s  %s", k.key, k.long))
	}
	lines = append(lines, fmt.Sprintf("%6s  %s", "q", "ends"), "",
		"p50 and p99 of several nodes are those of the slowest. A silent node does not answer pings.", "? goes back")
	for i, line := range lines {
		lines[i] = ansi.Truncate(line, m.width, "…")
	}
	return lines[:min(len(lines), m.height)]
}
