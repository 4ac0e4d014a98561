package grid

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// startSlow starts a node with a fake peer that reads all it is sent, and is accepted.
func startSlow(t *testing.T) (*testNode, *Connection, *fakePeer) {
	t.Helper()
	c := newPipes(1)
	n, host := startForFake(t, c, nil)
	c.handle(t, func(_ context.Context, payload []byte) ([]byte, error) { return payload[:1], nil })
	c.stream(t, 1, 1, echoBack)
	p := c.knock(t, n)
	p.introduce(t, host)
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, conn, p
}

// frameOf is a message in a masked frame.
func frameOf(m message) []byte {
	size := m.size()
	head := wsframe.HeaderSize(size, true)
	b := make([]byte, head, head+size)
	wsframe.PutHeader(b, ws.OpBinary, size, true, [4]byte{})
	return m.appendTo(b)
}

// trickle writes b in pieces of n bytes, one each pause. It returns false where the node hangs up.
func (p *fakePeer) trickle(b []byte, n int, pause time.Duration) bool {
	for len(b) > 0 {
		n := min(n, len(b))
		if _, err := p.socket.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
		time.Sleep(pause)
	}
	return true
}

// pingEvery has the peer ask for a pong now and then, until stop is called.
func (p *fakePeer) pingEvery(pause time.Duration) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for writeHandshake(p.socket, message{Op: OpPing}, true) == nil {
			select {
			case <-tick.C:
			case <-stopped:
				return
			}
		}
	}()
	return func() {
		close(stopped)
		p.socket.Close()
		<-ended
	}
}

func TestALargeMessageMayTakeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, conn, p := startSlow(t)
		go readToEnd(p)
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.send(t, message{MuxID: st.mux.id, Op: OpAckMux})
		p.send(t, message{MuxID: 2, Handler: testStream, Op: OpConnectMux})
		b := frameOf(message{MuxID: 4, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: make([]byte, 8<<20)})
		start := time.Now()
		if !p.trickle(b, 40<<10, time.Second) {
			t.Fatalf("lost after %v: %s", time.Since(start), n.log)
		}
		if took := time.Since(start); took < 3*time.Minute {
			t.Fatalf("it took %v only", took)
		}
		// Neither the streams from here nor those from there have noticed anything.
		p.send(t, message{MuxID: st.mux.id, Seq: 1, Op: OpMuxServerMsg, Flags: FlagEOF})
		if err := st.Results(func([]byte) error { return nil }); err != nil {
			t.Errorf("a stream got %v", err)
		}
		synctest.Wait()
		if got := conn.Stats().IncomingStreams; got != 1 {
			t.Errorf("%d incoming streams are left", got)
		}
	})
}

func TestALargeMessageMayBeReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, conn, p := startSlow(t)
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		if m := p.next(t); m.Op != OpConnectMux {
			t.Fatalf("got %v", m.Op)
		}
		go conn.Request(t.Context(), testSingle, make([]byte, 48<<20))
		defer p.pingEvery(defaultPingInterval)()
		start := time.Now()
		buf := make([]byte, 1<<20)
		for range 45 {
			if _, err := p.socket.Read(buf); err != nil {
				t.Fatalf("lost after %v: %s", time.Since(start), n.log)
			}
			time.Sleep(2 * time.Second)
		}
		select {
		case <-st.mux.done:
			t.Errorf("a stream ended with %v after %v", st.mux.err, time.Since(start))
		default:
		}
	})
}

func TestAMessageThatTricklesInIsNotHeldForever(t *testing.T) {
	whole := frameOf(message{MuxID: 4, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: make([]byte, 1<<20)})
	fragment := bytes.Clone(whole)
	fragment[0] &^= 0x80 // FIN
	empty := []byte{0, 0x80, 0, 0, 0, 0}
	ping := wsframe.AppendControl(nil, ws.OpPing, []byte("alive"), true, newMask())
	for _, test := range []struct {
		name  string
		first []byte
		then  func(p *fakePeer) bool
		lost  bool
	}{
		{"nothing more", whole[:100], func(*fakePeer) bool { time.Sleep(time.Second); return true }, true},
		{"half a header", whole[:1], func(*fakePeer) bool { time.Sleep(time.Second); return true }, true},
		{"a byte a second", whole[:100], func(p *fakePeer) bool { return p.trickle([]byte{0}, 1, time.Second) }, true},
		{"less than must come", whole[:100], func(p *fakePeer) bool {
			return p.trickle(make([]byte, minProgress/10), 4096, 0) && sleep(defaultPeerTimeout/8)
		}, true},
		{"as much as must come", whole[:100], func(p *fakePeer) bool {
			return p.trickle(make([]byte, minProgress/7+1), 4096, 0) && sleep(defaultPeerTimeout/8)
		}, false},
		{"empty fragments", fragment, func(p *fakePeer) bool { return p.trickle(empty, 10, time.Second) }, true},
		{"pings between fragments", fragment, func(p *fakePeer) bool { return p.trickle(ping, 100, time.Second) }, true},
		{"pings", nil, func(p *fakePeer) bool { return p.trickle(ping, 100, time.Second) }, false},
		{"pings byte by byte", nil, func(p *fakePeer) bool { return p.trickle(ping, 1, time.Second) }, false},
		{"text messages", nil, func(p *fakePeer) bool { return p.trickle([]byte{0x81, 0x80, 0, 0, 0, 0}, 100, time.Second) }, false},
		{"messages and no pong", nil, func(p *fakePeer) bool { return p.trickle(frameOf(message{Op: OpPing}), 100, time.Second) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, conn, p := startSlow(t)
				go readToEnd(p)
				if len(test.first) > 0 && !p.trickle(test.first, len(test.first), 0) {
					t.Fatal("hung up at once")
				}
				start := time.Now()
				for time.Since(start) < time.Minute && test.then(p) && conn.State() == StateConnected {
				}
				took := time.Since(start)
				synctest.Wait()
				if lost := conn.State() != StateConnected; lost != test.lost {
					t.Errorf("lost: %v, after %v: %s", lost, took, n.log)
				}
				if test.lost && (took < defaultPeerTimeout-maxTick || took > defaultPeerTimeout || n.log.count(errPeerSilent.Error()) != 1) {
					t.Errorf("lost after %v: %s", took, n.log)
				}
			})
		})
	}
}

// PeerTimeout is the most that a dead peer goes unnoticed, whenever in a round of the janitor its
// last sign of life was.
func TestADeadPeerIsNoticedInTime(t *testing.T) {
	for _, limits := range []Limits{{}, {PingInterval: time.Second}, {PingInterval: time.Second, PeerTimeout: 4 * time.Second}, {PeerTimeout: time.Minute}} {
		want := limits.withDefaults().PeerTimeout
		for last := time.Duration(0); last < want/4; last += want/40 + time.Millisecond {
			t.Run(want.String()+" after "+last.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newPipes(1)
					n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits = limits })
					p := c.knock(t, n)
					p.introduce(t, host)
					conn := n.Connection(host)
					if err := conn.WaitForConnect(t.Context()); err != nil {
						t.Fatal(err)
					}
					go readToEnd(p)
					time.Sleep(last)
					p.send(t, message{Op: OpPing})
					died := time.Now()
					for conn.State() == StateConnected {
						time.Sleep(10 * time.Millisecond)
					}
					if took := time.Since(died); took < want*7/8 || took > want {
						t.Errorf("noticed after %v, want %v to %v", took, want*7/8, want)
					}
				})
			})
		}
	}
}

func sleep(d time.Duration) bool {
	time.Sleep(d)
	return true
}

// A silent stream on a live connection is still given up.
func TestASilentStreamOnALiveConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn, p := startSlow(t)
		go readToEnd(p)
		defer p.pingEvery(100 * time.Millisecond)()
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.send(t, message{MuxID: 2, Handler: testStream, Op: OpConnectMux})
		start := time.Now()
		if err := st.Results(func([]byte) error { return nil }); !errors.Is(err, ErrDisconnected) {
			t.Errorf("the stream ended with %v", err)
		}
		if took := time.Since(start); took < muxPeerTimeout || took > muxPeerTimeout+2*maxTick {
			t.Errorf("the stream ended after %v", took)
		}
		for conn.Stats().IncomingStreams > 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took < muxCallerTimeout || took > muxCallerTimeout+2*maxTick {
			t.Errorf("the peer's stream ended after %v", took)
		}
	})
}

// A caller of an early original does not ping a stream that it sends on.
func TestAnyMessageOfAStreamIsASignOfLifeOfItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newPipes(1)
		n, host := startForFake(t, c, nil)
		ended := make(chan time.Duration, 1)
		began := time.Now()
		c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
			for range in {
			}
			ended <- time.Since(began)
			return nil
		})
		p := c.knock(t, n)
		p.introduce(t, host)
		go p.each(t, func(m message) {
			if m.Op == OpPing && m.MuxID == 0 {
				writeHandshake(p.socket, message{Op: OpPong, Payload: encoded(t, &pongMsg{})}, true) // may be at its end
			}
		})
		p.send(t, message{MuxID: 1, Op: OpConnectMux, Handler: testStream})
		for i := range 5 {
			time.Sleep(50 * time.Second)
			p.send(t, message{MuxID: 1, Seq: uint32(i + 1), Op: OpMuxClientMsg})
		}
		if lasted := <-ended; lasted < 310*time.Second || lasted > 320*time.Second {
			t.Errorf("the stream lasted %v", lasted)
		}
		p.socket.Close()
		n.Close()
		synctest.Wait()
	})
}

// What this node has not got round to is no silence of the peer's, and yet a dead peer is noticed
// in a bounded number of looks.
func TestTheNodesOwnLatenessIsNoSilence(t *testing.T) {
	const tick = time.Second
	for _, test := range []struct {
		name        string
		pause, late time.Duration
		want        time.Duration // the silence after ten looks
	}{
		{"on time", tick, 0, 10 * tick},
		{"a little late", 2 * tick, 0, 20 * tick},
		{"standing still", time.Minute, 0, 20 * tick},
		{"waiting for turns", tick, 2 * time.Second, 6 * tick},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := wsframe.NewReader(strings.NewReader(""), nil, wsframe.Config{MaxMessage: 1})
				out := batch.New(nil, batch.Config{})
				var p liveness
				p.start(time.Now(), in)
				var l look
				for range 10 {
					time.Sleep(test.pause)
					l = p.check(test.late, tick, in, out)
				}
				if l.silent != test.want {
					t.Errorf("silent for %v, want %v", l.silent, test.want)
				}
			})
		})
	}
}

// The same for the streams of a session.
func TestStreamsOutliveTheNodesOwnLateness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conn, p := startSlow(t)
		go readToEnd(p)
		defer p.pingEvery(100 * time.Millisecond)()
		st, err := conn.NewStream(t.Context(), testStream, nil)
		if err != nil {
			t.Fatal(err)
		}
		p.send(t, message{MuxID: 2, Handler: testStream, Op: OpConnectMux})
		synctest.Wait()
		s := conn.current.Load()
		served, _ := s.muxes.servers.get(2)
		ended := func() bool {
			select {
			case <-st.mux.done:
				return true
			default:
				return served.ctx.Err() != nil
			}
		}
		const pause = 2 * muxCallerTimeout
		now := time.Now().Add(pause)
		for _, l := range []look{{now: now, missed: pause}, {now: now, late: pause}} {
			st.mux.checkAlive(&l)
			served.checkAlive(&l)
			if ended() {
				t.Errorf("a stream ended by %+v", l)
			}
		}
		now = now.Add(pause)
		st.mux.checkAlive(&look{now: now})
		served.checkAlive(&look{now: now})
		synctest.Wait()
		if !ended() || served.ctx.Err() == nil {
			t.Error("streams of a silent peer go on")
		}
	})
}
