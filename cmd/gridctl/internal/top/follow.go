package top

import (
	"context"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/gridmesh/grid/debugz"
)

// Follow shows the tables in a terminal until the user has enough, or ctx ends. It fails if the page
// does not answer the first time.
func Follow(ctx context.Context, in io.Reader, out io.Writer, o Options) error {
	s, err := o.Page.status(ctx)
	if err != nil {
		return err
	}
	m := newModel(ctx, o)
	m.take(answer{status: s})
	_, err = tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out),
		tea.WithoutSignalHandler()).Run() // they end ctx
	return err
}

// model is what the terminal shows. Its methods are called one at a time.
type model struct {
	ctx context.Context
	Options
	width, height int

	status *debugz.Status // the last answer
	snap   *snapshot
	err    error     // why there is no newer one
	asked  time.Time // when the last answer came

	view    int
	span    span
	orders  [8]order // by view
	typing  bool     // the filter
	help    bool
	paused  bool
	resting bool // nothing is asked, because of paused
	top     int  // first row
}

// order is the column that a table is sorted by.
type order struct {
	head    string
	reverse bool
}

// answer is what a look has brought.
type answer struct {
	status *debugz.Status
	err    error
}

// due says that it is time for a look.
type due struct{}

func newModel(ctx context.Context, o Options) *model {
	m := &model{ctx: ctx, Options: o, span: minute, width: 80, height: 24}
	for i, v := range views {
		m.orders[i].head = v.order
	}
	return m
}

// Init is part of tea.Model.
func (m *model) Init() tea.Cmd { return m.wait() }

func (m *model) wait() tea.Cmd {
	return tea.Tick(m.Interval, func(time.Time) tea.Msg { return due{} })
}

func (m *model) look() tea.Msg {
	s, err := m.Page.status(m.ctx)
	return answer{s, err}
}

func (m *model) take(a answer) {
	m.err = a.err
	if a.err == nil {
		m.status, m.snap, m.asked = a.status, newSnapshot(a.status), time.Now()
	}
}

// Update is part of tea.Model.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case due:
		if m.paused {
			m.resting = true
			return m, nil
		}
		return m, m.look
	case answer:
		m.take(msg)
		return m, m.wait()
	case tea.PasteMsg:
		if m.typing {
			m.Filter += msg.Content
		}
	case tea.KeyPressMsg:
		if m.typing {
			return m, m.edit(msg)
		}
		return m, m.press(msg.String())
	}
	return m, nil
}

// edit changes the filter.
func (m *model) edit(k tea.KeyPressMsg) tea.Cmd {
	switch k.String() {
	case "ctrl+c":
		return tea.Quit
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.Filter = false, ""
	case "backspace":
		if r := []rune(m.Filter); len(r) > 0 {
			m.Filter = string(r[:len(r)-1])
		}
	case "ctrl+u":
		m.Filter = ""
	default:
		m.Filter += k.Text
	}
	m.top = 0
	return nil
}

// press does what a key is for.
func (m *model) press(key string) tea.Cmd {
	for i, v := range views {
		if key == v.key {
			m.show(i)
		}
	}
	switch key {
	case "q", "ctrl+c":
		return tea.Quit
	case "tab", "right", "l":
		m.show((m.view + 1) % len(views))
	case "shift+tab", "left", "h":
		m.show((m.view + len(views) - 1) % len(views))
	case "w":
		m.sortBy(headP99)
	case "f":
		m.sortBy(headErrors)
	case "b":
		m.sortBy(headCalls)
	case "o":
		m.sortBy(headWait)
	case "s":
		m.sortByNext()
	case "r":
		m.orders[m.view].reverse = !m.orders[m.view].reverse
	case "t":
		m.span = (m.span + 1) % spans
	case "/":
		m.typing = true
	case "esc":
		m.Filter, m.help = "", false
	case "?":
		m.help = !m.help
	case "up", "k":
		m.top--
	case "down", "j":
		m.top++
	case "pgup":
		m.top -= m.rows()
	case "pgdown":
		m.top += m.rows()
	case "home", "g":
		m.top = 0
	case "end", "G":
		m.top = 1 << 30
	case "space":
		m.paused = !m.paused
		if !m.paused && m.resting {
			m.resting = false
			return m.look
		}
	}
	return nil
}

func (m *model) show(view int) { m.view, m.top = view, 0 }

// sortBy sorts by a column. If the table has none of that head, it is one with calls that is shown.
func (m *model) sortBy(head string) {
	if t := m.table(); t.find(head) < 0 {
		m.show(1)
	}
	m.orders[m.view], m.top = order{head: head}, 0
}

// sortByNext sorts by the next column.
func (m *model) sortByNext() {
	t := m.table()
	next := t.find(m.orders[m.view].head) + 1
	m.orders[m.view] = order{head: t.columns[next%len(t.columns)].head}
}

// table returns the table that is shown.
func (m *model) table() table {
	t := views[m.view].table(m.snap, m.span)
	t.filter(m.Filter)
	o := m.orders[m.view]
	t.sort(o.head, o.reverse)
	if at := t.find(o.head); at >= 0 {
		t.columns[at].rank = 0 // so that there is always room for it
	}
	return t
}
