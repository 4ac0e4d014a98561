package grid

import (
	"errors"
	"fmt"
)

// RemoteErr is an error of a handler, as its caller sees it: only the text
// crosses the wire. errors.Is compares RemoteErr and *RemoteErr by text, in either place.
type RemoteErr string

// ErrDisconnected says that there is no connection, or that it was lost during
// the call: the handler may or may not have run.
var ErrDisconnected = RemoteErr("remote disconnected")

// ErrShutdown is returned to local and remote callers of a node that is shutting down.
var ErrShutdown = RemoteErr("grid: node is shutting down")

// ErrOverloaded is returned to a caller whose request or stream the peer has not
// taken, because too many of this node's run there already, or hold too much
// memory: see Limits. The handler has not run. It also ends a stream whose
// messages pile up, at either node, where streams hold too much.
var ErrOverloaded = RemoteErr("grid: node is overloaded")

var (
	// ErrUnknownHandler is returned for an invalid handler ID, and for one that nobody has registered.
	ErrUnknownHandler = errors.New("grid: unknown handler")
	// ErrHandlerAlreadyExists is returned when a handler is registered twice.
	ErrHandlerAlreadyExists = errors.New("grid: handler already exists")
	// ErrIncorrectSequence ends a stream whose messages do not follow each other.
	ErrIncorrectSequence = errors.New("grid: incorrect message sequence")
	// ErrMessageTooLarge is returned for a message over Limits.MaxMessageSize.
	ErrMessageTooLarge = errors.New("grid: message too large")
)

// NewRemoteErr returns an error with the text of err; nil for nil. A handler returns it. What err wraps does not get to the
// caller: only the text does.
func NewRemoteErr(err error) *RemoteErr {
	if r, ok := err.(*RemoteErr); err == nil || ok && r == nil {
		return nil
	}
	return NewRemoteErrString(err.Error())
}

// NewRemoteErrString returns an error with a text.
func NewRemoteErrString(msg string) *RemoteErr {
	r := RemoteErr(msg)
	return &r
}

// NewRemoteErrf returns an error with a text made by fmt.Sprintf.
func NewRemoteErrf(format string, a ...any) *RemoteErr {
	return NewRemoteErrString(fmt.Sprintf(format, a...))
}

// Error returns the text.
func (r RemoteErr) Error() string { return string(r) }

// Is says whether other is, or wraps, a RemoteErr or *RemoteErr with the same text.
func (r RemoteErr) Is(other error) bool {
	o := IsRemoteErr(other)
	return o != nil && *o == r
}

// As fills a target of the type *RemoteErr or **RemoteErr, whichever of the two the error is.
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

// IsRemoteErr returns the RemoteErr that err is or wraps; nil where there is none.
func IsRemoteErr(err error) *RemoteErr {
	var p *RemoteErr
	if errors.As(err, &p) {
		return p
	}
	return nil
}

// ErrResponse is an error answer, for programs that hand answers on.
type ErrResponse struct {
	msg string
}

// Error returns the text.
func (e ErrResponse) Error() string { return e.msg }

// Response is one answer of a handler, for programs that hand answers on.
type Response struct {
	Msg []byte
	Err error
}

// What the library says besides of calls.
var (
	errNilContext  = errors.New("grid: nil context")
	errResultsLeft = errors.New("grid: results of the stream no longer wanted")
)

// errCredit ends a stream whose peer sends more than it was granted.
var errCredit = errors.New("grid: peer sent more stream messages than granted")
