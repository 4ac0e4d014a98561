package grid

import "context"

// SingleHandlerFn answers a single request. It owns payload; what it returns
// is no longer its own. Each call runs on a goroutine of its own.
type SingleHandlerFn func(payload []byte) ([]byte, *RemoteErr)

// SingleHandlerContextFn is a SingleHandlerFn that knows its caller: ctx has
// the caller's deadline, GetCaller and GetSubroute, and is canceled when the
// caller gives up or goes away. Callers of the original do not say that they give up.
// What it returns once ctx has ended is not sent: nobody waits for it.
type SingleHandlerContextFn func(ctx context.Context, payload []byte) ([]byte, *RemoteErr)

// StreamHandlerFn serves one stream. It receives requests from in, which is
// nil where InCapacity is 0 and is closed when the caller ends its input or the
// stream is canceled, and sends its answers to out, which it never closes.
// What it sends is no longer its own. All that it sent before it returned is
// delivered. ctx carries the caller's deadline and cancellation, GetCaller and GetSubroute. It has ended before in is closed
// for that reason. What the handler returns counts only where ctx has not ended by then, and its deadline has not passed:
// the caller of a stream that was cut short always gets an error.
type StreamHandlerFn func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr

// StreamHandler describes a handler of streams.
type StreamHandler struct {
	// Handle serves one stream.
	Handle StreamHandlerFn
	// Subroute the handler serves, empty for none.
	Subroute string
	// OutCapacity is the number of messages that the handler may send ahead
	// of the caller's consumer. 0 means 1. Both nodes must use the same number, else their streams end with an error.
	OutCapacity int
	// InCapacity is the number of messages that the caller may send ahead of
	// the handler. 0 means that the handler takes no input. Both nodes must use the same number, as for OutCapacity.
	InCapacity int
}

// StatelessHandlerFn is part of the original's API. Its streams were never supported on the wire.
type StatelessHandlerFn func(ctx context.Context, payload []byte, resp chan<- []byte) *RemoteErr

// StatelessHandler is part of the original's API. Its streams were never supported on the wire.
type StatelessHandler struct {
	// Handle is never called.
	Handle StatelessHandlerFn
	// OutCapacity is the number of messages that the handler may send ahead.
	OutCapacity int
}

// ServeStreamFunc serves a stream and returns when the handler does.
type ServeStreamFunc func(ctx context.Context, payload []byte) *RemoteErr
