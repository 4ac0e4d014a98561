package mpack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/gridmesh/grid/internal/race"
	"github.com/tinylib/msgp/msgp"
)

func TestShapes(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	for _, tc := range []struct {
		value any
		want  Shape
	}{
		{nil, Shape{1, 0, 0}},
		{true, Shape{1, 0, 0}},
		{-1, Shape{1, 0, 0}},
		{int64(math.MaxInt64), Shape{1, 0, 0}},
		{1.5, Shape{1, 0, 0}},
		{"short", Shape{1, 0, 0}},
		{long, Shape{1, 0, 0}},
		{[]byte(long), Shape{1, 0, 0}},
		{[]byte(long[:300]), Shape{1, 0, 0}},
		{[]any{}, Shape{1, 0, 1}},
		{[]any{1, "a", nil}, Shape{4, 1, 1}},
		{map[string]any{"a": 1, "b": []any{long, 2}}, Shape{7, 2, 2}},
		{[]any{[]any{[]any{}}, []any{1}}, Shape{5, 3, 3}},
		{make([]any, 70_000), Shape{70_001, 1, 1}},
		{make([]any, 300), Shape{301, 1, 1}},
	} {
		b, err := msgp.AppendIntf(nil, tc.value)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Check(b, 10); got != tc.want || err != nil {
			t.Errorf("%.50q: %+v, %v, want %+v", fmt.Sprint(tc.value), got, err, tc.want)
		}
		for n := 1; n < len(b); n += 1 + n/100 {
			if _, err := Check(b[:n], 10); !errors.Is(err, ErrShort) {
				t.Fatalf("%.50q: %d of %d bytes: %v", fmt.Sprint(tc.value), n, len(b), err)
			}
		}
		if rest, err := Skip(append(b, 1, 2, 3), 10); err != nil || !bytes.Equal(rest, []byte{1, 2, 3}) {
			t.Errorf("%.50q: %v behind it, %v", fmt.Sprint(tc.value), rest, err)
		}
		twice, err := Check(append(b, b...), 10)
		if err != nil || twice.Values != 2*tc.want.Values || twice.Containers != 2*tc.want.Containers || twice.Depth != tc.want.Depth {
			t.Errorf("%.50q: twice it is %+v, %v", fmt.Sprint(tc.value), twice, err)
		}
	}
}

// nested is n arrays within each other, of one element each, around inner.
func nested(n int, inner ...byte) []byte {
	return append(bytes.Repeat([]byte{0x91}, n), inner...)
}

func TestDepthIsLimited(t *testing.T) {
	for _, most := range []int{0, 1, 2, fewLevels - 1, fewLevels, fewLevels + 1, fewLevels + 2, 1000, 5000} {
		for _, test := range []struct {
			depth int
			b     []byte
		}{
			{most, nested(most, 1)},
			{most + 1, nested(most, 0x90)},
			{most + 1, nested(most+1, 1)},
			{most, append(nested(most, 1), nested(most, 1)...)},
			{most + 1, append(nested(most, 1), nested(most+1, 1)...)},
			{most + 5000, bytes.Repeat([]byte{0x81, 0xa1, 'a'}, most+5000)},
		} {
			s, err := Check(test.b, most)
			if test.depth <= most && (err != nil || s.Depth != test.depth) {
				t.Errorf("limit %d: %d levels: %+v, %v", most, test.depth, s, err)
			}
			if test.depth > most && !errors.Is(err, ErrDepth) {
				t.Errorf("limit %d: %d levels: %v", most, test.depth, err)
			}
		}
		// The same with JSON.
		for _, depth := range []int{most, most + 1} {
			text := strings.Repeat(`[{"a\"]]":`, depth/2) + strings.Repeat("[", depth%2) +
				"1" + strings.Repeat("]", depth%2) + strings.Repeat("}]", depth/2)
			s, err := CheckJSON([]byte(text), most)
			if !json.Valid([]byte(text)) || errors.Is(err, ErrDepth) != (depth > most) || err == nil && s.Depth != depth {
				t.Errorf("limit %d: JSON with %d levels: %+v, %v", most, depth, s, err)
			}
		}
	}
}

func TestLevelsAreLeftAgain(t *testing.T) {
	b := []byte{0xdc, 0x03, 0xe8}
	for range 1000 {
		b = append(b, nested(fewLevels+5, 1)...)
	}
	s, err := Check(b, 1+fewLevels+5)
	if want := (Shape{1 + 1000*(fewLevels+6), 1 + 1000*(fewLevels+5), 1 + fewLevels + 5}); s != want || err != nil {
		t.Errorf("%+v, %v, want %+v", s, err, want)
	}
}

func TestJSONShapes(t *testing.T) {
	for text, want := range map[string]Shape{
		``:                             {1, 0, 0},
		`1`:                            {1, 0, 0},
		`"[[[,:\\\"[["`:                {1, 0, 0},
		`[1,2,3]`:                      {4, 1, 1},
		` { "a" : [ 1 , { } ] } `:      {6, 3, 3},
		`[[],[],[]]`:                   {7, 4, 2},
		`"never closed [`:              {1, 0, 0},
		`"closed by a backslash only\`: {1, 0, 0},
		`]]]][`:                        {2, 1, 0},
	} {
		if got, err := CheckJSON([]byte(text), 10); got != want || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	shallow, _ := msgp.AppendIntf(nil, map[string]any{"a": []any{1, 2, 3, "four"}, "b": map[string]any{"c": nil}})
	deep := nested(999, 1)
	text := []byte(`{"a": [1, 2, {"b": "text"}]}`)
	if race.Enabled {
		t.Skip("pools drop values at random under the race detector")
	}
	if n := testing.AllocsPerRun(1000, func() {
		Check(shallow, 1000)
		Check(deep, 1000)
		CheckJSON(text, 1000)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Lengths from 2 GiB on are no negative ones where an int has 32 bits.
func TestLengthsBeyondAnIntAreTooLong(t *testing.T) {
	for _, lead := range []byte{0xc6, 0xc9, 0xdb, 0xdd, 0xdf} {
		for _, b := range [][]byte{{lead, 0xff, 0xff, 0xff, 0xff, 1}, {lead, 0x80, 0, 0, 0, 1}} {
			if _, err := Check(b, 10); !errors.Is(err, ErrShort) {
				t.Errorf("%x: %v", b, err)
			}
		}
	}
}

// What is whole is what msgp can skip, but for the depth.
func FuzzCheckAgreesWithMsgp(f *testing.F) {
	if strconv.IntSize == 32 {
		f.Skip("msgp takes lengths from 2 GiB on for negative ones here")
	}
	f.Add([]byte{})
	f.Add([]byte{0xc1})
	f.Add(nested(3, 1))
	f.Add(nested(40, 0x90))
	f.Add([]byte{0x93, 0xc7, 1, 5, 0, 0xd8, 0xd6, 1, 2, 3, 4, 5})
	f.Add([]byte{0x82, 0xa1, 'a', 0xdd, 0, 0, 0, 2, 0xc0, 0xc3, 0xa0, 0xdf, 0, 0, 0, 1, 1, 0xc6, 0, 0, 0, 1, 9})
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0xdd, 0x80, 0, 0, 0, 1})
	f.Add([]byte{0xc9, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0xde, 0, 1, 0xcb, 1, 2, 3, 4, 5, 6, 7, 8, 0xd9, 2, 'a', 'b'})
	for lead := range 256 {
		f.Add(append([]byte{byte(lead)}, make([]byte, 20)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := b, error(nil)
		values := 0
		for len(want) > 0 && wantErr == nil {
			want, wantErr = skipByMsgp(want)
			values++
		}
		got, err := Check(b, len(b))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%x: %v, msgp says %v", b, err, wantErr)
		}
		if err == nil && (got.Values < values || got.Depth > len(b) || got.Containers > got.Values || got.Values > len(b)) {
			t.Fatalf("%x: %+v with %d values side by side", b, got, values)
		}
		// One by one, and with the least depth that is enough, and with less.
		rest, err := Skip(b, len(b))
		wantRest, wantErr := skipByMsgp(b)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(rest, wantRest) {
			t.Fatalf("%x: %x, %v, msgp says %x, %v", b, rest, err, wantRest, wantErr)
		}
		if again, err := Check(b, got.Depth); wantErr == nil && err == nil && again != got {
			t.Fatalf("%x: %+v with a depth of %d", b, again, got.Depth)
		}
		if _, err := Check(b, got.Depth-1); got.Depth > 0 && err == nil {
			t.Fatalf("%x: no error below a depth of %d", b, got.Depth)
		}
	})
}

func skipByMsgp(b []byte) (rest []byte, err error) {
	defer func() {
		if r := recover(); r != nil { // on 32 bits
			err = fmt.Errorf("%v", r)
		}
	}()
	return msgp.Skip(b)
}

// The depth of JSON is that of what encoding/json makes of it.
func FuzzCheckJSON(f *testing.F) {
	for _, text := range []string{`1`, `[[],[{}]]`, `{"a":[1,2,"]\\"],"b\"":{}}`, `[`, `"\`, ` [ ] `} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var v any
		got, err := CheckJSON(text, len(text))
		if json.Unmarshal(text, &v) != nil {
			return
		}
		depth, values := measure(v)
		// A key that is there twice is only found once.
		if err != nil || got.Depth < depth || got.Values < values || got.Values > len(text)+1 {
			t.Fatalf("%q: %+v, %v, want depth %d and %d values", text, got, err, depth, values)
		}
	})
}

func measure(v any) (depth, values int) {
	values = 1
	within := func(v any) {
		d, n := measure(v)
		depth = max(depth, d)
		values += n
	}
	switch v := v.(type) {
	case []any:
		for _, v := range v {
			within(v)
		}
		return depth + 1, values
	case map[string]any:
		for _, v := range v {
			within(v)
			values++ // the key
		}
		return depth + 1, values
	}
	return 0, 1
}

func BenchmarkCheck(b *testing.B) {
	mss := msgp.AppendMapHeader(nil, 10)
	for i := range 20 {
		mss = msgp.AppendString(mss, fmt.Sprint("some text ", i))
	}
	ints := msgp.AppendArrayHeader(nil, 10_000)
	for i := range 10_000 {
		ints = msgp.AppendInt(ints, i)
	}
	for _, bm := range []struct {
		name string
		b    []byte
	}{
		{"bin of 512", msgp.AppendBytes(nil, make([]byte, 512))},
		{"map of 10", mss},
		{"10000 integers", ints},
	} {
		b.Run(bm.name+"/mpack", func(b *testing.B) {
			for b.Loop() {
				if _, err := Check(bm.b, 1000); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bm.name+"/msgp", func(b *testing.B) {
			for b.Loop() {
				if _, err := msgp.Skip(bm.b); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
