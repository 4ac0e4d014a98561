package grid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/gobwas/ws"
)

var errLongAnswer = errors.New("answer to the upgrade is too long")

// dialError explains an error of dialing a node, if the error alone does not.
func dialError(u *url.URL, err error) error {
	var (
		status ws.StatusError
		record tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer in time: %w", err)
	case errors.As(err, &record):
		return fmt.Errorf("what answers there does not speak TLS; is its name http://%s? (%w)", u.Host, err)
	case alert(err) != nil:
		return fmt.Errorf("%s: %w", alertMeaning(err), alert(err))
	case u.Scheme == "ws" && asksForTLS(err):
		return fmt.Errorf("what answers there does not speak plain HTTP/1.1; is its name https://%s? (%w)", u.Host, err)
	case errors.As(err, &status):
		return statusError(status, u.Path)
	}
	return err
}

// asksForTLS reports whether an error is typical of plain HTTP sent to a TLS server. Such servers
// answer 400 (Go's does so in HTTP/1.0), send a TLS alert, or hang up.
func asksForTLS(err error) bool {
	return errors.Is(err, errBadAnswer) ||
		errors.Is(err, ws.StatusError(http.StatusBadRequest)) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// statusError returns the error for an answer that is no WebSocket.
func statusError(status ws.StatusError, path string) error {
	text := fmt.Sprintf("answered with status %d %s", int(status), http.StatusText(int(status)))
	switch int(status) {
	case http.StatusForbidden:
		text += ": its AuthRequest refused this node"
	case http.StatusServiceUnavailable:
		text += ": the node there is shutting down or has too many handshakes, or something in front of it has none to pass this on to"
	case http.StatusNotFound:
		text += ": no node has its route there at " + path
	case http.StatusUpgradeRequired:
		text += ": the upgrade did not get there as it was sent; does a proxy on the way pass WebSockets on? The node's log says what it lacked"
	case http.StatusInternalServerError:
		text += ": the server there failed; its log says why, such as a middleware that hides the connection from the node"
	}
	return errors.New(text)
}

// alertMeaning explains the peer's reason for ending a TLS connection.
func alertMeaning(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "certificate"):
		return "it does not accept this node's certificate"
	case strings.Contains(text, "protocol version"):
		return "it does not speak TLS 1.2 or later"
	case strings.Contains(text, "handshake failure"):
		// Servers of TLS 1.2 say this if a certificate is missing.
		return "it wants a certificate of this node, or no cipher that this node has"
	}
	return "it ended the TLS connection"
}

// alert returns the reason with which the peer ended a TLS connection; nil if it did not.
func alert(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return op
	}
	return nil
}
