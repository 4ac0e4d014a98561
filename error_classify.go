package grid

import (
	"context"
	"errors"
)

// Classify returns why a call failed, by its context and the error that Connection.Request,
// Stream.Results and the like returned, that an interceptor or observer was told, or that wraps one of
// these. It is ErrorNone for a nil error. Without the context, which may be nil, a call that ended with
// the context's own cause is ErrorOther.
//
// A handler's error is ErrorHandler whatever it says. It may only be taken for one of the library's
// where its text is the same and the peer is a node of the original, which does not tell them apart. What
// the consumer of a stream returned to end it is ErrorOther.
func Classify(ctx context.Context, err error) ErrorClass {
	if err == nil {
		return ErrorNone
	}
	if ctx != nil && ctx.Err() != nil && errors.Is(err, contextCause(ctx)) {
		err = ctx.Err() // whatever the cause is
	}
	return classOf(err)
}

// classOf is Classify for an error that is not the cause of the caller's own context.
func classOf(err error) ErrorClass {
	if class, ok := libraryClass(err); ok {
		return class
	}
	var library *libraryError
	switch {
	case errors.As(err, &library):
		return ErrorOther
	case IsRemoteErr(err) != nil:
		return ErrorHandler
	case errors.Is(err, context.DeadlineExceeded):
		return ErrorDeadline
	case errors.Is(err, context.Canceled):
		return ErrorCanceled
	}
	return ErrorOther
}
