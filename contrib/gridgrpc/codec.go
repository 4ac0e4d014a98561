package gridgrpc

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto" // also registers the codec
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// codec turns messages into payloads and back. Its zero value is that of protobuf, as gRPC has it.
// A codec of the application, which it has registered or passed in an option, is called as gRPC
// calls it.
type codec struct {
	other encoding.CodecV2 // nil for protobuf
	named string           // what to call it on the wire; empty for its own name
}

// codecOf returns the codec that is registered for a content subtype, in lower case: that of
// protobuf for an empty one. It reports false if there is none.
func codecOf(subtype string) (codec, bool) {
	if subtype == "" {
		subtype = encodingproto.Name
	}
	if c := encoding.GetCodecV2(subtype); c != nil {
		return newCodec(c), true
	}
	if c := encoding.GetCodec(subtype); c != nil {
		return codec{other: codecV1{c, c.Name()}}, true
	}
	return codec{}, false
}

// newCodec recognizes gRPC's own codec, whose work can be done in fewer steps.
func newCodec(c encoding.CodecV2) codec {
	if t := reflect.TypeOf(c); t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "google.golang.org/grpc/encoding/proto" {
		return codec{}
	}
	return codec{other: c}
}

// marshal returns a message in a buffer of grid's pool. A nil message is empty.
func (c codec) marshal(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	if c.other != nil {
		return c.marshalOther(v)
	}
	m := protoOf(v)
	if m == nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: proto: failed to marshal, message is %T, want proto.Message", v)
	}
	b := grid.GetByteBufferCap(proto.Size(m))[:0]
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	return b, nil
}

func (c codec) marshalOther(v any) ([]byte, error) {
	data, err := c.other.Marshal(v)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "grpc: error while marshaling: %v", err)
	}
	defer data.Free()
	b := grid.GetByteBufferCap(data.Len())[:data.Len()]
	data.CopyTo(b)
	return b, nil
}

// unmarshal decodes a payload into v, and gives it back to grid's pool.
func (c codec) unmarshal(b []byte, v any) (err error) {
	if c.other != nil { // which may keep it
		err = c.other.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, v)
	} else if m := protoOf(v); m != nil {
		err = proto.Unmarshal(b, m)
		grid.PutByteBuffer(b)
	} else {
		err = fmt.Errorf("failed to unmarshal, message is %T, want proto.Message", v)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "grpc: failed to unmarshal the received message: %v", err)
	}
	return nil
}

// subtype is what the codec is called on the wire; empty for protobuf, which is not named there.
func (c codec) subtype() string {
	name := c.named
	if name == "" && c.other != nil {
		name = strings.ToLower(c.other.Name())
	}
	if name == encodingproto.Name {
		return ""
	}
	return name
}

func protoOf(v any) proto.Message {
	switch v := v.(type) {
	case proto.Message:
		return v
	case protoadapt.MessageV1:
		return protoadapt.MessageV2Of(v)
	}
	return nil
}

// codecV1 makes a codec of one of gRPC's older kinds one of the present kind.
type codecV1 struct {
	codec interface {
		Marshal(v any) ([]byte, error)
		Unmarshal(data []byte, v any) error
	}
	name string
}

func (c codecV1) Marshal(v any) (mem.BufferSlice, error) {
	b, err := c.codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (c codecV1) Unmarshal(data mem.BufferSlice, v any) error {
	return c.codec.Unmarshal(data.Materialize(), v)
}

func (c codecV1) Name() string { return c.name }
