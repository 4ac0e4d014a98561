package wsframe

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

type readerCase struct {
	name   string
	frames []frame
	want   []event
}

// testReader feeds every case to both ends, cut in every way, with and without early bytes.
func testReader(t *testing.T, cases []readerCase) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, client := range []bool{true, false} {
				checkChunkings(t, encode(c.frames, !client), Config{Client: client, MaxMessage: 1 << 20}, c.want)
			}
		})
	}
}

func checkChunkings(t *testing.T, wire []byte, c Config, want []event) {
	t.Helper()
	for _, ch := range chunkings {
		for _, early := range []int{0, min(3, len(wire)), len(wire)} {
			got := record(ch.cut(bytes.NewReader(wire[early:])), wire[:early], c)
			if !slices.Equal(got, want) {
				t.Fatalf("client %v, %s, %d bytes early:\n got %v\nwant %v", c.Client, ch.name, early, got, want)
			}
		}
	}
}

func repeat(n int) string { return string(testBytes(n)) }

func TestFraming(t *testing.T) {
	var cases []readerCase
	for _, n := range []int{0, 1, 125, 126, 127, 128, 4080, 4090, 4096, 65520, 65535, 65536, 70000, 1 << 20} {
		name := "a message of " + sizeName(n)
		cases = append(cases,
			readerCase{name, []frame{binaryFrame(repeat(n))}, []event{message(repeat(n)), ended}},
			readerCase{
				name + " between others",
				[]frame{binaryFrame("a"), binaryFrame(repeat(n)), ping("p"), binaryFrame("b")},
				[]event{message("a"), message(repeat(n)), gotPing("p"), message("b"), ended},
			},
		)
	}
	cases = append(cases,
		readerCase{"nothing at all", nil, []event{ended}},
		readerCase{
			"text is skipped, also in fragments and of any size",
			[]frame{
				textFrame("hello"), binaryFrame("a"), textFrame(strings.Repeat("κόσμε", 10000)),
				{op: ws.OpText, more: true, payload: "x"},
				ping("p"), lastPart("y"), textFrame(""), binaryFrame("b"),
			},
			[]event{message("a"), gotPing("p"), message("b"), ended},
		},
	)
	testReader(t, cases)
}

// A text is not handed out, but has to be one: RFC 6455, 8.1. The examples are those of the Unicode
// standard, 3.9.
func TestTextIsUTF8(t *testing.T) {
	var cases []readerCase
	for _, text := range []string{"", "a", "κόσμε", "\x7f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff", "\ud7ff\ue000\ufffd", "\x00"} {
		cases = append(cases, readerCase{"valid", []frame{textFrame(text), binaryFrame("b")}, []event{message("b"), ended}})
		for i := range len(text) {
			cases = append(cases, readerCase{
				"valid, in fragments",
				[]frame{{op: ws.OpText, more: true, payload: text[:i]}, ping("p"), nextPart(""), lastPart(text[i:]), binaryFrame("b")},
				[]event{gotPing("p"), message("b"), ended},
			})
		}
	}
	for _, text := range []string{
		"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf", // overlong
		"\xed\xa0\x80", "\xed\xbf\xbf", // surrogates
		"\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xfe", "\xff", // beyond the last
		"\xce", "\xe1\xbd", "\xf0\x9d\x9f", "\xceκ", "\xe1\xbdx", // cut
	} {
		for _, text := range []string{text, "κόσμε" + text, "a" + text + "edited"} {
			cases = append(cases, readerCase{"invalid", []frame{textFrame(text), binaryFrame("b")}, []event{fails(1007)}})
			for i := range len(text) {
				cases = append(cases, readerCase{
					"invalid, in fragments",
					[]frame{{op: ws.OpText, more: true, payload: text[:i]}, ping("p"), nextPart(""), lastPart(text[i:]), binaryFrame("b")},
					[]event{gotPing("p"), fails(1007)},
				})
			}
		}
	}
	testReader(t, cases)
}

func sizeName(n int) string {
	if n == 1 {
		return "1 byte"
	}
	var digits []byte
	for m := n; m > 0 || digits == nil; m /= 10 {
		digits = append([]byte{byte('0' + m%10)}, digits...)
	}
	return string(digits) + " bytes"
}

func TestPingsAndPongs(t *testing.T) {
	testReader(t, []readerCase{
		{"an empty ping", []frame{ping("")}, []event{gotPing(""), ended}},
		{"a ping with a payload", []frame{ping("hello")}, []event{gotPing("hello"), ended}},
		{"a binary ping", []frame{ping("\x00\xff\xfe")}, []event{gotPing("\x00\xff\xfe"), ended}},
		{"a ping of 125 bytes", []frame{ping(repeat(125))}, []event{gotPing(repeat(125)), ended}},
		{"a ping of 126 bytes", []frame{ping(repeat(126))}, []event{fails(1002)}},
		{"a ping of 65536 bytes", []frame{ping(repeat(65536))}, []event{fails(1002)}},
		{"an unsolicited pong", []frame{pong("x"), ping("y"), pong("")}, []event{gotPong("x"), gotPing("y"), gotPong(""), ended}},
		{"ten pings in a row", slices.Repeat([]frame{ping("p")}, 10), append(slices.Repeat([]event{gotPing("p")}, 10), ended)},
		{"a fragmented ping", []frame{{op: ws.OpPing, more: true, payload: "a"}, lastPart("b")}, []event{fails(1002)}},
		{"a fragmented pong", []frame{{op: ws.OpPong, more: true}}, []event{fails(1002)}},
	})
}

func TestReservedBits(t *testing.T) {
	var cases []readerCase
	for rsv := byte(1); rsv < 8; rsv++ {
		for _, op := range []ws.OpCode{ws.OpBinary, ws.OpText, ws.OpPing, ws.OpPong, ws.OpClose} {
			cases = append(cases, readerCase{
				"reserved bits in opcode " + sizeName(int(op)),
				[]frame{binaryFrame("a"), {op: op, rsv: rsv}, binaryFrame("b")},
				[]event{message("a"), fails(1002)},
			})
		}
	}
	testReader(t, cases)
}

func TestReservedOpcodes(t *testing.T) {
	var cases []readerCase
	for op := range ws.OpCode(16) {
		if op.IsReserved() {
			cases = append(cases,
				readerCase{"empty", []frame{{op: op}}, []event{fails(1002)}},
				readerCase{"after a message", []frame{binaryFrame("a"), {op: op, payload: "x"}}, []event{message("a"), fails(1002)}},
				readerCase{"between fragments", []frame{firstPart("a"), {op: op, payload: "x"}}, []event{fails(1002)}})
		}
	}
	if len(cases) != 30 {
		t.Fatalf("%d cases", len(cases))
	}
	testReader(t, cases)
}

func TestFragmentation(t *testing.T) {
	big := repeat(100000)
	testReader(t, []readerCase{
		{"two parts", []frame{firstPart("ab"), lastPart("c")}, []event{message("abc"), ended}},
		{"many parts", []frame{firstPart("a"), nextPart("b"), nextPart("c"), lastPart("d")}, []event{message("abcd"), ended}},
		{"a ping in between", []frame{firstPart("a"), ping("p"), lastPart("b")}, []event{gotPing("p"), message("ab"), ended}},
		{
			"pings everywhere",
			[]frame{ping("1"), firstPart("a"), ping("2"), nextPart("b"), pong("3"), lastPart("c"), ping("4")},
			[]event{gotPing("1"), gotPing("2"), gotPong("3"), message("abc"), gotPing("4"), ended},
		},
		{"empty parts", []frame{firstPart(""), nextPart(""), nextPart("a"), nextPart(""), lastPart("")}, []event{message("a"), ended}},
		{"nothing but empty parts", []frame{firstPart(""), nextPart(""), lastPart("")}, []event{message(""), ended}},
		{
			"two messages in a row",
			[]frame{firstPart("a"), lastPart("b"), firstPart("c"), lastPart("d")},
			[]event{message("ab"), message("cd"), ended},
		},
		{
			"large parts",
			[]frame{firstPart(big), ping("p"), nextPart("x"), lastPart(big)},
			[]event{gotPing("p"), message(big + "x" + big), ended},
		},
		{"a continuation of nothing", []frame{lastPart("a")}, []event{fails(1002)}},
		{"an unfinished continuation of nothing", []frame{nextPart("a")}, []event{fails(1002)}},
		{"a continuation after a whole message", []frame{binaryFrame("a"), lastPart("b")}, []event{message("a"), fails(1002)}},
		{"a continuation after a finished message", []frame{firstPart("a"), lastPart("b"), lastPart("c")}, []event{message("ab"), fails(1002)}},
		{"a new message within another", []frame{firstPart("a"), binaryFrame("b")}, []event{fails(1002)}},
		{"a new text within another", []frame{firstPart("a"), textFrame("b")}, []event{fails(1002)}},
		{"a message within a text", []frame{{op: ws.OpText, more: true}, binaryFrame("b")}, []event{fails(1002)}},
		{"a close in between", []frame{firstPart("a"), closing(1000, "bye"), lastPart("b")}, []event{closed(1000, "bye")}},
		{"the end in between", []frame{firstPart("a")}, []event{cut}},
		{"the end in between, after a ping", []frame{firstPart("a"), ping("p")}, []event{gotPing("p"), cut}},
	})
}

func TestClosing(t *testing.T) {
	cases := []readerCase{
		{"no code", []frame{{op: ws.OpClose}}, []event{closed(1005, "")}},
		{"half a code", []frame{{op: ws.OpClose, payload: "\x03"}}, []event{fails(1002)}},
		{"a reason", []frame{closing(1000, "good bye")}, []event{closed(1000, "good bye")}},
		{"the longest reason", []frame{closing(1000, strings.Repeat("*", 123))}, []event{closed(1000, strings.Repeat("*", 123))}},
		{"a reason too long", []frame{closing(1000, strings.Repeat("*", 124))}, []event{fails(1002)}},
		{"a reason that is not UTF-8", []frame{closing(1000, "a\xce\xba\xed\xa0\x80b")}, []event{fails(1007)}},
		{"a reason cut within a character", []frame{closing(1000, "\xce")}, []event{fails(1007)}},
		{"a reason beyond ASCII", []frame{closing(1001, "κόσμε")}, []event{closed(1001, "κόσμε")}},
		{"an invalid code before an invalid reason", []frame{closing(1005, "\xff")}, []event{fails(1002)}},
		{"nothing counts after it", []frame{closing(1000, ""), binaryFrame("a"), ping("p"), closing(1001, "")}, []event{closed(1000, "")}},
		{"a fragmented close", []frame{{op: ws.OpClose, more: true}}, []event{fails(1002)}},
	}
	for _, code := range []ws.StatusCode{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		cases = append(cases, readerCase{"valid code " + sizeName(int(code)), []frame{closing(code, "")}, []event{closed(int(code), "")}})
	}
	for _, code := range []ws.StatusCode{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, readerCase{"invalid code " + sizeName(int(code)), []frame{closing(code, "")}, []event{fails(1002)}})
	}
	testReader(t, cases)
}

func TestBytesThatNoEncoderWrites(t *testing.T) {
	for _, c := range []struct {
		name   string
		client bool
		wire   string
		want   []event
	}{
		{"a masked frame from the server", true, "\x82\x81\x00\x00\x00\x00a", []event{fails(1002)}},
		{"an unmasked frame from the client", false, "\x82\x01a", []event{fails(1002)}},
		{"an unmasked ping from the client", false, "\x89\x00", []event{fails(1002)}},
		{"the example of RFC 6455, 5.7", false, "\x82\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", []event{message("Hello"), ended}},
		{"16-bit length of 125", true, "\x82\x7e\x00\x7d", []event{fails(1002)}},
		{"16-bit length of 0", true, "\x82\x7e\x00\x00", []event{fails(1002)}},
		{"64-bit length of 65535", true, "\x82\x7f\x00\x00\x00\x00\x00\x00\xff\xff", []event{fails(1002)}},
		{"64-bit length of 1", true, "\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01", []event{fails(1002)}},
		{"64-bit length with the top bit", true, "\x82\x7f\x80\x00\x00\x00\x00\x01\x00\x00", []event{fails(1002)}},
		{"64-bit length of everything", true, "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", []event{fails(1002)}},
		{"64-bit length that is the largest", true, "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", []event{fails(1009)}},
		{"a ping with a 16-bit length", true, "\x89\x7e\x00\x7e", []event{fails(1002)}},
		{"the end after one byte", true, "\x82", []event{cut}},
		{"the end in the length", true, "\x82\x7e\x01", []event{cut}},
		{"the end in the long length", true, "\x82\x7f\x00\x00\x00\x00\x00", []event{cut}},
		{"the end in the key", false, "\x82\x81\x01\x02", []event{cut}},
		{"the end before the payload", true, "\x82\x01", []event{cut}},
		{"the end in the payload", true, "\x82\x03ab", []event{cut}},
		{"the end in a large payload", true, "\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + repeat(65535), []event{cut}},
		{"the end in a text", true, "\x81\x03ab", []event{cut}},
		{"the end in a ping", true, "\x89\x03ab", []event{cut}},
		{"the end in a close", true, "\x88\x03\x03\xe8", []event{cut}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkChunkings(t, []byte(c.wire), Config{Client: c.client, MaxMessage: 1 << 20}, c.want)
		})
	}
}

func TestMessageLimit(t *testing.T) {
	for _, c := range []readerCase{
		{"exactly the limit", []frame{binaryFrame(repeat(1000))}, []event{message(repeat(1000)), ended}},
		{"one byte more", []frame{binaryFrame(repeat(1001))}, []event{fails(1009)}},
		{"fragments up to the limit", []frame{firstPart(repeat(999)), nextPart(""), lastPart("a")}, []event{message(repeat(999) + "a"), ended}},
		{"fragments beyond it", []frame{firstPart(repeat(999)), nextPart("a"), lastPart("b")}, []event{fails(1009)}},
		{"a text beyond it", []frame{textFrame(repeat(1001))}, []event{fails(1009)}},
		{"a fragmented text beyond it", []frame{{op: ws.OpText, more: true, payload: repeat(999)}, lastPart("ab")}, []event{fails(1009)}},
		{
			"each message has it anew",
			[]frame{firstPart("a"), lastPart(repeat(999)), textFrame(strings.Repeat("x", 1000)), binaryFrame(repeat(1000))},
			[]event{message("a" + repeat(999)), message(repeat(1000)), ended},
		},
		{"a ping does not count", []frame{firstPart(repeat(999)), ping("pp"), lastPart("a")}, []event{gotPing("pp"), message(repeat(999) + "a"), ended}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, client := range []bool{true, false} {
				checkChunkings(t, encode(c.frames, !client), Config{Client: client, MaxMessage: 1000}, c.want)
			}
		})
	}
}

func TestLargeMessages(t *testing.T) {
	if testing.Short() {
		t.Skip("large")
	}
	for _, n := range []int{1<<20 + 50, 4 << 20, 9 << 20} {
		payload := repeat(n)
		wire := encode([]frame{binaryFrame(payload), firstPart(payload[:n/3]), lastPart(payload[n/3:]), binaryFrame("a")}, true)
		got := record(&randomReader{bytes.NewReader(wire), newRand(), 200000}, nil, Config{})
		want := []event{message(payload), message(payload), message("a"), ended}
		if !slices.Equal(got, want) {
			t.Fatalf("%d bytes: got %v", n, got)
		}
	}
}

// Who sends too much is told how much it was, as far as that is known, and how much it may be.
func TestTheRefusalOfALargeMessageNamesItsSize(t *testing.T) {
	for _, c := range []struct {
		name, wire, want string
	}{
		{"whole", "\x82\x7e\x03\xe9", "message too large: 1001 bytes, and the limit is 1000"},
		{"the first fragment", "\x02\x7e\x03\xe9", "message too large: at least 1001 bytes, and the limit is 1000"},
		{"a later fragment", "\x02\x05hello\x00\x7e\x03\xe8", "message too large: at least 1005 bytes, and the limit is 1000"},
		{"the last fragment", "\x02\x05hello\x80\x7e\x03\xe8", "message too large: 1005 bytes, and the limit is 1000"},
		{
			"the largest", "\x02\x05hello\x80\x7f\x7f\xff\xff\xff\xff\xff\xff\xff",
			"message too large: 9223372036854775812 bytes, and the limit is 1000",
		},
	} {
		_, err := NewReader(strings.NewReader(c.wire), nil, Config{Client: true, MaxMessage: 1000}).Next()
		var broken *ProtocolError
		if !errors.As(err, &broken) || broken.Code != ws.StatusMessageTooBig || broken.Text != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// What was read from the first source comes before what the second has.
func TestASecondSourceContinuesTheFirst(t *testing.T) {
	wire := encode([]frame{binaryFrame("one"), binaryFrame("two")}, true)
	for early := range wire {
		r := NewReader(strings.NewReader("not read anymore"), wire[:early], Config{})
		r.SetSource(bytes.NewReader(wire[early:]))
		for _, want := range []string{"one", "two"} {
			if got, err := r.Next(); string(got) != want || err != nil {
				t.Fatalf("after %d bytes: %q, %v; want %q", early, got, err, want)
			}
		}
		if whole, n := r.Received(); whole != 2 || int(n) != len(wire)-early {
			t.Errorf("received %d messages and %d bytes", whole, n)
		}
	}
}
