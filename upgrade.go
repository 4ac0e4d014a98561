package grid

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// buffered returns a copy of what a reader has read ahead.
func buffered(br *bufio.Reader) ([]byte, error) {
	b := make([]byte, br.Buffered())
	_, err := io.ReadFull(br, b)
	return b, err
}

// acceptKey returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// wrongHeader says what is wrong with a header that should have the value want.
func wrongHeader(h http.Header, name, want string) string {
	if len(h.Values(name)) == 0 {
		return fmt.Sprintf("header %s is missing", name)
	}
	return fmt.Sprintf("header %s is not %s", name, want)
}

// headerHas reports whether a header, a list of tokens that may span several lines, holds token.
func headerHas(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}
