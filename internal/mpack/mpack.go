// Package mpack examines encoded values of a peer before they are decoded: whether they are whole,
// how deeply they nest, and how many there are. It takes one pass, without recursion and without
// allocations, so examining a value never costs more than its bytes.
//
//	shape, err := mpack.Check(payload, 1000)
package mpack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Shape describes what a decoder will find.
type Shape struct {
	// Values is the number of values, including keys and nested values.
	Values int
	// Containers is the number of arrays, maps and objects among them, except empty ones.
	Containers int
	// Depth is the deepest nesting of containers.
	Depth int
}

var (
	// ErrShort is returned if the bytes end within a value.
	ErrShort = errors.New("msgpack: too few bytes")
	// ErrDepth is wrapped by errors about values that nest too deeply.
	ErrDepth = errors.New("nested too deeply")

	errPrefix = errors.New("msgpack: 0xc1 begins no value")
)

// Check examines all msgpack values of b, one after the other. It fails with ErrShort, with
// ErrDepth if containers nest more than maxDepth levels deep, and if a byte begins no value.
func Check(b []byte, maxDepth int) (s Shape, err error) {
	for len(b) > 0 && err == nil {
		b, err = skip(b, maxDepth, &s)
	}
	return s, err
}

// First examines the first msgpack value of b, and returns what follows it. It fails as Check does.
func First(b []byte, maxDepth int) (s Shape, rest []byte, err error) {
	rest, err = skip(b, maxDepth, &s)
	return s, rest, err
}

// Skip returns what follows the first msgpack value of b. It fails as Check does.
func Skip(b []byte, maxDepth int) (rest []byte, err error) {
	var s Shape
	return skip(b, maxDepth, &s)
}

// fewLevels is the number of levels tracked on the stack.
const fewLevels = 16

func skip(b []byte, maxDepth int, s *Shape) (rest []byte, err error) {
	size, n, err := head(b)
	if err != nil {
		return nil, err
	}
	s.Values++
	if b = b[size:]; n < 0 {
		return b, nil
	}
	var few [fewLevels]int
	before := *s
	rest, err = skipContents(b, n, maxDepth, few[:], s)
	if err == errMoreLevels {
		*s = before
		rest, err = skipDeep(b, n, maxDepth, s)
	}
	return rest, err
}

// errMoreLevels is returned by skipContents if it has no place for another level.
var errMoreLevels = errors.New("more levels")

var deepStacks sync.Pool // of *[]int

// skipDeep is skipContents with places for as many levels as there may be.
func skipDeep(b []byte, n, maxDepth int, s *Shape) (rest []byte, err error) {
	stack, ok := deepStacks.Get().(*[]int)
	if !ok {
		stack = new([]int)
	}
	defer deepStacks.Put(stack)
	if levels := min(maxDepth, len(b)+1); len(*stack) < levels {
		*stack = make([]int, levels)
	}
	return skipContents(b, n, maxDepth, *stack, s)
}

// skipContents skips the n values of a container that has just begun. outer has a place for each
// level.
func skipContents(b []byte, n, maxDepth int, outer []int, s *Shape) (rest []byte, err error) {
	if n > len(b) {
		return nil, ErrShort
	}
	if maxDepth < 1 {
		return nil, tooDeep(maxDepth)
	}
	at := 0    // in b; beyond its end where a value is cut
	left := n  // values still to come in the present container
	depth := 1 // of the present container; outer[:depth-1] are the values still to come in those around it
	s.Values += n
	s.Depth = max(s.Depth, depth)
	if n > 0 {
		s.Containers++
	}
	for {
		for left == 0 {
			if depth--; depth == 0 {
				if at > len(b) {
					return nil, ErrShort
				}
				return b[at:], nil
			}
			left = outer[depth-1]
		}
		if at >= len(b) {
			return nil, ErrShort
		}
		left--
		if size := fixedSizes[b[at]]; size > 0 {
			at += int(size)
			continue
		}
		size, n, err := head(b[at:])
		if err != nil {
			return nil, err
		}
		at += size
		if n < 0 {
			continue
		}
		switch {
		case n > len(b)-at:
			return nil, ErrShort
		case depth >= maxDepth:
			return nil, tooDeep(maxDepth)
		case depth > len(outer):
			return nil, errMoreLevels
		}
		outer[depth-1] = left
		depth++
		left = n
		s.Values += n
		s.Depth = max(s.Depth, depth)
		if n > 0 {
			s.Containers++
		}
	}
}

func tooDeep(maxDepth int) error {
	return fmt.Errorf("%w: more than %d levels", ErrDepth, maxDepth)
}

// head returns the size of the first value of b, without the values in it, and how many those are:
// -1 if it is no container. b holds at least size bytes.
func head(b []byte) (size, n int, err error) {
	if len(b) == 0 {
		return 0, 0, ErrShort
	}
	lead := b[0]
	if size := int(fixedSizes[lead]); size > 0 {
		if size > len(b) {
			return 0, 0, ErrShort
		}
		return size, -1, nil
	}
	switch lead & 0xf0 {
	case 0x80:
		return 1, 2 * int(lead&0x0f), nil
	case 0x90:
		return 1, int(lead & 0x0f), nil
	}
	var count uint64
	switch lead {
	case 0xc4, 0xc7, 0xd9: // bin 8, ext 8, str 8
		size = 2
	case 0xc5, 0xc8, 0xda, 0xdc, 0xde: // bin 16, ext 16, str 16, array 16, map 16
		size = 3
	case 0xc6, 0xc9, 0xdb, 0xdd, 0xdf: // the same with 32 bits
		size = 5
	default:
		return 0, 0, errPrefix
	}
	if len(b) < size {
		return 0, 0, ErrShort
	}
	switch size {
	case 2:
		count = uint64(b[1])
	case 3:
		count = uint64(binary.BigEndian.Uint16(b[1:]))
	case 5:
		count = uint64(binary.BigEndian.Uint32(b[1:]))
	}
	values := lead >= 0xdc
	if lead >= 0xde {
		count *= 2
	}
	if lead >= 0xc7 && lead <= 0xc9 {
		count++ // the type of an extension
	}
	if count > uint64(len(b)-size) { // each value within has a byte at least
		return 0, 0, ErrShort
	}
	if values {
		return size, int(count), nil
	}
	return size + int(count), -1, nil
}

// fixedSizes are the sizes of values by their first byte; 0 if that does not determine it, and for
// containers.
var fixedSizes = func() (sizes [256]uint8) {
	set := func(first, last, size int) {
		for lead := first; lead <= last; lead++ {
			sizes[lead] = uint8(size)
		}
	}
	set(0x00, 0x7f, 1) // positive integers
	for n := range 32 {
		set(0xa0+n, 0xa0+n, 1+n) // short strings
	}
	set(0xc0, 0xc0, 1) // nil
	set(0xc2, 0xc3, 1) // booleans
	set(0xca, 0xca, 5) // floats
	set(0xcb, 0xcb, 9)
	for i := range 4 { // integers
		set(0xcc+i, 0xcc+i, 1+1<<i)
		set(0xd0+i, 0xd0+i, 1+1<<i)
	}
	for i := range 5 { // extensions
		set(0xd4+i, 0xd4+i, 2+1<<i)
	}
	set(0xe0, 0xff, 1) // negative integers
	return sizes
}()
