package wsframe

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

const (
	maxControl = ws.MaxControlFramePayloadSize
	maxReason  = maxControl - 2

	finBit  = 0x80
	maskBit = 0x80
)

// MaxHeaderSize is the largest number of bytes that HeaderSize returns.
const MaxHeaderSize = 14

// HeaderSize returns the number of bytes of the header of a frame with payloadLen bytes of payload.
func HeaderSize(payloadLen int, masked bool) int {
	n := 2
	switch {
	case payloadLen > 0xffff:
		n += 8
	case payloadLen > maxControl:
		n += 2
	}
	if masked {
		n += 4
	}
	return n
}

// PutHeader writes the header of an unfragmented frame to the start of dst, which must have room
// for it, and returns its length: exactly HeaderSize(payloadLen, masked). key is ignored unless
// masked. So with n bytes left free in front of a payload, PutHeader(b[n-HeaderSize(len(b)-n,
// masked):], …) makes a frame of it without a copy.
func PutHeader(dst []byte, op ws.OpCode, payloadLen int, masked bool, key [4]byte) int {
	dst = dst[:HeaderSize(payloadLen, masked)]
	dst[0] = finBit | byte(op)
	n := 2
	switch {
	case payloadLen > 0xffff:
		dst[1] = 127
		binary.BigEndian.PutUint64(dst[2:], uint64(payloadLen))
		n += 8
	case payloadLen > maxControl:
		dst[1] = 126
		binary.BigEndian.PutUint16(dst[2:], uint16(payloadLen))
		n += 2
	default:
		dst[1] = byte(payloadLen)
	}
	if masked {
		dst[1] |= maskBit
		n += copy(dst[n:], key[:])
	}
	return n
}

// AppendControl appends a whole ping, pong or close frame to dst. A payload is cut after 125 bytes,
// the most that a control frame can carry; payload itself is left as it is.
func AppendControl(dst []byte, op ws.OpCode, payload []byte, masked bool, key [4]byte) []byte {
	payload = payload[:min(len(payload), maxControl)]
	var head [MaxHeaderSize]byte
	n := PutHeader(head[:], op, len(payload), masked, key)
	dst = append(dst, head[:n]...)
	start := len(dst)
	dst = append(dst, payload...)
	if masked {
		Mask(dst[start:], key)
	}
	return dst
}

// AppendClose appends a whole close frame to dst. The reason is made valid UTF-8 and cut at a
// character within 123 bytes. Codes that must not be sent, such as 1005 and 1006, make a frame
// without code and reason.
func AppendClose(dst []byte, code ws.StatusCode, reason string, masked bool, key [4]byte) []byte {
	if !validCloseCode(code) {
		return AppendControl(dst, ws.OpClose, nil, masked, key)
	}
	var body [maxControl]byte
	binary.BigEndian.PutUint16(body[:], uint16(code))
	n := copy(body[2:], cutReason(reason))
	return AppendControl(dst, ws.OpClose, body[:2+n], masked, key)
}

func cutReason(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxReason {
		return s
	}
	n := maxReason
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
