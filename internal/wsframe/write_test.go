package wsframe

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

func TestHeadersAreThoseOfTheOtherImplementation(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 30} {
		for _, masked := range []bool{false, true} {
			h := ws.Header{Fin: true, OpCode: ws.OpBinary, Length: int64(n), Masked: masked}
			if masked {
				h.Mask = testKey
			}
			var want bytes.Buffer
			if err := ws.WriteHeader(&want, h); err != nil {
				t.Fatal(err)
			}
			size := HeaderSize(n, masked)
			dst := bytes.Repeat([]byte{0xaa}, size+1)
			if got := PutHeader(dst, ws.OpBinary, n, masked, testKey); got != size {
				t.Errorf("%d bytes, masked %v: wrote %d, want %d", n, masked, got, size)
			}
			if !bytes.Equal(dst[:size], want.Bytes()) || dst[size] != 0xaa {
				t.Errorf("%d bytes, masked %v: % x, want % x", n, masked, dst, want.Bytes())
			}
		}
	}
}

func TestHeaderLaidInFrontOfPayloadMakesAFrame(t *testing.T) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		b := append(make([]byte, MaxHeaderSize), repeat(n)...)
		at := MaxHeaderSize - HeaderSize(n, true)
		PutHeader(b[at:], ws.OpBinary, n, true, testKey)
		Mask(b[MaxHeaderSize:], testKey)
		got := record(bytes.NewReader(b[at:]), nil, Config{})
		if len(got) != 2 || got[0] != message(repeat(n)) || got[1] != ended {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
}

func TestAppendControl(t *testing.T) {
	for _, c := range []struct{ name, payload, want string }{
		{"empty", "", ""},
		{"short", "hello", "hello"},
		{"the longest", repeat(125), repeat(125)},
		{"too long is cut", repeat(200), repeat(125)},
	} {
		for _, client := range []bool{true, false} {
			payload := []byte(c.payload)
			b := AppendControl([]byte("before"), ws.OpPong, payload, !client, testKey)
			if string(payload) != c.payload {
				t.Errorf("%s: the payload was changed", c.name)
			}
			rest, ok := bytes.CutPrefix(b, []byte("before"))
			got := record(bytes.NewReader(rest), nil, Config{Client: client})
			if !ok || got[0] != gotPong(c.want) || got[1] != ended {
				t.Errorf("%s, client %v: %v", c.name, client, got)
			}
		}
	}
}

func TestAppendClose(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   ws.StatusCode
		reason string
		want   event
	}{
		{"code alone", 1000, "", closed(1000, "")},
		{"code and reason", 1009, "message too large", closed(1009, "message too large")},
		{"the longest reason", 1001, strings.Repeat("a", 123), closed(1001, strings.Repeat("a", 123))},
		{"a longer reason is cut", 1001, strings.Repeat("a", 500), closed(1001, strings.Repeat("a", 123))},
		{"it is cut between characters", 1001, strings.Repeat("ä", 62), closed(1001, strings.Repeat("ä", 61))},
		{"a reason that is not UTF-8 is mended", 1001, "a\xffb", closed(1001, "a\uFFFDb")},
		{"code 1005 means no code", ws.StatusNoStatusRcvd, "lost", closed(1005, "")},
		{"code 1006 is not sent", ws.StatusAbnormalClosure, "lost", closed(1005, "")},
		{"code 0 is not sent", 0, "", closed(1005, "")},
	} {
		for _, client := range []bool{true, false} {
			got := record(bytes.NewReader(AppendClose(nil, c.code, c.reason, !client, testKey)), nil, Config{Client: client})
			if len(got) != 1 || got[0] != c.want {
				t.Errorf("%s, client %v: %v, want %v", c.name, client, got, c.want)
			}
		}
	}
}

func TestErrorsFitIntoACloseFrame(t *testing.T) {
	for _, err := range []error{parseClose([]byte{1}), parseClose([]byte{0xff, 0xff}), parseClose([]byte{3, 232, 0xff})} {
		e, ok := err.(*ProtocolError)
		if !ok || len(e.Text) > maxReason || !utf8.ValidString(e.Text) || e.Error() == "" {
			t.Errorf("%v", err)
		}
	}
}

func TestWritingDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 1024)
	payload := []byte("hello")
	if a := testing.AllocsPerRun(100, func() {
		b := AppendControl(buf, ws.OpPing, payload, true, testKey)
		b = AppendClose(b, 1000, "bye", true, testKey)
		PutHeader(b[len(b):cap(b)], ws.OpBinary, 70000, true, testKey)
	}); a != 0 {
		t.Errorf("%v allocations, want 0", a)
	}
}
