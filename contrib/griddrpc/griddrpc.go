// Package griddrpc carries the calls of storj.io/drpc over a grid. Code that protoc-gen-go-drpc has
// generated runs unchanged, at both ends: only what it is given is another.
//
//	err := pb.DRPCRegisterKV(griddrpc.NewMux(m), impl)        // m is a *grid.Manager
//	client := pb.NewDRPCKVClient(griddrpc.NewConn(conn))      // conn is m.Connection(peer)
//
// Errors with their codes (drpcerr), metadata (drpcmetadata), and the cancellation of calls go over the
// grid. Other than with drpc, calls and streams over one Conn run at the same time, without a pool, and
// deadlines reach the handler.
//
// To grid, a method of drpc is a method like any other, whose name is drpc's without the slash at its
// beginning, such as "kv.KV/Get". A unary call is a request whose payload is the message. A stream is
// opened without a payload, and each message is one of the stream, the request of a method that streams
// only its answers too.
package griddrpc

import (
	"context"
	"strings"

	"github.com/gridmesh/grid"
	"storj.io/drpc"
	"storj.io/drpc/drpcenc"
	"storj.io/drpc/drpcmetadata"
)

// methodName is the name of a method in grid: drpc's, without the slash at its beginning.
func methodName(rpc string) string { return strings.TrimPrefix(rpc, "/") }

// encode returns a message in a buffer of grid's pool.
func encode(msg drpc.Message, enc drpc.Encoding) ([]byte, error) {
	buf := grid.GetByteBuffer()
	b, err := drpcenc.MarshalAppend(msg, enc, buf)
	if err != nil {
		grid.PutByteBuffer(buf)
		return nil, err
	}
	if cap(b) > cap(buf) { // it did not fit
		grid.PutByteBuffer(buf)
	}
	return b, nil
}

// decode decodes a payload, and gives it back to grid's pool. As in drpc, the message must not keep it.
func decode(b []byte, msg drpc.Message, enc drpc.Encoding) error {
	defer grid.PutByteBuffer(b)
	return enc.Unmarshal(b, msg)
}

// outgoing returns the context of a call for grid, with the metadata that it has for drpc.
func outgoing(ctx context.Context) context.Context {
	if pairs, ok := drpcmetadata.Get(ctx); ok && len(pairs) > 0 {
		md := make(grid.Metadata, len(pairs))
		for key, value := range pairs {
			md[key] = []string{value}
		}
		ctx = grid.WithMetadata(ctx, md)
	}
	if _, ok := ctx.Deadline(); !ok {
		ctx = grid.WithoutDeadline(ctx)
	}
	return ctx
}

// incoming returns the context of a handler, with the metadata of its call.
func incoming(ctx context.Context) context.Context {
	md := grid.MetadataFrom(ctx)
	pairs := make(map[string]string, len(md))
	for key, values := range md {
		if len(values) > 0 {
			pairs[key] = values[0]
		}
	}
	return drpcmetadata.AddPairs(ctx, pairs)
}
