package gridgrpc

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// gRPC keeps what belongs to a call in its context, under keys that only it has. The contexts here
// answer to these keys when they are asked, instead of being wrapped once for each of them, for every
// call. Keys and values are what gRPC's own functions ask for and put there.
var (
	incomingKey = keyOf(func(ctx context.Context) { metadata.FromIncomingContext(ctx) })
	peerKey     = keyOf(func(ctx context.Context) { peer.FromContext(ctx) })
	streamKey   = keyOf(func(ctx context.Context) { grpc.ServerTransportStreamFromContext(ctx) })
)

// keyOf returns the key with which a function looks into a context.
func keyOf(look func(context.Context)) any {
	ctx := &listener{Context: context.Background()}
	look(ctx)
	return ctx.asked
}

type listener struct {
	context.Context
	asked any
}

func (l *listener) Value(key any) any {
	l.asked = key
	return nil
}

// serverContext is the context of a handler.
type serverContext struct {
	context.Context // of grid's handler
	call            *serverCall
}

func (c *serverContext) Value(key any) any {
	bare := context.Background()
	switch key {
	case incomingKey:
		return metadata.NewIncomingContext(bare, c.call.incoming()).Value(key)
	case peerKey:
		return peer.NewContext(bare, c.call.peer()).Value(key)
	case streamKey:
		return grpc.NewContextWithServerTransportStream(bare, c.call).Value(key)
	}
	return c.Context.Value(key)
}

// clientContext is the context of a stream at its caller.
type clientContext struct {
	context.Context
	client *Client
}

func (c *clientContext) Value(key any) any {
	if key == peerKey {
		return peer.NewContext(context.Background(), c.client.peer()).Value(key)
	}
	return c.Context.Value(key)
}

// newPeer returns a peer with the network addresses of both ends of a connection.
func newPeer(remote, local string) *peer.Peer {
	return &peer.Peer{Addr: newAddr(remote), LocalAddr: newAddr(local)}
}

// newAddr returns a *net.TCPAddr where the address is one.
func newAddr(address string) net.Addr {
	if ap, err := netip.ParseAddrPort(address); err == nil {
		return net.TCPAddrFromAddrPort(ap)
	}
	return addr(address)
}

// addr is the address of a connection that does not use TCP.
type addr string

func (a addr) Network() string { return "grid" }
func (a addr) String() string  { return string(a) }
