package grid

import (
	"strings"
)

// callError is an error of the library about one call: what happened, and to which call.
type callError struct {
	err    error // what errors.Is and errors.As find
	stream bool
	to     target
	peer   string
}

// Error returns a text such as "grid: call of kv.Get at http://n2:9000: remote disconnected" or
// "grid: request to Echo on subroute a/b at http://n2:9000: remote disconnected".
func (e *callError) Error() string {
	var b strings.Builder
	b.WriteString("grid: ")
	switch {
	case !e.to.isMethod():
		b.WriteString(kindOfCall(e.stream))
		b.WriteString(" to ")
	case e.stream:
		b.WriteString("stream of ")
	default:
		b.WriteString("call of ")
	}
	b.WriteString(e.to.in())
	b.WriteString(" at ")
	b.WriteString(e.peer)
	b.WriteString(": ")
	b.WriteString(strings.TrimPrefix(e.err.Error(), "grid: "))
	return b.String()
}

// Is reports whether target is the code of the error.
func (e *callError) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == libraryCode(e.err)
}

// As sets target, an **Error, to the error and the call that it happened to. It reports whether target
// is one.
func (e *callError) As(target any) bool {
	t, ok := target.(**Error)
	if ok {
		*t = &Error{Code: libraryCode(e.err), Text: e.Error(), Peer: e.peer, Method: e.to.in(), cause: e}
	}
	return ok
}

// Unwrap returns what happened, without the call it happened to.
func (e *callError) Unwrap() error { return e.err }

// kindOfCall returns what errors and logs name a call.
func kindOfCall(stream bool) string {
	if stream {
		return "stream"
	}
	return "request"
}
