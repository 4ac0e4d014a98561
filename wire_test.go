package grid

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// hexBytes are bytes written in hexadecimal; nil and empty differ.
type hexBytes []byte

func (h *hexBytes) UnmarshalJSON(text []byte) error {
	var s *string
	if err := json.Unmarshal(text, &s); err != nil || s == nil {
		return err
	}
	b, err := hex.DecodeString(*s)
	*h = b
	return err
}

// wireVectors is what a running original has put on the wire.
type wireVectors struct {
	Messages []struct {
		Name        string   `json:"name"`
		MuxID       uint64   `json:"mux_id"`
		Seq         uint32   `json:"seq"`
		DeadlineMS  uint32   `json:"deadline_ms"`
		Handler     uint8    `json:"handler"`
		Op          uint8    `json:"op"`
		OpName      string   `json:"op_name"`
		Flags       uint8    `json:"flags"`
		FlagsString string   `json:"flags_string"`
		Payload     hexBytes `json:"payload_hex"`
		Subroute    hexBytes `json:"subroute_hex"`
		Frame       hexBytes `json:"frame_hex"`
	} `json:"messages"`
	Payloads []struct {
		Type  string   `json:"type"`
		Value string   `json:"value"`
		Hex   hexBytes `json:"hex"`
	} `json:"payloads"`
	Subroutes []struct {
		Handler uint8    `json:"handler"`
		Route   string   `json:"route"`
		ID      hexBytes `json:"id_hex"`
	} `json:"subroutes"`
	DialDirection []struct {
		Local      string `json:"local"`
		Remote     string `json:"remote"`
		LocalDials bool   `json:"local_dials"`
	} `json:"dial_direction"`
	HandlerIDs map[string]uint8 `json:"handler_ids"`
	Ops        map[string]uint8 `json:"ops"`
	Malformed  []struct {
		Name  string   `json:"name"`
		Frame hexBytes `json:"frame_hex"`
	} `json:"malformed"`
	Merged []struct {
		Frame hexBytes   `json:"frame_hex"`
		Inner []hexBytes `json:"inner_hex"`
	} `json:"merged"`
}

func loadWireVectors(t testing.TB) (v wireVectors) {
	t.Helper()
	b, err := os.ReadFile("testdata/wire/messages.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMessagesHaveTheBytesOfTheOriginal(t *testing.T) {
	for _, v := range loadWireVectors(t).Messages {
		t.Run(v.Name+" "+v.OpName, func(t *testing.T) {
			m := message{
				MuxID:      v.MuxID,
				Seq:        v.Seq,
				DeadlineMS: v.DeadlineMS,
				Handler:    HandlerID(v.Handler),
				Op:         Op(v.Op),
				Flags:      Flags(v.Flags),
				Payload:    v.Payload,
			}
			if m.Flags&FlagPayloadIsZero != 0 {
				m.Payload = []byte{}
			}
			if v.Subroute != nil {
				m.subroute = (*routeID)(v.Subroute)
			}
			b := m.appendTo(nil)
			if !bytes.Equal(b, v.Frame) {
				t.Errorf("encoded to\n%x, want\n%x", b, v.Frame)
			}
			if m.size() != len(b) {
				t.Errorf("size is %d, but %d bytes are written", m.size(), len(b))
			}
			if m.Op.String() != v.OpName || m.Flags.String() != v.FlagsString {
				t.Errorf("named %v %v, want %v %v", m.Op, m.Flags, v.OpName, v.FlagsString)
			}
			var got message
			if err := got.parse(v.Frame); err != nil {
				t.Fatal(err)
			}
			compareMessages(t, &got, &m)
		})
	}
}

func compareMessages(t *testing.T, got, want *message) {
	t.Helper()
	if got.MuxID != want.MuxID || got.Seq != want.Seq || got.DeadlineMS != want.DeadlineMS ||
		got.Handler != want.Handler || got.Op != want.Op || got.Flags != want.Flags {
		t.Errorf("parsed as %+v, want %+v", got, want)
	}
	if want.Op == OpMerged {
		return // what follows is no payload
	}
	if !bytes.Equal(got.Payload, want.Payload) || (got.Payload == nil) != (want.Payload == nil) {
		t.Errorf("payload %x (nil: %v), want %x (nil: %v)", got.Payload, got.Payload == nil, want.Payload, want.Payload == nil)
	}
	if (got.subroute == nil) != (want.subroute == nil) || got.subroute != nil && *got.subroute != *want.subroute {
		t.Errorf("subroute %x, want %x", got.subroute, want.subroute)
	}
}

func TestMalformedMessagesFail(t *testing.T) {
	v := loadWireVectors(t)
	for _, bad := range v.Malformed {
		t.Run(bad.Name, func(t *testing.T) {
			var m message
			if err := m.parse(bad.Frame); err == nil {
				t.Errorf("%x was taken for %+v", bad.Frame, m)
			}
		})
	}
	for _, good := range v.Messages {
		if len(good.Frame) > 500 || Op(good.Op) == OpMerged {
			continue
		}
		for cut := range good.Frame {
			var m message
			if err := m.parse(good.Frame[:cut]); err == nil {
				t.Errorf("%s: %d bytes of %d were taken for %+v", good.Name, cut, len(good.Frame), m)
			}
		}
		if Flags(good.Flags)&FlagCRCxxh3 == 0 {
			continue
		}
		for bit := range len(good.Frame) * 8 {
			b := bytes.Clone(good.Frame)
			b[bit/8] ^= 1 << (bit % 8)
			var m message
			if err := m.parse(b); err == nil && m.Flags&FlagCRCxxh3 != 0 && m.Op != OpMerged {
				t.Errorf("%s: flipped bit %d went unnoticed", good.Name, bit)
			}
		}
	}
}

func TestMergedMessagesHaveTheBytesOfTheOriginal(t *testing.T) {
	for _, v := range loadWireVectors(t).Merged {
		b := appendMergedHeader(nil, len(v.Inner))
		for _, inner := range v.Inner {
			b = msgp.AppendBytes(b, inner)
		}
		if !bytes.Equal(b, v.Frame) {
			t.Errorf("encoded to %x, want %x", b, v.Frame)
		}
		var m message
		if err := m.parse(v.Frame); err != nil {
			t.Fatal(err)
		}
		rest := m.Payload
		for i, want := range v.Inner {
			one, tail, err := nextMerged(rest)
			if err != nil || !bytes.Equal(one, want) {
				t.Errorf("message %d is %x (%v), want %x", i, one, err, want)
			}
			rest = tail
		}
		if _, _, err := nextMerged(rest); err == nil || int(m.Seq) != len(v.Inner) {
			t.Errorf("%d messages are announced, with %d bytes behind the last", m.Seq, len(rest))
		}
	}
}

func TestSubroutesAndDialDirectionAreThoseOfTheOriginal(t *testing.T) {
	v := loadWireVectors(t)
	for _, s := range v.Subroutes {
		if id := makeRouteID(HandlerID(s.Handler), s.Route); !bytes.Equal(id[:], s.ID) {
			t.Errorf("subroute %q is %x, want %x", s.Route, id, s.ID)
		}
	}
	for _, d := range v.DialDirection {
		if shouldDial(d.Local, d.Remote) != d.LocalDials || shouldDial(d.Remote, d.Local) == d.LocalDials {
			t.Errorf("%s dials %s: %v, want %v", d.Local, d.Remote, !d.LocalDials, d.LocalDials)
		}
	}
}

func TestNumbersHaveTheNamesOfTheOriginal(t *testing.T) {
	v := loadWireVectors(t)
	for name, id := range v.HandlerIDs {
		if HandlerID(id).String() != name {
			t.Errorf("handler %d is %v, want %s", id, HandlerID(id), name)
		}
	}
	for name, op := range v.Ops {
		if Op(op).String() != name {
			t.Errorf("operation %d is %v, want %s", op, Op(op), name)
		}
	}
	if len(v.HandlerIDs) != 73 || len(v.Ops) != 17 {
		t.Errorf("%d handlers and %d operations", len(v.HandlerIDs), len(v.Ops))
	}
}

func TestPayloadsHaveTheBytesOfTheOriginal(t *testing.T) {
	type abJSON struct {
		A int
		B string
	}
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	when := time.Unix(1700000000, 123456789)
	gone := "gone"
	pool := NewJSONPool[abJSON]()
	arrays := NewArrayOf(NewMSS)
	host := "http://127.0.0.1:9000"
	type codable interface {
		msgp.Marshaler
		msgp.Unmarshaler
	}
	values := map[string]struct{ full, empty codable }{
		"connectReq ID=0102..10 Host=" + host: {&connectReq{ID: id, Host: host}, new(connectReq)},
		"connectReq with time and token (later peers) ID=0102..10 Host=" + host + " Time=1700000000.123456789 Token=tok": {
			&connectReq{ID: id, Host: host, Time: when, Token: "tok"}, new(connectReq),
		},
		`connectResp ID=0102..10 Accepted=true RejectedReason=""`: {&connectResp{ID: id, Accepted: true}, new(connectResp)},
		`connectResp ID=0102..10 Accepted=false RejectedReason="unknown incoming host"`: {
			&connectResp{ID: id, RejectedReason: "unknown incoming host"}, new(connectResp),
		},
		`muxConnectError Error="Invalid Handler for type"`:                              {&muxConnectError{Error: unknownHandlerText}, new(muxConnectError)},
		"pongMsg NotFound=false Err=nil":                                                {&pongMsg{}, new(pongMsg)},
		"pongMsg NotFound=true Err=nil":                                                 {&pongMsg{NotFound: true}, new(pongMsg)},
		`pongMsg NotFound=false Err="gone"`:                                             {&pongMsg{Err: &gone}, new(pongMsg)},
		"pingMsg (later peers) T=1700000000.123456789":                                  {&pingMsg{T: when}, new(pingMsg)},
		"pongMsg with time (later peers) NotFound=false Err=nil T=1700000000.123456789": {&pongMsg{T: when}, new(pongMsg)},
		"MSS {myfield: myvalue}":                                                        {NewMSSWith(map[string]string{"myfield": "myvalue"}), NewMSS()},
		"MSS {}":                                                                        {NewMSS(), NewMSS()},
		"MSS nil":                                                                       {new(MSS), NewMSS()},
		"Bytes hello":                                                                   {NewBytesWith([]byte("hello")), NewBytes()},
		"Bytes empty, not nil":                                                          {NewBytes(), new(Bytes)},
		"Bytes nil":                                                                     {new(Bytes), NewBytes()},
		"URLValues {k: [a, b]}":                                                         {NewURLValuesWith(map[string][]string{"k": {"a", "b"}}), NewURLValues()},
		"URLValues {}":                                                                  {NewURLValues(), NewURLValues()},
		"NoPayload ":                                                                    {NoPayload{}, NoPayload{}},
		`JSON {"A":1,"B":"x"}`:                                                          {pool.NewJSONWith(&abJSON{1, "x"}), pool.NewJSON()},
		"JSON nil":                                                                      {new(JSON[abJSON]), pool.NewJSON()},
		"Array[*MSS] [{a:1},{b:2}]":                                                     {arrays.NewWith([]*MSS{NewMSSWith(map[string]string{"a": "1"}), NewMSSWith(map[string]string{"b": "2"})}), arrays.New()},
		"Array[*MSS] nil":                                                               {arrays.NewWith(nil), arrays.New()},
	}
	for _, v := range loadWireVectors(t).Payloads {
		t.Run(v.Type+" "+v.Value, func(t *testing.T) {
			value, ok := values[v.Type+" "+v.Value]
			if !ok {
				t.Fatal("no value for this entry")
			}
			if b, err := value.full.MarshalMsg(nil); err != nil || !bytes.Equal(b, v.Hex) {
				t.Errorf("encoded to %x (%v), want %x", b, err, v.Hex)
			}
			rest, err := value.empty.UnmarshalMsg(v.Hex)
			if err != nil || len(rest) != 0 {
				t.Fatalf("%d bytes left, %v", len(rest), err)
			}
			if b, err := value.empty.MarshalMsg(nil); err != nil || !bytes.Equal(b, v.Hex) {
				t.Errorf("decoded and encoded to %x (%v), want %x", b, err, v.Hex)
			}
			for cut := range v.Hex {
				if _, err := value.empty.UnmarshalMsg(v.Hex[:cut]); err == nil && !strings.HasPrefix(v.Type, "NoPayload") {
					t.Errorf("%d bytes of %d were taken", cut, len(v.Hex))
				}
			}
		})
	}
}
