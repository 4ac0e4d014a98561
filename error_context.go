package grid

import (
	"context"
	"errors"
)

// contextCause returns the error of a call whose context has ended: the cause of that. It is never
// nil.
//
// What the library said about a call, such as ErrDisconnected, may have ended the context of its
// handler. That says nothing about the calls the handler makes: their errors quote it, but
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

// contextError is the error of a call whose context ended with an error of the library about
// another call.
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
