package grid

import (
	"errors"

	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// How many arrays, maps and objects may be within each other in what a peer sends.
const (
	// defaultMaxDepth is for payloads. It is an option of what decodes them, and not of the Manager: how deep
	// a value may be is known to who defines its type, and is the same at both ends.
	defaultMaxDepth = 1000
	// maxSharedStack is what is decoded on the stack of a handler.
	maxSharedStack = 16
)

// unmarshalHostile is unmarshal for types whose code is not this package's.
// Code that msgp generates makes slices and maps by the length that a header
// claims, before it looks for the elements: five bytes could take all memory. So the bytes have to hold what they claim first.
// And it skips by recursion what it does not know: a few kilobytes could take megabytes of stack. What the value takes
// counts in r, unless that is nil.
func unmarshalHostile(v msgp.Unmarshaler, b []byte, maxDepth int, r room) error {
	shape, err := mpack.Check(b, maxDepth)
	if err != nil {
		return err
	}
	if err := takeDecoded(r, v, b, shape); err != nil {
		return err
	}
	if shape.Depth > maxSharedStack {
		return decodeDeep(v, b)
	}
	return decode(v, b)
}

// decodeDeep is decode on a stack of its own.
func decodeDeep(v msgp.Unmarshaler, b []byte) (err error) {
	defer recoverMsgp(&err)
	deepPayloads.run(func() { err = decode(v, b) })
	return err
}

// stacks are places for what needs a large stack. A goroutine keeps the stack that it once needed, for as long as it
// waits in a handler. So what is nested is decoded on goroutines that end with it, and on few at once.
type stacks chan struct{}

// Values are decoded within payloads, and JSON within values: places for the one are never waited for by who has one of the other.
var (
	deepPayloads = make(stacks, 16)
	deepJSON     = make(stacks, 16)
)

var errDecodeExited = errors.New("the decoder has ended its goroutine")

// run calls f, and panics as f does.
func (s stacks) run(f func()) {
	s <- struct{}{}
	ended := make(chan any, 1)
	go func() {
		var failure any = errDecodeExited // by runtime.Goexit
		defer func() {
			if r := recover(); r != nil {
				failure = r
			}
			<-s
			ended <- failure
		}()
		f()
		failure = nil
	}()
	if failure := <-ended; failure != nil {
		panic(failure)
	}
}
