package gridpb

import (
	"bytes"
	"strings"
	"testing"
	"unsafe"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridpb/internal/plainpb"
	"github.com/gridmesh/grid/contrib/gridpb/internal/vtpb"
	"github.com/gridmesh/grid/internal/race"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// items are the same message, as protoc-gen-go generates it and with the methods of vtprotobuf.
func items(key string, value []byte) map[string]proto.Message {
	return map[string]proto.Message{
		"plain": &plainpb.Item{Key: key, Value: value},
		"vt":    &vtpb.Item{Key: key, Value: value},
	}
}

// fresh returns an empty message of the same type.
func fresh(m proto.Message) proto.Message { return m.ProtoReflect().New().Interface() }

func TestAnEncodedMessageIsDecoded(t *testing.T) {
	if _, ok := any(new(vtpb.Item)).(vtMessage); !ok {
		t.Fatal("no methods of vtprotobuf")
	}
	for name, m := range items("a key", bytes.Repeat([]byte("value"), 1000)) {
		b, err := Codec.Append([]byte("before"), m)
		if err != nil {
			t.Fatal(err)
		}
		want, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := bytes.CutPrefix(b, []byte("before")); !ok || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, want %d", name, len(got), len(want))
		}
		got := fresh(m)
		if err := Codec.Decode(want, got); err != nil {
			t.Fatal(err)
		}
		clear(want) // what is decoded keeps nothing of it
		if !proto.Equal(got, m) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestUnknownFieldsAreKept(t *testing.T) {
	for name, m := range items("a key", nil) {
		b, err := Codec.Append(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		b = protowire.AppendString(protowire.AppendTag(b, 500, protowire.BytesType), "of a newer node")
		got := fresh(m)
		if err := Codec.Decode(b, got); err != nil {
			t.Fatal(err)
		}
		again, err := Codec.Append(nil, got)
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%s: got %q, %v, want %q", name, again, err, b)
		}
	}
}

func TestANilMessageIsEmpty(t *testing.T) {
	for _, m := range []proto.Message{(*plainpb.Item)(nil), (*vtpb.Item)(nil)} {
		if b, err := Codec.Append(nil, m); err != nil || len(b) > 0 {
			t.Errorf("%T: got %q, %v", m, b, err)
		}
	}
}

func TestErrorsNameTheType(t *testing.T) {
	for name, m := range items("", nil) {
		if err := Codec.Decode([]byte{0xff}, m); err == nil || !strings.HasPrefix(err.Error(), "gridpb."+name+".Item: ") {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := Codec.DecodedSize([]byte{0xff}, m); err == nil || !strings.HasPrefix(err.Error(), "gridpb."+name+".Item: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	b, err := Codec.Append([]byte("before"), wrapperspb.String("\xff"))
	if err == nil || !strings.HasPrefix(err.Error(), "google.protobuf.StringValue: ") || string(b) != "before" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestOnlyMessagesAreEncoded(t *testing.T) {
	const want = "*int is not a message of protobuf"
	v := new(int)
	_, appending := Codec.Append(nil, v)
	_, sizing := Codec.DecodedSize(nil, v)
	for _, err := range []error{appending, sizing, Codec.Decode(nil, v)} {
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestBuffersAreUsed if they are large enough.
func TestBuffersAreUsed(t *testing.T) {
	b := grid.GetByteBufferCap(600)
	defer grid.PutByteBuffer(b)
	for name, m := range items("a key", make([]byte, 512)) {
		got, err := Codec.Append(b, m)
		if err != nil {
			t.Fatal(err)
		}
		if unsafe.SliceData(got) != unsafe.SliceData(b) {
			t.Errorf("%s: another buffer", name)
		}
		if race.Enabled {
			continue // which allocates
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Codec.Append(b, m); err != nil {
				t.Error(err)
			}
		}); n > 0 {
			t.Errorf("%s: encoding allocates %v times", name, n)
		}
		into := fresh(m)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := Codec.DecodedSize(got, into); err != nil {
				t.Error(err)
			}
		}); n > 0 {
			t.Errorf("%s: looking at it allocates %v times", name, n)
		}
	}
}
