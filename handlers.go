package grid

import "context"

// SingleHandlerFn answers a single request. It owns payload, and gives up ownership of what it
// returns. Each call runs on its own goroutine.
type SingleHandlerFn func(payload []byte) ([]byte, *RemoteErr)

// SingleHandlerContextFn answers a single request, like a SingleHandlerFn. ctx has the caller's
// deadline, works with GetCaller, GetSubroute and MetadataFrom, and is canceled when the caller
// gives up or disconnects. Nodes of the original do not say when their callers give up. What the
// handler returns once ctx has ended is not sent, because nobody is waiting for it.
//
// An error reaches the caller as an *Error: with its code and details, if it has any and both nodes
// are of this project, or else with its text alone. A nil *RemoteErr is no error.
type SingleHandlerContextFn func(ctx context.Context, payload []byte) ([]byte, error)

// StreamHandlerFn serves one stream. It receives messages from in, which is nil if InCapacity is 0,
// and which is closed when the caller ends its input or the stream is canceled. It sends its own
// messages to out, which it must never close, and gives up ownership of what it sends. Everything
// it sent before it returned is delivered.
//
// ctx has the caller's deadline and cancellation, and works with GetCaller, GetSubroute and
// MetadataFrom. If the stream is canceled, ctx ends before in is closed. What the handler returns
// counts only if ctx has not ended and its deadline has not passed by then: the caller of a stream
// that was cut short always gets an error.
type StreamHandlerFn func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr

// StreamHandler describes a stream handler, for RegisterStreamingHandler.
type StreamHandler struct {
	// Handle serves one stream.
	Handle StreamHandlerFn
	// Subroute is the route that the handler serves, empty for none.
	Subroute string
	// OutCapacity is how many messages the handler can have sent to out that are not yet on their
	// way, at most 64. 0 means 1. With a node of the original it is also the number of messages
	// that the handler may be ahead of the caller's consumer, and both nodes must use the same
	// number. Otherwise Limits.MaxStreamWindow says how far that is.
	OutCapacity int
	// InCapacity is 0 if the handler takes no input, and above 0 otherwise, at both nodes. With a
	// node of the original it is the number of messages that the caller may be ahead of the
	// handler, and both nodes must use the same number. Otherwise Limits.MaxStreamWindow says how
	// far that is.
	InCapacity int
}

// StatelessHandlerFn is part of the original's API. It is never called: see StatelessHandler.
type StatelessHandlerFn func(ctx context.Context, payload []byte, resp chan<- []byte) *RemoteErr

// StatelessHandler is part of the original's API. It cannot be registered: the wire protocol has no
// stateless streams.
type StatelessHandler struct {
	// Handle is never called.
	Handle StatelessHandlerFn
	// OutCapacity has no effect.
	OutCapacity int
}

// ServeRequestFunc answers a request by calling its handler.
type ServeRequestFunc func(ctx context.Context, payload []byte) ([]byte, error)

// ServeStreamFunc serves a stream and returns when its handler does.
type ServeStreamFunc func(ctx context.Context, payload []byte) error
