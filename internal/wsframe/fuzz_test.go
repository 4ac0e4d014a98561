package wsframe

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

const fuzzLimit = 1 << 17

// FuzzReader feeds arbitrary bytes: the result must be that of a plain reader built on the other
// implementation, however the bytes are cut, with memory that follows what arrived. Run it with
// -fuzzminimizetime=50x: the engine would otherwise spend its time on making large inputs smaller.
func FuzzReader(f *testing.F) {
	for _, frames := range [][]frame{
		{binaryFrame("a"), ping("p"), pong("q"), closing(1000, "bye")},
		{firstPart("a"), ping("p"), nextPart(""), lastPart("b"), textFrame("t"), binaryFrame(repeat(126))},
		{{op: ws.OpText, more: true, payload: "x"}, lastPart("y"), closing(1006, "")},
		{binaryFrame(repeat(5000)), closing(3000, "\xff")},
		{firstPart(repeat(70000)), lastPart(repeat(70000))},
		{binaryFrame(repeat(65536)), {op: 3}, {op: ws.OpBinary, rsv: 4}},
	} {
		for _, client := range []bool{true, false} {
			f.Add(encode(frames, !client), client, uint64(1))
		}
	}
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x03\xc0\x00\x00ten bytes."), true, uint64(2))
	f.Add([]byte("\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00"), true, uint64(3))
	f.Add([]byte("\x82\x7e\x00\x01a"), true, uint64(4))

	f.Fuzz(func(t *testing.T, wire []byte, client bool, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		c := Config{Client: client, MaxMessage: fuzzLimit}
		whole := record(bytes.NewReader(wire), nil, c)
		if want := plainRecord(wire, c); !same(whole, want, wire) {
			t.Fatalf("got %v\nwant %v", whole, want)
		}
		for _, most := range []int{1, 1 + rnd.IntN(20), 1 + rnd.IntN(20000)} {
			early := rnd.IntN(len(wire) + 1)
			cut := &randomReader{bytes.NewReader(wire[early:]), rnd, most}
			if got := record(cut, wire[:early], c); !slices.Equal(got, whole) {
				t.Fatalf("in pieces of up to %d: %v\nwhole: %v", most, got, whole)
			}
			m, r := newMeter(&randomReader{bytes.NewReader(wire), rnd, most}, nil, c)
			for _, err := r.Next(); err == nil; _, err = r.Next() {
			}
			r.Release()
			if m.overflow {
				t.Fatal("more memory than what arrived justifies")
			}
		}
	})
}

// same allows for the plain reader's habit of taking a whole header before it looks at it: bytes
// that end within a broken header are an end to it and an error to us.
func same(got, want []event, wire []byte) bool {
	n := len(want) - 1
	if len(got) != len(want) || !slices.Equal(got[:n], want[:n]) {
		return false
	}
	if got[n] == want[n] {
		return true
	}
	return want[n].what == "cut header" && (got[n] == cut || got[n] == fails(1002) || got[n] == fails(1009))
}

// plainRecord is what record must give, as simple as can be.
func plainRecord(wire []byte, c Config) (events []event) {
	src := bytes.NewReader(wire)
	state := ws.StateServerSide
	if c.Client {
		state = ws.StateClientSide
	}
	var msg []byte
	var text bool
	for {
		before := src.Len()
		h, err := ws.ReadHeader(src)
		switch {
		case errors.Is(err, ws.ErrHeaderLengthMSB):
			return append(events, fails(1002))
		case err != nil && before == 0 && !state.Fragmented():
			return append(events, ended)
		case err != nil && before < 2:
			return append(events, cut)
		case err != nil:
			return append(events, event{what: "cut header"})
		}
		taken := before - src.Len()
		switch {
		case ws.CheckHeader(h, state) != nil, taken != ws.HeaderSize(h):
			return append(events, fails(1002))
		case h.OpCode.IsData() && h.Length > int64(c.MaxMessage-len(msg)):
			return append(events, fails(1009))
		case h.Length > int64(src.Len()):
			return append(events, cut)
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(src, payload); err != nil {
			panic(err)
		}
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		switch h.OpCode {
		case ws.OpPing:
			events = append(events, gotPing(string(payload)))
			continue
		case ws.OpPong:
			events = append(events, gotPong(string(payload)))
			continue
		case ws.OpClose:
			return append(events, plainClose(payload))
		case ws.OpText:
			text = true
		case ws.OpBinary:
			text = false
		}
		msg = append(msg, payload...)
		if !h.Fin {
			state = state.Set(ws.StateFragmented)
			continue
		}
		if text && !utf8.Valid(msg) {
			return append(events, fails(1007))
		}
		if !text {
			events = append(events, message(string(msg)))
		}
		state, msg = state.Clear(ws.StateFragmented), nil
	}
}

func plainClose(payload []byte) event {
	if len(payload) == 0 {
		return closed(1005, "")
	}
	if len(payload) == 1 {
		return fails(1002)
	}
	code, reason := ws.ParseCloseFrameData(payload)
	switch err := ws.CheckCloseFrameData(code, reason); {
	case code >= 1012 && code <= 1014: // registered since; unknown to the other implementation
		if !utf8.ValidString(reason) {
			return fails(1007)
		}
	case code >= 5000: // not assigned to anybody; accepted by the other implementation
		return fails(1002)
	case errors.Is(err, ws.ErrProtocolInvalidUTF8):
		return fails(1007)
	case err != nil:
		return fails(1002)
	}
	return closed(int(code), reason)
}

// FuzzHeader writes a header, compares it with that of the other implementation and reads it back
// with both.
func FuzzHeader(f *testing.F) {
	for _, n := range []int{0, 125, 126, 65535, 65536} {
		f.Add(n, true, []byte("\x01\x02\x03\x04"), byte(2))
	}
	f.Fuzz(func(t *testing.T, n int, masked bool, keyBytes []byte, op byte) {
		if n < 0 {
			return
		}
		var key [4]byte
		copy(key[:], keyBytes)
		want := ws.Header{Fin: true, OpCode: ws.OpCode(op & 0x0f), Length: int64(n), Masked: masked}
		if masked {
			want.Mask = key
		}
		var theirs bytes.Buffer
		if err := ws.WriteHeader(&theirs, want); err != nil {
			t.Fatal(err)
		}
		ours := make([]byte, HeaderSize(n, masked))
		if got := PutHeader(ours, want.OpCode, n, masked, key); got != len(ours) || !bytes.Equal(ours, theirs.Bytes()) {
			t.Fatalf("% x, want % x", ours, theirs.Bytes())
		}
		back, err := ws.ReadHeader(bytes.NewReader(ours))
		if err != nil || back != want {
			t.Fatalf("read back %+v, %v, want %+v", back, err, want)
		}

		r := NewReader(bytes.NewReader(ours), nil, Config{Client: !masked, MaxMessage: int(^uint(0) >> 1)})
		defer r.Release()
		h, err := r.header()
		if want.OpCode.IsReserved() || want.OpCode == ws.OpContinuation || want.OpCode.IsControl() && n > maxControl {
			if errorEvent(err) != fails(1002) {
				t.Fatalf("opcode %d of %d bytes: %v", want.OpCode, n, err)
			}
			return
		}
		if err != nil || h.op != want.OpCode || h.length != n || h.masked != masked || !h.fin {
			t.Fatalf("read %+v, %v, want %+v", h, err, want)
		}
	})
}
