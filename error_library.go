package grid

import (
	"bytes"
	"strings"

	"github.com/tinylib/msgp/msgp"
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

// handlerError is an error of a handler whose text is that of an error of the library. It is only
// that text: a handler that passes on what it was told about a call of its own says nothing about
// the call it serves.
type handlerError struct{ said *RemoteErr }

func (e *handlerError) Error() string { return e.said.Error() }

// As fills a target as RemoteErr.As does.
func (e *handlerError) As(target any) bool { return e.said.As(target) }

// libraryKey is the key, in the metadata after an error on the wire, of the code of a library
// error. Errors of handlers have no such key.
const libraryKey = "library"

// marked marks m, which holds the text of a library error, as such if the peer looks for that.
func (a *agreement) marked(m message, err error) message {
	if a.has(featureErrors) {
		m.metadata = appendMark(nil, codeOf(err))
	}
	return m
}

// appendMark appends the metadata that marks an error as the library's.
func appendMark(b []byte, code errorCode) []byte {
	b = msgp.AppendMapHeader(b, 1)
	b = msgp.AppendString(b, libraryKey)
	return msgp.AppendBytes(b, []byte{byte(code)})
}

// saidError returns the error that a message flagged as one carries. It may be the handler's or the
// library's; if the peer does not mark its own, only the text tells them apart.
func (a *agreement) saidError(m *message) error {
	text := string(m.Payload)
	if !a.has(featureErrors) {
		return NewRemoteErrString(text)
	}
	if code, ok := markOf(m.metadata); ok {
		return &libraryError{is: code.err(), text: text}
	}
	said := NewRemoteErrString(text)
	switch *said {
	case ErrDisconnected, ErrShutdown, ErrOverloaded:
		return &handlerError{said}
	}
	return said
}

// said returns what a response or a final message carries: a copy of its payload that belongs to
// the receiver, or its error.
func (a *agreement) said(m *message) ([]byte, error) {
	if m.Flags&FlagPayloadIsErr != 0 {
		return nil, a.saidError(m)
	}
	return m.ownPayload(), nil
}

// markOf returns the code with which the library marked its error. The metadata has already been
// checked.
func markOf(metadata []byte) (code errorCode, ok bool) {
	if metadata == nil {
		return 0, false
	}
	err := readMetadata(metadata, func(key, value []byte) {
		if bytes.Equal(key, []byte(libraryKey)) {
			ok = true
			if len(value) > 0 {
				code = errorCode(value[0])
			}
		}
	})
	return code, ok && err == nil
}

// How a node says in a MuxConnectError that it does not know a handler: the original uses only the
// first words; later versions of it append the handler or the subroute.
const (
	unknownHandlerText = "Invalid Handler for type"
	invalidHandler     = "Invalid Handler"
)

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
	case ErrShutdown, ErrOverloaded:
		e.is = said
	}
	return e
}

// gaveUp returns the error in a DisconnectClientMux, which is always the library's.
func (a *agreement) gaveUp(m *message) error {
	if m.Flags&FlagPayloadIsErr == 0 {
		return ErrDisconnected
	}
	if code, ok := markOf(m.metadata); ok && a.has(featureErrors) {
		return &libraryError{is: code.err(), text: string(m.Payload)}
	}
	return libraryText(string(m.Payload))
}
