package gridpb

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gridmesh/grid/contrib/gridpb/internal/plainpb"
	"github.com/gridmesh/grid/contrib/gridpb/internal/vtpb"
	"github.com/gridmesh/grid/internal/race"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// What a message takes is never more than what it counts for, and that is not many times as much.
func TestWhatMessagesTake(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector takes memory of its own")
	}
	type message = plainpb.Everything
	numbers := make(map[int32]int64)
	byKey := make(map[string]*plainpb.Item)
	deep := make(map[int64]*message)
	for i := range 14_500 { // it has just grown
		numbers[int32(i)] = int64(i)
		byKey[strconv.Itoa(i)] = nil
		deep[int64(i)] = nil
	}
	child := &message{}
	for range maxDepth - 2 {
		child = &message{Child: child}
	}
	one := int64(1)
	for _, tc := range []struct {
		name string
		m    *message
		b    []byte // in place of m; it wastes what it counts for
	}{
		{name: "nothing", m: &message{}},
		{name: "a text", m: &message{Text: strings.Repeat("x", 1000)}},
		{name: "data", m: &message{Data: make([]byte, 600_000)}},
		{name: "numbers", m: &message{Number: 1, Maybe: &one, Real: 1, Fixed: 1, One: &plainpb.Everything_OneNumber{OneNumber: 1}}},
		{name: "one text", m: &message{One: &plainpb.Everything_OneText{OneText: "x"}}},
		{name: "packed", m: &message{Packed: make([]int64, 50_000)}},
		{name: "large packed", m: &message{Packed: slices.Repeat([]int64{-1}, 5_000)}},
		{name: "unpacked", m: &message{Unpacked: make([]int64, 50_000)}},
		{name: "fixed", m: &message{Fixeds: make([]uint32, 50_000)}},
		{name: "flags", m: &message{Flags: make([]bool, 50_000)}},
		{name: "colors", m: &message{Colors: make([]plainpb.Color, 50_000)}},
		{name: "empty texts", m: &message{Texts: make([]string, 50_000)}},
		{name: "short texts", m: &message{Texts: slices.Repeat([]string{"x"}, 50_000)}},
		{name: "short data", m: &message{Datas: slices.Repeat([][]byte{{1}}, 50_000)}},
		{name: "empty items", m: &message{Items: slices.Repeat([]*plainpb.Item{{}}, 50_000)}},
		{name: "items", m: &message{Items: slices.Repeat([]*plainpb.Item{{Key: "x", Value: make([]byte, 100)}}, 10_000)}},
		{name: "children", m: &message{Children: slices.Repeat([]*message{{}}, 5_000)}},
		{name: "children with maps", m: &message{Children: slices.Repeat([]*message{{Numbers: map[int32]int64{1: 1}}}, 5_000)}},
		{name: "children with two maps", m: &message{Children: slices.Repeat([]*message{
			{ByKey: map[string]*plainpb.Item{"x": {}}, Deep: map[int64]*message{1: {}}},
		}, 5_000)}},
		{name: "a child of a child", m: &message{Child: child}},
		{name: "a map of numbers", m: &message{Numbers: numbers}},
		{name: "a map of items", m: &message{ByKey: byKey}},
		{name: "a map of messages", m: &message{Deep: deep}},
		{name: "a map of empty entries", b: bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, 23, protowire.BytesType), nil), 1000)},
		{name: "unknown", b: bytes.Repeat(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1), 50_000)},
		{name: "of another type", b: bytes.Repeat(protowire.AppendVarint(protowire.AppendTag(nil, 19, protowire.VarintType), 1), 50_000)},
	} {
		wasteful := tc.m == nil
		if !wasteful {
			var err error
			if tc.b, err = proto.Marshal(tc.m); err != nil {
				t.Fatal(err)
			}
			tc.m = nil // so that what comes is measured without it
		}
		for _, v := range []proto.Message{new(plainpb.Everything), new(vtpb.Everything)} {
			said, err := Codec.DecodedSize(tc.b, v)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			before := inUse()
			if err := Codec.Decode(tc.b, v); err != nil {
				if _, vt := v.(vtMessage); vt && tc.name == "of another type" {
					continue // it takes none
				}
				t.Fatalf("%s: %v", tc.name, err)
			}
			took := inUse() - before
			runtime.KeepAlive(v)
			n := len(tc.b)
			t.Logf("%-24s %8d bytes take %9d, %5.1f times as many; %9d, %5.1f times, are counted", tc.name, n,
				took, float64(took)/float64(n), said, float64(said)/float64(n))
			if took > said+4<<10 {
				t.Errorf("%s: %d bytes take %d and count for %d", tc.name, n, took, said)
			}
			if n > 1000 && said > 6*took && !wasteful {
				t.Errorf("%s: %d bytes take %d and count for as many as %d", tc.name, n, took, said)
			}
		}
	}
}

// inUse returns how much memory is in use.
func inUse() int {
	runtime.GC()
	runtime.GC() // also what was in pools
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int(s.HeapAlloc)
}

// nested returns a message with messages in it, depth levels in all.
func nested(depth int, field protowire.Number) []byte {
	const most = 12 // bytes of a tag and a length
	b := make([]byte, depth*most)
	at := len(b)
	for range depth - 1 {
		head := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(len(b)-at))
		at -= len(head)
		copy(b[at:], head)
	}
	return b[at:]
}

func TestDeepMessagesAreRefused(t *testing.T) {
	for _, v := range []proto.Message{new(plainpb.Everything), new(vtpb.Everything)} {
		for _, field := range []protowire.Number{1000, 22, 13} { // a message, a list, and one of
			if _, err := Codec.DecodedSize(nested(maxDepth, field), v); err != nil {
				t.Errorf("%T: %d levels in field %d: %v", v, maxDepth, field, err)
			}
			for _, depth := range []int{maxDepth + 1, 1e5} {
				if _, err := Codec.DecodedSize(nested(depth, field), v); !errors.Is(err, errTooDeep) {
					t.Errorf("%T: %d levels in field %d: %v", v, depth, field, err)
				}
			}
		}
	}
}

// TestExtensionsCount although they are unknown to their message.
func TestExtensionsCount(t *testing.T) {
	b := protowire.AppendBytes(protowire.AppendTag(nil, 50_000, protowire.BytesType), make([]byte, 1000))
	size, err := Codec.DecodedSize(b, new(descriptorpb.FieldOptions))
	if err != nil || size < 8*1000 { // numbers of 64 bits
		t.Errorf("got %d, %v", size, err)
	}
}

// FuzzDecode has two decoders agree on messages that are not too deep, of which none panics.
func FuzzDecode(f *testing.F) {
	for _, m := range []*plainpb.Everything{
		{Number: 1, Text: "x", Data: []byte("y"), Item: &plainpb.Item{Key: "z"}, Packed: []int64{1, 2}},
		{ByKey: map[string]*plainpb.Item{"a": {Key: "b"}}, Children: []*plainpb.Everything{{}}},
		{Deep: map[int64]*plainpb.Everything{1: {Flags: []bool{true}}}, One: &plainpb.Everything_OneText{OneText: "x"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add(nested(200, 22))
	f.Fuzz(func(t *testing.T, b []byte) {
		var plain plainpb.Everything
		var vt vtpb.Everything
		size, err := Codec.DecodedSize(b, &plain)
		other, otherErr := Codec.DecodedSize(b, &vt)
		if (err == nil) != (otherErr == nil) || size < 0 || size != other {
			t.Fatalf("%d, %v; %d, %v", size, err, other, otherErr)
		}
		if err != nil {
			return
		}
		err = Codec.Decode(b, &plain)
		if otherErr := Codec.Decode(b, &vt); err != nil || otherErr != nil {
			return // they differ in how strict they are, with texts that are not UTF-8 and fields of another type
		}
		again, err := Codec.Append(nil, &vt)
		if err != nil {
			t.Fatal(err)
		}
		var got plainpb.Everything
		if err := Codec.Decode(again, &got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(&got, &plain) {
			t.Errorf("got %v, want %v", &got, &plain)
		}
	})
}
