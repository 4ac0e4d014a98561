package conformance

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
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
		change func(*grid.ManagerOptions)
		path   string
		header http.Header // nil values: none of that name
	}{
		{
			name:   "with the bearer token",
			change: func(*grid.ManagerOptions) {},
			path:   grid.RoutePath,
			header: http.Header{"Authorization": {"Bearer token"}},
		},
		{
			name:   "without an authorization where AddAuth is nil",
			change: func(o *grid.ManagerOptions) { o.AddAuth = nil },
			path:   grid.RoutePath,
			header: http.Header{"Authorization": nil},
		},
		{
			name:   "with a route path of its own",
			change: func(o *grid.ManagerOptions) { o.RoutePath = "/other/grid" },
			path:   "/other/grid",
			header: http.Header{"Authorization": {"Bearer token"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, remote := testkit.Listen(t)
			o := testnode.Dialing(remote)
			test.change(&o)
			began := time.Now().Truncate(time.Second)
			testnode.Start(t, o)
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
	l, remote := testkit.Listen(t)
	o := testnode.Dialing(remote)
	o.AddAuth = func(aud string) string { return "token for <" + aud + ">" }
	testnode.Start(t, o)
	if got := readUpgrade(t, l).Header.Get("Authorization"); got != "Bearer token for <>" {
		t.Errorf("Authorization is %q", got)
	}
}

func TestAcceptorAnswersTheUpgrade(t *testing.T) {
	l, local := testkit.Listen(t)
	o, _ := testnode.Dialed(local)
	o.AuthRequest = func(r *http.Request) error {
		if r.Header.Get("Authorization") != "Bearer token" {
			return errors.New("wrong token")
		}
		return nil
	}
	testnode.Serve(t, l, o)
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
			r := testkit.UpgradeRequest(t, local+grid.RoutePath)
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
		send func(t *testing.T, p *testkit.Peer, local string)
	}{
		{"what is no message", func(t *testing.T, p *testkit.Peer, _ string) {
			if err := p.Send([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}},
		{"another operation", func(t *testing.T, p *testkit.Peer, _ string) {
			p.MustSend(t, testkit.Message{Op: testkit.OpPing, DeadlineMS: 5000})
		}},
		{"a payload that does not parse", func(t *testing.T, p *testkit.Peer, _ string) {
			p.MustSend(t, testkit.Message{Op: testkit.OpConnect, Payload: []byte{0x82}})
		}},
		{"a host that it does not know", func(t *testing.T, p *testkit.Peer, _ string) {
			p.MustSend(t, testkit.Hello{ID: p.ID, Host: "http://stranger:9000"}.Message())
		}},
		{"its own name", func(t *testing.T, p *testkit.Peer, local string) {
			p.MustSend(t, testkit.Hello{ID: p.ID, Host: local}.Message())
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, p := testnode.AcceptPeer(t, nil)
			test.send(t, p, m.HostName())
			p.ExpectRejection(t, m.ID)
		})
	}
	t.Run("a host that should not have dialed", func(t *testing.T) {
		l, local := testkit.Listen(t)
		peer := testkit.NameThat(func(name string) bool { return testkit.Dials(local, name) })
		o := testnode.Options(local, peer)
		o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done() // the peer is not up
			return nil, ctx.Err()
		}
		m := testnode.Serve(t, l, o)
		p := testkit.Dial(t, local, grid.RoutePath, peer)
		p.MustSend(t, testkit.Hello{ID: p.ID, Host: peer}.Message())
		p.ExpectRejection(t, m.ID)
	})
}
