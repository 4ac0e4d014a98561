package grid

import (
	"context"
	"errors"
)

// Code says what kind of error a call ended with, for callers to decide by. The codes, their numbers
// and their names are those of gRPC. A Code is an error itself:
//
//	errors.Is(err, grid.NotFound)
//
// reports whether a call failed with that code, and a handler may return one as it is.
type Code uint8

// The codes.
const (
	// OK is no error. A handler's error with it counts as Unknown.
	OK Code = iota
	// Canceled is a call that its caller gave up.
	Canceled
	// Unknown is an error that says no more: among them the errors that handlers return without a
	// code, and all that nodes of the original send.
	Unknown
	// InvalidArgument is a request that is wrong in itself.
	InvalidArgument
	// DeadlineExceeded is a call that did not end in time.
	DeadlineExceeded
	// NotFound is a request for something that does not exist.
	NotFound
	// AlreadyExists is an attempt to create what exists.
	AlreadyExists
	// PermissionDenied is a caller that may not do what it asked for.
	PermissionDenied
	// ResourceExhausted is a limit that was reached, such as a quota or the size of a message.
	ResourceExhausted
	// FailedPrecondition is a system that is not in the state that the request needs. Trying again
	// helps only once somebody has changed that.
	FailedPrecondition
	// Aborted is a conflict with another call. The caller may start again.
	Aborted
	// OutOfRange is a request beyond the end of what there is.
	OutOfRange
	// Unimplemented is something that the callee does not have.
	Unimplemented
	// Internal is a broken promise within the callee, such as a panic.
	Internal
	// Unavailable is a callee that cannot be reached, or does not serve now.
	Unavailable
	// DataLoss is data that is lost or damaged.
	DataLoss
	// Unauthenticated is a caller that did not say who it is.
	Unauthenticated

	codes // their number
)

var codeNames = [codes]string{
	OK:                 "OK",
	Canceled:           "Canceled",
	Unknown:            "Unknown",
	InvalidArgument:    "InvalidArgument",
	DeadlineExceeded:   "DeadlineExceeded",
	NotFound:           "NotFound",
	AlreadyExists:      "AlreadyExists",
	PermissionDenied:   "PermissionDenied",
	ResourceExhausted:  "ResourceExhausted",
	FailedPrecondition: "FailedPrecondition",
	Aborted:            "Aborted",
	OutOfRange:         "OutOfRange",
	Unimplemented:      "Unimplemented",
	Internal:           "Internal",
	Unavailable:        "Unavailable",
	DataLoss:           "DataLoss",
	Unauthenticated:    "Unauthenticated",
}

// String returns the name, such as "NotFound"; "Unknown" for a number without one.
func (c Code) String() string { return codeNames[c.known()] }

// Error returns the name, as String does.
func (c Code) Error() string { return c.String() }

// known returns the code, or Unknown for a number without a name.
func (c Code) known() Code {
	if c < codes {
		return c
	}
	return Unknown
}

// failure returns the code of an error: there is none with OK.
func (c Code) failure() Code {
	if c == OK {
		return Unknown
	}
	return c.known()
}

// classCodes are the codes of errors that the library returns, by their class.
var classCodes = [errorClasses]Code{
	ErrorNone:            OK,
	ErrorLeft:            Canceled,
	ErrorHandler:         Unknown,
	ErrorCanceled:        Canceled,
	ErrorDeadline:        DeadlineExceeded,
	ErrorDisconnected:    Unavailable,
	ErrorOverloaded:      ResourceExhausted,
	ErrorShutdown:        Unavailable,
	ErrorUnknownHandler:  Unimplemented,
	ErrorMessageTooLarge: ResourceExhausted,
	ErrorMetadata:        InvalidArgument,
	ErrorSequence:        Internal,
	ErrorOther:           Unknown,
	ErrorRemoved:         Unavailable,
}

// CodeOf returns the code of an error: that of an Error or a Code that it is or wraps; or else that
// of one of this package's errors or of the context package's. It is OK for nil, and Unknown for any
// other error. A call that ended with the cause of its own context has the code of that cause.
func CodeOf(err error) Code {
	if err = outcomeOf(err); err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) && e != nil {
		return e.Code.failure()
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c.failure()
	}
	return libraryCode(err)
}

// libraryCode is CodeOf for an error without a code of its own.
func libraryCode(err error) Code {
	var library *libraryError
	known := libraryErrorOf(err)
	switch {
	case known == nil && errors.As(err, &library):
		return Internal
	case known != nil && known.class != ErrorOther:
		return classCodes[known.class]
	case known != nil:
		return Internal
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Unknown
}
