package grid

import (
	"sync/atomic"
)

// named adds the names of the failed call to an error of the library or the handler. Errors of the
// caller's context stay as they are. Any goroutine may call it.
func (l *link) named(err error, stream bool, to target) error {
	if e, ok := err.(*Error); ok && e.Remote && e.Peer == "" { // not the application's own
		with := *e
		with.Peer, with.Method = l.remote, to.in()
		return &with
	}
	if !aboutCall(err) {
		return err
	}
	// A program may call an absent peer as often as it likes: those calls share an error.
	var shared *atomic.Pointer[callError]
	if said, ok := err.(RemoteErr); ok && said == ErrDisconnected && (to.route == "" || to.number > otherMethods) {
		shared = l.called.get(to.number).failures().disconnected(stream)
		if known := shared.Load(); known != nil {
			return known
		}
	}
	named := &callError{err: err, stream: stream, to: to, peer: l.remote}
	if shared != nil {
		shared.Store(named)
	}
	return named
}

// aboutCall reports whether an error is the library's about a call and has no names yet.
func aboutCall(err error) bool {
	switch err.(type) {
	case nil, *callError, *contextError, *RemoteErr, *Error:
		return false
	case RemoteErr, *libraryError: // a handler's error is never a RemoteErr by value
		return true
	}
	known := libraryErrorOf(err)
	return known != nil && known.lacksNames
}
