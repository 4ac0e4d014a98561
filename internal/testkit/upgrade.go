package testkit

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// UpgradeKey is the Sec-WebSocket-Key of the requests that tests make.
const UpgradeKey = "0+ecviLeZXYKxnr+zpLYQQ=="

// AcceptKey is the Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// UpgradeRequest asks for a WebSocket as the protocol wants it.
func UpgradeRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization":         "Bearer token",
		"X-Minio-Time":          time.Now().UTC().Format(time.RFC3339),
		"Upgrade":               "websocket",
		"Connection":            "Upgrade",
		"Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key":     UpgradeKey,
	} {
		r.Header.Set(name, value)
	}
	return r
}

// RawUpgrade is a request for a WebSocket: the first line, and headers in place of those that are
// always there.
func RawUpgrade(first string, lines ...string) string {
	has := func(name string) bool {
		for _, line := range lines {
			if strings.HasPrefix(line, name+":") {
				return true
			}
		}
		return false
	}
	for _, line := range []string{
		"Host: node", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + UpgradeKey,
	} {
		if name, _, _ := strings.Cut(line, ":"); !has(name) {
			lines = append(lines, line)
		}
	}
	return first + "\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// Exchange sends bytes and returns the answer, and the connection behind it.
func Exchange(t *testing.T, address, request string) (*http.Response, io.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Patience))
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	return resp, br
}
