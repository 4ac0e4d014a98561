package gridgrpc

import (
	"context"
	"maps"
	"strings"
	"sync"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

var (
	_ grpc.ServerTransportStream = (*serverCall)(nil)

	logger = grpclog.Component("gridgrpc")

	errHeaderSent = status.Error(codes.Internal, "gridgrpc: the header has been sent already")
)

// serverCall is a call that is served. As in gRPC, its methods may be called by several goroutines.
type serverCall struct {
	method  *method
	context serverContext
	codec   codec
	raw     *grid.RawStream // nil for unary calls
	request []byte          // what it was opened with; nil once decoded

	mu         sync.Mutex // Protects following.
	header     metadata.MD
	trailer    metadata.MD
	headerSent bool
}

// begin makes the call ready for a handler of grid with ctx.
func (c *serverCall) begin(ctx context.Context, m *method) {
	c.method = m
	c.context = serverContext{ctx, c}
	if values := grid.MetadataFrom(ctx)[contentType]; len(values) > 0 {
		subtype, _ := strings.CutPrefix(values[0], contentTypePrefix)
		var ok bool
		if c.codec, ok = codecOf(strings.ToLower(subtype)); !ok {
			logger.Warningf("%s: no codec is registered for the content type %.64q, using that of protobuf", m.name, values[0])
		}
	}
}

// decode decodes the request. It may be called once.
func (c *serverCall) decode(v any) error {
	request := c.request
	c.request = nil
	return c.codec.unmarshal(request, v)
}

// Method returns the name of the method in gRPC.
func (c *serverCall) Method() string { return c.method.path }

// SetHeader adds to the header, which goes with the answer, or with the first message of a stream.
func (c *serverCall) SetHeader(md metadata.MD) error {
	if err := validate(md); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.headerSent {
		return errHeaderSent
	}
	if len(md) == 0 {
		return nil
	}
	header := join(maps.Clone(c.header), md)
	if err := grid.SetHeader(c.context.Context, grid.Metadata(header)); err != nil {
		return statusOf(c.context.Context, err)
	}
	c.header = header
	return nil
}

// SendHeader adds to the header, after which nothing can be added. That of a stream is sent, and that of
// a unary call goes with the answer.
func (c *serverCall) SendHeader(md metadata.MD) error {
	if err := c.SetHeader(md); err != nil {
		return err
	}
	c.sentHeader()
	return statusOf(c.context.Context, grid.SendHeader(c.context.Context, nil))
}

// sentHeader notes that nothing can be added to the header anymore.
func (c *serverCall) sentHeader() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headerSent = true
}

// SetTrailer adds to the trailer, which goes with the answer or the end of a stream.
func (c *serverCall) SetTrailer(md metadata.MD) error {
	if err := validate(md); err != nil {
		return err
	}
	if len(md) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	trailer := join(maps.Clone(c.trailer), md)
	if err := grid.SetTrailer(c.context.Context, grid.Metadata(trailer)); err != nil {
		return statusOf(c.context.Context, err)
	}
	c.trailer = trailer
	return nil
}

// incoming returns the metadata of the caller. There is some, though it may be empty, as always in
// gRPC.
func (c *serverCall) incoming() metadata.MD {
	if md := grid.MetadataFrom(c.context.Context); md != nil {
		return metadata.MD(md)
	}
	return metadata.MD{}
}

// peer returns the caller, with the network addresses of its connection.
func (c *serverCall) peer() *peer.Peer {
	caller := grid.GetCaller(c.context.Context)
	if caller == nil { // an interceptor of grid has replaced the context
		return newPeer("", "")
	}
	p := c.method.m.Connection(caller.Name).Peer()
	return newPeer(p.RemoteAddr, p.LocalAddr)
}
