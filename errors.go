package grid

import (
	"errors"
	"fmt"
)

// RemoteErr is a handler's error as its caller sees it: only the text crosses the wire. errors.Is
// compares RemoteErr and *RemoteErr by text, on either side of the comparison.
type RemoteErr string

// ErrDisconnected means that there was no connection, or that it was lost during the call: the
// handler may or may not have run.
var ErrDisconnected = RemoteErr("remote disconnected")

// ErrShutdown is returned to local and remote callers of a node that is shutting down.
var ErrShutdown = RemoteErr("grid: node is shutting down")

// ErrRemoved is returned to local and remote callers if one of the two nodes has removed the other
// from its hosts: see Manager.SetHosts.
var ErrRemoved = RemoteErr("grid: node was removed from the hosts")

// ErrOverloaded is returned to a caller whose request or stream the peer has refused, because too
// many calls of this node are running there already, or hold too much memory: see Limits. The
// handler has not run. At either node it also ends the stream with the most messages waiting, when
// streams hold too much memory.
var ErrOverloaded = RemoteErr("grid: node is overloaded")

var (
	// ErrUnknownHandler is returned for an invalid handler ID, and for one that is not registered.
	ErrUnknownHandler = errors.New("grid: unknown handler")
	// ErrHandlerAlreadyExists is returned when a handler is registered twice.
	ErrHandlerAlreadyExists = errors.New("grid: handler already exists")
	// ErrIncorrectSequence ends a stream whose messages arrive out of sequence.
	ErrIncorrectSequence = errors.New("grid: incorrect message sequence")
	// ErrMessageTooLarge is returned for a message over Limits.MaxMessageSize.
	ErrMessageTooLarge = errors.New("grid: message too large")
)

// NewRemoteErr returns an error with the text of err, for a handler to return; nil for nil. What
// err wraps does not reach the caller: only the text does.
func NewRemoteErr(err error) *RemoteErr {
	if r, ok := err.(*RemoteErr); err == nil || ok && r == nil {
		return nil
	}
	return NewRemoteErrString(err.Error())
}

// NewRemoteErrString returns an error with the text msg.
func NewRemoteErrString(msg string) *RemoteErr {
	r := RemoteErr(msg)
	return &r
}

// NewRemoteErrf returns an error with a text formatted by fmt.Sprintf.
func NewRemoteErrf(format string, a ...any) *RemoteErr {
	return NewRemoteErrString(fmt.Sprintf(format, a...))
}

// orNil returns r as an error, which is nil if r is.
func (r *RemoteErr) orNil() error {
	if r == nil {
		return nil
	}
	return r
}

// isLibrarys reports whether the text is that of an error of the library that has the type RemoteErr.
func (r RemoteErr) isLibrarys() bool {
	switch r {
	case ErrDisconnected, ErrShutdown, ErrRemoved, ErrOverloaded:
		return true
	}
	return false
}

// Error returns the text.
func (r RemoteErr) Error() string { return string(r) }

// Is reports whether other is, or wraps, a RemoteErr or *RemoteErr with the same text.
func (r RemoteErr) Is(other error) bool {
	o := IsRemoteErr(other)
	return o != nil && *o == r
}

// As sets target, a *RemoteErr or **RemoteErr, to the error. It reports whether target is one of
// the two.
func (r RemoteErr) As(target any) bool {
	switch t := target.(type) {
	case *RemoteErr:
		*t = r
	case **RemoteErr:
		*t = &r
	default:
		return false
	}
	return true
}

// IsRemoteErr returns the RemoteErr that err is or wraps, or nil if there is none.
func IsRemoteErr(err error) *RemoteErr {
	if p, ok := errors.AsType[*RemoteErr](err); ok {
		return p
	}
	return nil
}

// ErrResponse is part of the original's API. Nothing in this package returns or accepts one.
type ErrResponse struct {
	msg string
}

// Error returns the text.
func (e ErrResponse) Error() string { return e.msg }

// Response is part of the original's API. Nothing in this package returns or accepts one.
type Response struct {
	Msg []byte
	Err error
}

// Errors that are not about the peer or the handler.
var (
	errNilContext  = errors.New("grid: nil context")
	errResultsLeft = errors.New("grid: results of the stream no longer wanted")
)

// errCredit ends a stream whose peer sends more messages than it was granted.
var errCredit = errors.New("grid: peer sent more stream messages than granted")
