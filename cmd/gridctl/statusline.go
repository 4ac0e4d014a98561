package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// statusLine is a line at the bottom of a terminal that is written over and
// over. Elsewhere it prints nothing.
type statusLine struct {
	w     io.Writer // nil where nobody looks
	width int       // of what is shown
}

// newStatusLine returns a line on w; quiet makes one that prints nothing, such
// as where a log is written to w too.
func newStatusLine(w io.Writer, quiet bool) *statusLine {
	if quiet || !isTerminal(w) {
		return new(statusLine)
	}
	return &statusLine{w: w}
}

// set shows a text in place of the last one.
func (l *statusLine) set(format string, a ...any) {
	if l.w == nil {
		return
	}
	text := fmt.Sprintf(format, a...)
	width := utf8.RuneCountInString(text)
	fmt.Fprintf(l.w, "\r%s%s", text, strings.Repeat(" ", max(0, l.width-width)))
	l.width = width
}

// clear leaves an empty line for what is printed next.
func (l *statusLine) clear() {
	if l.w == nil || l.width == 0 {
		return
	}
	fmt.Fprintf(l.w, "\r%s\r", strings.Repeat(" ", l.width))
	l.width = 0
}
