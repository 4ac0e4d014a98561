package grid

import (
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"

	"github.com/gridmesh/grid/internal/bytepool"
	"github.com/gridmesh/grid/internal/mpack"
	"github.com/tinylib/msgp/msgp"
)

// What decoding makes of one byte is up to a hundred times as large: a map of one pair, of three bytes, takes 350. So what a
// value takes in memory is estimated before it is decoded, by the number of values in it, and counts where its message does.

// room is where a value of a peer counts that is about to be decoded.
type room interface {
	// take counts bytes, until what the value belongs to ends. An error says that they are too many, and then the value must not be decoded.
	take(bytes int) error
}

// errOverQuota is what take fails with where the call is refused, or ended, as others of the peer hold too much.
var errOverQuota = errors.New("over a limit of this node")

// tooLarge is what take fails with where a value alone is too much.
func tooLarge(bytes int, limit limit, most int) error {
	return fmt.Errorf("the value may take %d bytes of memory, more than Limits.%s, which is %d", bytes, limitNames[limit], most)
}

// takeDecoded counts what a value takes that b is decoded to. What is no larger than the buffer of
// its message counts with that.
func takeDecoded(r room, v any, b []byte, s mpack.Shape) error {
	if r == nil {
		return nil
	}
	if size := decodedSize(v, b, s); size > footprint(len(b)) {
		return r.take(size)
	}
	return nil
}

// sized is implemented by the payload types of this package.
type sized interface {
	// decodedSize is an upper bound of the bytes that the value takes which b, of the given shape, is decoded to.
	// The receiver may be nil.
	decodedSize(b []byte, s mpack.Shape) int
}

// answers is where what this node asked for counts, over a connection: nowhere, but each alone is bounded.
type answers Limits

// maxAnswerFactor is how many times as large as the largest message an answer may be once it is decoded.
const maxAnswerFactor = 16

func (a *answers) take(bytes int) error {
	if most := maxAnswerFactor * int64(a.MaxMessageSize); int64(bytes) > most {
		return fmt.Errorf("the value may take %d bytes of memory, more than %d times Limits.MaxMessageSize, which is %d",
			bytes, maxAnswerFactor, a.MaxMessageSize)
	}
	return nil
}

var defaultLimits = Limits{}.withDefaults()

// anyAnswers is where answers count that come from elsewhere.
var anyAnswers = (*answers)(&defaultLimits)

// answerRoom is where an answer counts.
func answerRoom(c any) room {
	switch c := c.(type) {
	case *Connection:
		return (*answers)(&c.limits)
	case *Subroute:
		return (*answers)(&c.limits)
	}
	return anyAnswers
}

// room is where what comes on the stream counts.
func (s *Stream) room() room {
	if s.mux == nil { // one that an application has made
		return anyAnswers
	}
	return (*answers)(&s.mux.limits)
}

// What a value takes at the most, in bytes. TestWhatDecodedValuesTake measures it.
const (
	// perValue is for each value: a slot of a map that has just grown, or a place in a slice and what it points to; and its
	// own memory where it has some. It is enough for all that is made without a type, such as an any, and for strings and numbers.
	perValue = 72
	// perContainer is for each array, map or object besides: the least map.
	perContainer = 336
)

// textSize is what n bytes of texts take that are copied one by one, their values aside.
func textSize(n int) int { return n + n/8 }

// decodedSize is what a value takes that b is decoded to.
func decodedSize(v any, b []byte, s mpack.Shape) int {
	if own, ok := v.(sized); ok {
		return own.decodedSize(b, s)
	}
	return textSize(len(b)) + s.Values*perValue + s.Containers*perContainer
}

func (m *MSS) decodedSize(b []byte, s mpack.Shape) int {
	return textSize(len(b)) + s.Values*54 + s.Containers*perContainer
}

func (b *Bytes) decodedSize(src []byte, _ mpack.Shape) int { return bytepool.Size(len(src)) }

func (u *URLValues) decodedSize(b []byte, s mpack.Shape) int {
	return textSize(len(b)) + s.Values*58 + perContainer
}

func (a *Array[T]) decodedSize(b []byte, s mpack.Shape) int {
	var elem T
	size, each := 64, 16+newSize[T]() // a place in the slice, and what it points to
	if msgp.IsNil(b) {
		return size
	}
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var shape mpack.Shape
		one := b
		if shape, b, err = mpack.First(b, s.Depth); err == nil {
			size += each + decodedSize(elem, one[:len(one)-len(b)], shape)
		}
	}
	return size
}

func (j *JSON[T]) decodedSize(b []byte, s mpack.Shape) int {
	text, _, err := readBytes(b)
	if err != nil {
		return 0
	}
	s, _ = mpack.CheckJSON(text, len(text))
	n := textSize(len(text))
	if !utf8.Valid(text) {
		n *= 3 // each wrong byte of a text becomes three
	}
	return newSize[*JSON[T]]() + newSize[*T]() + n + s.Values*perValue + s.Containers*perContainer
}

// newSize is what a new value takes that a T points to.
func newSize[T any]() int {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Pointer {
		return 16
	}
	return 16 + textSize(int(t.Elem().Size()))
}
