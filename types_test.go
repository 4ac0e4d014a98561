package grid

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tinylib/msgp/msgp"
)

// payload is what all payload types offer.
type payload interface {
	msgp.Marshaler
	msgp.Unmarshaler
	msgp.Sizer
	Recycler
}

type pair struct {
	A int
	B string
}

var (
	pairs  = NewJSONPool[pair]()
	mssArr = NewArrayOf(NewMSS)
)

// payloadTypes makes an empty value of each payload type.
var payloadTypes = map[string]func() payload{
	"MSS":           func() payload { return new(MSS) },
	"Bytes":         func() payload { return new(Bytes) },
	"URLValues":     func() payload { return new(URLValues) },
	"NoPayload":     func() payload { return NewNoPayload() },
	"JSON":          func() payload { return pairs.NewJSON() },
	"JSON[any]":     func() payload { return new(JSON[any]) },
	"Array[*MSS]":   func() payload { return mssArr.New() },
	"Array[*Bytes]": func() payload { return NewArrayOf(NewBytes).New() },
}

// vectorValues are the payloads of testdata/wire/messages.json by type and description.
var vectorValues = map[string]payload{
	"MSS {myfield: myvalue}":    NewMSSWith(map[string]string{"myfield": "myvalue"}),
	"MSS {}":                    NewMSSWith(map[string]string{}),
	"MSS nil":                   new(MSS),
	"Bytes hello":               NewBytesWith([]byte("hello")),
	"Bytes empty, not nil":      NewBytesWith([]byte{}),
	"Bytes nil":                 new(Bytes),
	"URLValues {k: [a, b]}":     NewURLValuesWith(map[string][]string{"k": {"a", "b"}}),
	"URLValues {}":              NewURLValuesWith(map[string][]string{}),
	"NoPayload ":                NewNoPayload(),
	`JSON {"A":1,"B":"x"}`:      pairs.NewJSONWith(&pair{A: 1, B: "x"}),
	"JSON nil":                  pairs.NewJSON(),
	"Array[*MSS] [{a:1},{b:2}]": mssArr.NewWith([]*MSS{NewMSSWith(map[string]string{"a": "1"}), NewMSSWith(map[string]string{"b": "2"})}),
	"Array[*MSS] nil":           mssArr.New(),
}

func TestPayloadsAreReadAndWrittenBetweenOtherBytes(t *testing.T) {
	seen := 0
	for _, v := range loadWireVectors(t).Payloads {
		newPayload := payloadTypes[v.Type]
		if newPayload == nil {
			continue // part of the protocol, not of the API
		}
		seen++
		t.Run(v.Type+" "+v.Value, func(t *testing.T) {
			value := vectorValues[v.Type+" "+v.Value]
			if value == nil {
				t.Fatal("no value for this vector")
			}
			got, err := value.MarshalMsg([]byte("before"))
			if err != nil || string(got) != "before"+string(v.Hex) {
				t.Errorf("encoded as %x (%v), want %x behind what was there", got, err, v.Hex)
			}
			read := newPayload()
			rest, err := read.UnmarshalMsg(append(slices.Clone(v.Hex), "after"...))
			if err != nil || string(rest) != "after" {
				t.Fatalf("decode: rest %q, %v", rest, err)
			}
			if !reflect.DeepEqual(contents(read), contents(value)) {
				t.Errorf("decoded %v, want %v", contents(read), contents(value))
			}
		})
	}
	if seen != len(vectorValues) {
		t.Errorf("%d vectors, %d values", seen, len(vectorValues))
	}
}

// contents is what a user sees of a payload.
func contents(p payload) any {
	switch p := p.(type) {
	case *JSON[pair]:
		return p.Value()
	case *Array[*MSS]:
		return p.Value()
	}
	return p
}

func TestNilPayloadsAreSafe(t *testing.T) {
	tests := map[string]payload{
		"MSS":       (*MSS)(nil),
		"Bytes":     (*Bytes)(nil),
		"URLValues": (*URLValues)(nil),
		"JSON":      (*JSON[pair])(nil),
		"Array":     (*Array[*MSS])(nil),
	}
	for name, p := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := p.MarshalMsg(nil)
			if err != nil || len(b) == 0 || len(b) > p.Msgsize() {
				t.Errorf("marshal: %x, %v, size %d", b, err, p.Msgsize())
			}
			if _, err := p.UnmarshalMsg(b); err == nil {
				t.Error("a value was read into nothing")
			}
			p.Recycle()
		})
	}
	var m *MSS
	m.Set("k", "v")
	if m.Get("k") != "" || m.ToQuery() != "" {
		t.Error("a nil *MSS has contents")
	}
	var j *JSON[pair]
	j.Set(&pair{})
	if j.Value() != nil || j.ValueOrZero() != (pair{}) {
		t.Error("a nil *JSON has a value")
	}
	var a *Array[*MSS]
	a.Set(nil)
	if a.Append(NewMSS()) != nil || a.Value() != nil {
		t.Error("a nil *Array has elements")
	}
	if (*URLValues)(nil).Values() != nil {
		t.Error("nil *URLValues have values")
	}
	if b, err := (*ArrayOf[*MSS])(nil).New().UnmarshalMsg([]byte{0x91, 0x80}); err == nil {
		t.Errorf("elements came out of nowhere, rest %x", b)
	}
	if (*JSONPool[pair])(nil).NewJSONWith(&pair{A: 1}).ValueOrZero().A != 1 {
		t.Error("a JSON without a pool lost its value")
	}
}

func TestRecycleTwiceIsSafe(t *testing.T) {
	for name, newPayload := range payloadTypes {
		t.Run(name, func(t *testing.T) {
			p := newPayload()
			p.Recycle()
			p.Recycle()
		})
	}
	m := NewMSS()
	m.Set("k", "v")
	m.Recycle()
	m.Recycle()
	one, two := NewMSS(), NewMSS()
	one.Set("k", "v")
	if two.Get("k") != "" {
		t.Error("two MSS share a map")
	}
	m.Set("again", "works")
	if m.Get("again") != "works" || one.Get("again") != "" {
		t.Error("a recycled MSS still has its old map")
	}
}

func TestMSSSetMakesTheMap(t *testing.T) {
	var m MSS
	m.Set("k", "v")
	if m.Get("k") != "v" {
		t.Error("the value is not there")
	}
}

func TestMSSToQuery(t *testing.T) {
	tests := map[string]struct {
		m    map[string]string
		want string
	}{
		"nothing for nil":            {nil, ""},
		"nothing for an empty map":   {map[string]string{}, ""},
		"sorted by key":              {map[string]string{"b": "2", "a": "1"}, "?a=1&b=2"},
		"escapes keys and values":    {map[string]string{"a b": "x&y=z"}, "?a+b=x%26y%3Dz"},
		"an empty value has its '='": {map[string]string{"a": ""}, "?a="},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := NewMSSWith(tt.m).ToQuery(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestUnmarshalReplacesTheContents(t *testing.T) {
	m := NewMSSWith(map[string]string{"old": "1"})
	if _, err := m.UnmarshalMsg([]byte("\x81\xa1a\xa1b")); err != nil || len(*m) != 1 || m.Get("a") != "b" {
		t.Errorf("MSS: %v, %v", *m, err)
	}
	u := NewURLValuesWith(map[string][]string{"old": {"1"}})
	if _, err := u.UnmarshalMsg([]byte("\x81\xa1a\x91\xa1b")); err != nil || len(*u) != 1 || u.Values().Get("a") != "b" {
		t.Errorf("URLValues: %v, %v", *u, err)
	}
	mine := pair{A: 1, B: "mine"}
	j := pairs.NewJSONWith(&mine)
	if _, err := j.UnmarshalMsg([]byte("\xc4\x07{\"A\":2}")); err != nil || *j.Value() != (pair{A: 2}) {
		t.Errorf("JSON: %v, %v", j.Value(), err)
	}
	j.Recycle()
	if (mine != pair{A: 1, B: "mine"}) {
		t.Errorf("a value that was Set became %v", mine)
	}
	a := mssArr.NewWith([]*MSS{NewMSS(), NewMSS()})
	if _, err := a.UnmarshalMsg([]byte("\x91\x81\xa1a\xa1b")); err != nil || len(a.Value()) != 1 || a.Value()[0].Get("a") != "b" {
		t.Errorf("Array: %v, %v", a.Value(), err)
	}
}

func TestBytesConstructors(t *testing.T) {
	src := []byte("text")
	if b := NewBytesWith(src); &(*b)[0] != &src[0] {
		t.Error("NewBytesWith copies")
	}
	if b := NewBytesWithCopyOf(src); &(*b)[0] == &src[0] || string(*b) != "text" {
		t.Error("NewBytesWithCopyOf does not copy")
	}
	if b := NewBytesWithCopyOf(nil); *b != nil {
		t.Error("a copy of nil is not nil")
	}
	if b := NewBytesCap(10_000); len(*b) != 0 || cap(*b) < 10_000 {
		t.Errorf("len %d, cap %d", len(*b), cap(*b))
	}
	if b := NewBytesCap(-1); len(*b) != 0 {
		t.Error("a negative size")
	}
	if b := NewBytes(); *b == nil || len(*b) != 0 {
		t.Error("NewBytes is not empty")
	}
}

func TestJSONPoolEstimatesTheSize(t *testing.T) {
	p := NewJSONPool[string]()
	size := func() int { s := ""; return p.NewJSONWith(&s).Msgsize() }
	write := func(n int) {
		s := strings.Repeat("x", n)
		if _, err := p.NewJSONWith(&s).MarshalMsg(nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(); n < 100 || n > 10_000 {
		t.Errorf("%d before anything is known", n)
	}
	write(50_000)
	if n := size(); n < 50_000 || n > 60_000 {
		t.Errorf("%d after one text of 50,000", n)
	}
	write(10)
	if n := size(); n < 25_000 {
		t.Errorf("%d after one small text among large ones", n)
	}
	for range 200 {
		write(10)
	}
	if n := size(); n > 1000 {
		t.Errorf("%d after many small texts", n)
	}
}

func TestJSONErrors(t *testing.T) {
	f := func() {}
	if _, err := new(JSON[func()]).MarshalMsg(nil); err != nil {
		t.Error("a JSON without a value:", err)
	}
	if _, err := (&JSON[func()]{val: &f}).MarshalMsg(nil); err == nil {
		t.Error("a function has a JSON text")
	}
	j := pairs.NewJSON()
	if _, err := j.UnmarshalMsg([]byte("\xc4\x02{]")); err == nil || j.Value() != nil {
		t.Errorf("a broken text is %v, %v", j.Value(), err)
	}
}

func TestArrayKeepsForeignElements(t *testing.T) {
	mine := NewMSSWith(map[string]string{"k": "v"})
	slice := make([]*MSS, 1, 8)
	slice[0] = mine
	a := mssArr.NewWith(slice)
	a.Append(NewMSS())
	if slice[:2][1] != nil {
		t.Error("Append wrote into the caller's slice")
	}
	a.Recycle()
	if a.Value() != nil || mine.Get("k") != "v" || slice[0] != mine {
		t.Error("Recycle took elements that were not the Array's")
	}
	if _, err := a.Append(NewMSS(), nil).MarshalMsg(nil); err != nil {
		t.Error("a nil element:", err)
	}
}

func TestNewNPErr(t *testing.T) {
	if _, err := NewNPErr(nil); err != nil {
		t.Error("an error for nil")
	}
	if _, err := NewNPErr(errors.New("gone")); err == nil || err.Error() != "gone" {
		t.Error("the text is", err)
	}
}

// hostile payloads claim more than they hold.
var hostile = map[string]string{
	"a map of 2^31 entries":              "\xdf\x80\x00\x00\x00",
	"a map of 2^32-1 entries":            "\xdf\xff\xff\xff\xff\xa1a\xa1b",
	"a map of 65,535 entries":            "\xde\xff\xff\xa1a\xa1b",
	"an array of 2^32-1 elements":        "\xdd\xff\xff\xff\xff",
	"an array of 2^32-1, with one":       "\xdd\xff\xff\xff\xff\x80",
	"an array of 65,535 elements":        "\xdc\xff\xff\xc0",
	"a bin of 2^32-1 bytes":              "\xc6\xff\xff\xff\xff",
	"a key of 2^32-1 bytes":              "\x81\xdb\xff\xff\xff\xff",
	"a value of 2^32-1 bytes":            "\x81\xa1a\xdb\xff\xff\xff\xff",
	"a value of 2^32-1 strings":          "\x81\xa1a\xdd\xff\xff\xff\xff",
	"an element of 2^31 entries":         "\x91\xdf\x80\x00\x00\x00",
	"an element of 2^32-1 bytes":         "\x91\xc6\xff\xff\xff\xff",
	"a header without its length":        "\xdf",
	"another type":                       "\xcb\x00\x00\x00\x00\x00\x00\x00\x00",
	"nothing":                            "",
	"an extension of 2^32-1 bytes":       "\xc9\xff\xff\xff\xff\x01",
	"a bin with an unfinished JSON text": "\xc4\x04[[[[",
}

func TestHostilePayloadsFailCheaply(t *testing.T) {
	for kind, newPayload := range payloadTypes {
		if kind == "NoPayload" {
			continue // accepts everything and reads nothing
		}
		for name, b := range hostile {
			t.Run(kind+" with "+name, func(t *testing.T) {
				if kind == "Bytes" && strings.HasPrefix(b, "\xc4") {
					t.Skip("these bytes are fine")
				}
				p := newPayload()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				_, err := p.UnmarshalMsg([]byte(b))
				runtime.ReadMemStats(&after)
				if err == nil {
					t.Error("it was accepted")
				}
				if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
					t.Errorf("%d bytes allocated", n)
				}
			})
		}
	}
}

func TestArrayOfNothingIsRefused(t *testing.T) {
	none := NewArrayOf(NewNoPayload)
	if _, err := none.New().UnmarshalMsg(append([]byte("\xdd\x00\x00\x00\x10"), make([]byte, 16)...)); !errors.Is(err, errEmptyElement) {
		t.Error("decode:", err)
	}
	if _, err := none.NewWith(make([]NoPayload, 3)).MarshalMsg(nil); !errors.Is(err, errEmptyElement) {
		t.Error("encode:", err)
	}
}

func FuzzPayloadTypes(f *testing.F) {
	for _, p := range vectorValues {
		b, err := p.MarshalMsg(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, b := range hostile {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for kind, newPayload := range payloadTypes {
			p := newPayload()
			rest, err := p.UnmarshalMsg(b)
			if err == nil {
				if !bytes.HasSuffix(b, rest) {
					t.Fatalf("%s: the rest is not the end of the bytes", kind)
				}
				checkRoundTrip(t, kind, p, newPayload())
			}
			p.Recycle()
		}
	})
}

func checkRoundTrip(t *testing.T, kind string, p, q payload) {
	t.Helper()
	b, err := p.MarshalMsg(nil)
	if err != nil {
		t.Fatalf("%s: what was decoded does not encode: %v", kind, err)
	}
	if _, isJSON := p.(*JSON[any]); !isJSON && kind != "JSON" && len(b) > p.Msgsize() {
		t.Fatalf("%s: %d bytes, Msgsize %d", kind, len(b), p.Msgsize())
	}
	if rest, err := q.UnmarshalMsg(b); err != nil || len(rest) != 0 {
		t.Fatalf("%s: what was encoded does not decode: rest %x, %v", kind, rest, err)
	}
	if again, err := q.MarshalMsg(nil); err != nil || len(again) != len(b) {
		t.Fatalf("%s: encoded again as %x, was %x, %v", kind, again, b, err)
	}
	q.Recycle()
}

func TestWriterToChannel(t *testing.T) {
	t.Run("sends a copy of each write", func(t *testing.T) {
		ch := make(chan []byte, 2)
		w := WriterToChannel(context.Background(), ch)
		p := []byte("one")
		for range 2 {
			if n, err := w.Write(p); n != 3 || err != nil {
				t.Fatal(n, err)
			}
			copy(p, "two")
		}
		if one, two := string(<-ch), string(<-ch); one != "one" || two != "two" {
			t.Errorf("got %q and %q", one, two)
		}
	})
	gone := errors.New("gone")
	t.Run("returns the cause when the context has ended", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(gone)
		if n, err := WriterToChannel(ctx, make(chan []byte, 1)).Write([]byte("x")); n != 0 || !errors.Is(err, gone) {
			t.Error(n, err)
		}
	})
	t.Run("returns the cause when the context ends while nobody reads", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			ch, res := make(chan []byte), make(chan error, 1)
			go func() {
				_, err := WriterToChannel(ctx, ch).Write([]byte("x"))
				res <- err
			}()
			synctest.Wait()
			cancel(gone)
			if err := <-res; !errors.Is(err, gone) {
				t.Error(err)
			}
		})
	})
}

// generated reads itself as code generated by msgp does: it makes room by the length that is
// claimed.
type generated struct{ Names []string }

func (g *generated) MarshalMsg(b []byte) ([]byte, error) {
	b = msgp.AppendArrayHeader(b, uint32(len(g.Names)))
	for _, name := range g.Names {
		b = msgp.AppendString(b, name)
	}
	return b, nil
}

func (g *generated) UnmarshalMsg(b []byte) ([]byte, error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return b, err
	}
	g.Names = make([]string, n)
	for i := range g.Names {
		if g.Names[i], b, err = msgp.ReadStringBytes(b); err != nil {
			return b, err
		}
	}
	return b, nil
}

func (g *generated) Msgsize() int { return 1000 }

func TestClaimsTakeNoMemoryInGeneratedCode(t *testing.T) {
	values := pool[*generated]{newFn: func() *generated { return new(generated) }}
	elements := pool[*Array[*generated]]{newFn: NewArrayOf(func() *generated { return new(generated) }).New}
	const claim = "\xdd\x01\x00\x00\x00" // 16 Mi strings
	for name, read := range map[string]func() error{
		"a value":           func() error { _, err := values.unmarshal([]byte(claim), nil); return err },
		"an element":        func() error { _, err := elements.unmarshal([]byte("\x91"+claim), nil); return err },
		"a value behind it": func() error { _, err := values.unmarshal([]byte("\x90"+claim), nil); return err },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := read()
		runtime.ReadMemStats(&after)
		if err == nil || after.TotalAlloc-before.TotalAlloc > 1<<20 {
			t.Errorf("%s: got %v and %d bytes", name, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
	if v, err := values.unmarshal([]byte("\x92\xa1a\xa1b"), nil); err != nil || len(v.Names) != 2 {
		t.Errorf("got %+v, %v", v, err)
	}
}
