package grid

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// upgradeError says why a request does not become a WebSocket, with the HTTP status for that.
type upgradeError struct {
	status int
	reason string
}

func (e *upgradeError) Error() string {
	return fmt.Sprintf("answered with status %d: %s", e.status, e.reason)
}

// text returns what to tell the client. AuthRequest has let it in, but the types of this program
// are none of its business.
func (e *upgradeError) text() string {
	text := http.StatusText(e.status)
	if e.status != http.StatusInternalServerError {
		text += ": " + e.reason
	}
	return text
}

// checkUpgrade checks a request against RFC 6455, 4.2.1. It fails with an *upgradeError, which
// quotes no header: a misplaced value may be a token.
func checkUpgrade(r *http.Request) error {
	const version, key = "Sec-WebSocket-Version", "Sec-WebSocket-Key"
	var lacks string
	switch {
	case r.ProtoMajor != 1 || r.ProtoMinor < 1:
		lacks = fmt.Sprintf("it came in %s, and WebSockets are opened in HTTP/1.1 here", r.Proto)
	case r.Method != http.MethodGet:
		lacks = "its method is not GET"
	case !headerHas(r.Header, "Upgrade", "websocket"):
		lacks = wrongHeader(r.Header, "Upgrade", "websocket")
	case !headerHas(r.Header, "Connection", "upgrade"):
		lacks = wrongHeader(r.Header, "Connection", "Upgrade")
	case len(r.Header.Values(version)) != 1 || r.Header.Get(version) != "13":
		lacks = wrongHeader(r.Header, version, "13")
	case len(r.Header.Values(key)) != 1 || !validKey(r.Header.Get(key)):
		lacks = wrongHeader(r.Header, key, "16 bytes in base64")
	case r.ContentLength != 0:
		return &upgradeError{http.StatusBadRequest, "it has a body, which an upgrade must not have"}
	default:
		return nil
	}
	return &upgradeError{http.StatusUpgradeRequired, lacks}
}

// validKey reports whether key is a valid Sec-WebSocket-Key.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}

// hijack takes the network connection of a request, through any middleware that allows it. It also
// returns the bytes that arrived after the request.
func hijack(w http.ResponseWriter) (socket net.Conn, early []byte, err error) {
	type taken struct {
		socket net.Conn
		rw     *bufio.ReadWriter
	}
	// Some types panic if what they wrap cannot be hijacked.
	got, err := safely(func(w http.ResponseWriter) (t taken, err error) {
		t.socket, t.rw, err = http.NewResponseController(w).Hijack()
		return t, err
	}, w)
	switch {
	case err != nil:
		return nil, nil, &upgradeError{http.StatusInternalServerError, noHijack(w, err)}
	case got.rw == nil:
		return got.socket, nil, nil
	}
	if early, err = buffered(got.rw.Reader); err != nil {
		got.socket.Close()
		return nil, nil, err
	}
	return got.socket, early, nil
}

// noHijack says which ResponseWriter does not give its connection away.
func noHijack(w http.ResponseWriter, err error) string {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	if errors.Is(err, http.ErrNotSupported) {
		return fmt.Sprintf("a middleware hides the connection: its %T has neither Hijack nor Unwrap", w)
	}
	return fmt.Sprintf("a %T does not give its connection away: %v", w, err)
}

// switchProtocols sends the answer that turns a connection into a WebSocket.
func (a *acceptor) switchProtocols(socket net.Conn, key string) error {
	// The server's deadlines are for requests.
	if err := errors.Join(socket.SetDeadline(time.Time{}), socket.SetWriteDeadline(time.Now().Add(unhurried(a.Limits.HandshakeTimeout)))); err != nil {
		return err
	}
	_, err := socket.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + acceptKey(key) + "\r\n\r\n"))
	return errors.Join(err, socket.SetWriteDeadline(time.Time{}))
}

// refusedPatience is how long to wait for the rest of a refused request. net/http reads it before
// it closes the connection, so that the client sees the answer.
const refusedPatience = time.Second

// refuse answers a request that gets no WebSocket, and has the server close its connection.
// Otherwise the server would wait for another request, or for a body that never comes, as long as
// its own timeouts allow, and it may have none.
func refuse(w http.ResponseWriter, r *http.Request, status int, text string) {
	header := w.Header()
	header.Set("Connection", "close")
	if status == http.StatusUpgradeRequired {
		header.Set("Sec-WebSocket-Version", "13")
		if r.ProtoMajor == 1 {
			header.Add("Connection", "Upgrade")
			header.Set("Upgrade", "websocket")
		}
	}
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedPatience)) // a writer that cannot has a server of its own
	http.Error(w, text, status)
}
