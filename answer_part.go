package grid

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// answerPart is what an answer, or a message of a stream's handler, may carry beside its payload.
// On the wire it is a msgpack map of strings to bins, in the order of its keys.
type answerPart struct {
	header, trailer []byte // encoded metadata; nil for none
	details         []byte // of an error
	code            Code   // of an error of a handler; OK for none

	library   errorCode // of an error of the library
	isLibrary bool      // the error is the library's
}

// The keys of an answerPart, in their order.
const (
	codeKey    = "code"
	detailsKey = "details"
	headerKey  = "header"
	// libraryKey has the code of a library error. Errors of handlers have no such key.
	libraryKey = "library"
	trailerKey = "trailer"
)

// maxAnswerKeys bounds how many keys are read. Those of later versions are skipped.
const maxAnswerKeys = 16

// maxAnswerOverhead is the most that an answerPart takes besides header, trailer and details, in
// bytes.
const maxAnswerOverhead = 64

// maxDetails is the size of the largest header, trailer or details, in bytes: together they must
// leave room in a message.
func (a *agreement) maxDetails() int { return min(a.maxMetadata, a.maxMessage/4) }

// maxAnswerPart is the size of the largest answerPart.
func (a *agreement) maxAnswerPart() int { return 3*a.maxDetails() + maxAnswerOverhead }

// maxTail is the most that may follow a payload.
func (a *agreement) maxTail(o Op) int {
	most := a.maxMetadata
	if o == OpResponse || o == OpMuxServerMsg {
		most = max(most, a.maxAnswerPart())
	}
	return most + len(routeID{})
}

// encode returns the part as it goes over the wire; nil for nothing.
func (p *answerPart) encode() []byte {
	n := 0
	for _, has := range []bool{p.code != OK, len(p.details) > 0, p.header != nil, p.isLibrary, p.trailer != nil} {
		if has {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	b := make([]byte, 0, len(p.header)+len(p.trailer)+len(p.details)+maxAnswerOverhead)
	b = append(b, 0x80|byte(n))
	if p.code != OK {
		b = msgp.AppendBytes(msgp.AppendString(b, codeKey), []byte{byte(p.code)})
	}
	if len(p.details) > 0 {
		b = msgp.AppendBytes(msgp.AppendString(b, detailsKey), p.details)
	}
	if p.header != nil {
		b = msgp.AppendBytes(msgp.AppendString(b, headerKey), p.header)
	}
	if p.isLibrary {
		b = msgp.AppendBytes(msgp.AppendString(b, libraryKey), []byte{byte(p.library)})
	}
	if p.trailer != nil {
		b = msgp.AppendBytes(msgp.AppendString(b, trailerKey), p.trailer)
	}
	return b
}

// readAnswerPart returns the part that b is. It points into b.
func (a *agreement) readAnswerPart(b []byte) (p answerPart, err error) {
	defer recoverMsgp(&err)
	if most := a.maxAnswerPart(); len(b) > most {
		return p, fmt.Errorf("%d bytes, at most %d are taken", len(b), most)
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return p, err
	}
	if n > maxAnswerKeys {
		return p, fmt.Errorf("%d keys, at most %d are taken", n, maxAnswerKeys)
	}
	var key, value, last []byte
	for range n {
		if key, b, err = msgp.ReadStringZC(b); err != nil {
			return p, err
		}
		if value, b, err = msgp.ReadBytesZC(b); err != nil {
			return p, err
		}
		if bytes.Compare(key, last) <= 0 { // also a key that is there twice
			return p, fmt.Errorf("key %q does not follow %q", key, last)
		}
		last = key
		if err := p.set(a, string(key), value); err != nil {
			return p, fmt.Errorf("%s: %w", key, err)
		}
	}
	if len(b) > 0 {
		return p, fmt.Errorf("%d bytes behind the last key", len(b))
	}
	return p, nil
}

var errNoCode = errors.New("no code")

// set checks and sets what a key stands for.
func (p *answerPart) set(a *agreement, key string, value []byte) error {
	switch key {
	case codeKey:
		if len(value) == 0 {
			return errNoCode
		}
		p.code = Code(value[0]).failure()
	case detailsKey:
		if most := a.maxDetails(); len(value) > most {
			return fmt.Errorf("%d bytes, at most %d are taken", len(value), most)
		}
		p.details = value
	case headerKey:
		p.header = value
		return a.checkMetadata(value)
	case libraryKey:
		p.isLibrary = true
		if len(value) > 0 {
			p.library = errorCode(value[0])
		}
	case trailerKey:
		p.trailer = value
		return a.checkMetadata(value)
	}
	return nil
}

// answerOf returns what a message of the peer carries beside its payload. takeMetadata has checked
// it.
func (a *agreement) answerOf(m *message) answerPart {
	if m.metadata == nil {
		return answerPart{}
	}
	p, _ := a.readAnswerPart(m.metadata)
	return p
}

// detailed makes m, the answer or the last message of a handler, say its error, and adds the
// metadata, each of which may be nil, as far as the peer takes such things. The error, which may be
// nil, is one that told has returned.
func (a *agreement) detailed(m *message, failure error, header, trailer []byte) {
	text := ""
	if failure != nil {
		text = failure.Error()
	}
	if a.has(featureAnswers) {
		p := answerPart{header: header, trailer: trailer}
		if e, ok := failure.(*Error); ok {
			if code := e.Code.failure(); code != Unknown { // which needs not be said
				p.code = code
			}
			if p.details = e.Details; len(p.details) > a.maxDetails() {
				p.details = nil
				text = fmt.Sprintf("%s (details of %d bytes left out, at most %d can be sent)", text, len(e.Details), a.maxDetails())
			}
		}
		m.metadata = p.encode()
	}
	if failure != nil {
		m.Flags |= FlagPayloadIsErr
		m.Payload = a.errorText(text, len(m.metadata))
	}
}

// answerHeader returns what the first message of a stream carries beside its payload; nil for nothing,
// and for any later message. first is that of takeHeader.
func (a *agreement) answerHeader(s *answerState) (metadata []byte, first bool) {
	header, first := s.takeHeader()
	if header != nil {
		metadata = (&answerPart{header: header}).encode()
	}
	return metadata, first
}

// errorText returns the text of an error as a payload, in a message with as many bytes of metadata,
// or one that says that it is too large.
func (a *agreement) errorText(text string, metadata int) []byte {
	if len(text) > a.maxMessage-maxOverhead-metadata {
		return fmt.Appendf(nil, "%v: error text of %d bytes", ErrMessageTooLarge, len(text))
	}
	return []byte(text)
}

// takeMetadata checks the metadata of a message, and drops it if it has no meaning there. If the
// two nodes have not agreed on metadata, whatever is in its place is ignored.
func (a *agreement) takeMetadata(m *message) (err error) {
	if !a.has(featureMetadata) {
		m.metadata = nil
		return nil
	}
	calls := m.Op == OpRequest || m.Op == OpConnectMux
	if calls || !a.has(featureAnswers) {
		err = a.checkMetadata(m.metadata)
	} else {
		_, err = a.readAnswerPart(m.metadata)
	}
	if err != nil {
		return fmt.Errorf("malformed message: metadata: %w", err)
	}
	switch {
	case calls:
	case m.Op != OpMuxClientMsg && m.Flags&FlagPayloadIsErr != 0: // the marks of an error; callers send none
	case a.has(featureAnswers) && (m.Op == OpResponse || m.Op == OpMuxServerMsg || m.Op == OpMuxServerHeader):
	default:
		m.metadata = nil
	}
	return nil
}
