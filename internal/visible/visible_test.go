package visible

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"plain: /a/b, 'c' \"d\" <e> \\n ä 世 🙂": "plain: /a/b, 'c' \"d\" <e> \\n ä 世 🙂",
		"\x1b[2J\x1b]0;title\a":                `\u001b[2J\u001b]0;title\u0007`,
		"a\u009b31mb":                          `a\u009b31mb`, // CSI in one character
		"a\x7fb\x00":                           `a\u007fb\u0000`,
		"user\u202etxt.exe\u2066":              `user\u202etxt.exe\u2066`,
		"zero\u200bwidth\ufeff":                `zero\u200bwidth\ufeff`,
		"tag\U000e0041":                        `tag\U000e0041`,
		"one\r\ntwo\tthree\u2028four":          `one\r\ntwo\tthree\u2028four`,
		"bad \xff\xc3\x28 utf-8":               `bad \xff\xc3( utf-8`,
		"a replacement \ufffd is text":         "a replacement \ufffd is text",
		"no-break\u00a0space":                  `no-break\u00a0space`,
	} {
		if got := Text(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
		cut   bool
	}{
		{"hello", 5, "hello", false},
		{"hello", 4, "hell", true},
		{"héllo", 2, "h", true},
		{"\x1bx", 6, `\u001b`, true},
		{"a\x1bx", 6, "a", true},
		{"\x1b", 6, `\u001b`, false},
		{"hello", 0, "", true},
		{"", 0, "", false},
		{strings.Repeat("x", 1<<20), 3, "xxx", true},
	} {
		if got, cut := Cut(test.text, test.limit); got != test.want || cut != test.cut {
			t.Errorf("%.20q cut to %d becomes %q, %v, want %q, %v", test.text, test.limit, got, cut, test.want, test.cut)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\x1b[0m\u202e\xff", 5)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := Text(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q becomes %q", s, got)
		}
		if Text(got) != got {
			t.Errorf("%q becomes another the second time", got)
		}
		short, cut := Cut(s, limit)
		if limit >= 0 && len(short) > limit || cut != (len(short) < len(got)) || !strings.HasPrefix(got, short) {
			t.Errorf("%q is cut to %d as %q, %v", s, limit, short, cut)
		}
	})
}
