package grid

import (
	"strings"
)

// callError is an error of the library about one call: what happened, and to which call.
type callError struct {
	err      error // what errors.Is and errors.As find
	stream   bool
	handler  HandlerID
	subroute string
	peer     string
}

// Error returns a text such as "grid: request to Echo on subroute a/b at http://n2:9000: remote
// disconnected".
func (e *callError) Error() string {
	var b strings.Builder
	b.WriteString("grid: ")
	b.WriteString(kindOfCall(e.stream))
	b.WriteString(" to ")
	b.WriteString(e.handler.String())
	if e.subroute != "" {
		b.WriteString(" on subroute ")
		b.WriteString(e.subroute)
	}
	b.WriteString(" at ")
	b.WriteString(e.peer)
	b.WriteString(": ")
	b.WriteString(strings.TrimPrefix(e.err.Error(), "grid: "))
	return b.String()
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
