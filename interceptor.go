package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
)

// Interceptor wraps calls and handlers, for concerns that all of them share: traces, metrics,
// limits, authorization, logs. Functions that are nil are skipped.
//
// A function does its work and calls next, which is the next interceptor or, in the end, the call
// or the handler itself. It may answer without calling next, change what goes in and what comes
// out, and pass another context to next: on the calling side one with more metadata, by
// WithMetadata; on the handler's side one with whatever the handler is to find in it. The functions
// must be safe for concurrent use.
//
// The first of ManagerOptions.Interceptors is the outermost, on both sides. Typed calls and
// handlers pass through interceptors in the form that they have on the wire.
type Interceptor struct {
	// ClientRequest wraps the requests that this node makes.
	ClientRequest ClientRequestInterceptor
	// ClientStream wraps the opening of streams by this node.
	ClientStream ClientStreamInterceptor
	// ServerRequest wraps this node's handlers of requests.
	ServerRequest ServerRequestInterceptor
	// ServerStream wraps this node's handlers of streams.
	ServerStream ServerStreamInterceptor
}

// CallInfo describes the call that an interceptor wraps. It must not be changed.
type CallInfo struct {
	// Method is the name of the method that is called, or of a handler without one: what its ID is
	// called.
	Method string
	// Handler is the ID of the handler that is called; of a method, HandlerNamed.
	Handler HandlerID
	// Subroute is the route of the call, empty for none.
	Subroute string
	// Local is the name of this node, Remote that of the other.
	Local, Remote string
	// RemoteAddr is the network address of the other node, such as "10.0.0.2:9000", or that of a proxy
	// between the two; without a connection, that of the last one, or empty.
	RemoteAddr string
}

// ClientRequestInterceptor wraps a request. It runs on the goroutine that called
// Connection.Request, which also gets its panics.
//
// req stays the caller's: it may be read until the interceptor returns, and must be neither changed
// nor kept. What is passed to next stays the interceptor's. What next returns belongs to the
// interceptor, to be returned or given back with PutByteBuffer. What the interceptor returns
// belongs to the caller, so it must not be req. next may be called several times, to try again.
type ClientRequestInterceptor func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error)

// RequestFunc makes a request, like Connection.Request.
type RequestFunc func(ctx context.Context, req []byte) ([]byte, error)

// ClientStreamInterceptor wraps the opening of a stream. It runs on the goroutine that called
// Connection.NewStream, which also gets its panics, and returns as soon as the stream is open: use
// info.Observe to watch what happens on the stream.
//
// payload stays the caller's, and what is passed to next stays the interceptor's. next may be
// called several times, one call after the other. A stream that next has opened is canceled unless
// it is returned. Observers watch the streams that next opens, but not a stream from elsewhere that
// is returned in their place.
type ClientStreamInterceptor func(ctx context.Context, info *StreamInfo, payload []byte,
	next NewStreamFunc) (*Stream, error)

// NewStreamFunc opens a stream, like Connection.NewStream.
type NewStreamFunc func(ctx context.Context, payload []byte) (*Stream, error)

// ServerRequestInterceptor wraps the handler of a request. It runs on the handler's goroutine. If
// it panics, the caller gets an error, as for a handler. It gets a context even if the handler
// takes none. It is not called for requests to handlers that are not registered.
//
// The payload belongs to the interceptor until it is passed to next, which must have returned
// before the interceptor does: the request, and what it is decoded to, count only until then. What
// next returns belongs to the interceptor, which gives up ownership of what it returns.
//
// errors.Is and errors.As find, in the error of next, what the handler has returned. A nil *RemoteErr
// is no error, as for a handler.
type ServerRequestInterceptor func(ctx context.Context, info *CallInfo, payload []byte,
	next ServeRequestFunc) ([]byte, error)

// ServerStreamInterceptor wraps the handler of a stream. It runs on the handler's goroutine. If it
// panics, the caller gets an error, as for a handler. Use info.Observe to watch what happens on the
// stream. It is not called for handlers that are not registered.
//
// The payload belongs to the interceptor until it is passed to next. next may be called once, and
// must have returned before the interceptor does. Errors are as for a ServerRequestInterceptor.
type ServerStreamInterceptor func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) error

var (
	errNoStream    = errors.New("grid: an interceptor returned neither a stream nor an error")
	errNotReturned = errors.New("grid: an interceptor did not return the stream")
	errServedTwice = errors.New("grid: an interceptor served the stream twice")
)

// interceptors are the functions of a Manager's Interceptors, by what they wrap, outermost first.
type interceptors struct {
	clientRequests []ClientRequestInterceptor
	clientStreams  []ClientStreamInterceptor
	serverRequests []ServerRequestInterceptor
	serverStreams  []ServerStreamInterceptor
}

func newInterceptors(all []Interceptor) (s interceptors) {
	for _, i := range all {
		if i.ClientRequest != nil {
			s.clientRequests = append(s.clientRequests, i.ClientRequest)
		}
		if i.ClientStream != nil {
			s.clientStreams = append(s.clientStreams, i.ClientStream)
		}
		if i.ServerRequest != nil {
			s.serverRequests = append(s.serverRequests, i.ServerRequest)
		}
		if i.ServerStream != nil {
			s.serverStreams = append(s.serverStreams, i.ServerStream)
		}
	}
	return s
}

// checkInterceptors returns an error that names an interceptor without functions.
func checkInterceptors(all []Interceptor) error {
	for n, i := range all {
		if i.ClientRequest == nil && i.ClientStream == nil && i.ServerRequest == nil && i.ServerStream == nil {
			return fmt.Errorf("grid: ManagerOptions.Interceptors[%d]: no function is set", n)
		}
	}
	return nil
}

// nest wraps interceptors around a function, the first of them outermost.
func nest[I, F any](all []I, innermost F, around func(intercept I, next F) F) F {
	next := innermost
	for _, intercept := range slices.Backward(all) {
		next = around(intercept, next)
	}
	return next
}

// request makes a request through send, wrapped in the interceptors.
func (s *interceptors) request(ctx context.Context, info *CallInfo, req []byte, send RequestFunc) ([]byte, error) {
	next := RequestFunc(func(ctx context.Context, req []byte) ([]byte, error) {
		if ctx == nil {
			return nil, errNilContext
		}
		return send(ctx, req)
	})
	next = nest(s.clientRequests, next, func(intercept ClientRequestInterceptor, next RequestFunc) RequestFunc {
		return func(ctx context.Context, req []byte) ([]byte, error) { return intercept(ctx, info, req, next) }
	})
	return next(ctx, req)
}

// stream opens a stream through open, wrapped in the interceptors. open gets the observers of the
// stream.
func (s *interceptors) stream(ctx context.Context, call CallInfo, payload []byte,
	open func(ctx context.Context, payload []byte, observers []StreamObserver) (*Stream, error),
) (st *Stream, err error) {
	info := &StreamInfo{CallInfo: call}
	var opened []*Stream
	defer func() { // also after a panic
		for _, one := range opened {
			if one != st {
				one.Cancel(errNotReturned)
			}
		}
	}()
	next := NewStreamFunc(func(ctx context.Context, payload []byte) (*Stream, error) {
		if ctx == nil {
			return nil, errNilContext
		}
		st, err := open(ctx, payload, info.observers)
		if err == nil {
			opened = append(opened, st)
		}
		return st, err
	})
	next = nest(s.clientStreams, next, func(intercept ClientStreamInterceptor, next NewStreamFunc) NewStreamFunc {
		return func(ctx context.Context, payload []byte) (*Stream, error) { return intercept(ctx, info, payload, next) }
	})
	result, err := next(ctx, payload)
	switch {
	case err != nil:
		return nil, err
	case result == nil:
		return nil, errNoStream
	}
	return result, nil
}

// handler returns a handler of requests that wraps h in the interceptors. It always takes a
// context.
func (s *interceptors) handler(local string, h singleHandler) SingleHandlerContextFn {
	innermost := ServeRequestFunc(func(ctx context.Context, payload []byte) (out []byte, err error) {
		returned := false
		defer keepOnPanic(ctx, &returned)
		switch {
		case h.handle != nil:
			out, err = h.handle(payload)
		case h.handleTyped != nil:
			out, err = h.handleTyped(roomOf(ctx), payload)
		default:
			out, err = h.handleContext(ctx, payload)
		}
		returned = true
		if err = ofHandler(err); h.handleContext != nil {
			err = whole(ctx, err)
		}
		return out, err
	})
	return func(ctx context.Context, payload []byte) ([]byte, error) {
		caller := GetCaller(ctx)
		info := &CallInfo{
			Method: h.String(), Handler: h.id, Subroute: h.subroute(),
			Local: local, Remote: caller.Name, RemoteAddr: addressIn(caller.address),
		}
		next := nest(s.serverRequests, innermost, func(intercept ServerRequestInterceptor, next ServeRequestFunc) ServeRequestFunc {
			return func(ctx context.Context, payload []byte) ([]byte, error) {
				out, err := intercept(ctx, info, payload, next)
				return out, outcomeOf(err)
			}
		})
		return next(ctx, payload)
	}
}

// serve runs the handler of a stream through handle, wrapped in the interceptors. observe is called
// once with the observers of the stream: before the handler, or after the interceptors have
// returned if they do not call it.
func (s *interceptors) serve(ctx context.Context, call CallInfo, payload []byte, observe func([]StreamObserver),
	handle ServeStreamFunc,
) error {
	info := &StreamInfo{CallInfo: call}
	served := false
	defer func() { // also after a panic
		if !served {
			observe(info.observers)
		}
	}()
	next := ServeStreamFunc(func(ctx context.Context, payload []byte) error {
		if served {
			return errServedTwice
		}
		served = true
		observe(info.observers)
		return handle(ctx, payload)
	})
	next = nest(s.serverStreams, next, func(intercept ServerStreamInterceptor, next ServeStreamFunc) ServeStreamFunc {
		return func(ctx context.Context, payload []byte) error { return outcomeOf(intercept(ctx, info, payload, next)) }
	})
	return next(ctx, payload)
}

// callInfo describes a call to be made, or served, over a link.
func callInfo(l *link, to target) CallInfo {
	return CallInfo{
		Method: to.String(), Handler: to.id, Subroute: to.subroute(),
		Local: l.local, Remote: l.remote, RemoteAddr: addressIn(&l.address),
	}
}

func addressIn(p *atomic.Pointer[string]) string {
	if address := p.Load(); address != nil {
		return *address
	}
	return ""
}

// StreamInfo describes the stream that an interceptor wraps, and accepts observers of it.
type StreamInfo struct {
	CallInfo

	observers []StreamObserver
}

// Observe adds an observer of the stream. It must be called before next, on the interceptor's own
// goroutine. Several observers are called in the order in which they were added.
func (i *StreamInfo) Observe(o StreamObserver) { i.observers = append(i.observers, o) }
