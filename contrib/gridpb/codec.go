package gridpb

import (
	"fmt"

	"github.com/gridmesh/grid"
	"google.golang.org/protobuf/proto"
)

// Codec encodes messages of protobuf. The functions of this package use it; it is there for codecs
// that add something, such as compression. The values must be Messages. One that is nested more than
// 100 levels deep is not decoded.
var Codec grid.Codec = codec{}

type codec struct{}

// vtMessage is a message with the methods that protoc-gen-go-vtproto generates, which take fewer
// steps than reflection.
type vtMessage interface {
	SizeVT() int
	MarshalToSizedBufferVT(b []byte) (int, error) // from its end
	UnmarshalVT(b []byte) error
}

func (codec) Append(b []byte, v any) ([]byte, error) {
	m, err := messageOf(v)
	if err != nil {
		return b, err
	}
	if vt, ok := v.(vtMessage); ok {
		return appendVT(b, m, vt)
	}
	appended, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(grow(b, proto.Size(m)), m)
	if err != nil {
		return b, failed(m, err)
	}
	return appended, nil
}

func appendVT(b []byte, m proto.Message, vt vtMessage) ([]byte, error) {
	size := vt.SizeVT()
	start := len(b)
	grown := grow(b, size)[:start+size]
	n, err := vt.MarshalToSizedBufferVT(grown[start:])
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes were written where there should be %d", n, size)
	}
	if err != nil {
		return b, failed(m, err)
	}
	return grown, nil
}

func (codec) Decode(b []byte, v any) error {
	m, err := messageOf(v)
	if err != nil {
		return err
	}
	if vt, ok := v.(vtMessage); ok {
		err = vt.UnmarshalVT(b)
	} else {
		err = proto.UnmarshalOptions{Merge: true}.Unmarshal(b, m)
	}
	if err != nil {
		return failed(m, err)
	}
	return nil
}

func (codec) DecodedSize(b []byte, v any) (int, error) {
	m, err := messageOf(v)
	if err != nil {
		return 0, err
	}
	size, err := shapeOf(m).size(b, maxDepth)
	if err != nil {
		return 0, failed(m, err)
	}
	return size, nil
}

// grow returns b with room for n more bytes. A larger buffer is one of grid's pool.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	return append(grid.GetByteBufferCap(len(b) + n)[:0], b...)
}

// messageOf returns v as a message.
func messageOf(v any) (proto.Message, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a message of protobuf", v)
	}
	return m, nil
}

// failed names the type of a message that could not be encoded or decoded.
func failed(m proto.Message, err error) error {
	return fmt.Errorf("%s: %w", m.ProtoReflect().Descriptor().FullName(), err)
}
