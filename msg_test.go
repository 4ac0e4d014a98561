package grid

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"testing"

	"github.com/tinylib/msgp/msgp"
	"github.com/zeebo/xxh3"
)

func TestFlagsSetClearAndString(t *testing.T) {
	var f Flags
	f.Set(FlagEOF | FlagSubroute)
	f.Set(FlagStateless)
	f.Clear(FlagEOF | FlagCRCxxh3)
	if want := FlagStateless | FlagSubroute; f != want {
		t.Errorf("got %d, want %d", f, want)
	}
	for f, want := range map[Flags]string{
		0:                      "[]",
		FlagCRCxxh3:            "[CRC]",
		FlagEOF | FlagSubroute: "[EOF,SUB]",
		1<<7 - 1:               "[CRC,EOF,SL,ERR,ZERO,SUB,META]",
	} {
		if got := f.String(); got != want {
			t.Errorf("%d: got %s, want %s", uint8(f), got, want)
		}
	}
}

func TestStatesHaveNames(t *testing.T) {
	for s, want := range map[State]string{
		StateUnconnected: "Unconnected", StateConnecting: "Connecting", StateConnected: "Connected",
		StateConnectionError: "ConnectionError", StateShutdown: "Shutdown", 9: "State(9)",
	} {
		if got := s.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestUnusualEncodingsAreUnderstood(t *testing.T) {
	want := message{MuxID: 1, Seq: 2, DeadlineMS: 3, Handler: 4, Op: OpRequest, Flags: FlagEOF, Payload: []byte("hi")}
	for name, frame := range map[string]string{
		"the usual one":             "\x97\x01\x02\x03\x04\x0e\x02\xc4\x02hi",
		"an array of 16-bit length": "\xdc\x00\x07\x01\x02\x03\x04\x0e\x02\xc4\x02hi",
		"unsigned and too wide":     "\x97\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xce\x00\x00\x00\x02\xcd\x00\x03\xcc\x04\xcd\x00\x0e\xcc\x02\xc4\x02hi",
		"signed":                    "\x97\xd3\x00\x00\x00\x00\x00\x00\x00\x01\xd2\x00\x00\x00\x02\xd1\x00\x03\xd0\x04\x0e\x02\xc4\x02hi",
		"bin of 16-bit length":      "\x97\x01\x02\x03\x04\x0e\x02\xc5\x00\x02hi",
		"bin of 32-bit length":      "\x97\x01\x02\x03\x04\x0e\x02\xc6\x00\x00\x00\x02hi",
		"bytes behind the array":    "\x97\x01\x02\x03\x04\x0e\x02\xc4\x02hi extension",
	} {
		t.Run(name, func(t *testing.T) {
			var got message
			if err := got.parse([]byte(frame)); err != nil {
				t.Fatal(err)
			}
			if !sameMessage(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestFieldsOutOfTheirRangeFail(t *testing.T) {
	for name, frame := range map[string]string{
		"sequence over 32 bits": "\x97\x01\xcf\x00\x00\x00\x01\x00\x00\x00\x02\x03\x04\x0e\x02\xc4\x00",
		"deadline over 32 bits": "\x97\x01\x02\xcf\x00\x00\x00\x01\x00\x00\x00\x03\x04\x0e\x02\xc4\x00",
		"handler over 8 bits":   "\x97\x01\x02\x03\xcd\x01\x04\x0e\x02\xc4\x00",
		"op over 8 bits":        "\x97\x01\x02\x03\x04\xcd\x01\x0e\x02\xc4\x00",
		"flags over 8 bits":     "\x97\x01\x02\x03\x04\x0e\xcd\x01\x02\xc4\x00",
		"negative mux":          "\x97\xff\x02\x03\x04\x0e\x02\xc4\x00",
		"payload is a string":   "\x97\x01\x02\x03\x04\x0e\x02\xa2hi",
		"payload is nil":        "\x97\x01\x02\x03\x04\x0e\x02\xc0",
	} {
		t.Run(name, func(t *testing.T) {
			var m message
			if err := m.parse([]byte(frame)); err == nil {
				t.Errorf("parsed %+v", m)
			}
		})
	}
}

func TestParseTellsWhatIsMissing(t *testing.T) {
	short := message{Op: OpRequest, Flags: FlagCRCxxh3}
	shortFrame := short.appendTo(nil)
	tests := map[string]struct {
		frame []byte
		want  error
	}{
		"no checksum":             {shortFrame[:len(shortFrame)-1], errChecksumMissing},
		"no subroute":             {[]byte("\x97\x00\x00\x00\x00\x0e\x20\xc4\x00\x00"), errSubrouteMissing},
		"a checksum, no subroute": {withChecksum([]byte("\x97\x00\x00\x00\x00\x0e\x21\xc4\x00")), errSubrouteMissing},
		"no message":              {nil, msgp.ErrShortBytes},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var m message
			if err := m.parse(tt.frame); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if one, _, err := nextMerged([]byte{0xc4, 2, 0}); err == nil {
		t.Errorf("two bytes of which there is one are %x", one)
	}
}

// withChecksum appends the checksum of b.
func withChecksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(b), uint32(xxh3.Hash(b)))
}

// sameMessage compares messages by what goes over the wire.
func sameMessage(a, b message) bool {
	if (a.subroute == nil) != (b.subroute == nil) || a.subroute != nil && *a.subroute != *b.subroute {
		return false
	}
	return a.MuxID == b.MuxID && a.Seq == b.Seq && a.DeadlineMS == b.DeadlineMS && a.Handler == b.Handler && a.Op == b.Op &&
		a.wireFlags() == b.wireFlags() && bytes.Equal(a.Payload, b.Payload) && bytes.Equal(a.metadata, b.metadata)
}

// splitMerged returns the messages inside an OpMerged, encoded.
func splitMerged(frame []byte) (inner [][]byte, err error) {
	var m message
	if err := m.parse(frame); err != nil {
		return nil, err
	}
	if m.Op != OpMerged {
		return nil, fmt.Errorf("is %v", m.Op)
	}
	rest := m.Payload
	for range m.Seq {
		var one []byte
		if one, rest, err = nextMerged(rest); err != nil {
			return nil, err
		}
		inner = append(inner, one)
	}
	return inner, nil
}

func TestHeaderOfMergedMessagesIsShort(t *testing.T) {
	for n, want := range map[int]int{0: 9, 50: 9, 200: 10, 70000: 13} {
		if got := len(appendMergedHeader(nil, n)); got != want {
			t.Errorf("%d messages: %d bytes, want %d", n, got, want)
		}
	}
}

func TestEncodingLeavesTheMessageAlone(t *testing.T) {
	m := message{Op: OpRequest, Payload: []byte{}, subroute: new(routeID)}
	before := m
	m.appendTo(nil)
	if !reflect.DeepEqual(m, before) {
		t.Errorf("got %+v, was %+v", m, before)
	}
}

func TestClaimedLengthsAllocateNothing(t *testing.T) {
	frames := map[string]string{
		"payload":          "\x97\x01\x02\x03\x04\x0e\x02\xc6\xff\xff\xff\xff",
		"array":            "\xdd\xff\xff\xff\xff\x01",
		"payload, merged":  "\x97\x00\xce\xff\xff\xff\xff\x00\x00\x11\x00\xc4\x00\xc6\xff\xff\xff\xff",
		"fields":           "\xdf\xff\xff\xff\xff",
		"host":             "\x81\xa4Host\xdb\xff\xff\xff\xff",
		"ID":               "\x81\xa2ID\xc6\xff\xff\xff\xff",
		"time":             "\x81\xa4Time\xc9\xff\xff\xff\xff\x05",
		"name of a field":  "\x81\xdb\xff\xff\xff\xff",
		"unknown field":    "\x81\xa1x\xdd\xff\xff\xff\xff",
		"unknown map":      "\x81\xa1x\xdf\xff\xff\xff\xff",
		"unknown bin":      "\x81\xa1x\xc6\xff\xff\xff\xff",
		"error of a pong":  "\x81\xa1e\xdb\xff\xff\xff\xff",
		"time of a ping":   "\x81\xa1t\xc9\xff\xff\xff\xff\x05",
		"error of a mux":   "\x81\xa5Error\xdb\xff\xff\xff\xff",
		"reason":           "\x81\xaeRejectedReason\xdb\xff\xff\xff\xff",
		"nested, unbroken": "\x81\xa1x" + string(bytes.Repeat([]byte{0x91}, 60000)),
	}
	for name, frame := range frames {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := splitMerged([]byte(frame)); err == nil {
				t.Error("is a message")
			}
			for typ, v := range handshakePayloads() {
				// On 32 bits msgp may skip an unknown field with such a length as if it were a
				// short one.
				if err := unmarshal(v, []byte(frame)); err == nil && strconv.IntSize > 32 {
					t.Errorf("is a %s", typ)
				}
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
				t.Errorf("%d bytes allocated", got)
			}
		})
	}
}

// handshakePayloads returns an empty one of each payload type of the handshake and of pings.
func handshakePayloads() map[string]msgp.Unmarshaler {
	return map[string]msgp.Unmarshaler{
		"connectReq": new(connectReq), "connectResp": new(connectResp), "muxConnectError": new(muxConnectError),
		"pingMsg": new(pingMsg), "pongMsg": new(pongMsg),
	}
}

// hotMessages are the shapes that every call sends.
func hotMessages() map[string]message {
	payload := bytes.Repeat([]byte("payload."), 64)
	return map[string]message{
		"request":         {MuxID: 123456, DeadlineMS: 60000, Handler: 200, Op: OpRequest, Flags: FlagCRCxxh3 | FlagEOF, Payload: payload},
		"without payload": {MuxID: 1 << 40, Seq: 1 << 30, Op: OpUnblockSrvMux, Flags: FlagCRCxxh3},
		"empty payload":   {MuxID: 1, Op: OpResponse, Flags: FlagCRCxxh3 | FlagEOF, Payload: []byte{}},
		"on a subroute":   {MuxID: 1, Op: OpRequest, Flags: FlagCRCxxh3, Payload: payload, subroute: new(routeID)},
		"merged":          {Seq: 30, Op: OpMerged},
	}
}

func TestEncodingAndParsingDoNotAllocate(t *testing.T) {
	for name, m := range hotMessages() {
		dst := make([]byte, 0, 1024)
		if n := testing.AllocsPerRun(100, func() {
			local := m
			dst = local.appendTo(dst[:0])
		}); n != 0 {
			t.Errorf("%s: appendTo allocates %v times", name, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			var got message
			if err := got.parse(dst); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: parse allocates %v times", name, n)
		}
	}
	wide := []byte("\xdc\x00\x07\x01\x02\x03\x04\x0e\x02\xc4\x02hi")
	if n := testing.AllocsPerRun(100, func() {
		var got message
		if err := got.parse(wide); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("parse allocates %v times for an unusual message", n)
	}
	header := make([]byte, 0, 16)
	if n := testing.AllocsPerRun(100, func() { header = appendMergedHeader(header[:0], 1<<20) }); n != 0 {
		t.Errorf("appendMergedHeader allocates %v times", n)
	}
	merged := msgp.AppendBytes(nil, []byte{0})
	if n := testing.AllocsPerRun(100, func() { _, _, _ = nextMerged(merged) }); n != 0 {
		t.Errorf("nextMerged allocates %v times", n)
	}
}

// checkMessage checks what must be true of any bytes given to parse.
func checkMessage(t *testing.T, b []byte) {
	var fast, slow message
	fastTail, ok := fast.parseShortest(b)
	if slowTail, err := slow.unmarshalAny(b); ok {
		if err != nil {
			t.Fatalf("the fast path reads what the generated decoder does not: %v", err)
		}
		if !sameMessage(fast, slow) || fast.Flags != slow.Flags || !bytes.Equal(fastTail, slowTail) {
			t.Fatalf("the fast path reads %+v, the generated decoder %+v", fast, slow)
		}
	}

	var m message
	if err := m.parse(b); err != nil || m.Op == OpMerged {
		return // appendTo does not write what is inside an OpMerged
	}
	encoded := m.appendTo(nil)
	if len(encoded) != m.size() {
		t.Fatalf("size %d, wrote %d", m.size(), len(encoded))
	}
	var again message
	if err := again.parse(encoded); err != nil {
		t.Fatalf("parsed %+v, but not what it encodes to: %v", m, err)
	}
	if !sameMessage(m, again) {
		t.Fatalf("parsed %+v, then %+v", m, again)
	}
	if len(encoded) > len(b) {
		t.Fatalf("%d bytes encode to %d", len(b), len(encoded))
	}
}

func TestEncodedFieldsAreReadAlikeByBothDecoders(t *testing.T) {
	values := []uint64{0, 1, 127, 128, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32, 1<<64 - 1}
	for _, a := range values {
		for _, b := range values {
			m := message{
				MuxID: a, Seq: uint32(b), DeadlineMS: uint32(a), Handler: HandlerID(b), Op: Op(a),
				Flags: Flags(b) &^ FlagSubroute, Payload: make([]byte, b%70000),
			}
			frame := m.appendTo(nil)
			checkMessage(t, frame)
			var got message
			if err := got.parse(frame); err != nil || !sameMessage(got, m) {
				t.Errorf("got %+v, %v, want %+v", got, err, m)
			}
			if _, ok := got.parseShortest(frame); !ok {
				t.Errorf("%x misses the fast path", frame[:min(len(frame), 40)])
			}
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	v := loadWireVectors(f)
	for _, e := range v.Messages {
		if len(e.Frame) < 1000 {
			f.Add([]byte(e.Frame))
		}
	}
	for _, e := range v.Malformed {
		f.Add([]byte(e.Frame))
	}
	for _, e := range loadMetadataVectors(f).Messages {
		f.Add([]byte(e.Frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		checkMessage(t, b)
		// Nothing gets past a checksum by chance: give it a right one too.
		checkMessage(t, withChecksum(b))
	})
}

func FuzzMerged(f *testing.F) {
	for _, e := range loadWireVectors(f).Merged {
		f.Add([]byte(e.Frame))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		inner, err := splitMerged(b)
		if err != nil {
			return
		}
		frame := appendMergedHeader(nil, len(inner))
		for _, one := range inner {
			checkMessage(t, one)
			frame = msgp.AppendBytes(frame, one)
		}
		again, err := splitMerged(frame)
		if err != nil {
			t.Fatal(err)
		}
		if len(inner) != len(again) {
			t.Fatalf("%d messages, then %d", len(inner), len(again))
		}
		for i := range inner {
			if !bytes.Equal(inner[i], again[i]) {
				t.Fatalf("message %d was %x, then %x", i, inner[i], again[i])
			}
		}
	})
}

func FuzzHandshake(f *testing.F) {
	for _, e := range loadWireVectors(f).Payloads {
		f.Add([]byte(e.Hex))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again := handshakePayloads()
		for typ, v := range handshakePayloads() {
			if err := unmarshal(v, b); err != nil {
				continue
			}
			encoded, err := v.(msgp.Marshaler).MarshalMsg(nil)
			if err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			if rest, err := again[typ].UnmarshalMsg(encoded); err != nil || len(rest) != 0 {
				t.Fatalf("%s: decoded %+v, but not what it encodes to: %x left, %v", typ, v, rest, err)
			}
			if !reflect.DeepEqual(v, again[typ]) {
				t.Fatalf("%s: decoded %+v, then %+v", typ, v, again[typ])
			}
		}
	})
}

func BenchmarkAppendMessage512(b *testing.B) {
	for name, m := range map[string]message{"crc": hotMessages()["request"], "bare": hotMessages()["request"]} {
		if name == "bare" {
			m.Flags.Clear(FlagCRCxxh3)
		}
		b.Run(name, func(b *testing.B) {
			dst := m.appendTo(nil)
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				dst = m.appendTo(dst[:0])
			}
		})
	}
}

func BenchmarkParseMessage512(b *testing.B) {
	for name, m := range map[string]message{"crc": hotMessages()["request"], "bare": hotMessages()["request"]} {
		if name == "bare" {
			m.Flags.Clear(FlagCRCxxh3)
		}
		b.Run(name, func(b *testing.B) {
			frame := m.appendTo(nil)
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for b.Loop() {
				var got message
				if err := got.parse(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
