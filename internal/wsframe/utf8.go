package wsframe

import "unicode/utf8"

// utf8Check checks whether bytes that come in pieces are valid UTF-8 (RFC 6455, 8.1).
type utf8Check struct {
	broken bool
	rest   [utf8.UTFMax]byte // the start of an unfinished character
	n      int               // bytes of it
}

func (c *utf8Check) add(b []byte) {
	for c.n > 0 && len(b) > 0 && !c.broken {
		c.rest[c.n] = b[0]
		c.n++
		b = b[1:]
		if utf8.FullRune(c.rest[:c.n]) {
			c.broken = !utf8.Valid(c.rest[:c.n])
			c.n = 0
		}
	}
	whole := len(b)
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if last := b[len(b)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole -= i
			}
			break
		}
	}
	c.broken = c.broken || !utf8.Valid(b[:whole])
	if whole < len(b) {
		c.n = copy(c.rest[:], b[whole:])
	}
}

// valid reports whether everything added is valid and ends with a whole character.
func (c *utf8Check) valid() bool { return !c.broken && c.n == 0 }
