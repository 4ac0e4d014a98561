package wsframe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// CloseError says that the peer sent a close frame, after which it sends nothing. Next returns it
// as *CloseError.
type CloseError struct {
	Code   ws.StatusCode // as sent; 1005 (ws.StatusNoStatusRcvd) when the frame carried no code
	Reason string        // valid UTF-8 of at most 123 bytes, often empty
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("websocket: closed by peer with code %d", e.Code)
	}
	return fmt.Sprintf("websocket: closed by peer with code %d: %q", e.Code, e.Reason)
}

// ProtocolError says that the peer broke RFC 6455 or the limit of this end. Next returns it as
// *ProtocolError.
type ProtocolError struct {
	Code ws.StatusCode // to close the connection with: 1002, 1007 or 1009
	Text string        // what was wrong; fits into a close frame
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("websocket: %s (close code %d)", e.Text, e.Code)
}

var errReleased = errors.New("websocket: reader was released")

func violation(text string) error {
	return &ProtocolError{Code: ws.StatusProtocolError, Text: text}
}

// parseClose turns the payload of a close frame into the error that Next returns.
func parseClose(payload []byte) error {
	if len(payload) == 0 {
		return &CloseError{Code: ws.StatusNoStatusRcvd}
	}
	if len(payload) == 1 {
		return violation("close frame with half a code")
	}
	code := ws.StatusCode(binary.BigEndian.Uint16(payload))
	if !validCloseCode(code) {
		return violation(fmt.Sprintf("close frame with code %d", code))
	}
	if !utf8.Valid(payload[2:]) {
		return &ProtocolError{Code: ws.StatusInvalidFramePayloadData, Text: "close reason is not valid UTF-8"}
	}
	return &CloseError{Code: code, Reason: string(payload[2:])}
}

// validCloseCode reports whether code may stand in a close frame: RFC 6455, 7.4, plus 1012 to 1014,
// which were registered with IANA later and are unknown to ws.CheckCloseFrameData.
func validCloseCode(code ws.StatusCode) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014:
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}
