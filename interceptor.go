package grid

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Interceptor stands around calls, for what concerns all of them: traces,
// metrics, limits, authorization, logs. Functions that are nil stand around nothing.
//
// An interceptor does its work and calls next, which is the interceptor behind
// it and in the end the call or the handler itself. It may answer without
// next, change what goes in and what comes out, and give next another context:
// on the calling side with more metadata, by WithMetadata, on the other side with
// what the handler is to find there. Many goroutines call the functions at once.
//
// Of ManagerOptions.Interceptors the first is the outermost, on both sides.
// Typed calls and handlers pass through as what they are on the wire.
type Interceptor struct {
	// ClientRequest stands around requests that this node makes.
	ClientRequest ClientRequestInterceptor
	// ClientStream stands around the opening of streams from this node.
	ClientStream ClientStreamInterceptor
	// ServerRequest stands around this node's handlers of requests.
	ServerRequest ServerRequestInterceptor
	// ServerStream stands around this node's handlers of streams.
	ServerStream ServerStreamInterceptor
}

// CallInfo says which call an interceptor stands around. It must not be changed.
type CallInfo struct {
	// Handler is the ID of the handler that is called.
	Handler HandlerID
	// Subroute is the route it is called on, empty for none.
	Subroute string
	// Local is the name of this node, Remote that of the other.
	Local, Remote string
}

// ClientRequestInterceptor stands around a request. It runs on the goroutine that
// called Connection.Request, which also gets its panics.
//
// req stays the caller's: it may be read until the interceptor returns, and be
// neither changed nor kept. What next is given stays the interceptor's. What
// next returns is the interceptor's, to be returned, or given back with
// PutByteBuffer. What the interceptor returns becomes the caller's, so it is
// never req. next may be called several times, for another try.
type ClientRequestInterceptor func(ctx context.Context, info *CallInfo, req []byte, next RequestFunc) ([]byte, error)

// RequestFunc makes a request, as Connection.Request does.
type RequestFunc func(ctx context.Context, req []byte) ([]byte, error)

// ClientStreamInterceptor stands around the opening of a stream. It runs on the
// goroutine that called Connection.NewStream, which also gets its panics, and
// returns as soon as the stream is open: what happens on the stream is for an
// observer, by info.Observe.
//
// payload stays the caller's, and what next is given the interceptor's. next
// may be called several times, one after the other. A stream that next has
// opened and that is not returned is canceled. Observers watch what next opens,
// and hear nothing of a stream from elsewhere that is returned in its place.
type ClientStreamInterceptor func(ctx context.Context, info *StreamInfo, payload []byte,
	next NewStreamFunc) (*Stream, error)

// NewStreamFunc opens a stream, as Connection.NewStream does.
type NewStreamFunc func(ctx context.Context, payload []byte) (*Stream, error)

// ServerRequestInterceptor stands around the handler of a request. It runs on
// the handler's goroutine; where it panics the caller gets an error, as for a
// handler. There is a context for handlers without one too. It is not called
// for requests to handlers that are not registered.
//
// The payload is the interceptor's, until it is passed to next. What next
// returns is the interceptor's; what the interceptor returns is no longer its own.
type ServerRequestInterceptor func(ctx context.Context, info *CallInfo, payload []byte,
	next SingleHandlerContextFn) ([]byte, *RemoteErr)

// ServerStreamInterceptor stands around the handler of a stream. It runs on the
// handler's goroutine; where it panics the caller gets an error, as for a
// handler. What happens on the stream is for an observer, by info.Observe. It
// is not called for handlers that are not registered.
//
// The payload is the interceptor's, until it is passed to next. next may be
// called once, and must have returned when the interceptor does.
type ServerStreamInterceptor func(ctx context.Context, info *StreamInfo, payload []byte, next ServeStreamFunc) *RemoteErr

var (
	errNoStream    = errors.New("grid: an interceptor returned neither a stream nor an error")
	errNotReturned = errors.New("grid: an interceptor did not return the stream")
	errServedTwice = RemoteErr("grid: an interceptor served the stream twice")
)

// interceptors are those of a Manager by what they stand around, the outermost first.
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

// checkInterceptors says which interceptor has nothing to do.
func checkInterceptors(all []Interceptor) error {
	for n, i := range all {
		if i.ClientRequest == nil && i.ClientStream == nil && i.ServerRequest == nil && i.ServerStream == nil {
			return fmt.Errorf("grid: ManagerOptions.Interceptors[%d]: no function is set", n)
		}
	}
	return nil
}

// nest puts interceptors around a function, the first of them outermost.
func nest[I, F any](all []I, innermost F, around func(intercept I, next F) F) F {
	next := innermost
	for _, intercept := range slices.Backward(all) {
		next = around(intercept, next)
	}
	return next
}

// request makes a request, by send, with the interceptors around it.
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

// stream opens a stream, by open, with the interceptors around it. open is given those who observe the stream.
func (s *interceptors) stream(ctx context.Context, call CallInfo, payload []byte,
	open func(ctx context.Context, payload []byte, observers []StreamObserver) (*Stream, error)) (st *Stream, err error) {
	info := &StreamInfo{CallInfo: call}
	var opened []*Stream
	defer func() { // also after a panic
		for _, one := range opened {
			if one != st {
				one.cancel(errNotReturned)
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

// handler returns what answers requests in place of a handler of a node: the interceptors around it. It has a
// context in any case.
func (s *interceptors) handler(local string, h singleHandler) SingleHandlerContextFn {
	innermost := SingleHandlerContextFn(func(ctx context.Context, payload []byte) ([]byte, *RemoteErr) {
		switch {
		case h.handle != nil:
			return h.handle(payload)
		case h.handleTyped != nil:
			return h.handleTyped(roomOf(ctx), payload)
		}
		out, err := h.handleContext(ctx, payload)
		return out, whole(ctx, err)
	})
	return func(ctx context.Context, payload []byte) ([]byte, *RemoteErr) {
		info := &CallInfo{Handler: h.id, Subroute: h.subroute, Local: local, Remote: GetCaller(ctx).Name}
		next := nest(s.serverRequests, innermost, func(intercept ServerRequestInterceptor, next SingleHandlerContextFn) SingleHandlerContextFn {
			return func(ctx context.Context, payload []byte) ([]byte, *RemoteErr) {
				return intercept(ctx, info, payload, next)
			}
		})
		return next(ctx, payload)
	}
}

// serve runs the handler of a stream, by handle, with the interceptors around it. observe is told once who observes
// the stream, before the handler is called; where it is not, after the interceptors have returned.
func (s *interceptors) serve(ctx context.Context, call CallInfo, payload []byte, observe func([]StreamObserver),
	handle ServeStreamFunc) *RemoteErr {
	info := &StreamInfo{CallInfo: call}
	served := false
	defer func() { // also after a panic
		if !served {
			observe(info.observers)
		}
	}()
	next := ServeStreamFunc(func(ctx context.Context, payload []byte) *RemoteErr {
		if served {
			return &errServedTwice
		}
		served = true
		observe(info.observers)
		return handle(ctx, payload)
	})
	next = nest(s.serverStreams, next, func(intercept ServerStreamInterceptor, next ServeStreamFunc) ServeStreamFunc {
		return func(ctx context.Context, payload []byte) *RemoteErr { return intercept(ctx, info, payload, next) }
	})
	return next(ctx, payload)
}

// callInfo tells interceptors which call is about to be made, or served, over a link.
func callInfo(l *link, h HandlerID, subroute string) CallInfo {
	return CallInfo{Handler: h, Subroute: subroute, Local: l.local, Remote: l.remote}
}

// StreamInfo says which stream an interceptor stands around, and takes observers of it.
type StreamInfo struct {
	CallInfo

	observers []StreamObserver
}

// Observe lets o watch the stream. It has to be called before next, on the interceptor's own goroutine.
// Several observers are told in the order in which they were given.
func (i *StreamInfo) Observe(o StreamObserver) { i.observers = append(i.observers, o) }
