package grid

import (
	"bytes"
	"strings"
)

// libraryError is what the library, of this node or of the peer, says about a call in place of the
// handler.
type libraryError struct {
	is   error  // the error of this package that it is; nil for none
	text string // as it goes over the wire
}

// Error returns the text of the error in is, or what the peer said.
func (e *libraryError) Error() string {
	if e.is == nil {
		return e.text
	}
	if text := e.is.Error(); strings.HasPrefix(e.text, text) { // which says more
		return e.text
	}
	return e.is.Error()
}

// Unwrap returns the error in is, if any, and the text as a RemoteErr.
func (e *libraryError) Unwrap() []error {
	said := NewRemoteErrString(e.text)
	if e.is == nil {
		return []error{said}
	}
	return []error{e.is, said}
}

// marked marks m, which holds the text of a library error, as such if the peer looks for that.
func (a *agreement) marked(m message, err error) message {
	if a.has(featureErrors) {
		m.metadata = appendMark(nil, codeOf(err))
	}
	return m
}

// maxMark is the size of what appendMark appends.
const maxMark = 12

// appendMark appends the metadata that marks an error as the library's.
func appendMark(b []byte, code errorCode) []byte {
	p := answerPart{isLibrary: true, library: code}
	return append(b, p.encode()...)
}

// saidError returns the error that a message flagged as one carries. It may be the handler's or the
// library's; if the peer does not mark its own, only the text tells them apart.
func (a *agreement) saidError(m *message) error {
	text, p := string(m.Payload), a.answerOf(m)
	switch {
	case !a.has(featureErrors):
		return &Error{Code: libraryCode(RemoteErr(text)), Text: text, Remote: true, unmarked: true}
	case p.isLibrary:
		return &libraryError{is: p.library.err(), text: text}
	}
	return &Error{Code: p.code.failure(), Text: text, Details: bytes.Clone(p.details), Remote: true}
}

// said returns what a response or a final message carries: a copy of its payload that belongs to
// the receiver, or its error.
func (a *agreement) said(m *message) ([]byte, error) {
	if m.Flags&FlagPayloadIsErr != 0 {
		return nil, a.saidError(m)
	}
	return m.ownPayload(), nil
}

// How a node says in a MuxConnectError that it does not know a handler: the original uses only the
// first words; later versions of it append the handler or the subroute.
const (
	unknownHandlerText = "Invalid Handler for type"
	invalidHandler     = "Invalid Handler"
)

// errPeerLacks is what a peer would answer to a call of a handler that it is known not to have.
var errPeerLacks = refusal(unknownHandlerText)

// refusal returns what the text of a MuxConnectError means. Only the library sends those.
func refusal(text string) error {
	if text == invalidHandler || text == unknownHandlerText || strings.HasPrefix(text, unknownHandlerText+":") {
		return &libraryError{is: ErrUnknownHandler, text: text}
	}
	return libraryText(text)
}

// libraryText returns what a text that only the library sends means.
func libraryText(text string) *libraryError {
	e := &libraryError{text: text}
	switch said := RemoteErr(text); said {
	case ErrShutdown, ErrRemoved, ErrOverloaded:
		e.is = said
	}
	return e
}

// gaveUp returns the error in a DisconnectClientMux, which is always the library's.
func (a *agreement) gaveUp(m *message) error {
	if m.Flags&FlagPayloadIsErr == 0 {
		return ErrDisconnected
	}
	if p := a.answerOf(m); p.isLibrary && a.has(featureErrors) {
		return &libraryError{is: p.library.err(), text: string(m.Payload)}
	}
	return libraryText(string(m.Payload))
}
