package grid

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/race"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/wsframe"
)

// finRelay is what nginx, haproxy and others are for a WebSocket: when one end says that nothing
// follows, it passes on what it has read from that end, and closes both connections, with whatever
// else is on its way.
type finRelay struct {
	listener net.Listener
	lock     sync.Mutex // of one dial and its accept
	passing  sync.WaitGroup
}

func newFinRelay(t *testing.T) *finRelay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &finRelay{listener: l}
	t.Cleanup(func() {
		l.Close()
		r.passing.Wait()
	})
	return r
}

// dial connects to an address by way of the relay.
func (r *finRelay) dial(ctx context.Context, network, address string) (net.Conn, error) {
	far, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	own, err := new(net.Dialer).DialContext(ctx, network, r.listener.Addr().String())
	if err != nil {
		far.Close()
		return nil, err
	}
	near, err := r.listener.Accept()
	if err != nil {
		far.Close()
		own.Close()
		return nil, err
	}
	pass := func(dst, src net.Conn) {
		b := make([]byte, 16<<10)
		for {
			n, err := src.Read(b)
			if n > 0 {
				if _, err := dst.Write(b[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		near.Close()
		far.Close()
	}
	r.passing.Go(func() { pass(near, far) })
	r.passing.Go(func() { pass(far, near) })
	return own, nil
}

// A node that shuts down under load, behind a relay that takes a FIN for the end of both
// directions, loses neither an answer nor the tail of a stream, whichever end it is.
func TestAShutdownBehindAProxyLosesNothing(t *testing.T) {
	rounds := 30
	switch {
	case testing.Short():
		rounds = 1
	case race.Enabled:
		rounds = 8
	}
	for _, secure := range []bool{false, true} {
		for _, leaves := range []string{"the dialer", "the acceptor", "both"} {
			t.Run(fmt.Sprintf("%s leaves, TLS %v", leaves, secure), func(t *testing.T) {
				for range rounds {
					leaveUnderLoad(t, leaves, secure)
				}
			})
		}
	}
}

// leaveUnderLoad lets one of two nodes leave, or both at once, with calls and streams that the
// other has made, and checks that these succeed.
func leaveUnderLoad(t *testing.T, leaves string, secure bool) {
	const requests, streams, tail = 300, 10, 30
	relay := newFinRelay(t)
	c, config := listenPair(t, secure)
	c.start(t, func(_ int, o *ManagerOptions) { o.Dialer, o.TLSConfig = relay.dial, config })
	c.waitConnected(t)

	var begun sync.WaitGroup
	release := make(chan struct{})
	answer := bytes.Repeat([]byte("answer"), 500)
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 1 {
			begun.Done()
			<-release
		}
		return bytes.Clone(answer), nil
	})
	c.stream(t, 0, 4, func(_ context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		begun.Done()
		<-release
		for i := range tail {
			out <- binary.BigEndian.AppendUint32(bytes.Clone(answer), uint32(i))
		}
		return nil
	})
	dialer := 0
	if !shouldDial(c.nodes[0].host, c.nodes[1].host) {
		dialer = 1
	}
	pairs := map[string][][2]int{ // who leaves, whom the other calls
		"the dialer":   {{1 - dialer, dialer}},
		"the acceptor": {{dialer, 1 - dialer}},
		"both":         {{0, 1}, {1, 0}},
	}[leaves]
	var calls, noise sync.WaitGroup
	stop := make(chan struct{})
	for _, pair := range pairs {
		conn := c.conn(pair[0], pair[1])
		begun.Add(requests + streams)
		for range requests {
			calls.Go(func() {
				if got, err := conn.Request(t.Context(), testSingle, []byte("x")); err != nil || !bytes.Equal(got, answer) {
					t.Errorf("an answer was lost: %d bytes, %v", len(got), err)
				}
			})
		}
		for range streams {
			calls.Go(func() {
				st, err := conn.NewStream(t.Context(), testStream, nil)
				n := 0
				if err == nil {
					err = st.Results(func([]byte) error { n++; return nil })
				}
				if err != nil || n != tail {
					t.Errorf("a stream has lost its tail: %d messages, %v", n, err)
				}
			})
		}
		begun.Wait()
		for range 16 { // bytes in the other direction, at the worst moment
			noise.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if _, err := conn.Request(t.Context(), testSingle, make([]byte, 32<<10)); err != nil {
							select { // one that fails at once must not take the processor from those that matter
							case <-stop:
							case <-time.After(time.Millisecond):
							}
						}
					}
				}
			})
		}
	}
	var ends sync.WaitGroup
	for _, pair := range pairs {
		leaver := c.nodes[pair[1]]
		ends.Go(func() {
			if err := leaver.Shutdown(t.Context()); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
		})
		eventually(t, "the shutdown to begin", func() bool { return c.conn(pair[1], pair[0]).active.stopped() })
	}
	close(release)
	within(t, "the shutdown", func() {
		calls.Wait()
		ends.Wait()
	})
	close(stop)
	noise.Wait()
	for _, n := range c.nodes {
		n.Close()
		n.server.Close()
		if n.log.count("connection lost") > 0 {
			t.Errorf("logged a loss:\n%s", n.log)
		}
	}
}

// A peer that breaks the rules of the grid learns which, and nothing of what it has sent.
func TestAViolationIsNamedInTheCloseFrame(t *testing.T) {
	request := func() []byte {
		m := message{MuxID: 1, Op: OpRequest, Handler: testSingle, Flags: FlagEOF | FlagCRCxxh3, Payload: []byte("secret")}
		return m.appendTo(nil)
	}
	flipped := request()
	flipped[len(flipped)-1] ^= 1
	short := request()
	for _, test := range []struct {
		name string
		sent []byte
		want string
	}{
		{"a wrong checksum", flipped, "malformed message: checksum mismatch"},
		{"what is no message", []byte("secret"), "malformed message: "},
		{"a message cut short", short[:len(short)-4], "malformed message: "},
		{"a message without a mux", (&message{Op: OpRequest, Handler: testSingle, Payload: []byte("secret")}).appendTo(nil), "message without a mux ID"},
		{"a merged message without its messages", appendMergedHeader(nil, 3), "malformed merged message: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, nil)
			p := c.knock(t, n)
			p.introduce(t, host)
			if _, err := p.socket.Write((&testkit.Peer{Dialed: true}).Frame(test.sent)); err != nil {
				t.Fatal(err)
			}
			closed := p.closed(t)
			if closed.Code != ws.StatusProtocolError || !strings.Contains(closed.Reason, test.want) || strings.Contains(closed.Reason, "secret") {
				t.Errorf("the close frame is %v", closed)
			}
		})
	}
}

// Who is replaced is told, also where it sends all the time.
func TestAReplacedPeerIsToldWhy(t *testing.T) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	first := c.knock(t, n)
	first.introduce(t, host)
	var noise sync.WaitGroup
	noise.Go(func() {
		for {
			if err := writeHandshake(first.socket, message{Op: OpPing}, true); err != nil {
				return
			}
		}
	})
	told := make(chan *wsframe.CloseError)
	go func() {
		defer close(told)
		told <- first.closed(t)
	}()
	c.knock(t, n).introduce(t, host)
	if closed := <-told; closed == nil || closed.Code != ws.StatusPolicyViolation || closed.Reason != errReplaced.Error() {
		t.Errorf("the close frame is %v", closed)
	}
	first.socket.Close()
	noise.Wait()
}

// So is one whose connection was not up yet: its handshake had only begun to be confirmed.
func TestAPeerThatIsReplacedInItsHandshakeIsToldWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		req := &connectReq{Host: host, Time: time.Now(), Grid: nativeFeatures}
		payload, err := req.MarshalMsg(nil)
		if err != nil {
			t.Fatal(err)
		}
		first := c.knock(t, n)
		first.send(t, message{Op: OpConnect, Payload: payload})
		var resp connectResp
		if err := readHandshake(first.frames, OpConnectResponse, &resp); err != nil || !resp.Accepted {
			t.Fatal(resp, err)
		}
		if _, err := readGreeting(first.frames, OpFacts); err != nil {
			t.Fatal(err)
		}
		second := c.knock(t, n)
		accepted := make(chan bool, 1)
		go func() { accepted <- second.greet(t, req).Accepted }()
		synctest.Wait() // the second one waits for the end of the first
		first.send(t, noFacts)
		if closed := first.closed(t); closed.Code != ws.StatusPolicyViolation || closed.Reason != errReplaced.Error() {
			t.Errorf("the close frame is %v", closed)
		}
		first.socket.Close()
		if !<-accepted {
			t.Error("the second connection was rejected")
		}
	})
}

// closed reads to the node's close frame.
func (p *fakePeer) closed(t *testing.T) *wsframe.CloseError {
	t.Helper()
	for {
		if _, err := p.frames.Next(); err != nil {
			var closed *wsframe.CloseError
			if !errors.As(err, &closed) {
				t.Errorf("no close frame: %v", err)
				return new(wsframe.CloseError)
			}
			return closed
		}
	}
}

// Shutdown waits for the peer's close frame: as long as its context allows, at least for a second,
// and not for ever.
func TestShutdownWaitsForTheGoodbyeOfThePeer(t *testing.T) {
	hurry := errors.New("hurry")
	for _, test := range []struct {
		name    string
		context time.Duration // 0 for a context without an end
		answers time.Duration // after the node's close frame; 0 for never
		took    time.Duration
		err     error
	}{
		{"a peer that answers late", 0, 7 * time.Second, 7 * time.Second, nil},
		{"a peer that answers within the context", 10 * time.Second, 9 * time.Second, 9 * time.Second, nil},
		{"a peer that answers after the context", 5 * time.Second, 9 * time.Second, 5 * time.Second, hurry},
		{"a context that ends soon", 10 * time.Millisecond, 900 * time.Millisecond, 900 * time.Millisecond, nil},
		{"a context that ends sooner", 10 * time.Millisecond, 1100 * time.Millisecond, shutdownGrace, hurry},
		{"a peer that never answers", 0, 0, defaultPeerTimeout, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newPipes(1)
				n, host := startForFake(t, c, nil)
				p := c.knock(t, n)
				p.introduce(t, host)
				if err := n.Connection(host).WaitForConnect(t.Context()); err != nil {
					t.Fatal(err)
				}
				over := make(chan struct{})
				defer close(over)
				go func() {
					for {
						if _, err := p.frames.Next(); err != nil {
							break
						}
					}
					answered := make(<-chan time.Time)
					if test.answers > 0 {
						answered = time.After(test.answers)
					}
					ping := time.NewTicker(5 * time.Second)
					defer ping.Stop()
					for {
						select {
						case <-answered:
							p.socket.Write(wsframe.AppendClose(nil, ws.StatusGoingAway, "", true, newMask()))
							return
						case <-ping.C:
							writeHandshake(p.socket, message{Op: OpPing}, true)
						case <-over:
							return
						}
					}
				}()
				ctx := t.Context()
				if test.context > 0 {
					var cancel func()
					ctx, cancel = context.WithTimeoutCause(ctx, test.context, hurry)
					defer cancel()
				}
				start := time.Now()
				err := n.Shutdown(ctx)
				if took := time.Since(start); took != test.took || err != test.err {
					t.Errorf("got %v after %v, want %v after %v", err, took, test.err, test.took)
				}
			})
		})
	}
}
