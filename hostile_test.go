package grid

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
)

// A peer that passed the handshake may send any messages in any order: nothing
// panics, and nothing of it is left when it is gone.
func TestAPeerMaySendAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for range 60 / shortSessions { // a node holds back a peer that comes again more often
		sendAnything(t, random)
	}
}

// sendAnything is a peer that comes some times and sends one node what it likes.
func sendAnything(t *testing.T, random *rand.Rand) {
	c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
	n, host := startForFake(t, c, nil)
	c.handle(t, echo)
	c.stream(t, 2, 2, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		if len(payload)%2 == 0 {
			return echoBack(ctx, payload, in, out)
		}
		return nil
	})
	n.RegisterStreamingHandler(125, StreamHandler{Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		for ctx.Err() == nil {
			select {
			case out <- number(1):
			case <-ctx.Done():
			}
		}
		return nil
	}})
	conn := n.Connection(host)
	for round := range shortSessions {
		p := c.knock(t, n)
		p.introduceAs(t, host, []uint32{0, nativeFeatures}[round%2])
		read := make(chan struct{})
		go func() {
			defer close(read)
			for {
				if _, err := p.frames.Next(); err != nil {
					return
				}
			}
		}()
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		calls := make(chan struct{}, 3)
		for range cap(calls) {
			go func() {
				defer func() { calls <- struct{}{} }()
				conn.Request(ctx, testSingle, nil)
				if st, err := conn.NewStream(ctx, testStream, nil); err == nil {
					go func() { st.Send(nil) }()
					st.Results(func([]byte) error { return nil })
				}
			}()
		}
		for range 300 {
			if !p.sendRandom(random) {
				break
			}
		}
		p.socket.Close()
		<-read
		for range cap(calls) {
			<-calls
		}
		cancel()
	}
	c.waitIdle(t)
	n.Close()
	waitGoroutines(t, 0)
}

// A peer that opens calls and gives them up at once makes no more handlers run than it may, also where they take
// their time to end, and leaves nothing behind (the rapid reset of HTTP/2).
func TestCallsThatAreResetAtOnceAreLimited(t *testing.T) {
	const most, rounds = 20, 3000
	for _, test := range []struct {
		name  string
		open  message
		stuck bool
	}{
		{"streams whose handlers end", message{Op: OpConnectMux, Handler: testStream}, false},
		{"streams whose handlers do not", message{Op: OpConnectMux, Handler: testStream}, true},
		{"requests whose handlers end", message{Op: OpRequest, Handler: testSingle}, false},
		{"requests whose handlers do not", message{Op: OpRequest, Handler: testSingle}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, func(o *ManagerOptions) { o.Limits.MaxStreams, o.Limits.MaxRequests = most, most })
			var running, peak, served atomic.Int64
			gate := make(chan struct{})
			serve := func(ctx context.Context) {
				now := running.Add(1)
				for was := peak.Load(); now > was && !peak.CompareAndSwap(was, now); was = peak.Load() {
				}
				if test.stuck {
					<-gate
				} else {
					<-ctx.Done()
				}
				running.Add(-1)
				served.Add(1)
			}
			c.handle(t, func(ctx context.Context, _ []byte) ([]byte, *RemoteErr) { serve(ctx); return nil, nil })
			c.stream(t, 1, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
				serve(ctx)
				return nil
			})
			p := c.knock(t, n)
			p.introduce(t, host)
			go readToEnd(p)
			for id := uint64(1); id <= rounds; id++ {
				m := test.open
				m.MuxID = id
				p.send(t, m)
				p.send(t, message{MuxID: id, Op: OpDisconnectServerMux})
			}
			within(t, "the peer being heard", func() {
				conn := n.Connection(host)
				eventually(t, "the last call", func() bool {
					refused := conn.Stats().Refused
					return served.Load()+running.Load()+refused.MaxStreams+refused.MaxRequests == rounds
				})
				if test.stuck && running.Load() != most {
					t.Errorf("%d handlers run, want %d", running.Load(), most)
				}
			})
			close(gate)
			eventually(t, "the end of all handlers", func() bool { return running.Load() == 0 })
			if peak.Load() > most {
				t.Errorf("%d handlers ran at once, at most %d may", peak.Load(), most)
			}
			if got := n.Connection(host).State(); got != StateConnected {
				t.Errorf("the connection is %v", got)
			}
			c.waitIdle(t)
		})
	}
}

// What a peer asks for and does not read is bounded: pings of WebSocket, of the grid, and of streams.
func TestPingsThatAreNotReadAreBounded(t *testing.T) {
	const most, rounds = 64 << 10, 200_000 // more than the kernel has room for
	for name, m := range map[string]message{
		"pings of the grid":            {Op: OpPing},
		"pings of unknown streams":     {Op: OpPing, MuxID: 1 << 20},
		"messages of unknown streams":  {Op: OpMuxClientMsg, MuxID: 1 << 20},
		"requests to unknown handlers": {Op: OpRequest, MuxID: 1, Handler: 125},
	} {
		t.Run(name, func(t *testing.T) {
			c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
			n, host := startForFake(t, c, func(o *ManagerOptions) {
				o.Limits.MaxQueuedControlBytes, o.Limits.MaxQueuedBytes, o.Limits.WriteTimeout = most, most, 300*time.Millisecond
			})
			p := c.knock(t, n)
			p.introduce(t, host)
			eventually(t, "the connection", func() bool { return n.Connection(host).State() == StateConnected })
			s := n.Connection(host).current.Load()
			one := m
			if one.MuxID != 0 {
				one.Flags |= FlagCRCxxh3
			}
			b := one.appendTo(nil)
			key := newMask()
			var flood []byte
			for range 1000 {
				head := make([]byte, wsframe.HeaderSize(len(b), true))
				wsframe.PutHeader(head, ws.OpBinary, len(b), true, key)
				flood = append(flood, head...)
				flood = append(flood, b...)
				wsframe.Mask(flood[len(flood)-len(b):], key)
				flood = wsframe.AppendControl(flood, ws.OpPing, []byte("ping"), true, key)
			}
			bounded := func() {
				if queued := s.batch.Queued(); queued > 4*most {
					t.Fatalf("%d bytes wait for a peer that does not read", queued)
				}
			}
			for range rounds / 1000 {
				if _, err := p.socket.Write(flood); err != nil {
					break // dropped, which is fine
				}
				bounded()
			}
			bounded()
			p.socket.Close()
			eventually(t, "the end of the session", func() bool { return n.Connection(host).current.Load() != s })
		})
	}
}

// sendRandom sends one message that is well formed and makes no sense, or sometimes garbage.
func (p *fakePeer) sendRandom(r *rand.Rand) bool {
	ids := []uint64{0, 1, 2, 3, 1<<31 + 1, 1<<31 + 2, 1<<31 + 3, 1 << 63}
	handlers := []HandlerID{0, testSingle, testStream, 125, 1}
	m := message{
		MuxID:      ids[r.IntN(len(ids))],
		Seq:        uint32(r.IntN(5)),
		DeadlineMS: uint32(r.IntN(3)) * 500,
		Handler:    handlers[r.IntN(len(handlers))],
		Op:         Op(r.IntN(int(OpMerged) + 2)),
		Flags:      Flags(r.IntN(64)) | FlagCRCxxh3,
	}
	if m.MuxID == 0 && r.IntN(30) > 0 { // most of these end the connection
		m.MuxID = 1
	}
	if m.Op == OpMerged && r.IntN(20) > 0 {
		m.Op = OpConnectMux
	}
	if r.IntN(2) == 0 {
		m.Payload = make([]byte, r.IntN(20))
	}
	if r.IntN(10) == 0 {
		route := makeRouteID(m.Handler, "x")
		m.subroute = &route
	}
	if r.IntN(4) == 0 {
		m.metadata, _ = Metadata{"user": "anna"}.encode()
		m.metadata = m.metadata[:len(m.metadata)-r.IntN(100)/99]
	}
	b := m.appendTo(nil)
	if r.IntN(300) == 0 {
		b = b[:r.IntN(len(b))]
	}
	key := newMask()
	head := make([]byte, wsframe.HeaderSize(len(b), true))
	wsframe.PutHeader(head, ws.OpBinary, len(b), true, key)
	wsframe.Mask(b, key)
	_, err := p.socket.Write(append(head, b...))
	return err == nil
}
