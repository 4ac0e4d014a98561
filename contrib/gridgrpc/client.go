package gridgrpc

import (
	"context"
	"strings"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

var _ grpc.ClientConnInterface = (*Client)(nil)

// Client calls the services of another node. It is a grpc.ClientConnInterface, for the clients that
// protoc-gen-go-grpc has generated. Its methods may be called by any number of goroutines.
//
// The fields may be set before the first call, and not after.
type Client struct {
	// UnaryInterceptors wrap each unary call, and StreamInterceptors each stream, the first of them
	// outermost. The *grpc.ClientConn they get tells its Target, which is the name of the peer, and is
	// closed: nothing can be called over it.
	UnaryInterceptors  []grpc.UnaryClientInterceptor
	StreamInterceptors []grpc.StreamClientInterceptor
	// CallOptions are put before those of each call.
	CallOptions []grpc.CallOption

	conn *grid.Connection
	name string // of the peer
	sham sham
}

// NewClient returns a client of the services that the peer of a connection has registered with a
// Server.
func NewClient(conn *grid.Connection) *Client {
	c := &Client{conn: conn}
	if conn != nil { // otherwise the calls fail
		c.name = conn.Remote
	}
	return c
}

// Invoke makes a unary call. Generated code calls it. Its errors are those of package status, as from
// a *grpc.ClientConn: what the handler returned, or an error of the grid with the code that
// grid.CodeOf has for it.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	opts = withDefaults(c.CallOptions, opts)
	if len(c.UnaryInterceptors) == 0 {
		return c.invoke(ctx, method, args, reply, opts)
	}
	return c.invokeThrough(ctx, c.UnaryInterceptors, method, args, reply, opts)
}

// invokeThrough makes a unary call through interceptors.
func (c *Client) invokeThrough(ctx context.Context, all []grpc.UnaryClientInterceptor, method string, args, reply any,
	opts []grpc.CallOption,
) error {
	if len(all) == 0 {
		return c.invoke(ctx, method, args, reply, opts)
	}
	next := func(ctx context.Context, method string, args, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
		return c.invokeThrough(ctx, all[1:], method, args, reply, opts)
	}
	return all[0](ctx, method, args, reply, c.sham.conn(c.name), next, opts...)
}

// invoke makes a unary call, behind all interceptors.
func (c *Client) invoke(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) error {
	o, err := newCallOptions(opts)
	if err != nil {
		return err
	}
	if !o.answers {
		err = c.call(ctx, method, args, reply, &o)
		o.finish(nil, nil, c.peer, err)
		return err
	}
	ctx, answer := grid.WithAnswerMetadata(ctx)
	err = c.call(ctx, method, args, reply, &o)
	o.finish(received(answer.Header()), received(answer.Trailer()), c.peer, err)
	return err
}

func (c *Client) call(ctx context.Context, method string, args, reply any, o *callOptions) error {
	request, err := o.codec.marshal(args)
	if err != nil {
		return err
	}
	defer grid.PutByteBuffer(request)
	if err := o.tooLarge(len(request), true); err != nil {
		return err
	}
	ctx, err = c.begin(ctx, method, o)
	if err != nil {
		return err
	}
	answer, err := c.conn.Call(ctx, methodName(method), request)
	if err != nil {
		return statusOf(ctx, err)
	}
	if err := o.tooLarge(len(answer), false); err != nil {
		grid.PutByteBuffer(answer)
		return err
	}
	return o.codec.unmarshal(answer, reply)
}

// begin returns the context of a call for grid, once the connection is up if the call shall wait for
// that.
func (c *Client) begin(ctx context.Context, method string, o *callOptions) (context.Context, error) {
	md, err := outgoing(ctx, o, c.name, method)
	if err != nil {
		return nil, err
	}
	if o.wait {
		if err := c.conn.WaitForConnect(ctx); err != nil {
			return nil, statusOf(ctx, err)
		}
	}
	if len(md) > 0 {
		ctx = grid.WithMetadata(ctx, grid.Metadata(md))
	}
	if _, ok := ctx.Deadline(); !ok {
		ctx = grid.WithoutDeadline(ctx)
	}
	return ctx, nil
}

// NewStream opens a stream. Generated code calls it. A stream ends with its context at the latest,
// and nothing of it is left then, whether it was read to its end or not.
//
// Both ends must have the same description of the method, as they have if their code was generated
// from the same file.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	opts = withDefaults(c.CallOptions, opts)
	if len(c.StreamInterceptors) == 0 {
		return c.newStream(ctx, desc, method, opts)
	}
	return c.newStreamThrough(ctx, c.StreamInterceptors, desc, method, opts)
}

// newStreamThrough opens a stream through interceptors.
func (c *Client) newStreamThrough(ctx context.Context, all []grpc.StreamClientInterceptor, desc *grpc.StreamDesc, method string,
	opts []grpc.CallOption,
) (grpc.ClientStream, error) {
	if len(all) == 0 {
		return c.newStream(ctx, desc, method, opts)
	}
	next := func(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, method string,
		opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		return c.newStreamThrough(ctx, all[1:], desc, method, opts)
	}
	return all[0](ctx, desc, c.sham.conn(c.name), method, next, opts...)
}

// peer returns the peer with its addresses.
func (c *Client) peer() *peer.Peer {
	p := c.conn.Peer()
	return newPeer(p.RemoteAddr, p.LocalAddr)
}

// methodName is the name of a method in grid: gRPC's, without the slash at its beginning.
func methodName(method string) string { return strings.TrimPrefix(method, "/") }

// received returns metadata from the peer as gRPC has it: it is never nil.
func received(md grid.Metadata) metadata.MD {
	return join(nil, metadata.MD(md))
}
