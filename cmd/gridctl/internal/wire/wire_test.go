package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gridmesh/grid"
)

// vector is a message of testdata, as much of it as its file says.
type vector struct {
	Name    string
	Frame   string `json:"frame_hex"`
	Encoded string `json:"encoded_hex"`
	Payload string `json:"payload_hex"`
	OpName  string `json:"op_name"`
	MuxID   uint64 `json:"mux_id"`
	Seq     uint32
}

func vectors(t testing.TB, file, key string) (all []vector) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../../../testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(b, &content); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content[key], &all); err != nil || len(all) == 0 {
		t.Fatalf("%s, %s: %d, %v", file, key, len(all), err)
	}
	return all
}

func fromHex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordedMessages(t *testing.T) {
	for _, v := range vectors(t, "wire/messages.json", "messages") {
		frame := fromHex(t, v.Frame)
		m, err := Parse(frame)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if v.OpName == "Merged" {
			continue
		}
		if m.Op.String() != v.OpName || m.MuxID != v.MuxID || m.Seq != v.Seq || !bytes.Equal(m.Payload, fromHex(t, v.Payload)) {
			t.Errorf("%s: %+v", v.Name, m)
		}
		if m.Sum == SumWrong || (m.Sum == SumRight) != (m.Flags&grid.FlagCRCxxh3 != 0) {
			t.Errorf("%s: its checksum is %v", v.Name, m.Sum)
		}
		if got := m.Append(nil); !bytes.Equal(got, frame) {
			t.Errorf("%s: %x, want %x", v.Name, got, frame)
		}
	}
}

func TestNativeMessages(t *testing.T) {
	for file, key := range map[string]string{"streams": "messages", "priorities": "messages", "pieces": "pieces", "facts": "facts"} {
		for _, v := range vectors(t, "native/"+file+".json", key) {
			b := fromHex(t, v.Encoded)
			m, err := Parse(b)
			if err != nil || m.Sum == SumWrong {
				t.Errorf("%s: %v, %+v", v.Name, err, m)
			}
			if got := m.Append(nil); !bytes.Equal(got, b) {
				t.Errorf("%s: %x, want %x", v.Name, got, b)
			}
		}
	}
}

func TestMerged(t *testing.T) {
	ping := Message{Op: grid.OpPing}
	one := ping.Append(nil)
	b := []byte{0x97, 0, 2, 0, 0, byte(grid.OpMerged), 0, 0xc4, 0}
	for range 2 {
		b = append(append(b, 0xc4, byte(len(one))), one...)
	}
	m, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := m.Merged(); err != nil || len(all) != 2 || all[1].Op != grid.OpPing {
		t.Errorf("%+v, %v", all, err)
	}
	if m, err = Parse(b[:len(b)-1]); err != nil {
		t.Fatal(err)
	}
	if all, err := m.Merged(); err == nil || len(all) != 1 {
		t.Errorf("cut short: %+v, %v", all, err)
	}
}

func TestHandshake(t *testing.T) {
	c := Connect{ID: [16]byte{1, 2}, Host: "http://a:1", Time: time.Unix(1, 0), Token: "t", Grid: 3, To: "http://b:1", Max: 5000}
	got, err := ParseConnect(c.Append(nil))
	got.Time = got.Time.UTC()
	c.Time = c.Time.UTC()
	if err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	b, err := os.ReadFile("../../../../testdata/native/handshake.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Responses []struct {
			Name, Host string
			Accepted   bool
			Grid       uint32
			Reason     string `json:"rejected_reason"`
			Payload    string `json:"payload_hex"`
		} `json:"connect_response"`
	}
	if err := json.Unmarshal(b, &file); err != nil || len(file.Responses) == 0 {
		t.Fatal(err)
	}
	for _, v := range file.Responses {
		r, err := ParseResponse(fromHex(t, v.Payload))
		if err != nil || r.Accepted != v.Accepted || r.Host != v.Host || r.Reason != v.Reason || r.Grid != v.Grid || r.ID[15] != 16 {
			t.Errorf("%s: %+v, %v", v.Name, r, err)
		}
	}
}

func TestFacts(t *testing.T) {
	v := vectors(t, "native/facts.json", "facts")
	m, err := Parse(fromHex(t, v[1].Encoded))
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFacts(m.Payload)
	if err != nil || f.Version != "2.6.1" || f.Labels["zone"] != "a" || !f.Draining || !f.More ||
		!slices.Equal(f.Requests.IDs, []grid.HandlerID{128}) || len(f.Requests.Routes) != 2 || len(f.Streams.Routes) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := ParseFacts([]byte{0x81, 0x01, 0x02}); err == nil {
		t.Error("a map without names was taken")
	}
}

func TestSubroutes(t *testing.T) {
	const method = "4a00049ac6a8d56a094b9c36ef2b24afa3d373fa2d3454e22676b140baf83197" // of docs/protocol.md
	if got := hex.EncodeToString(SubrouteOf(grid.HandlerNamed, "kv.Get")); got != method {
		t.Error(got)
	}
	if KeyOfSubroute(fromHex(t, method)) != KeyOf(grid.HandlerNamed, "kv.Get") {
		t.Error("two keys of one method")
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f, "wire/messages.json", "messages") {
		f.Add(fromHex(f, v.Frame))
	}
	for _, v := range vectors(f, "native/facts.json", "facts") {
		f.Add(fromHex(f, v.Encoded))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		all := []Message{m}
		if m.Op == grid.OpMerged {
			all, _ = m.Merged()
		}
		for _, m := range all {
			_, _ = ParseConnect(m.Payload)
			_, _ = ParseResponse(m.Payload)
			_, _ = ParseFacts(m.Payload)
			_, _ = ErrorText(m.Payload), PongError(m.Payload)
		}
	})
}
