package grid

import (
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// unmarshal reads a value that came from a peer.
func unmarshal(v msgp.Unmarshaler, b []byte) (err error) {
	defer recoverMsgp(&err)
	_, err = v.UnmarshalMsg(b)
	return err
}

// unmarshalHostile is unmarshal for types whose code is not this package's.
// Code that msgp generates makes slices and maps by the length that a header
// claims, before it looks for the elements: five bytes could take all memory. So the bytes have to hold what they claim first.
func unmarshalHostile(v msgp.Unmarshaler, b []byte) error {
	if err := checkWhole(b); err != nil {
		return err
	}
	return unmarshal(v, b)
}

// checkWhole says what is wrong with a sequence of msgpack values.
func checkWhole(b []byte) (err error) {
	defer recoverMsgp(&err)
	for len(b) > 0 && err == nil {
		b, err = msgp.Skip(b)
	}
	return err
}

// recoverMsgp makes an error of a panic. On 32 bits, msgp 1.6 slices with a
// negative length where a header claims 2 GiB or more.
func recoverMsgp(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("malformed msgpack: %v", r)
	}
}

// readBytes takes a bin off the front of b. It points into b.
func readBytes(b []byte) (v, rest []byte, err error) {
	defer recoverMsgp(&err)
	return msgp.ReadBytesZC(b)
}

// readString takes a string off the front of b.
func readString(b []byte) (v string, rest []byte, err error) {
	defer recoverMsgp(&err)
	return msgp.ReadStringBytes(b)
}
