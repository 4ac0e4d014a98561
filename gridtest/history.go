package gridtest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// How many lines of a history there are at most, and how many are shown where nobody has asked for
// all: before the first failure, and after it.
const (
	kept        = 20_000
	shownBefore = 100
	shownAfter  = 10
)

// history is what has happened in a World.
type history struct {
	began time.Time

	mu     sync.Mutex // Protects following.
	lines  []string
	lost   int // lines that were there before
	failed int // how many lines there were before the first failure; -1 for none
}

func newHistory() *history { return &history{began: time.Now(), failed: -1} }

// add adds a line, with the time.
func (h *history) add(text string) {
	line := fmt.Sprintf("%14v  %s", time.Since(h.began).Truncate(time.Microsecond), text)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) == kept {
		h.lines = append([]string(nil), h.lines[kept/2:]...)
		h.lost += kept / 2
	}
	h.lines = append(h.lines, line)
}

// fail adds the line of a failure.
func (h *history) fail(text string) {
	h.mu.Lock()
	if h.failed < 0 {
		h.failed = h.lost + len(h.lines)
	}
	h.mu.Unlock()
	h.add("FAILED: " + text)
}

// text returns the lines around the first failure, or all.
func (h *history) text(all bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := len(h.lines)
	first := 0
	if !all {
		if h.failed >= h.lost {
			end = min(end, h.failed-h.lost+1+shownAfter)
		}
		first = max(0, end-1-shownBefore-shownAfter)
	}
	var b strings.Builder
	if n := h.lost + first; n > 0 {
		fmt.Fprintf(&b, "(%d lines; -v shows more)\n", n)
	}
	b.WriteString(strings.Join(h.lines[first:end], "\n"))
	if n := len(h.lines) - end; n > 0 {
		fmt.Fprintf(&b, "\n(%d lines; -v shows more)", n)
	}
	return b.String()
}

// nodeLog is a slog.Handler that writes what a node logs to the history.
type nodeLog struct {
	h    *history
	node string
}

func (l nodeLog) Enabled(context.Context, slog.Level) bool { return true }

func (l nodeLog) Handle(_ context.Context, r slog.Record) error {
	text := l.node + ": " + r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "stack" {
			text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	l.h.add(text)
	return nil
}

func (l nodeLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l nodeLog) WithGroup(string) slog.Handler      { return l }
