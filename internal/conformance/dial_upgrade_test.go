package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
)

// answerUpgrades answers each upgrade with an answer, in which KEY is the right
// Sec-WebSocket-Accept, and the grid's own handshake with an acceptance. It returns the name that
// it answers at.
func answerUpgrades(t *testing.T, answer string) string {
	t.Helper()
	l, name := testkit.Listen(t)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerUpgrade(conn, name, answer)
		}
	}()
	return name
}

func answerUpgrade(conn net.Conn, name, answer string) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	r, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	answer = strings.ReplaceAll(answer, "KEY", testkit.AcceptKey(r.Header.Get("Sec-WebSocket-Key")))
	if _, err := conn.Write([]byte(answer)); err != nil {
		return
	}
	p := &testkit.Peer{Conn: conn, In: br, Name: name, ID: [16]byte{4, 5, 6}}
	if _, err := p.Next(); err != nil {
		return
	}
	if p.Send(testkit.Answer{ID: p.ID, Accepted: true}.Message().Bytes()) == nil {
		p.Next() // until the node hangs up
	}
}

const (
	upgraded101 = "HTTP/1.1 101 Switching Protocols\r\n"
	keyLine     = "Sec-WebSocket-Accept: KEY\r\n"
)

// RFC 6455, 4.1: what an answer has to have, in whatever form HTTP/1.1 lets it say so.
func TestDialerTakesEveryUpgradeOfTheRFC(t *testing.T) {
	const upgrade, connection = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n"
	for name, answer := range map[string]string{
		"the plain one":                upgraded101 + upgrade + connection + keyLine + "\r\n",
		"another token before":         upgraded101 + upgrade + "Connection: keep-alive, Upgrade\r\n" + keyLine + "\r\n",
		"another token behind":         upgraded101 + upgrade + "Connection: upgrade,keep-alive\r\n" + keyLine + "\r\n",
		"two Connection lines":         upgraded101 + upgrade + "Connection: keep-alive\r\n" + connection + keyLine + "\r\n",
		"other case":                   upgraded101 + "UPGRADE: WebSocket\r\nCONNECTION: UPGRADE\r\nsec-websocket-accept: KEY\r\n\r\n",
		"headers of a proxy":           upgraded101 + "Via: 1.1 proxy\r\nDate: today\r\n" + upgrade + connection + keyLine + "\r\n",
		"another reason":               "HTTP/1.1 101 Web Socket Protocol Handshake\r\n" + upgrade + connection + keyLine + "\r\n",
		"no reason":                    "HTTP/1.1 101 \r\n" + upgrade + connection + keyLine + "\r\n",
		"lines without CR":             "HTTP/1.1 101 Switching Protocols\n" + "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: KEY\n\n",
		"early hints before":           "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n" + upgraded101 + upgrade + connection + keyLine + "\r\n",
		"several answers before":       "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + upgraded101 + upgrade + connection + keyLine + "\r\n",
		"an empty list of extensions":  upgraded101 + upgrade + connection + keyLine + "Sec-WebSocket-Extensions: \r\n\r\n",
		"a length, which 101 has not":  upgraded101 + upgrade + connection + keyLine + "Content-Length: 0\r\n\r\n",
		"a coding, which 101 has not":  upgraded101 + upgrade + connection + keyLine + "Transfer-Encoding: chunked\r\n\r\n",
		"a ping behind, in one packet": upgraded101 + upgrade + connection + keyLine + "\r\n\x89\x00",
	} {
		t.Run(name, func(t *testing.T) {
			remote := answerUpgrades(t, answer)
			log := testkit.NewLogLines()
			o := testnode.Dialing(remote)
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
			testnode.Start(t, o)
			if line := log.Wait(t, "grid: c"); !strings.Contains(line, "grid: connected") {
				t.Error(line)
			}
		})
	}
}

func TestDialerRefusesWhatIsNoUpgrade(t *testing.T) {
	const upgrade, connection = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n"
	for _, test := range []struct{ name, answer, want string }{
		{"no Upgrade", upgraded101 + connection + keyLine + "\r\n", "header Upgrade is missing"},
		{"another Upgrade", upgraded101 + "Upgrade: h2c\r\n" + connection + keyLine + "\r\n", "header Upgrade is not websocket"},
		{"no Connection", upgraded101 + upgrade + keyLine + "\r\n", "header Connection is missing"},
		{"another Connection", upgraded101 + upgrade + "Connection: keep-alive, Upgraded\r\n" + keyLine + "\r\n", "header Connection is not Upgrade"},
		{"no key", upgraded101 + upgrade + connection + "\r\n", "header Sec-WebSocket-Accept is missing"},
		{"another key", upgraded101 + upgrade + connection + "Sec-WebSocket-Accept: bB/tOsPT3bTtQT2ROdL6vpUKuX8=\r\n\r\n", "header Sec-WebSocket-Accept is not the hash of the key"},
		{"two keys", upgraded101 + upgrade + connection + keyLine + keyLine + "\r\n", "header Sec-WebSocket-Accept is not"},
		{"an extension", upgraded101 + upgrade + connection + keyLine + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", "it uses extensions"},
		{"a subprotocol", upgraded101 + upgrade + connection + keyLine + "Sec-WebSocket-Protocol: grid\r\n\r\n", "it uses a subprotocol"},
		{"HTTP/1.0", "HTTP/1.0 101 Switching Protocols\r\n" + upgrade + connection + keyLine + "\r\n", "malformed answer to the upgrade: upgraded in HTTP/1.0"},
		{"HTTP/1.0 of a proxy", "HTTP/1.0 503 Service Unavailable\r\n\r\n", "status 503 Service Unavailable"},
		{"no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n", "malformed answer to the upgrade"},
		{"a header without a colon", upgraded101 + upgrade + connection + "oops\r\n\r\n", "malformed answer to the upgrade"},
		{"the end, after an answer for information", "HTTP/1.1 103 Early Hints\r\n\r\n", "EOF"},
		{"answers for information without end", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 4000), "answer to the upgrade is too long"},
		{"a page", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", "answered with status 200 OK"},
		{"a redirect", "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "answered with status 307 Temporary Redirect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, remote := testkit.Listen(t)
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						conn.Write([]byte(strings.ReplaceAll(test.answer, "KEY", testkit.AcceptKey(r.Header.Get("Sec-WebSocket-Key")))))
					}
					conn.Close()
				}
			}()
			log := testkit.NewLogLines()
			o := testnode.Dialing(remote)
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
			testnode.Start(t, o)
			log.Wait(t, "cannot connect", test.want)
		})
	}
}

// The upgrade that was recorded between nodes of the original, byte for byte.
func TestUpgradeIsTheRecordedOne(t *testing.T) {
	b, err := os.ReadFile("../../testdata/wire/transcripts.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct{ Upgrade string }
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	request, answer, ok := strings.Cut(strings.TrimPrefix(recorded.Upgrade, "dialer->acceptor:\n"), "acceptor->dialer:\n")
	if !ok {
		t.Fatalf("no upgrade in %q", recorded.Upgrade)
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		t.Fatal(err)
	}
	if got := sentUpgrade(t, r); got != request {
		t.Errorf("request is %q, want %q", got, request)
	}
	l, local := testkit.Listen(t)
	testnode.Serve(t, l, testnode.Options(local))
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(answer))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != answer {
		t.Errorf("answer is %q (%v), want %q", got, err, answer)
	}
}

// sentUpgrade returns the bytes with which a node opens a connection, with the host, the time and
// the key of another request, whose token it shows.
func sentUpgrade(t *testing.T, like *http.Request) string {
	t.Helper()
	l, remote := testkit.Listen(t)
	o := testnode.Dialing(remote)
	o.AddAuth = func(string) string { return strings.TrimPrefix(like.Header.Get("Authorization"), "Bearer ") }
	testnode.Start(t, o)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	var sent bytes.Buffer
	r, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &sent)))
	if err != nil {
		t.Fatal(err)
	}
	replace := []string{r.Host, like.Host}
	for _, name := range []string{"X-Minio-Time", "Sec-WebSocket-Key"} {
		replace = append(replace, r.Header.Get(name), like.Header.Get(name))
	}
	return strings.NewReplacer(replace...).Replace(sent.String())
}

// A token cannot add lines to the request.
func TestATokenStaysInItsLine(t *testing.T) {
	l, remote := testkit.Listen(t)
	o := testnode.Dialing(remote)
	o.AddAuth = func(string) string { return "token\r\nX-Injected: yes" }
	testnode.Start(t, o)
	if r := readUpgrade(t, l); r.Header.Get("X-Injected") != "" || r.Header.Get("Authorization") != "Bearer token  X-Injected: yes" {
		t.Errorf("the request has %q", r.Header)
	}
}
