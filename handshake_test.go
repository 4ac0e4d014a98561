package grid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

// What nodes of this project say in the handshake beyond the original.
func TestNativeHandshakesHaveTheirBytes(t *testing.T) {
	b, err := os.ReadFile("testdata/native/handshake.json")
	if err != nil {
		t.Fatal(err)
	}
	type agreed struct {
		Max      uint32 `json:"max"`
		Sum      uint32 `json:"sum"`
		Meta     uint64 `json:"meta"`
		Metadata uint32 `json:"metadata"` // what Meta says
	}
	var v struct {
		Requests []struct {
			Name string   `json:"name"`
			ID   hexBytes `json:"id_hex"`
			Host string   `json:"host"`
			Grid uint32   `json:"grid"`
			To   string   `json:"to"`
			agreed
			Payload hexBytes `json:"payload_hex"`
		} `json:"connect"`
		Responses []struct {
			Name     string   `json:"name"`
			ID       hexBytes `json:"id_hex"`
			Accepted bool     `json:"accepted"`
			Reason   string   `json:"rejected_reason"`
			Grid     uint32   `json:"grid"`
			Host     string   `json:"host"`
			agreed
			Payload hexBytes `json:"payload_hex"`
		} `json:"connect_response"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	check := func(name string, want hexBytes, value msgp.Marshaler, parsed interface {
		msgp.Unmarshaler
		msgp.Marshaler
	},
	) {
		if got := encoded(t, value); !bytes.Equal(got, want) {
			t.Errorf("%s: encoded to\n%x, want\n%x", name, got, want)
		}
		if err := unmarshal(parsed, want); err != nil || !bytes.Equal(encoded(t, parsed), want) {
			t.Errorf("%s: parsed as %+v, %v", name, parsed, err)
		}
	}
	terms := func(name string, features uint32, a agreed) {
		if sum := agreementSum(features, a.Max); a.Max != 0 && a.Sum != sum {
			t.Errorf("%s: the checksum is %d, want %d", name, sum, a.Sum)
		}
		if term := metadataTerm(features, a.Metadata); a.Metadata != 0 && a.Meta != term {
			t.Errorf("%s: the term of metadata is %#x, want %#x", name, term, a.Meta)
		}
		if checkMetadataTerm(features, a.Meta) != nil || a.Meta != 0 && checkMetadataTerm(features, a.Meta^1) == nil {
			t.Errorf("%s: the term of metadata is not checked", name)
		}
	}
	for _, r := range v.Requests {
		req := connectReq{ID: [16]byte(r.ID), Host: r.Host, Grid: r.Grid, To: r.To, Max: r.Max, Sum: r.Sum, Meta: r.Meta}
		check(r.Name, r.Payload, &req, new(connectReq))
		terms(r.Name, r.Grid, r.agreed)
	}
	for _, r := range v.Responses {
		resp := connectResp{ID: [16]byte(r.ID), Accepted: r.Accepted, RejectedReason: r.Reason, Grid: r.Grid, Host: r.Host, Max: r.Max, Sum: r.Sum, Meta: r.Meta}
		check(r.Name, r.Payload, &resp, new(connectResp))
		terms(r.Name, r.Grid, r.agreed)
	}
	if len(v.Requests) == 0 || len(v.Responses) == 0 {
		t.Error("no vectors")
	}
}

// A dial that reaches another node than the one that was meant connects nothing, and leaves what is
// connected alone.
func TestADialThatReachesAnotherNodeIsTurnedAway(t *testing.T) {
	for _, test := range []struct {
		name   string
		verify func(*http.Request, string) error // of the node that is reached
	}{
		{"any member", nil},
		{"a member that is verified", func(*http.Request, string) error { return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newTCPPair(t)
			dialer, there := c.nodes[0], c.nodes[1]
			if shouldDial(there.host, dialer.host) {
				dialer, there = there, dialer
			}
			meant := nameThat(func(name string) bool { return shouldDial(dialer.host, name) })
			hosts := []string{dialer.host, there.host, meant}
			var astray atomic.Bool
			c.startNode(t, there, func(o *ManagerOptions) {
				o.Hosts = hosts
				o.VerifyPeer = test.verify
				o.Dialer = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
			})
			c.startNode(t, dialer, func(o *ManagerOptions) {
				o.Hosts = hosts
				o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
					if "http://"+address == meant {
						if !astray.Load() {
							return nil, errors.New("no route")
						}
						address = strings.TrimPrefix(there.host, "http://")
					}
					return c.dial(ctx, network, address)
				}
			})
			right, wrong := dialer.Connection(there.host), dialer.Connection(meant)
			if err := right.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			session := right.current.Load()
			astray.Store(true)
			before := wrong.Stats().DialErrors
			reason := fmt.Sprintf("node at %s is %s, not %s", strings.TrimPrefix(there.host, "http://"), there.host, meant)
			eventually(t, "two dials that go astray", func() bool {
				s := wrong.Stats()
				return s.DialErrors > before+2 && strings.Contains(s.LastError, reason)
			}, dialer.log.String)
			if wrong.State() == StateConnected || wrong.Stats().Connects != 0 {
				t.Error("it is connected with another node")
			}
			if right.current.Load() != session {
				t.Error("the right connection was touched")
			}
			eventually(t, "lines in both logs", func() bool {
				return there.log.count("peer rejected") > 0 && there.log.count(reason) > 0 && there.log.count("remote=127.0.0.1:") > 0
			}, there.log.String)
		})
	}
}

// The dialer checks too who answers, and takes those that do not say for the one it means.
func TestTheDialerChecksWhoAnswers(t *testing.T) {
	for _, test := range []struct {
		name string
		resp connectResp
		want string // in the log
	}{
		{"the node that is meant", connectResp{Accepted: true, Grid: nativeFeatures}, "grid: connected"},
		{"one that does not say", connectResp{Accepted: true, Grid: nativeFeatures}, "grid: connected"},
		{"one of the original", connectResp{Accepted: true}, "grid: connected"},
		{"another that accepts", connectResp{Accepted: true, Host: "http://other:1"}, "is http://other:1, not "},
		{"another that rejects", connectResp{RejectedReason: "no", Host: "http://other:1"}, "is http://other:1, not "},
		{"another with a long name", connectResp{Accepted: true, Host: strings.Repeat("x", 10000)}, "xxx..., not "},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, remote := listen(t)
			log := testkit.NewLogLines()
			o := playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote)
			o.Logger = slog.New(slog.NewTextHandler(log, nil))
			newTestNode(t, o)
			p := &player{testkit.Accept(t, l, remote), t}
			p.receive()
			if test.name == "the node that is meant" {
				test.resp.Host = remote
			}
			p.send(message{Op: OpConnectResponse, Payload: encoded(t, &test.resp)})
			if test.resp.Grid&featureFacts != 0 {
				p.send(noFacts)
			}
			line := log.Wait(t, test.want)
			if len(line) > 1000 {
				t.Errorf("a line of %d bytes", len(line))
			}
			if strings.Contains(line, "connected") {
				return
			}
			if !strings.Contains(line, "node at "+p.Conn.LocalAddr().String()) {
				t.Errorf("no address in %s", line)
			}
			code, reason := p.expectCloseFrame()
			if code != ws.StatusPolicyViolation || !strings.Contains(reason, "node at ") {
				t.Errorf("closed with %d %q", code, reason)
			}
		})
	}
}

// expectCloseFrame receives until a close frame comes, and answers it.
func (p *player) expectCloseFrame() (ws.StatusCode, string) {
	p.t.Helper()
	for {
		frame, err := p.NextFrame()
		if err != nil {
			p.t.Fatalf("no close frame: %v", err)
		}
		if frame.Header.Masked {
			frame = ws.UnmaskFrameInPlace(frame)
		}
		if frame.Header.OpCode != ws.OpClose {
			continue
		}
		p.Conn.Write(wsframe.AppendControl(nil, ws.OpClose, frame.Payload, p.Dialed, newMask()))
		return ws.ParseCloseFrameData(frame.Payload)
	}
}

// Who is turned away in the handshake is told so in a close frame.
func TestRejectionsEndWithACloseFrame(t *testing.T) {
	text := func(p *player) {
		ws.WriteFrame(p.Conn, ws.MaskFrameInPlace(ws.NewBinaryFrame([]byte("hello"))))
	}
	for _, test := range []struct {
		name   string
		verify func(*http.Request, string) error
		send   func(p *player)
		code   ws.StatusCode
		reason string // a part of it
	}{
		{"a stranger", nil, func(p *player) { p.claim("http://stranger:9000") }, ws.StatusPolicyViolation, "unknown incoming host"},
		{"a message that is none", nil, text, ws.StatusPolicyViolation, "handshake: "},
		{
			"an unmasked frame", nil, func(p *player) { ws.WriteFrame(p.Conn, ws.NewBinaryFrame([]byte("hello"))) },
			ws.StatusProtocolError, "unmasked frame",
		},
		{"a message that is too large", nil, func(p *player) {
			p.send(message{Op: OpConnect, Payload: make([]byte, 1<<20)})
		}, ws.StatusMessageTooBig, "message too large"},
		{
			"one that is not verified", func(*http.Request, string) error { return errors.New("secret") },
			func(p *player) { p.claim(p.Name) }, ws.StatusPolicyViolation, "rejected",
		},
		{
			"a stranger, where peers are verified", func(*http.Request, string) error { return nil },
			func(p *player) { p.claim("http://stranger:9000") }, ws.StatusPolicyViolation, "rejected",
		},
		{
			"a message that is none, where peers are verified", func(*http.Request, string) error { return nil },
			text, ws.StatusPolicyViolation, "rejected",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, local := listen(t)
			name := nameThat(func(name string) bool { return shouldDial(name, local) })
			o := playerOptions(local, name)
			o.VerifyPeer = test.verify
			serveNode(t, l, newTestNode(t, o))
			p := dialPlayer(t, local, name)
			test.send(p)
			code, reason := p.expectCloseFrame()
			if code != test.code || !strings.Contains(reason, test.reason) {
				t.Errorf("closed with %d %q, want %d %q", code, reason, test.code, test.reason)
			}
			if test.verify != nil && reason != rejected {
				t.Errorf("the reason is %q", reason)
			}
			if _, err := p.Conn.Read(make([]byte, 1)); err == nil {
				t.Error("more comes")
			}
		})
	}
}

// Pings and closes are obeyed before the handshake too.
func TestControlFramesAreObeyedBeforeTheHandshake(t *testing.T) {
	pong := func(t *testing.T, p *player) {
		frame, err := p.NextFrame()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header.Masked {
			frame = ws.UnmaskFrameInPlace(frame)
		}
		if frame.Header.OpCode != ws.OpPong || string(frame.Payload) != "early" {
			t.Errorf("a ping got %v %q", frame.Header.OpCode, frame.Payload)
		}
	}
	ping := func(p *player) {
		p.Conn.Write(wsframe.AppendControl(nil, ws.OpPing, []byte("early"), p.Dialed, newMask()))
	}
	bye := func(p *player) {
		p.Conn.Write(wsframe.AppendClose(nil, 4321, "tired", p.Dialed, newMask()))
	}
	t.Run("acceptor, ping", func(t *testing.T) {
		m, p := dialNode(t)
		ping(p)
		pong(t, p)
		p.handshake(m, generations[0])
	})
	t.Run("acceptor, close", func(t *testing.T) {
		_, p := dialNode(t)
		bye(p)
		if code, _ := p.expectCloseFrame(); code != 4321 {
			t.Errorf("closed with %d", code)
		}
	})
	t.Run("dialer, ping", func(t *testing.T) {
		m, p := acceptNode(t)
		ping(p)
		req := p.receive()
		pong(t, p)
		p.send(message{Op: OpConnectResponse, Payload: encoded(t, &connectResp{Accepted: true})})
		if err := m.Connection(p.Name).WaitForConnect(t.Context()); err != nil || req.Op != OpConnect {
			t.Errorf("%v after %v", err, req.Op)
		}
	})
	t.Run("dialer, close", func(t *testing.T) {
		m, p := acceptNode(t)
		p.receive()
		bye(p)
		if code, _ := p.expectCloseFrame(); code != 4321 {
			t.Errorf("closed with %d", code)
		}
		c := m.Connection(p.Name)
		eventually(t, "the reason", func() bool {
			return strings.Contains(c.Stats().LastError, "peer closed the connection: 4321 tired")
		}, func() string { return c.Stats().LastError })
	})
	t.Run("dialer, ping behind the answer to the upgrade", func(t *testing.T) {
		l, remote := listen(t)
		newTestNode(t, playerOptions(nameThat(func(name string) bool { return shouldDial(name, remote) }), remote))
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		p := &player{testkit.NewPeer(t, testkit.Peer{Conn: conn, Name: remote}), t}
		both := &joined{Conn: conn, more: wsframe.AppendControl(nil, ws.OpPing, []byte("early"), false, [4]byte{})}
		if _, err := ws.Upgrade(both); err != nil {
			t.Fatal(err)
		}
		p.receive()
		pong(t, p)
	})
}

// joined adds bytes to the first write.
type joined struct {
	net.Conn
	more []byte
}

func (c *joined) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(slices.Concat(b, c.more))
	c.more = nil
	return min(n, len(b)), err
}

// A peer that does not read why it is rejected, or goes on sending, is not waited for.
func TestARejectedPeerIsNotWaitedForForLong(t *testing.T) {
	for name, after := range map[string]func(p *player){
		"one that does nothing": func(*player) {},
		"one that goes on sending": func(p *player) {
			for b := make([]byte, 1000); ; {
				if _, err := p.Conn.Write(b); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := dialNode(t)
			p.claim("http://stranger:9000")
			start := time.Now()
			go after(p)
			for b := make([]byte, 1000); ; {
				if _, err := p.Conn.Read(b); err != nil {
					break
				}
			}
			if took := time.Since(start); took > testkit.Patience/2 {
				t.Errorf("it was held for %v", took)
			}
		})
	}
}

// A node that has ended says so before the upgrade, and is not troubled by those who dial it.
func TestANodeThatHasEndedAnswers503(t *testing.T) {
	c := newTCPPair(t)
	dialer, there := c.nodes[0], c.nodes[1]
	if shouldDial(there.host, dialer.host) {
		dialer, there = there, dialer
	}
	c.start(t, nil)
	c.waitConnected(t)
	if err := there.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn := dialer.Connection(there.host)
	eventually(t, "three dials", func() bool { return conn.Stats().DialErrors >= 3 }, dialer.log.String)
	want := "answered with status 503 Service Unavailable: the node there is shutting down"
	if s := conn.Stats(); !strings.Contains(s.LastError, want) || dialer.log.count(want) != 1 {
		t.Errorf("the reason is %q, the log\n%s", s.LastError, dialer.log)
	}
	if there.log.count("level=WARN") != 0 {
		t.Errorf("it logs\n%s", there.log)
	}
	r := testkit.UpgradeRequest(t, there.host+RoutePath)
	there.node.AuthRequest = func(*http.Request) error { return errors.New("no token") }
	if got := ask(t, r); got.status != http.StatusForbidden {
		t.Errorf("a stranger got %+v", got)
	}
}
