package grid

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
)

// callError is an error of the library about one call: what happened, on the way to whom.
type callError struct {
	err      error // what errors.Is and errors.As find
	stream   bool
	handler  HandlerID
	subroute string
	peer     string
}

// Error returns a text such as "grid: request to Echo on subroute a/b at http://n2:9000: remote disconnected".
func (e *callError) Error() string {
	var b strings.Builder
	b.WriteString("grid: ")
	b.WriteString(kindOfCall(e.stream))
	b.WriteString(" to ")
	b.WriteString(e.handler.String())
	if e.subroute != "" {
		b.WriteString(" on subroute ")
		b.WriteString(e.subroute)
	}
	b.WriteString(" at ")
	b.WriteString(e.peer)
	b.WriteString(": ")
	b.WriteString(strings.TrimPrefix(e.err.Error(), "grid: "))
	return b.String()
}

// Unwrap returns what happened, without the call it happened to.
func (e *callError) Unwrap() error { return e.err }

// kindOfCall is what a call is called in errors and logs.
func kindOfCall(stream bool) string {
	if stream {
		return "stream"
	}
	return "request"
}

// named gives an error of the library the names of the call that failed. Errors of the handler and of
// the caller's context stay as they are. It may be called by any goroutine.
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

// ofCalls are the errors with which the library ends a call, and of which it says no more by itself.
var ofCalls = []error{ErrUnknownHandler, ErrMessageTooLarge, ErrMetadata, ErrIncorrectSequence, errCredit}

// aboutCall reports whether an error is the library's about a call, and has no names yet.
func aboutCall(err error) bool {
	switch err.(type) {
	case nil, *callError, *contextError, *RemoteErr, *handlerError:
		return false
	case RemoteErr, *libraryError: // a handler's error is never a RemoteErr by value
		return true
	}
	return slices.ContainsFunc(ofCalls, func(known error) bool { return errors.Is(err, known) })
}

// contextCause is the error of a call whose context has ended: the cause of that. It is never nil.
//
// The context of a handler may have ended by what the library said about the call that it serves, such
// as ErrDisconnected. That is no news about the calls that the handler makes: it is told as it is, but
// errors.Is does not find it.
func contextCause(ctx context.Context) error {
	cause := context.Cause(ctx)
	if cause == nil {
		return doneError(ctx)
	}
	if err := ctx.Err(); cause != err && saidByLibrary(cause) {
		return &contextError{cause: cause, err: err}
	}
	return cause
}

// contextError is the end of a call whose context ended with an error of the library about another call.
type contextError struct {
	cause error
	err   error // the context's: Canceled or DeadlineExceeded
}

func (e *contextError) Error() string { return e.err.Error() + ": " + e.cause.Error() }

// Unwrap returns the context's error.
func (e *contextError) Unwrap() error { return e.err }

// saidByLibrary reports whether an error is, or wraps, one of the library about a call.
func saidByLibrary(err error) bool {
	var named *callError
	var peer *libraryError
	if errors.As(err, &named) || errors.As(err, &peer) {
		return true
	}
	_, known := libraryClass(err)
	return known
}
