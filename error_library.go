package grid

import (
	"bytes"
	"strings"

	"github.com/tinylib/msgp/msgp"
)

// libraryError is what the library, of this node or of the peer, says about a call in place of the
// handler.
type libraryError struct {
	is   error  // which of this package's errors it is; nil for none of them
	text string // as it goes over the wire
}

// Error returns the text of the error that it is, or what the peer said.
func (e *libraryError) Error() string {
	if e.is == nil {
		return e.text
	}
	if text := e.is.Error(); strings.HasPrefix(e.text, text) { // says more
		return e.text
	}
	return e.is.Error()
}

// Unwrap returns the error that it is, and its text as a RemoteErr.
func (e *libraryError) Unwrap() []error {
	said := NewRemoteErrString(e.text)
	if e.is == nil {
		return []error{said}
	}
	return []error{e.is, said}
}

// handlerError is an error of a handler whose text is that of an error of the library. It is no
// more than that text: a handler that hands on what it was told about a call of its own says
// nothing about the call that it serves.
type handlerError struct{ said *RemoteErr }

func (e *handlerError) Error() string { return e.said.Error() }

// As fills a target as RemoteErr.As does.
func (e *handlerError) As(target any) bool { return e.said.As(target) }

// libraryKey is the key, in what follows an error on the wire, of the code of an error that the
// library says. The handler's errors have no such key.
const libraryKey = "library"

// marked makes m, which holds the text of an error of the library, say so where the peer looks for
// that.
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

// saidError is the error that a message with the flag of one carries. It may be the handler's or
// the library's, which nodes that do not mark theirs leave to be told by the text.
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

// said is what a response or a final message carries: a copy of its payload that belongs to the
// receiver, or its error.
func (a *agreement) said(m *message) ([]byte, error) {
	if m.Flags&FlagPayloadIsErr != 0 {
		return nil, a.saidError(m)
	}
	return m.ownPayload(), nil
}

// markOf returns the code with which the library marked its error. The metadata has been checked.
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

// How a node that does not know a handler says so, in a MuxConnectError: the original with no more
// than the first words, later ones of it with the handler or the subroute behind them.
const (
	unknownHandlerText = "Invalid Handler for type"
	invalidHandler     = "Invalid Handler"
)

// refusal is what a MuxConnectError with a text says, which only the library sends.
func refusal(text string) error {
	if text == invalidHandler || text == unknownHandlerText || strings.HasPrefix(text, unknownHandlerText+":") {
		return &libraryError{is: ErrUnknownHandler, text: text}
	}
	return libraryText(text)
}

// libraryText is what a text says that only the library sends.
func libraryText(text string) *libraryError {
	e := &libraryError{text: text}
	switch said := RemoteErr(text); said {
	case ErrShutdown, ErrOverloaded:
		e.is = said
	}
	return e
}

// gaveUp is why the peer's side of a stream ended it, which only the library says.
func (a *agreement) gaveUp(m *message) error {
	if m.Flags&FlagPayloadIsErr == 0 {
		return ErrDisconnected
	}
	if code, ok := markOf(m.metadata); ok && a.has(featureErrors) {
		return &libraryError{is: code.err(), text: string(m.Payload)}
	}
	return libraryText(string(m.Payload))
}
