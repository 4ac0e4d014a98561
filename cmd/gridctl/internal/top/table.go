package top

import (
	"cmp"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"github.com/gridmesh/grid/internal/visible"
)

// table is rows under heads.
type table struct {
	columns []column
	rows    [][]cell
}

// column has a head. Those with the highest rank are left out first where there is no room.
type column struct {
	head  string
	right bool // numbers, of which the largest come first
	rank  int
}

// cell is a text, and what it is sorted by if its column has numbers.
type cell struct {
	text  string
	value float64
	mood  mood
}

// mood is how good something is.
type mood int

const (
	plain mood = iota
	good
	faint
	bad
)

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// text returns a cell with what a node says, which is not believed to be fit for a terminal.
func text(s string) cell { return cell{text: visible.Text(s)} }

func number(text string, value float64) cell { return cell{text: text, value: value} }

func (c cell) with(m mood) cell {
	c.mood = m
	return c
}

// find returns the number of the column with a head, -1 for none.
func (t *table) find(head string) int {
	return slices.IndexFunc(t.columns, func(c column) bool { return c.head == head })
}

// sort sorts by a column, if there is one: numbers from the largest, texts by the alphabet.
func (t *table) sort(head string, reverse bool) {
	at := t.find(head)
	if at < 0 {
		return
	}
	slices.SortStableFunc(t.rows, func(a, b []cell) int {
		if reverse {
			a, b = b, a
		}
		if t.columns[at].right {
			return cmp.Compare(b[at].value, a[at].value)
		}
		return strings.Compare(a[at].text, b[at].text)
	})
}

// filter leaves the rows in which a text occurs, in whatever case.
func (t *table) filter(q string) {
	q = strings.ToLower(q)
	t.rows = slices.DeleteFunc(t.rows, func(row []cell) bool {
		return !slices.ContainsFunc(row, func(c cell) bool { return strings.Contains(strings.ToLower(c.text), q) })
	})
}

const gap = 2 // between columns

// fit returns the widths of the columns in a terminal of some width, 0 for those that are left out.
func (t *table) fit(width int) []int {
	widths := make([]int, len(t.columns))
	total := -gap
	for i, c := range t.columns {
		widths[i] = ansi.StringWidth(c.head)
		for _, row := range t.rows {
			widths[i] = max(widths[i], ansi.StringWidth(row[i].text))
		}
		total += widths[i] + gap
	}
	for total > width {
		last := -1
		for i, c := range t.columns {
			if widths[i] > 0 && c.rank > 0 && (last < 0 || c.rank >= t.columns[last].rank) {
				last = i
			}
		}
		if last < 0 {
			break
		}
		total -= widths[last] + gap
		widths[last] = 0
	}
	for total > width { // what is left are names, which are cut
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= leastWidth {
			break
		}
		widths[widest]--
		total--
	}
	return widths
}

// leastWidth is the width that no column is cut below.
const leastWidth = 4

// lines returns the head and the rows as text. style colors a cell, or a head with that of the order.
func (t *table) lines(width int, style func(text string, m mood) string, head func(text string, c column) string) []string {
	widths := t.fit(width)
	line := func(cell func(i int) (text string, style func(string) string)) string {
		var b strings.Builder
		for i, w := range widths {
			if w == 0 {
				continue
			}
			if b.Len() > 0 {
				b.WriteString(strings.Repeat(" ", gap))
			}
			text, style := cell(i)
			text = ansi.Truncate(text, w, "…")
			space := strings.Repeat(" ", w-ansi.StringWidth(text))
			if t.columns[i].right {
				b.WriteString(space + style(text))
			} else {
				b.WriteString(style(text) + space)
			}
		}
		return ansi.Truncate(strings.TrimRight(b.String(), " "), width, "…")
	}
	all := []string{line(func(i int) (string, func(string) string) {
		return t.columns[i].head, func(s string) string { return head(s, t.columns[i]) }
	})}
	for _, row := range t.rows {
		all = append(all, line(func(i int) (string, func(string) string) {
			return row[i].text, func(s string) string { return style(s, row[i].mood) }
		}))
	}
	return all
}
