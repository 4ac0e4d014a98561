package grid

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gobwas/ws"
)

// requestUpgrade upgrades a network connection to a WebSocket before ctx ends. It returns the bytes
// that arrived after the answer.
func (d *dialer) requestUpgrade(ctx context.Context, socket net.Conn, u *url.URL, token string) (early []byte, err error) {
	stop := context.AfterFunc(ctx, func() { socket.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			err = ctx.Err()
		}
	}()
	header := http.Header{"X-Minio-Time": {time.Now().UTC().Format(time.RFC3339)}}
	if d.hasToken() {
		header.Set("Authorization", "Bearer "+token)
	}
	key := newWebSocketKey()
	conn := &upgradeConn{Conn: socket, left: d.Limits.MaxHandshakeSize}
	if _, err := conn.Write(upgradeRequestBytes(u, key, header)); err != nil {
		return nil, err
	}
	answers := bufio.NewReader(conn)
	resp, err := conn.readAnswer(answers) //nolint:bodyclose // an upgrade has none, and the socket is kept
	if err != nil {
		return nil, err
	}
	if err := checkUpgraded(resp, key); err != nil {
		return nil, err
	}
	return buffered(answers)
}

// upgradeRequestBytes returns the protocol's request, with its lines in the original's order.
func upgradeRequestBytes(u *url.URL, key string, header http.Header) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", u.RequestURI(), u.Host, key)
	_ = header.Write(&b) // sorted, and without line breaks in a token
	b.WriteString("\r\n")
	return b.Bytes()
}

// newWebSocketKey returns a Sec-WebSocket-Key: 16 random bytes in base64 (RFC 6455, 4.1).
func newWebSocketKey() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return base64.StdEncoding.EncodeToString(b[:])
}

// errBadAnswer means that the answer to the upgrade is not HTTP/1.1. It does not quote the answer,
// which may hold the token.
var errBadAnswer = errors.New("malformed answer to the upgrade")

// checkUpgraded checks an answer against RFC 6455, 4.1.
func checkUpgraded(resp *http.Response, key string) error {
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return ws.StatusError(resp.StatusCode)
	case resp.ProtoMajor != 1 || resp.ProtoMinor < 1:
		return fmt.Errorf("%w: upgraded in %s", errBadAnswer, resp.Proto)
	}
	const accept, extensions, protocol = "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"
	var wrong string
	switch {
	case !headerHas(resp.Header, "Upgrade", "websocket"):
		wrong = wrongHeader(resp.Header, "Upgrade", "websocket")
	case !headerHas(resp.Header, "Connection", "upgrade"):
		wrong = wrongHeader(resp.Header, "Connection", "Upgrade")
	case len(resp.Header.Values(accept)) != 1 || resp.Header.Get(accept) != acceptKey(key):
		wrong = wrongHeader(resp.Header, accept, "the hash of the key")
	case strings.Join(resp.Header.Values(extensions), "") != "":
		wrong = "it uses extensions, and none were offered"
	case strings.Join(resp.Header.Values(protocol), "") != "":
		wrong = "it uses a subprotocol, and none was offered"
	default:
		return nil
	}
	return errors.New("answered with a wrong upgrade: " + wrong)
}

// upgradeConn is a network connection during the upgrade. It bounds the size of the answer.
type upgradeConn struct {
	net.Conn
	left int
	err  error // of the last Read
}

// readAnswer reads the head of the answer to the upgrade, skipping informational (1xx) ones.
func (c *upgradeConn) readAnswer(br *bufio.Reader) (*http.Response, error) {
	for {
		resp, err := http.ReadResponse(br, nil)
		switch {
		case err != nil && c.err != nil:
			return nil, c.err
		case err != nil:
			return nil, errBadAnswer
		case resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols:
			return resp, nil
		}
	}
}

func (c *upgradeConn) Read(b []byte) (n int, err error) {
	if c.left == 0 {
		c.err = errLongAnswer
		return 0, c.err
	}
	n, err = c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	c.err = err
	return n, err
}

// Write returns the peer's own reason, if it gave one, when the peer is gone: since TLS 1.3 a node
// has finished its part of the TLS handshake, and may write, before the peer refuses its
// certificate and hangs up.
func (c *upgradeConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		if _, why := c.Conn.Read(make([]byte, 1)); alert(why) != nil {
			err = why
		}
	}
	return n, err
}
