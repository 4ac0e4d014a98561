package grid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
)

// fakePeer speaks the wire by hand, from the dialer's side.
type fakePeer struct {
	socket net.Conn
	frames *wsframe.Reader
	merged []message // came in one frame with others, and were not yet returned
}

// knock upgrades a connection to a node and sends nothing.
func (c *cluster) knock(t *testing.T, n *testNode) *fakePeer {
	t.Helper()
	d := ws.Dialer{NetDial: c.dial}
	socket, br, _, err := d.Dial(t.Context(), "ws"+strings.TrimPrefix(n.host, "http")+RoutePath)
	if err != nil {
		t.Fatal(err)
	}
	var early []byte
	if br != nil {
		early, _ = buffered(br)
	}
	t.Cleanup(func() { socket.Close() })
	return &fakePeer{socket: socket, frames: wsframe.NewReader(socket, early, wsframe.Config{Client: true})}
}

// introduce goes through the handshake as host.
func (p *fakePeer) introduce(t *testing.T, host string) *connectResp {
	t.Helper()
	return p.greet(t, &connectReq{Host: host, Time: time.Now()})
}

// greet goes through the handshake with req, and says nothing of itself.
func (p *fakePeer) greet(t *testing.T, req *connectReq) *connectResp {
	t.Helper()
	payload, err := req.MarshalMsg(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.send(t, message{Op: OpConnect, Payload: payload})
	var resp connectResp
	if err := readHandshake(p.frames, OpConnectResponse, &resp); err != nil {
		t.Fatal(err)
	}
	if req.Grid&resp.Grid&featureFacts != 0 && resp.Accepted {
		if _, err := readGreeting(p.frames, OpFacts); err != nil {
			t.Fatal(err)
		}
		p.send(t, noFacts)
	}
	return &resp
}

// noFacts is what a peer says of itself that has nothing to say.
var noFacts = message{Op: OpFacts, Flags: FlagCRCxxh3, Payload: new(facts).encode(maxFactsSize)}

// send sends a message, with the checksum that messages of muxes have.
func (p *fakePeer) send(t *testing.T, m message) {
	t.Helper()
	if m.MuxID != 0 {
		m.Flags |= FlagCRCxxh3
	}
	if err := writeHandshake(p.socket, m, true); err != nil {
		t.Fatal(err)
	}
}

// each calls f with every message, pings too, until reading fails.
func (p *fakePeer) each(t *testing.T, f func(m message)) {
	t.Helper()
	for {
		b, err := p.frames.Next()
		if err != nil {
			return
		}
		for _, m := range parseAll(t, bytes.Clone(b)) {
			f(m)
		}
	}
}

// next returns the next message that is no ping and tells nothing of the node.
func (p *fakePeer) next(t *testing.T) message {
	t.Helper()
	for {
		for len(p.merged) > 0 {
			m := p.merged[0]
			p.merged = p.merged[1:]
			if m.Op == OpFacts {
				p.send(t, message{Seq: m.Seq, Op: OpAckFacts, Flags: FlagCRCxxh3})
				continue
			}
			if m.Op != OpPing || m.MuxID != 0 {
				return m
			}
		}
		b, err := p.frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		p.merged = parseAll(t, bytes.Clone(b))
	}
}

// parseAll parses a frame of one message or several.
func parseAll(t *testing.T, b []byte) (all []message) {
	t.Helper()
	var m message
	if err := m.parse(b); err != nil {
		t.Fatal(err)
	}
	if m.Op != OpMerged {
		return []message{m}
	}
	rest := m.Payload
	for range m.Seq {
		one, tail, err := nextMerged(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = tail
		all = append(all, parseAll(t, one)...)
	}
	return all
}

// fakeHost is a name that has to dial local.
func fakeHost(local string) string {
	for i := 1; ; i++ {
		if host := fmt.Sprintf("http://10.0.0.1:%d", i); shouldDial(host, local) {
			return host
		}
	}
}

// startForFake starts one node that waits for a fake peer, whose name it returns.
func startForFake(t *testing.T, c *cluster, edit func(o *ManagerOptions)) (*testNode, string) {
	n := c.nodes[0]
	host := fakeHost(n.host)
	c.startNode(t, n, func(o *ManagerOptions) {
		o.Hosts = []string{n.host, host}
		if edit != nil {
			edit(o)
		}
	})
	return n, host
}

func TestASilentUpgradedConnectionIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, _ := startForFake(t, c, nil)
		start := time.Now()
		p := c.knock(t, n)
		for {
			if _, err := p.frames.Next(); err != nil {
				break
			}
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("it was held for %v", took)
		}
	})
}

func TestADeadPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		for _, name := range []string{"one that reads", "one that does not read"} {
			p := c.knock(t, n)
			if resp := p.introduce(t, host); !resp.Accepted {
				t.Fatalf("rejected: %s", resp.RejectedReason)
			}
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(name, "reads") {
				go func() {
					for {
						if _, err := p.frames.Next(); err != nil {
							return
						}
					}
				}()
			}
			start := time.Now()
			done := make(chan error, 2)
			go func() {
				_, err := conn.Request(t.Context(), testSingle, nil)
				done <- err
			}()
			if err := <-done; !errors.Is(err, ErrDisconnected) {
				t.Errorf("%s: a call got %v", name, err)
			}
			if took := time.Since(start); took > 21*time.Second {
				t.Errorf("%s: noticed after %v", name, took)
			}
			synctest.Wait()
			if st := conn.State(); st != StateConnectionError {
				t.Errorf("%s: the state is %v", name, st)
			}
		}
	})
}

func TestASecondConnectionReplacesTheFirst(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	first := c.knock(t, n)
	first.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		_, err := conn.Request(t.Context(), testSingle, nil)
		done <- err
	}()
	if m := first.next(t); m.Op != OpRequest {
		t.Fatalf("got %v", m.Op)
	}
	second := c.knock(t, n)
	if resp := second.introduce(t, host); !resp.Accepted {
		t.Fatalf("rejected: %s", resp.RejectedReason)
	}
	if err := <-done; !errors.Is(err, ErrDisconnected) {
		t.Errorf("a call on the first got %v", err)
	}
	if _, err := first.frames.Next(); err == nil {
		t.Error("the first connection is still there")
	}
	eventually(t, "the second", func() bool { return conn.current.Load() != nil })
	go func() {
		_, err := conn.Request(t.Context(), testSingle, []byte("soup"))
		done <- err
	}()
	m := second.next(t)
	second.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
	if err := <-done; err != nil {
		t.Errorf("a call on the second got %v", err)
	}
	if conn.State() != StateConnected {
		t.Errorf("the state is %v", conn.State())
	}
}

// Two sessions of one peer at a time would share its quotas and its name: the newer is told that it
// is accepted when the older is gone.
func TestANewerConnectionWaitsForTheEndOfTheOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		first := c.knock(t, n)
		first.introduce(t, host)
		if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			io.Copy(io.Discard, first.socket) // does not answer the close frame, so its end takes a while
		}()
		start := time.Now()
		if resp := c.knock(t, n).introduce(t, host); !resp.Accepted {
			t.Fatalf("rejected: %s", resp.RejectedReason)
		}
		synctest.Wait()
		select {
		case <-gone:
		default:
			t.Errorf("the newer was accepted after %v, while the older was there", time.Since(start))
		}
	})
}

// Each side numbers the streams that it opens. An answer about a stream that is not known names
// whose it is: the other direction may have one of the same number, which has to go on.
func TestAnswersAboutUnknownStreamsNameWhoseTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduce(t, host)
		for _, test := range []struct{ sent, want Op }{
			{OpAckMux, OpDisconnectServerMux},
			{OpMuxServerMsg, OpDisconnectServerMux},
			{OpPong, OpDisconnectServerMux},
			{OpMuxClientMsg, OpDisconnectClientMux},
		} {
			p.send(t, message{MuxID: 7, Op: test.sent})
			if m := p.next(t); m.Op != test.want || m.MuxID != 7 {
				t.Errorf("%v of an unknown stream was answered by %v of mux %d, want %v", test.sent, m.Op, m.MuxID, test.want)
			}
		}
	})
}

func TestNothingIsSentWhereAnOriginalsCallerGivesUp(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	p := c.knock(t, n)
	p.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() {
		_, err := conn.Request(ctx, testSingle, nil)
		done <- err
	}()
	if m := p.next(t); m.Op != OpRequest || m.MuxID < 1<<31 {
		t.Fatalf("got %v of mux %d", m.Op, m.MuxID)
	}
	cancel()
	<-done
	go func() {
		_, err := conn.Request(t.Context(), testSingle, nil)
		done <- err
	}()
	m := p.next(t)
	if m.Op != OpRequest {
		t.Errorf("the caller's end sent %v", m.Op)
	}
	p.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3})
	<-done
}

func TestTheReasonOfALossIsLogged(t *testing.T) {
	for _, test := range []struct {
		name  string
		frame []byte
		want  string
	}{
		{"a close frame", wsframe.AppendClose(nil, ws.StatusCode(4321), "tired", true, newMask()), "4321 tired"},
		{"a broken frame", []byte{0xff, 0xff}, "protocol error"},
		{"a malformed message", append(ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame([]byte("soup")))), 0), "malformed"},
	} {
		c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduce(t, host)
		if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.socket.Write(test.frame); err != nil {
			t.Fatal(err)
		}
		readToEnd(p)
		p.socket.Close()
		eventually(t, test.name, func() bool {
			return n.log.count("connection lost") == 1 && n.log.count(test.want) == 1
		}, n.log.String)
	}
}

func TestAFullQueueHoldsNobodyBeyondTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		c.stream(t, 1, 1, echoBack)
		p := c.knock(t, n)
		p.introduce(t, host) // and reads nothing from here on
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		patience, lost := errors.New("no patience"), make(chan error, 20)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, patience)
		defer cancel()
		var impatient, patient sync.WaitGroup
		start := time.Now()
		for range cap(lost) {
			impatient.Go(func() {
				if _, err := conn.Request(ctx, testSingle, make([]byte, defaultMaxQueuedBytes/2)); err != patience {
					t.Errorf("a request got %v", err)
				}
				if _, err := conn.NewStream(ctx, testStream, nil); err != patience {
					t.Errorf("a stream got %v", err)
				}
			})
			patient.Go(func() {
				_, err := conn.Request(t.Context(), testSingle, make([]byte, defaultMaxQueuedBytes/2))
				lost <- err
			})
		}
		impatient.Wait()
		if took := time.Since(start); took != time.Second {
			t.Errorf("the impatient were held for %v", took)
		}
		patient.Wait()
		if took := time.Since(start); took > defaultWriteTimeout+time.Second {
			t.Errorf("the patient were held for %v", took)
		}
		for range cap(lost) {
			if err := <-lost; !errors.Is(err, ErrDisconnected) {
				t.Errorf("a request got %v", err)
			}
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

func TestOneMessageGrantsSeveralCreditsButNeverMoreThanTheCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 16
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		var sent atomic.Int32
		c.stream(t, 0, capacity, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for {
				select {
				case out <- nil:
				case <-ctx.Done():
					return nil
				}
			}
		})
		p := c.knock(t, n)
		p.introduce(t, host)
		go p.each(t, func(m message) {
			if m.Op == OpMuxServerMsg {
				sent.Add(1)
			}
		})
		p.send(t, message{MuxID: 1, Handler: testStream, Op: OpConnectMux, Flags: FlagEOF | FlagCRCxxh3})
		want := int32(0)
		for seq, grant := range []struct{ credits, want int32 }{
			{0, capacity}, // by the opening
			{0, 1},        // as the original grants
			{5, 5},
			{1 << 30, capacity},
		} {
			if seq > 0 {
				p.send(t, message{
					MuxID: 1, Seq: uint32(seq), DeadlineMS: uint32(grant.credits), Op: OpUnblockSrvMux, Flags: FlagCRCxxh3,
				})
			}
			want += grant.want
			synctest.Wait()
			if got := sent.Load(); got != want {
				t.Errorf("after %d credits in message %d: %d messages have come, want %d", grant.credits, seq, got, want)
			}
		}
	})
}
