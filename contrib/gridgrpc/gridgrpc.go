// Package gridgrpc carries the calls of gRPC over a grid. Code that protoc-gen-go-grpc has generated
// runs unchanged, at both ends: only what it is given is another.
//
//	pb.RegisterKVServer(gridgrpc.NewServer(m), impl)    // m is a *grid.Manager
//	client := pb.NewKVClient(gridgrpc.NewClient(conn))  // conn is m.Connection(peer)
//
// What gRPC's API promises holds: statuses with details, metadata with -bin keys and several values,
// header and trailer, deadlines and cancellation, peers, interceptors, and the options of calls. What
// is about HTTP/2 does not exist: compressors and authorities are refused with codes.Unimplemented, and
// stats handlers, retry policies and load balancing belong to types that are not used. A grid has its own.
//
// To grid, a method of gRPC is a method like any other, whose name is that of the service and the
// method, such as "kv.KV/Get": statistics, traces, metrics and interceptors of grid have it. A unary
// call is a request with the encoded message and nothing else, and so is its answer. The request of a
// method that streams only its answers opens the stream; otherwise each message is one of the stream. A
// status is a grid.Error with the same code and text, and if it has details, they are a google.rpc.Status.
// So one of the two ends may use grid's own API. The header of a stream goes with its first message, or
// before it with SendHeader.
//
// Both nodes must be of this project. What a node of the original, or an older one, cannot do, such as
// metadata of answers, is lost without an error.
package gridgrpc
