package grid

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

// someFacts have every field.
func someFacts() *facts {
	f := &facts{version: "2.6.1", labels: map[string]string{"zone": "a", "role": "storage", "": ""}, draining: true}
	delete(f.labels, "")
	f.handlers.add(false, 128, nil)
	f.handlers.add(true, 200, nil)
	for i, route := range []string{"disks/sda", "disks/sdb", "log"} {
		id := makeRouteID(128, route)
		f.handlers.add(i == 2, 128, &id)
	}
	f.handlers.more = true
	return f
}

func (f *facts) equal(g *facts) bool {
	return maps.Equal(f.labels, g.labels) && fmt.Sprint(f.version, f.draining, f.handlers) == fmt.Sprint(g.version, g.draining, g.handlers)
}

// What nodes say of themselves, byte for byte: testdata/native/facts.json.
func TestFactsHaveTheirBytes(t *testing.T) {
	type vector struct {
		Name    string `json:"name"`
		Encoded string `json:"encoded_hex"`
	}
	var got []vector
	add := func(name string, m message) {
		b := m.appendTo(nil)
		var again message
		if err := again.parse(b); err != nil || !bytes.Equal(again.appendTo(nil), b) {
			t.Errorf("%s: read as %+v, %v", name, again, err)
		}
		got = append(got, vector{name, hex.EncodeToString(b)})
	}
	all := someFacts()
	add("nothing", message{Op: OpFacts, Payload: new(facts).encode(maxFactsSize)})
	add("everything, with a checksum", message{Seq: 7, Op: OpFacts, Flags: FlagCRCxxh3, Payload: all.encode(maxFactsSize)})
	add("everything, where it does not fit", message{Seq: 7, Op: OpFacts, Payload: all.encode(150)})
	example := facts{version: "2.6", labels: map[string]string{"zone": "a"}}
	add("the example", message{Seq: 7, Op: OpFacts, Payload: example.encode(maxFactsSize)})
	add("the list is final", message{Seq: 7, Op: OpFacts, Flags: FlagEOF | FlagCRCxxh3})
	add("acknowledged", message{Seq: 7, Op: OpAckFacts, Flags: FlagCRCxxh3})
	b, err := os.ReadFile("testdata/native/facts.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ Facts []vector }
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want.Facts) {
		have, _ := json.MarshalIndent(map[string]any{"facts": got}, "", " ")
		t.Errorf("got %s", have)
	}
}

func TestFactsSurviveTheirEncoding(t *testing.T) {
	for _, f := range []*facts{new(facts), someFacts(), {labels: map[string]string{}}, {version: strings.Repeat("ü", MaxVersionSize/2)}} {
		if got, err := parseFacts(f.encode(maxFactsSize)); err != nil || !got.equal(f) {
			t.Errorf("%+v became %+v, %v", f, got, err)
		}
	}
	// A later version may say more.
	more := someFacts().encode(maxFactsSize)
	more[0]++
	more = msgp.AppendMapStrStr(msgp.AppendString(more, "Later"), map[string]string{"a": "b"})
	if got, err := parseFacts(more); err != nil || !got.equal(someFacts()) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Whatever a node may say of itself fits in the smallest message, but for its handlers on subroutes.
// Those are left out where they do not fit, and the list says so.
func TestFactsFitInASmallMessage(t *testing.T) {
	f := &facts{version: strings.Repeat("v", MaxVersionSize), labels: make(map[string]string), draining: true}
	for i := range MaxLabels {
		f.labels[fmt.Sprintf("%-16d", i)] = strings.Repeat("x", MaxLabelsSize/MaxLabels-16)
	}
	if err := checkLabels(f.labels); err != nil {
		t.Fatal(err)
	}
	for i := range maxListedRoutes + 2 {
		id := makeRouteID(128, fmt.Sprint(i))
		f.handlers.add(i%2 == 0, 128, &id)
		f.handlers.add(i%2 == 0, HandlerID(i), nil)
		if f.handlers.more != (i >= maxListedRoutes) {
			t.Fatalf("with %d on subroutes, there are said to be more: %v", i+1, f.handlers.more)
		}
	}
	if b := f.encode(maxFactsSize); len(b) > maxFactsSize {
		t.Errorf("%d bytes", len(b))
	} else if got, err := parseFacts(b); err != nil || !got.equal(f) {
		t.Errorf("%v", err)
	}
	got, err := parseFacts(f.encode(minMessageSize - maxOverhead))
	if err != nil {
		t.Fatal(err)
	}
	if l := &got.handlers; !l.more || l.routes() > 0 || !l.singles.has(1, nil) || !maps.Equal(got.labels, f.labels) {
		t.Errorf("%+v", got)
	}
	if b := f.encode(minMessageSize - maxOverhead); len(b) > minMessageSize-maxOverhead {
		t.Errorf("%d bytes in the smallest message", len(b))
	}
}

func TestMalformedFactsAreRefused(t *testing.T) {
	one := func(name string, value []byte) []byte { return append(msgp.AppendString([]byte{0x81}, name), value...) }
	labels := func(pairs ...string) []byte {
		b := msgp.AppendMapHeader(nil, uint32(len(pairs)/2))
		for _, s := range pairs {
			b = msgp.AppendString(b, s)
		}
		return one(factLabels, b)
	}
	var many []string
	for i := range MaxLabels + 1 {
		many = append(many, fmt.Sprintf("%03d", i), "")
	}
	routes := func(n int) []byte {
		b := make([]byte, 8*n)
		for i := range n {
			b[8*i], b[8*i+1] = byte(i>>8), byte(i)
		}
		return msgp.AppendBytes(nil, b)
	}
	both := append(msgp.AppendString(one(factRequestRoutes, routes(maxListedRoutes)), factStreamRoutes), routes(1)...)
	both[0]++
	for name, b := range map[string][]byte{
		"nothing":                      nil,
		"no map":                       {0x90},
		"cut short":                    {0x81},
		"bytes behind":                 {0x80, 0x80},
		"too large":                    one("Later", msgp.AppendBytes(nil, make([]byte, maxFactsSize))),
		"nested too deeply":            one("Later", append(bytes.Repeat([]byte{0x91}, maxProtocolDepth+1), 0xc0)),
		"a version that is no string":  one(factVersion, []byte{1}),
		"a long version":               one(factVersion, msgp.AppendString(nil, strings.Repeat("x", MaxVersionSize+1))),
		"a version that is not UTF-8":  one(factVersion, msgp.AppendString(nil, "\xff")),
		"a version with a line":        one(factVersion, msgp.AppendString(nil, "1\n2")),
		"labels without order":         labels("b", "", "a", ""),
		"a label that is there twice":  labels("a", "", "a", ""),
		"a label without a key":        labels("", "x"),
		"a label with a line":          labels("a", "b\n"),
		"a label that turns its text":  labels("a", "\u202e"),
		"too many labels":              labels(many...),
		"labels that are too long":     labels("a", strings.Repeat("x", MaxLabelsSize)),
		"labels that are said to come": one(factLabels, []byte{0xdf, 0xff, 0xff, 0xff, 0xff}),
		"no bool":                      one(factDraining, []byte{0xc0}),
		"too few IDs":                  one(factRequests, msgp.AppendBytes(nil, make([]byte, 31))),
		"too many IDs":                 one(factStreams, msgp.AppendBytes(nil, make([]byte, 33))),
		"a part of a route":            one(factRequestRoutes, msgp.AppendBytes(nil, make([]byte, 9))),
		"routes without order":         one(factStreamRoutes, msgp.AppendBytes(nil, make([]byte, 16))),
		"too many routes":              one(factRequestRoutes, routes(maxListedRoutes+1)),
		"too many routes of both":      both,
	} {
		if f, err := parseFacts(b); err == nil {
			t.Errorf("%s: read as %+v", name, f)
		} else if len(err.Error()) > 200 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	if _, err := parseFacts(one(factRequestRoutes, routes(maxListedRoutes))); err != nil {
		t.Errorf("as many routes as there may be: %v", err)
	}
}

// FuzzFacts reads what a peer may say of itself.
func FuzzFacts(f *testing.F) {
	f.Add(new(facts).encode(maxFactsSize))
	f.Add(someFacts().encode(maxFactsSize))
	f.Add(someFacts().encode(0))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseFacts(b)
		if err != nil {
			return
		}
		if err := checkLabels(got.labels); err != nil {
			t.Error(err)
		}
		if err := checkVersion(got.version); err != nil {
			t.Error(err)
		}
		if n := got.handlers.routes(); n > maxListedRoutes || 8*n > len(b) {
			t.Errorf("%d routes in %d bytes", n, len(b))
		}
		if again, err := parseFacts(got.encode(maxFactsSize)); err != nil || !again.equal(got) {
			t.Errorf("%+v, then %+v, %v", got, again, err)
		}
	})
}
