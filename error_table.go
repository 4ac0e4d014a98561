package grid

import "errors"

// errorCode identifies an error of the library on the wire. docs/protocol.md has the numbers.
type errorCode byte

const (
	codeOther errorCode = iota
	codeShutdown
	codeOverloaded
	codeUnknownHandler
	codeTooLarge
	codeSequence
	codeRemoved
)

// knownError is one of the library's own errors.
type knownError struct {
	err   error
	class ErrorClass
	code  errorCode // on the wire; codeOther if it has none of its own
	// lacksNames is set if the error ends a call and says no more by itself. ErrDisconnected,
	// ErrShutdown, ErrRemoved and ErrOverloaded are recognized by their type, because handlers may return their
	// texts.
	lacksNames bool
}

// libraryErrors holds all of them. The first that errors.Is finds counts.
var libraryErrors = []knownError{
	{ErrDisconnected, ErrorDisconnected, codeOther, false},
	{ErrOverloaded, ErrorOverloaded, codeOverloaded, false},
	{ErrShutdown, ErrorShutdown, codeShutdown, false},
	{ErrRemoved, ErrorRemoved, codeRemoved, false},
	{ErrUnknownHandler, ErrorUnknownHandler, codeUnknownHandler, true},
	{ErrMessageTooLarge, ErrorMessageTooLarge, codeTooLarge, true},
	{ErrMetadata, ErrorMetadata, codeOther, true},
	{ErrIncorrectSequence, ErrorSequence, codeSequence, true},
	{errCredit, ErrorOther, codeOther, true},
	{errResultsLeft, ErrorLeft, codeOther, false},
}

// libraryErrorOf returns the library error that err is or wraps; nil for none.
func libraryErrorOf(err error) *knownError {
	for i := range libraryErrors {
		if errors.Is(err, libraryErrors[i].err) {
			return &libraryErrors[i]
		}
	}
	return nil
}

// libraryClass returns the class of an error if that is one of the library's own.
func libraryClass(err error) (class ErrorClass, ok bool) {
	if known := libraryErrorOf(err); known != nil {
		return known.class, true
	}
	return ErrorNone, false
}

// codeOf returns the code of an error of the library.
func codeOf(err error) errorCode {
	if known := libraryErrorOf(err); known != nil {
		return known.code
	}
	return codeOther
}

// err returns the error that a code stands for; nil for none, or for a code of a later version.
func (c errorCode) err() error {
	if c == codeOther {
		return nil
	}
	for i := range libraryErrors {
		if libraryErrors[i].code == c {
			return libraryErrors[i].err
		}
	}
	return nil
}
