// Package visible makes texts of others fit for a log, a page or a terminal: what would control it,
// change how the rest of the text looks, or be no text at all, becomes an escape that one can see.
//
//	visible.Text("\x1b[2J\u202e")  // \u001b[2J\u202e, as plain characters
package visible

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text returns s with escapes in place of control characters, line breaks, invisible characters
// such as those that turn the direction of writing, spaces other than the plain one, and bytes that
// are not UTF-8. A text without them is returned as it is.
func Text(s string) string {
	text, _ := Cut(s, -1)
	return text
}

// Cut is Text with limit bytes at the most, and reports whether something was cut off. It looks at
// no more of s than it takes. A negative limit is none.
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

// isPlain reports whether a character shows, and shows as nothing but itself.
func isPlain(r rune) bool { return unicode.IsPrint(r) }

// escape returns a character as strings of Go and JSON have it, and a byte that is none as Go has
// it.
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
