// Package gridpb sends messages of protobuf as the values of a grid's methods.
//
//	var get = gridpb.NewMethod[pb.GetRequest, pb.GetResponse]("kv.KV/Get")
//
//	err := get.Handle(m, func(ctx context.Context, req *pb.GetRequest) (*pb.GetResponse, error) { ... })
//	resp, err := get.Call(ctx, conn, &pb.GetRequest{Key: "a"})
//
// There is a function for each kind of method that grid has: one answer to one request, a stream from
// the handler, one to it, and one each way. Only the messages of a .proto file are needed, not its
// services. A method with the name of one of gRPC, as above, is the same on the wire as what
// contrib/gridgrpc makes of it, so either end may be of the other package.
package gridpb

import (
	"github.com/gridmesh/grid"
	"google.golang.org/protobuf/proto"
)

// Message is what the functions of this package demand of a type: its pointers are messages, as
// protoc-gen-go generates them.
type Message[T any] interface {
	*T
	proto.Message
}

// NewMethod returns the method with a name, as grid.NewMethod does. The last two type parameters
// follow from the first two.
func NewMethod[Req, Resp any, PReq Message[Req], PResp Message[Resp]](name string) *grid.Method[Req, Resp] {
	return grid.NewMethodCodec[Req, Resp](name, Codec)
}

// NewStreamMethod returns a method that answers a request with a stream of messages: see
// grid.NewStreamMethod.
func NewStreamMethod[Req, Out any, PReq Message[Req], POut Message[Out]](name string) *grid.StreamMethod[Req, Out] {
	return grid.NewStreamMethodCodec[Req, Out](name, Codec)
}

// NewUploadMethod returns a method that answers a stream of messages with one: see
// grid.NewUploadMethod.
func NewUploadMethod[In, Resp any, PIn Message[In], PResp Message[Resp]](name string) *grid.UploadMethod[In, Resp] {
	return grid.NewUploadMethodCodec[In, Resp](name, Codec)
}

// NewDuplexMethod returns a method with a stream of messages in each direction: see
// grid.NewDuplexMethod.
func NewDuplexMethod[In, Out any, PIn Message[In], POut Message[Out]](name string) *grid.DuplexMethod[In, Out] {
	return grid.NewDuplexMethodCodec[In, Out](name, Codec)
}
