package grid

import (
	"context"
	"errors"
)

// Classify returns the reason why a call failed, from its context and its error: one that
// Connection.Request, Stream.Results and the like returned, or that an interceptor or observer was
// given, or one that wraps such an error. It is ErrorNone for a nil error. ctx may be nil; then a
// call that ended with the context's own cause is ErrorOther.
//
// A handler's error is ErrorHandler, whatever its text. Only if the peer is a node of the original,
// which does not tell them apart, is a handler's error with the text of a library error taken for
// that error. What the consumer of a stream returned to end it is ErrorOther.
func Classify(ctx context.Context, err error) ErrorClass {
	if err == nil {
		return ErrorNone
	}
	if ctx != nil && ctx.Err() != nil && errors.Is(err, contextCause(ctx)) {
		err = ctx.Err() // whatever the cause
	}
	return classOf(err)
}

// classOf is Classify for an error that is not the cause of the caller's own context.
func classOf(err error) ErrorClass {
	if byHandler(err) {
		return ErrorHandler
	}
	if class, ok := libraryClass(err); ok {
		return class
	}
	var library *libraryError
	switch {
	case errors.As(err, &library):
		return ErrorOther
	case IsRemoteErr(err) != nil: // such as that of an interceptor
		return ErrorHandler
	case errors.Is(err, context.DeadlineExceeded):
		return ErrorDeadline
	case errors.Is(err, context.Canceled):
		return ErrorCanceled
	}
	return ErrorOther
}
