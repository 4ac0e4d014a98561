package grid

// ErrorClass is the reason why a call failed, one of a small number. Statistics, metrics and traces
// all count by it.
type ErrorClass uint8

// The classes that Classify distinguishes.
const (
	// ErrorNone is no error.
	ErrorNone ErrorClass = iota
	// ErrorLeft is a stream whose consumer left the loop over its messages, which is not a failure.
	// ErrorStats counts it as canceled.
	ErrorLeft
	// ErrorHandler is an error that the handler returned, or its panic.
	ErrorHandler
	// ErrorCanceled is a call that its caller gave up, with or without a cause.
	ErrorCanceled
	// ErrorDeadline is a call that reached its deadline, with or without a cause.
	ErrorDeadline
	// ErrorDisconnected is a call that found no connection, or lost it.
	ErrorDisconnected
	// ErrorOverloaded is a call refused, or a stream ended, because of a limit in Limits.
	ErrorOverloaded
	// ErrorShutdown is a call that was not made, or not accepted, because one of the nodes is
	// shutting down.
	ErrorShutdown
	// ErrorUnknownHandler is a call to a handler that is not registered.
	ErrorUnknownHandler
	// ErrorMessageTooLarge is a message over Limits.MaxMessageSize.
	ErrorMessageTooLarge
	// ErrorMetadata is metadata that cannot be sent.
	ErrorMetadata
	// ErrorSequence is a stream whose messages arrived out of sequence.
	ErrorSequence
	// ErrorOther is anything else, such as a message that could not be encoded.
	ErrorOther
	// ErrorRemoved is a call that was not made, or not accepted, because one of the nodes has
	// removed the other from its hosts.
	ErrorRemoved

	errorClasses // their number
)

var errorClassNames = [errorClasses]string{
	ErrorNone:            "none",
	ErrorLeft:            "left",
	ErrorHandler:         "handler_error",
	ErrorCanceled:        "canceled",
	ErrorDeadline:        "deadline_exceeded",
	ErrorDisconnected:    "disconnected",
	ErrorOverloaded:      "overloaded",
	ErrorShutdown:        "shutdown",
	ErrorUnknownHandler:  "unknown_handler",
	ErrorMessageTooLarge: "message_too_large",
	ErrorMetadata:        "invalid_metadata",
	ErrorSequence:        "incorrect_sequence",
	ErrorOther:           "other",
	ErrorRemoved:         "removed",
}

// String returns the name of the class in metrics and traces, such as "deadline_exceeded".
func (c ErrorClass) String() string {
	if c < errorClasses {
		return errorClassNames[c]
	}
	return errorClassNames[ErrorOther]
}
