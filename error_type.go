package grid

import (
	"errors"
	"fmt"
)

// Error is an error of a call with what a caller decides by. Handlers return one, made by Errorf or
// NewError, and callers find it with errors.As, in the errors of handlers and in those of the
// library. Between nodes of this project its code, its text and its details cross the wire; from a
// node of the original, and to one, only the text.
//
// errors.Is compares it with a Code by its code, and with a RemoteErr by its text.
type Error struct {
	// Code says what kind of error it is.
	Code Code
	// Text is what Error returns; the name of the code if it is empty.
	Text string
	// Details are bytes for programs, in any encoding, which say more than the code. They may have
	// as many as the metadata of a call (Limits.MaxMetadataSize); longer ones are left out, and the
	// text says so. The receiver must not change them.
	Details []byte
	// Peer is the name of the node that was called; empty at the handler.
	Peer string
	// Method is the name of the method that was called, or else that of the handler's ID, with its
	// subroute if any; empty at the handler.
	Method string
	// Remote is whether the handler, or an interceptor around it, returned the error, and not the
	// library. It is set by the library.
	Remote bool

	cause    error // what the handler wrapped; does not cross the wire
	unmarked bool  // the peer does not mark its library's errors: Text may be that of one
}

// NewError returns an error for a handler to return.
func NewError(code Code, text string) *Error { return &Error{Code: code, Text: text} }

// Errorf returns an error for a handler to return, with a text that is formatted by fmt.Errorf. What
// %w wraps does not cross the wire, but interceptors at the handler's node find it with errors.Is and
// errors.As.
func Errorf(code Code, format string, a ...any) *Error {
	err := fmt.Errorf(format, a...)
	e := NewError(code, err.Error())
	switch err.(type) {
	case interface{ Unwrap() error }, interface{ Unwrap() []error }:
		e.cause = err
	}
	return e
}

// WithDetails returns a copy of the error that has details.
func (e *Error) WithDetails(details []byte) *Error {
	with := *e
	with.Details = details
	return &with
}

// Error returns the text.
func (e *Error) Error() string {
	switch {
	case e == nil:
		return "<nil>"
	case e.Text == "":
		return e.Code.failure().Error()
	}
	return e.Text
}

// Is reports whether target is the error's code, or a RemoteErr with its text. An error of a handler
// with the text of one of the library's is not that error, unless the peer is a node of the original,
// which does not tell them apart.
func (e *Error) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return e != nil && e.Code.failure() == t
	case RemoteErr:
		return e.says(t)
	case *RemoteErr:
		return t != nil && e.says(*t)
	}
	return false
}

func (e *Error) says(text RemoteErr) bool {
	return e != nil && RemoteErr(e.Text) == text && (e.unmarked || !text.isLibrarys())
}

// As sets target, a *RemoteErr or **RemoteErr, to the text. It reports whether target is one of the
// two.
func (e *Error) As(target any) bool { return e != nil && RemoteErr(e.Error()).As(target) }

// Unwrap returns what the handler wrapped, at the handler's node.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.cause
}

// byHandler reports whether a handler is known to have returned err.
func byHandler(err error) bool {
	var e *Error
	return errors.As(err, &e) && e != nil && e.Remote && !(e.unmarked && RemoteErr(e.Text).isLibrarys())
}

// ofHandler returns the error of a handler as interceptors, and callers, get it: it may wrap one of
// the library's about another call, but says nothing about this one. It calls the application's
// code, which may panic.
func ofHandler(err error) error {
	if err = outcomeOf(err); err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && e.Remote && e.Peer == "" {
		return e
	}
	return &Error{Code: CodeOf(err), Text: err.Error(), Details: detailsOf(err), Remote: true, cause: err}
}

// told returns what the caller is told of the error of a handler; nil for none.
func told(err error) error {
	if err == nil {
		return nil
	}
	return ofHandler(err)
}

func detailsOf(err error) []byte {
	if e, ok := errors.AsType[*Error](err); ok && e != nil {
		return e.Details
	}
	return nil
}

// outcomeOf returns the error that a handler or an interceptor means: a nil *RemoteErr or *Error is
// none.
func outcomeOf(err error) error {
	switch e := err.(type) {
	case *RemoteErr:
		return e.orNil()
	case *Error:
		if e == nil {
			return nil
		}
	}
	return err
}
