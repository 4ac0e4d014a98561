package grid

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/testkit"
)

// readUpgrade reads the request with which a node opens a connection.
func readUpgrade(t *testing.T, l net.Listener) *http.Request {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDialerSendsTheUpgradeOfTheProtocol(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*ManagerOptions)
		path   string
		header http.Header // nil values: none of that name
	}{
		{
			name:   "with the bearer token",
			change: func(*ManagerOptions) {},
			path:   RoutePath,
			header: http.Header{"Authorization": {"Bearer token"}},
		},
		{
			name:   "without an authorization where AddAuth is nil",
			change: func(o *ManagerOptions) { o.AddAuth = nil },
			path:   RoutePath,
			header: http.Header{"Authorization": nil},
		},
		{
			name:   "with a route path of its own",
			change: func(o *ManagerOptions) { o.RoutePath = "/other/grid" },
			path:   "/other/grid",
			header: http.Header{"Authorization": {"Bearer token"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, remote := listen(t)
			local := nameThat(func(local string) bool { return shouldDial(local, remote) })
			o := playerOptions(local, remote)
			test.change(&o)
			began := time.Now().Truncate(time.Second)
			newTestNode(t, o)
			r := readUpgrade(t, l)

			if r.Method != http.MethodGet || r.Proto != "HTTP/1.1" || r.RequestURI != test.path || r.Host != l.Addr().String() {
				t.Errorf("request is %s %s %s to %s", r.Method, r.RequestURI, r.Proto, r.Host)
			}
			test.header["Upgrade"] = []string{"websocket"}
			test.header["Connection"] = []string{"Upgrade"}
			test.header["Sec-Websocket-Version"] = []string{"13"}
			test.header["Sec-Websocket-Extensions"] = nil
			for name, want := range test.header {
				if got := strings.Join(r.Header[name], ", "); got != strings.Join(want, ", ") || len(r.Header[name]) != len(want) {
					t.Errorf("%s is %q, want %q", name, r.Header[name], want)
				}
			}
			sent := r.Header.Get("X-Minio-Time")
			at, err := time.Parse(time.RFC3339, sent)
			if err != nil || !strings.HasSuffix(sent, "Z") || at.Before(began) || at.After(time.Now()) {
				t.Errorf("X-Minio-Time is %q (%v), want the time in UTC", sent, err)
			}
		})
	}
}

func TestAddAuthIsAskedForNoAudience(t *testing.T) {
	l, remote := listen(t)
	o := playerOptions(nameThat(func(local string) bool { return shouldDial(local, remote) }), remote)
	o.AddAuth = func(aud string) string { return "token for <" + aud + ">" }
	newTestNode(t, o)
	if got := readUpgrade(t, l).Header.Get("Authorization"); got != "Bearer token for <>" {
		t.Errorf("Authorization is %q", got)
	}
}

// upgradeRequest asks for a WebSocket as the protocol wants it.
func upgradeRequest(t *testing.T, url string) *http.Request {
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
		"Sec-WebSocket-Key":     "0+ecviLeZXYKxnr+zpLYQQ==",
	} {
		r.Header.Set(name, value)
	}
	return r
}

func TestAcceptorAnswersTheUpgrade(t *testing.T) {
	l, local := listen(t)
	peer := nameThat(func(name string) bool { return shouldDial(name, local) })
	o := playerOptions(local, peer)
	o.AuthRequest = func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer token" {
			return errors.New("wrong token")
		}
		return nil
	}
	serveNode(t, l, newTestNode(t, o))
	client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{DisableKeepAlives: true}}

	for _, test := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"an upgrade is taken", func(*http.Request) {}, http.StatusSwitchingProtocols},
		{"header tokens are compared without case, in lists", func(r *http.Request) {
			r.Header.Set("Connection", "keep-alive, upgrade")
			r.Header.Set("Upgrade", "WebSocket")
		}, http.StatusSwitchingProtocols},
		{"offered extensions are not taken up", func(r *http.Request) {
			r.Header.Set("Sec-WebSocket-Extensions", "permessage-deflate")
		}, http.StatusSwitchingProtocols},
		{"a wrong token is forbidden", func(r *http.Request) { r.Header.Set("Authorization", "Bearer other") }, http.StatusForbidden},
		{"no token is forbidden", func(r *http.Request) { r.Header.Del("Authorization") }, http.StatusForbidden},
		{"a wrong token is forbidden before the rest is looked at", func(r *http.Request) {
			r.Header = http.Header{}
		}, http.StatusForbidden},
		{"a plain request is told to upgrade", func(r *http.Request) {
			r.Header = http.Header{"Authorization": {"Bearer token"}}
		}, http.StatusUpgradeRequired},
		{"a POST is told to upgrade", func(r *http.Request) { r.Method = http.MethodPost }, http.StatusUpgradeRequired},
		{"an upgrade to something else is told what to upgrade to", func(r *http.Request) {
			r.Header.Set("Upgrade", "h2c")
		}, http.StatusUpgradeRequired},
		{"another version of WebSocket is told to upgrade", func(r *http.Request) {
			r.Header.Set("Sec-WebSocket-Version", "8")
		}, http.StatusUpgradeRequired},
		{"an upgrade without a key is told to upgrade", func(r *http.Request) {
			r.Header.Del("Sec-WebSocket-Key")
		}, http.StatusUpgradeRequired},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := upgradeRequest(t, local+RoutePath)
			test.change(r)
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != test.status {
				t.Fatalf("answered with %s, want %d", resp.Status, test.status)
			}
			if test.status != http.StatusSwitchingProtocols {
				return
			}
			if accept := resp.Header.Get("Sec-WebSocket-Accept"); accept != "bB/tOsPT3bTtQT2ROdL6vpUKuX8=" {
				t.Errorf("Sec-WebSocket-Accept is %q", accept)
			}
			if ext := resp.Header.Values("Sec-WebSocket-Extensions"); len(ext) > 0 {
				t.Errorf("extensions are %q", ext)
			}
		})
	}
}

func TestAcceptorRejectsInTheHandshake(t *testing.T) {
	for _, test := range []struct {
		name string
		send func(p *player, local string)
	}{
		{"what is no message", func(p *player, _ string) {
			if err := ws.WriteFrame(p.Conn, ws.MaskFrameInPlace(ws.NewBinaryFrame([]byte("hello")))); err != nil {
				p.t.Fatal(err)
			}
		}},
		{"another operation", func(p *player, _ string) {
			p.send(message{Op: OpPing, DeadlineMS: pingDeadlineMS})
		}},
		{"a payload that does not parse", func(p *player, _ string) {
			p.send(message{Op: OpConnect, Payload: []byte{0x82}})
		}},
		{"a host that it does not know", func(p *player, _ string) {
			p.send(message{Op: OpConnect, Payload: encoded(p.t, &connectReq{ID: p.ID, Host: "http://stranger:9000"})})
		}},
		{"its own name", func(p *player, local string) {
			p.send(message{Op: OpConnect, Payload: encoded(p.t, &connectReq{ID: p.ID, Host: local})})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, p := dialNode(t)
			test.send(p, m.HostName())
			p.expectRejection(m)
		})
	}
	t.Run("a host that should not have dialed", func(t *testing.T) {
		l, local := listen(t)
		peer := nameThat(func(name string) bool { return shouldDial(local, name) })
		o := playerOptions(local, peer)
		o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done() // the peer is not up
			return nil, ctx.Err()
		}
		m := newTestNode(t, o)
		serveNode(t, l, m)
		p := dialPlayer(t, local, peer)
		p.send(message{Op: OpConnect, Payload: encoded(t, &connectReq{ID: p.ID, Host: peer})})
		p.expectRejection(m)
	})
}

// expectRejection fails unless the node answers that it does not take the peer, and hangs up.
func (p *player) expectRejection(m *Manager) {
	p.t.Helper()
	got := p.receive()
	var resp connectResp
	if _, err := resp.UnmarshalMsg(got.Payload); err != nil {
		p.t.Fatal(err)
	}
	if resp.Accepted || resp.RejectedReason == "" {
		p.t.Errorf("the answer is %+v", resp)
	}
	want := connectResp{ID: m.ID, RejectedReason: resp.RejectedReason}
	p.compare("rejection", got, message{Op: OpConnectResponse, Payload: encoded(p.t, &want)})
	p.expectClose()
}
