package doctor

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const maxBody = 512 // bytes of an answer that are looked at

// answer is what came back for an HTTP request.
type answer struct {
	status int
	header http.Header
	body   string // the start of it
	clock  time.Duration
	timed  bool // clock is known
}

// request sends a request on a connection and reads the head of the answer.
func (p *probe) request(conn net.Conn, upgrade string) (answer, *bufio.Reader, error) {
	began := time.Now()
	conn.SetDeadline(began.Add(p.Timeout))
	defer conn.SetDeadline(time.Time{})
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nX-Minio-Time: %s\r\n", p.Path, p.url.Host, began.UTC().Format(time.RFC3339))
	if p.Secret != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", p.Secret)
	}
	if upgrade != "" {
		fmt.Fprintf(&b, "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", upgrade)
	} else {
		b.WriteString("Connection: close\r\n")
	}
	if _, err := io.WriteString(conn, b.String()+"\r\n"); err != nil {
		return answer{}, nil, err
	}
	var a answer
	r := bufio.NewReader(&watched{conn, &a.body})
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return a, nil, err
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		a.status, a.header, a.body = resp.StatusCode, resp.Header, ""
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			now := time.Now()
			a.timed, a.clock = true, date.Add(500*time.Millisecond).Sub(began.Add(now.Sub(began)/2))
		}
		if a.status != http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
			a.body = strings.Join(strings.Fields(string(body)), " ")
			resp.Body.Close()
		}
		return a, r, nil
	}
}

// watched remembers how what it reads begins.
type watched struct {
	io.Reader
	start *string
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if len(*w.start) < maxBody {
		*w.start += string(b[:n])
	}
	return n, err
}

// connect opens a connection with TLS where the name asks for that. It says what is wrong.
func (p *probe) connect() (net.Conn, bool) {
	began := time.Now()
	conn, err := p.dial(p.address)
	if err != nil {
		p.problem("%s", p.dialProblem(p.address, err))
		return nil, false
	}
	p.report.Connect = time.Since(began)
	secure, err := p.secure(conn)
	if err != nil {
		p.problem("%s", p.failure("the TLS handshake", err))
		return nil, false
	}
	return secure, true
}

// failure says why there is no answer.
func (p *probe) failure(what string, err error) string {
	if text := p.tlsProblem(err); text != "" {
		return text
	}
	switch {
	case isTimeout(err):
		return fmt.Sprintf("it accepts connections, but does not answer %s within %v; what listens there hangs, or does not speak %s", what, p.Timeout, strings.ToUpper(p.url.Scheme))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("it hung up on %s; is that a node, and its name %s://%s?", what, other(p.url.Scheme), p.url.Host)
	}
	return fmt.Sprintf("%s failed: %v", what, err)
}

func isTimeout(err error) bool {
	var late net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &late) && late.Timeout()
}

func other(scheme string) string {
	if scheme == "http" {
		return "https"
	}
	return "http"
}

// knock asks for the route without an upgrade, to see whether it is there and takes the secret. A
// node answers 426 then.
func (p *probe) knock() bool {
	conn, ok := p.connect()
	if !ok {
		return false
	}
	defer conn.Close()
	a, _, err := p.request(conn, "")
	switch {
	case err != nil && strings.HasPrefix(a.body, "\x15\x03"), // a TLS alert
		err == nil && a.status == http.StatusBadRequest && p.url.Scheme == "http":
		p.problem("it does not speak plain HTTP; is its name https://%s?", p.url.Host)
		return false
	case err != nil && a.body != "" && !isTimeout(err):
		p.problem("what listens there does not speak HTTP; correct the port")
		return false
	case err != nil:
		p.problem("%s", p.failure("an HTTP request", err))
		return false
	}
	if a.timed && !p.clocked {
		p.clocked, p.report.Clock = true, a.clock
		p.checkClock(a.clock)
	}
	if a.status != http.StatusUpgradeRequired {
		p.problem("%s", p.statusProblem(&a))
		return false
	}
	return true
}

const (
	clockNote    = 5 * time.Second
	clockProblem = 30 * time.Second
)

// checkClock looks at how far apart the clocks are.
func (p *probe) checkClock(ahead time.Duration) {
	text := fmt.Sprintf("its clock is %v ahead of this one", ahead.Round(time.Second))
	if ahead < 0 {
		text = fmt.Sprintf("its clock is %v behind this one", (-ahead).Round(time.Second))
	}
	switch {
	case ahead.Abs() >= clockProblem:
		p.problem("%s; let NTP set both: tokens and certificates are judged by clocks", text)
	case ahead.Abs() >= clockNote:
		p.note("%s; let NTP set both", text)
	}
}

// statusProblem says what an answer means that is no WebSocket.
func (p *probe) statusProblem(a *answer) string {
	by := ""
	if server := a.header.Get("Server"); server != "" {
		by = " by " + server
	}
	said := fmt.Sprintf("answered with status %d%s", a.status, by)
	switch a.status {
	case http.StatusForbidden:
		return "it refused the secret (status 403" + by + "); check -secret-file there and here"
	case http.StatusUnauthorized, http.StatusProxyAuthRequired:
		return said + ": something in front of the node wants a login; let nodes through to the path " + p.Path
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return said + ": a web server, but no node at the path " + p.Path + "; correct the port, or give the nodes' path with -path"
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return fmt.Sprintf("%s: it redirects to %s; nodes follow nobody, so use the name that leads there at once", said, a.header.Get("Location"))
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return said + ": a proxy that does not reach the node; start the node, or correct the proxy's backend"
	case http.StatusServiceUnavailable:
		return said + ": the node is shutting down or has too many handshakes, or a proxy has no node to pass this on to"
	case http.StatusTooManyRequests:
		return said + ": something in front of the node limits requests; let nodes through"
	case http.StatusInternalServerError:
		return said + ": the server fails, perhaps by a middleware that hides the connection from the node; its log says more"
	case http.StatusUpgradeRequired:
		return "the upgrade to a WebSocket did not get there as it was sent (" + a.body + "); have the proxy on the way pass on the headers Upgrade and Connection, in HTTP/1.1"
	}
	return said + ": what answers there is no node; correct the host or the port"
}

// upgrade opens a WebSocket.
func (p *probe) upgrade() (*talk, bool) {
	conn, ok := p.connect()
	if !ok {
		return nil, false
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	a, r, err := p.request(conn, key)
	var wrong string
	switch {
	case err != nil && isTimeout(err):
		wrong = fmt.Sprintf("it does not answer the upgrade to a WebSocket within %v, though it answers other requests; have the proxy on the way pass WebSockets on", p.Timeout)
	case err != nil:
		wrong = p.failure("the upgrade to a WebSocket", err)
	case a.status == http.StatusSwitchingProtocols && a.header.Get("Sec-WebSocket-Accept") == acceptKey(key):
		return newTalk(conn, r, p.Timeout), true
	case a.status == http.StatusSwitchingProtocols:
		wrong = "it answers the upgrade to a WebSocket in a wrong way; look at the proxy on the way"
	default:
		wrong = p.statusProblem(&a)
		if a.status != http.StatusUpgradeRequired {
			wrong = "of the upgrade to a WebSocket: " + wrong
		}
	}
	conn.Close()
	p.problem("%s", wrong)
	return nil, false
}

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
