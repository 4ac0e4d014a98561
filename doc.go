// Package grid connects the nodes of a cluster. Every pair of nodes shares one WebSocket
// connection, over which they exchange single requests and open streams: any number at once, in
// both directions.
//
// A node is a [Manager]. It knows the names of all nodes, which are their base URLs, and accepts
// connections at [RoutePath] of an HTTP server. Connections are established and re-established
// automatically.
//
//	m, err := grid.NewManager(ctx, grid.ManagerOptions{
//		Local:       "http://10.0.0.1:9000",
//		Hosts:       []string{"http://10.0.0.1:9000", "http://10.0.0.2:9000"},
//		AuthRequest: checkToken, // func(*http.Request) error
//		AddAuth:     token,      // func(audience string) string
//	})
//	if err != nil {
//		return err
//	}
//	err = m.Handle("greet", func(_ context.Context, payload []byte) ([]byte, error) {
//		return append([]byte("hello, "), payload...), nil
//	})
//	if err != nil {
//		return err
//	}
//	http.Handle(grid.RoutePath, m.Handler())
//
// Every other node can now call the method, and this node can call theirs:
//
//	conn := m.Connection("http://10.0.0.2:9000")
//	if err := conn.WaitForConnect(ctx); err != nil {
//		return err
//	}
//	answer, err := conn.Call(ctx, "greet", []byte("world"))
//
// # Requests and streams
//
// [Connection.Call] sends one message and returns one answer or one error. [Method] does the same with
// values in place of bytes, for types with the methods that the msgp tool generates, or with any other
// [Codec].
//
// [Connection.OpenStream] opens a [Stream] to a handler that gets a [RawStream]: each may send any number
// of messages. [StreamMethod], [UploadMethod] and [DuplexMethod] do the same with values. A slow consumer
// slows its own stream and no other.
//
// Programs that come from the original know a handler by its number, a [HandlerID], and its subroute:
// see [Manager.RegisterSingleHandler], [Connection.Request], [SingleHandler] and [StreamTypeHandler].
//
// Requests and streams carry the [Metadata] that [WithMetadata] has put into their context.
//
// # Errors
//
// A handler's error arrives as a [RemoteErr] with the same text. [ErrDisconnected] means that the
// handler may or may not have run. When a context ends, its cause is returned. errors.Is works for
// all of them.
//
// # Buffers
//
// Whoever receives a buffer owns it, and may return it to the pool with [PutByteBuffer] when nobody
// uses it any more. A handler gives up ownership of what it returns or sends. The payload of a
// request, and the one that opens a stream, stay the caller's.
package grid
