package netgrid

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

var someSum = Sum{0: 0xa0, 1: 0xa1, 14: 0xae, 15: 0xaf}

const someSumHex = "a0a1000000000000000000000000aeaf"

// What goes over the wire stays as it is, so that nodes of different releases understand each other.
func TestTheMessagesOfATransferAreWhatTheyWere(t *testing.T) {
	for _, c := range []struct {
		name string
		msg  []byte
		want string
	}{
		{"an upload of an unknown size", opening{size: -1, meta: []byte("m")}.encode(), "01" + "00" + "00" + "6d"},
		{"an upload of 300 bytes", opening{size: 300}.encode(), "01" + "ad02" + "00"},
		{"a download after 300 bytes", opening{size: -1, have: part{300, someSum}, meta: []byte("m")}.encode(), "01" + "00" + "ac02" + someSumHex + "6d"},
		{"terms", terms{size: 0}.encode(), "01" + "00"},
		{"terms after 300 bytes", terms{size: -1, have: part{300, someSum}}.encode(), "00" + "ac02" + someSumHex},
		{"the end", ending{verdict: verdictWhole, bytes: 300, sum: someSum}.encode(), "00" + "ac02" + someSumHex},
		{"a mismatch", ending{verdict: verdictMismatch, text: "no"}.encode(), "01" + "6e6f"},
		{"a failure", ending{verdict: verdictFailed, text: "no"}.encode(), "02" + "6e6f"},
	} {
		if got := hex.EncodeToString(c.msg); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func FuzzMessagesOfATransfer(f *testing.F) {
	for _, text := range []string{"", "01", "0100006d", "01ad0200", "ac02" + someSumHex, "00ac02" + someSumHex, "016e6f", "0100ac02" + someSumHex + "6d"} {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// What can be read is written in the same way, or in a shorter one.
		if o, err := parseOpening(b); err == nil {
			if again, err := parseOpening(o.encode()); err != nil || again.size != o.size || again.have != o.have || !bytes.Equal(again.meta, o.meta) {
				t.Errorf("%x: %v, then %v, %v", b, o, again, err)
			}
		}
		if m, err := parseTerms(b); err == nil {
			if again, err := parseTerms(m.encode()); err != nil || again != m {
				t.Errorf("%x: %v, then %v, %v", b, m, again, err)
			}
		}
		if e, err := parseEnding(b); err == nil {
			if again, err := parseEnding(e.encode()); err != nil || again != e {
				t.Errorf("%x: %v, then %v, %v", b, e, again, err)
			}
		}
	})
}

// script is a stream with a fixed input.
type script struct {
	in   [][]byte
	sent int
}

func (s *script) recv(context.Context) ([]byte, error) {
	if len(s.in) == 0 {
		return nil, io.EOF
	}
	b := s.in[0]
	s.in = s.in[1:]
	return b, nil
}

func (s *script) send(context.Context, []byte) error { s.sent++; return nil }
func (s *script) closeSend() error                   { return nil }

func TestWhatIsNotWhatWasSentIsNoticed(t *testing.T) {
	const text = "some text"
	var n tally
	n.add([]byte(text))
	good := ending{bytes: n.bytes, sum: n.sum()}
	wrongSum := good
	wrongSum.sum[3] ^= 1
	wrongNumber := good
	wrongNumber.bytes++
	for _, c := range []struct {
		name string
		size int64
		in   []string
		is   error
	}{
		{"all is well", 9, []string{text, "", string(good.encode())}, io.EOF},
		{"all is well, in parts and without a size", -1, []string{text[:3], text[3:], "", string(good.encode())}, io.EOF},
		{"a byte is another", 9, []string{"somE text", "", string(good.encode())}, ErrCorrupt},
		{"the sum is another", 9, []string{text, "", string(wrongSum.encode())}, ErrCorrupt},
		{"the number is another", 9, []string{text, "", string(wrongNumber.encode())}, ErrCorrupt},
		{"a message is missing", 9, []string{"", string(good.encode())}, ErrCorrupt},
		{"there is more than announced", 8, []string{text, "", string(good.encode())}, ErrCorrupt},
		{"there is less than announced", 10, []string{text, "", string(good.encode())}, ErrCorrupt},
		{"it ends without an end", 9, []string{text}, ErrCorrupt},
		{"it ends within the end", 9, []string{text, ""}, io.ErrUnexpectedEOF},
		{"the end is malformed", 9, []string{text, "", "\x00\x01"}, errTransfer},
		{"the end is empty", 9, []string{text, "", ""}, errTransfer},
		{"the sender has nothing like it", 9, []string{"", string(ending{verdict: verdictMismatch}.encode())}, ErrMismatch},
		{"there is something behind the end", 9, []string{text, "", string(good.encode()), "more"}, io.EOF},
	} {
		s := new(script)
		for _, one := range c.in {
			s.in = append(s.in, append(make([]byte, 0, 1<<10), one...))
		}
		n := tally{size: c.size}
		var err error
		for err == nil {
			_, err = n.receive(t.Context(), s)
		}
		if !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %v", c.name, err, c.is)
		}
	}
	if err := awaitEnd(t.Context(), &script{in: [][]byte{[]byte("more")}}); err != errTransfer {
		t.Errorf("a message behind the end: %v", err)
	}
}

func TestTheTextOfASenderIsEscaped(t *testing.T) {
	s := &script{in: [][]byte{{}, ending{verdict: verdictFailed, text: "bad\nline" + strings.Repeat("x", 5000)}.encode()}}
	n := tally{size: -1}
	_, err := n.receive(t.Context(), s)
	if err == nil || strings.ContainsRune(err.Error(), '\n') || len(err.Error()) > 2000 {
		t.Errorf("%.100v, %d bytes", err, len(err.Error()))
	}
}

func TestNumbersThatAreNoneAreRefused(t *testing.T) {
	for _, text := range []string{
		"01" + "80", "01" + "ffffffffffffffffff01", "01" + "00" + "05" + "0011",
	} {
		b, _ := hex.DecodeString(text)
		if o, err := parseOpening(b); err == nil {
			t.Errorf("%s: %v", text, o)
		}
	}
	if o, err := parseOpening(opening{size: math.MaxInt64 - 1}.encode()); err != nil || o.size != math.MaxInt64-1 {
		t.Errorf("%v, %v", o, err)
	}
}
