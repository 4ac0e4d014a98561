package grid

import (
	"sync/atomic"
)

// named adds the names of the failed call to an error of the library. Errors of the handler and of
// the caller's context stay as they are. Any goroutine may call it.
func (l *link) named(err error, stream bool, h HandlerID, subroute string) error {
	if !aboutCall(err) {
		return err
	}
	// A program may call an absent peer as often as it likes: those calls share an error.
	var shared *atomic.Pointer[callError]
	if said, ok := err.(RemoteErr); ok && said == ErrDisconnected && subroute == "" {
		shared = l.called.get(int(h)).failures().disconnected(stream)
		if known := shared.Load(); known != nil {
			return known
		}
	}
	named := &callError{err: err, stream: stream, handler: h, subroute: subroute, peer: l.remote}
	if shared != nil {
		shared.Store(named)
	}
	return named
}

// aboutCall reports whether an error is the library's about a call and has no names yet.
func aboutCall(err error) bool {
	switch err.(type) {
	case nil, *callError, *contextError, *RemoteErr, *handlerError:
		return false
	case RemoteErr, *libraryError: // a handler's error is never a RemoteErr by value
		return true
	}
	known := libraryErrorOf(err)
	return known != nil && known.lacksNames
}
