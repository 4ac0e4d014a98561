package grid

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A peer that takes a connection and says nothing is given up, and dialed again.
func TestASilentAcceptorIsGivenUp(t *testing.T) {
	for _, test := range []struct {
		name, scheme string
		speak        func(t *testing.T, c net.Conn) // nil for nothing
		want         string
	}{
		{"one that says nothing", "http", nil, "no answer in time"},
		{"one that says nothing to TLS", "https", nil, "no answer in time: TLS handshake: context deadline exceeded"},
		{"one that does not end its answer", "http", func(t *testing.T, c net.Conn) {
			c.Write([]byte("HTTP/1.1 101 "))
		}, "no answer in time"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(2)
				remote := c.nodes[1]
				remote.host = strings.Replace(remote.host, "http:", test.scheme+":", 1)
				dials := 0
				done := make(chan struct{})
				go func() {
					defer close(done)
					for {
						conn, err := remote.listener.Accept()
						if err != nil {
							return
						}
						defer conn.Close()
						dials++
						go func() {
							http.ReadRequest(bufio.NewReader(conn))
							if test.speak != nil {
								test.speak(t, conn)
							}
						}()
					}
				}()
				n := &node{host: nameThat(func(name string) bool { return shouldDial(name, remote.host) })}
				n.log = new(logBuffer)
				newNode(t, ManagerOptions{
					Local:       n.host,
					Hosts:       []string{n.host, remote.host},
					AuthRequest: func(*http.Request) error { return nil },
					Dialer:      c.dial,
					Logger:      slog.New(slog.NewTextHandler(n.log, nil)),
				})
				time.Sleep(2*time.Second + time.Millisecond)
				synctest.Wait()
				if n.log.count(test.want) != 1 || n.log.count(remote.host) == 0 {
					t.Errorf("logged %q", n.log)
				}
				time.Sleep(time.Minute)
				remote.listener.Close()
				<-done
				if dials < 10 {
					t.Errorf("%d dials in a minute", dials)
				}
			})
		})
	}
}

// What a peer answers to the upgrade is not kept without end.
func TestAnEndlessAnswerToTheUpgradeIsCut(t *testing.T) {
	l, remote := listen(t)
	log := newLogLines()
	o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
	o.Logger = slog.New(slog.NewTextHandler(log, nil))
	newNode(t, o)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				junk := bytes.Repeat([]byte("x"), 1<<10)
				_, err := c.Write([]byte("HTTP/1.1 101 "))
				for err == nil {
					_, err = c.Write(junk)
				}
			}()
		}
	}()
	log.wait(t, "cannot connect", remote, "answer to the upgrade is too long")
}

// From TLS 1.3 on a node may write before the peer has refused its certificate:
// its write fails, and why is in what the peer has sent.
func TestARefusedCertificateIsNamedWhereThePeerIsGoneAlready(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("where a connection is reset, other systems may drop what came in before")
	}
	ours, other := newTestCA(t), newTestCA(t)
	p := newTLSPair(t, ours, "https", tls.VersionTLS13)
	p.set(func(*tlsPair) {})
	gone := make(chan struct{})
	go func() {
		c, err := p.listener.Listener.Accept()
		if err != nil {
			return
		}
		tls.Server(c, p.server).Handshake()
		c.(*net.TCPConn).SetLinger(0) // resets the connection
		c.Close()
		p.listener.Listener.Close()
		close(gone)
	}()
	o := playerOptions(p.local, p.remote)
	o.Logger = slog.New(slog.NewTextHandler(p.dialerLog, nil))
	o.TLSConfig = withClientCertificate(ours, other.local)
	o.AddAuth = func(string) string {
		<-gone // after the handshake, before the request
		return "token"
	}
	newNode(t, o)
	p.dialerLog.wait(t, "cannot connect", "does not accept this node's certificate: remote error: tls: unknown certificate authority")
}

func TestAStatusIsExplained(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusForbidden:       "status 403 Forbidden: its AuthRequest refused this node",
		http.StatusNotFound:        "status 404 Not Found: no node has its route there at /minio/grid/v1",
		http.StatusBadGateway:      "status 502 Bad Gateway",
		http.StatusUpgradeRequired: "status 426 Upgrade Required",
	} {
		l, remote := listen(t)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })}
		go server.Serve(l)
		defer server.Close()
		log := newLogLines()
		o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
		o.Logger = slog.New(slog.NewTextHandler(log, nil))
		newNode(t, o)
		log.wait(t, "cannot connect", "dial "+remote+": answered with "+want)
	}
}
