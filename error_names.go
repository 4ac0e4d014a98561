package grid

import (
	"sync/atomic"
)

// named gives an error of the library the names of the call that failed. Errors of the handler and
// of the caller's context stay as they are. It may be called by any goroutine.
func (l *link) named(err error, stream bool, h HandlerID, subroute string) error {
	if !aboutCall(err) {
		return err
	}
	// A program may call a peer that is away as often as it likes: those calls share an error.
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

// aboutCall reports whether an error is the library's about a call, and has no names yet.
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
