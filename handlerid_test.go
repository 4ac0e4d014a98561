package grid

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

// forgetName takes the name that other tests have given to a handler away, until the test ends.
func forgetName(t *testing.T, id HandlerID) {
	old := handlerNames[id].Swap(nil)
	t.Cleanup(func() { handlerNames[id].Store(old) })
}

func TestNamesReplaceTheNumber(t *testing.T) {
	tests := []struct {
		id    HandlerID
		given string
		plain string
	}{
		{HandlerDiskInfo, "Disks", "DiskInfo"},
		{127, "Test", "HandlerID(127)"},
		{HandlerUserFirst, "First", "HandlerID(128)"},
		{203, "Orders", "HandlerID(203)"},
		{255, "Last", "HandlerID(255)"},
	}
	for _, tt := range tests {
		t.Run(tt.plain, func(t *testing.T) {
			forgetName(t, tt.id)
			if got := tt.id.String(); got != tt.plain {
				t.Errorf("got %q before it was named", got)
			}
			for _, name := range []string{"x", tt.given} {
				if err := NameHandler(tt.id, name); err != nil {
					t.Fatal(err)
				}
				if got := tt.id.String(); got != name {
					t.Errorf("got %q, want %q", got, name)
				}
			}
			if err := NameHandler(tt.id, ""); err == nil || tt.id.String() != tt.given {
				t.Errorf("with an empty name it is %v, %v", tt.id, err)
			}
		})
	}
}

func TestHandlerZeroCannotBeNamed(t *testing.T) {
	if err := NameHandler(0, "zero"); !errors.Is(err, ErrUnknownHandler) {
		t.Errorf("got %v", err)
	}
	if got := HandlerID(0).String(); got != "HandlerID(0)" {
		t.Errorf("named %q", got)
	}
}

func TestNamingIsSafeForConcurrentUse(t *testing.T) {
	forgetName(t, 250)
	if err := NameHandler(250, "z"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			for range 1000 {
				if err := NameHandler(250, name); err != nil {
					t.Error(err)
				}
				if got := HandlerID(250).String(); len(got) != 1 {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	wg.Wait()
}

func TestWireNumbersRoundTrip(t *testing.T) {
	type number interface {
		msgp.Marshaler
		msgp.Encodable
		msgp.Sizer
	}
	type numberPtr interface {
		msgp.Unmarshaler
		msgp.Decodable
	}
	for i := range 256 {
		h, op, flags := HandlerID(i), Op(i), Flags(i)
		for _, v := range []struct {
			in  number
			out numberPtr
		}{{h, new(HandlerID)}, {op, new(Op)}, {flags, new(Flags)}} {
			b, err := v.in.MarshalMsg(nil)
			if err != nil || len(b) > v.in.Msgsize() {
				t.Fatalf("%T %d: %x, %v", v.in, i, b, err)
			}
			var buf bytes.Buffer
			if err := msgp.Encode(&buf, v.in); err != nil || !bytes.Equal(buf.Bytes(), b) {
				t.Fatalf("%T %d: encoded %x, %v, marshaled %x", v.in, i, buf.Bytes(), err, b)
			}
			if rest, err := v.out.UnmarshalMsg(b); err != nil || len(rest) != 0 {
				t.Fatalf("%T %d: %x, %v", v.in, i, rest, err)
			}
			if again, err := v.out.(msgp.Marshaler).MarshalMsg(nil); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%T %d: became %x, %v", v.in, i, again, err)
			}
			if err := msgp.Decode(&buf, v.out); err != nil {
				t.Errorf("%T %d: %v", v.in, i, err)
			}
		}
	}
}
