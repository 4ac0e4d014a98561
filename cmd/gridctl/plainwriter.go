package main

import (
	"cmp"
	"io"
	"strings"
	"sync"

	"github.com/gridmesh/grid/internal/visible"
)

// plainWriter writes text to somebody who looks at it. What other nodes say is part of it, and must
// not control the terminal: all that is not plain text, or the end of a line, is escaped.
type plainWriter struct{ w io.Writer }

// Write takes whole characters at a time, as package fmt does.
func (p plainWriter) Write(b []byte) (int, error) {
	text := string(b)
	var out strings.Builder
	for len(text) > 0 {
		i := strings.IndexAny(text, "\n\r\t")
		if i < 0 {
			i = len(text)
		}
		out.WriteString(visible.Text(text[:i]))
		if i < len(text) {
			out.WriteByte(text[i])
			i++
		}
		text = text[i:]
	}
	if _, err := io.WriteString(p.w, out.String()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// asItIs returns the writer below one that escapes, for bytes that nobody is to look at.
func asItIs(w io.Writer) io.Writer {
	if p, ok := w.(plainWriter); ok {
		w = p.w
	}
	return w
}

// firstError remembers the first error of a writer: what is printed and gets lost is not worth exit
// code 0.
type firstError struct {
	w io.Writer

	mu  sync.Mutex // Protects following.
	err error
}

// Write writes b.
func (f *firstError) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err != nil {
		f.mu.Lock()
		f.err = cmp.Or(f.err, err)
		f.mu.Unlock()
	}
	return n, err
}
