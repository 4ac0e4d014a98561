package grid

import (
	"fmt"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// maxProtocolDepth is how many arrays and maps may be within each other in what nodes say to each
// other themselves, of which a later version may say more.
const maxProtocolDepth = 100

// unmarshal reads a value of the protocol, with code of this package, that came from a peer.
// That code skips what it does not know, and msgp skips by recursion.
func unmarshal(v msgp.Unmarshaler, b []byte) error {
	if _, err := mpack.Skip(b, maxProtocolDepth); err != nil {
		return err
	}
	return decode(v, b)
}

// unmarshalWhole is unmarshal for a value behind which nothing may follow, as it does where the
// number of a map's fields is wrong.
func unmarshalWhole(v msgp.Unmarshaler, b []byte) error {
	rest, err := mpack.Skip(b, maxProtocolDepth)
	switch {
	case err != nil:
		return err
	case len(rest) > 0:
		return fmt.Errorf("%d bytes behind the message's payload", len(rest))
	}
	return decode(v, b)
}

func decode(v msgp.Unmarshaler, b []byte) (err error) {
	defer recoverMsgp(&err)
	_, err = v.UnmarshalMsg(b)
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
