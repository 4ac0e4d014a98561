// Package visible makes foreign texts fit for a log, a page or a terminal: whatever would control
// it, change how the rest of the text looks, or be no text at all, becomes a visible escape.
//
//	visible.Text("\x1b[2J\u202e")  // \u001b[2J\u202e, as plain characters
package visible

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with escapes for control characters, line breaks, invisible characters such as
// those that change the writing direction, spaces other than the plain one, and bytes that are not
// UTF-8. It returns a text without them unchanged.
func Text(s string) string {
	text, _ := Cut(s, -1)
	return text
}

// Cut is Text with at most limit bytes, and reports whether something was cut off. It examines no
// more of s than it takes. A negative limit means none.
func Cut(s string, limit int) (text string, cut bool) {
	if limit < 0 || len(s) <= limit {
		if plain(s) {
			return s, false
		}
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		piece := s[:size]
		if r == utf8.RuneError && size == 1 || !isPlain(r) {
			piece = escape(r, piece)
		}
		if limit >= 0 && b.Len()+len(piece) > limit {
			return b.String(), true
		}
		b.WriteString(piece)
		s = s[size:]
	}
	return b.String(), false
}

func plain(s string) bool {
	for i, r := range s {
		if !isPlain(r) {
			return false
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		}
	}
	return true
}

// isPlain reports whether a character is visible as nothing but itself.
func isPlain(r rune) bool { return unicode.IsPrint(r) }

// escape returns a character as an escape of Go and JSON strings, and an invalid byte as an escape
// of Go.
func escape(r rune, s string) string {
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r == utf8.RuneError && len(s) == 1:
		return fmt.Sprintf(`\x%02x`, s[0])
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
