package hostile

import (
	"context"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/wsframe"
)

// A peer that passed the handshake may send any messages in any order: nothing
// panics, and nothing of it is left when it is gone.
func TestAPeerMaySendAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for range 60 / sessions {
		sendAnything(t, random)
	}
}

// sessions is how often a peer may come in a row: a node holds one back that comes again more
// often.
const sessions = 5

// sendAnything is a peer that comes some times and sends one node what it likes.
func sendAnything(t *testing.T, random *rand.Rand) {
	n := start(t, nil)
	handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return payload, nil })
	handleStream(t, n, stream, 2, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
		if len(payload)%2 == 0 {
			return echoBack(ctx, payload, in, out)
		}
		return nil
	})
	handleStream(t, n, 125, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
		for ctx.Err() == nil {
			select {
			case out <- make([]byte, 8):
			case <-ctx.Done():
			}
		}
		return nil
	})
	conn := n.conn()
	for round := range sessions {
		p := n.knock(t)
		p.Greet(t, testkit.Hello{Host: n.peer, Features: []uint32{0, newest}[round%2]})
		read := make(chan struct{})
		go func() {
			defer close(read)
			io.Copy(io.Discard, p.In)
		}()
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		calls := make(chan struct{}, 3)
		for range cap(calls) {
			go func() {
				defer func() { calls <- struct{}{} }()
				conn.Request(ctx, single, nil)
				if st, err := conn.NewStream(ctx, stream, nil); err == nil {
					go func() { st.Send(nil) }()
					st.Results(func([]byte) error { return nil })
				}
			}()
		}
		var parts partly
		for range 300 {
			if !sendRandom(p, random) || round%2 == 1 && !parts.send(p, random) {
				break
			}
		}
		p.Conn.Close()
		<-read
		for range cap(calls) {
			<-calls
		}
		cancel()
	}
	n.waitIdle(t)
	n.Close()
	testkit.WaitGoroutines(t, 0)
}

// A peer that opens calls and gives them up at once makes no more handlers run than it may, also
// where they take their time to end, and leaves nothing behind (the rapid reset of HTTP/2).
func TestCallsThatAreResetAtOnceAreLimited(t *testing.T) {
	const most, rounds = 20, 3000
	for _, test := range []struct {
		name  string
		open  testkit.Message
		stuck bool
	}{
		{"streams whose handlers end", testkit.Message{Op: testkit.OpConnectMux, Handler: uint8(stream)}, false},
		{"streams whose handlers do not", testkit.Message{Op: testkit.OpConnectMux, Handler: uint8(stream)}, true},
		{"requests whose handlers end", testkit.Message{Op: testkit.OpRequest, Handler: uint8(single)}, false},
		{"requests whose handlers do not", testkit.Message{Op: testkit.OpRequest, Handler: uint8(single)}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := start(t, func(o *grid.ManagerOptions) { o.Limits.MaxStreams, o.Limits.MaxRequests = most, most })
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
			handle(t, n, func(ctx context.Context, _ []byte) ([]byte, error) { serve(ctx); return nil, nil })
			handleStream(t, n, stream, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *grid.RemoteErr {
				serve(ctx)
				return nil
			})
			p := n.join(t)
			go io.Copy(io.Discard, p.In)
			for id := uint64(1); id <= rounds; id++ {
				m := test.open
				m.MuxID = id
				p.MustSend(t, checked(m))
				p.MustSend(t, checked(testkit.Message{MuxID: id, Op: testkit.OpDisconnectServerMux}))
			}
			testkit.Within(t, "the peer being heard", func() {
				conn := n.conn()
				testkit.Eventually(t, "the last call", func() bool {
					refused := conn.Stats().Refused
					return served.Load()+running.Load()+refused.MaxStreams+refused.MaxRequests == rounds
				})
				if test.stuck && running.Load() != most {
					t.Errorf("%d handlers run, want %d", running.Load(), most)
				}
			})
			close(gate)
			testkit.Eventually(t, "the end of all handlers", func() bool { return running.Load() == 0 })
			if peak.Load() > most {
				t.Errorf("%d handlers ran at once, at most %d may", peak.Load(), most)
			}
			if got := n.conn().State(); got != grid.StateConnected {
				t.Errorf("the connection is %v", got)
			}
			n.waitIdle(t)
		})
	}
}

// What a peer asks for and does not read is bounded: pings of WebSocket, of the grid, and of
// streams.
func TestPingsThatAreNotReadAreBounded(t *testing.T) {
	const most, rounds = 64 << 10, 200_000 // more than the kernel has room for
	for name, m := range map[string]testkit.Message{
		"pings of the grid":            {Op: testkit.OpPing},
		"pings of unknown streams":     {Op: testkit.OpPing, MuxID: 1 << 20},
		"messages of unknown streams":  {Op: testkit.OpMuxClientMsg, MuxID: 1 << 20},
		"requests to unknown handlers": {Op: testkit.OpRequest, MuxID: 1, Handler: 125},
		"headers of unknown streams":   header(1<<20, 1, anna),
		"ends of unknown streams":      ended(1<<20, 1),
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, func(o *grid.ManagerOptions) {
				o.Limits.MaxQueuedControlBytes, o.Limits.MaxQueuedBytes, o.Limits.WriteTimeout = most, most, 300*time.Millisecond
			})
			asks := uint32(0)
			if m.Op >= testkit.OpMuxServerEnd {
				asks = newest
			}
			p := n.joinAs(t, asks)
			one, ping := frameOf(checked(m)), wsframe.AppendControl(nil, ws.OpPing, []byte("ping"), true, [4]byte{1, 2, 3, 4})
			var flood []byte
			for range 1000 {
				flood = append(append(flood, one...), ping...)
			}
			bounded := func() {
				if queued := door.Look(n.conn()).Queued; queued > 4*most {
					t.Fatalf("%d bytes wait for a peer that does not read", queued)
				}
			}
			for range rounds / 1000 {
				if _, err := p.Conn.Write(flood); err != nil {
					break // dropped, which is fine
				}
				bounded()
			}
			bounded()
			p.Conn.Close()
			testkit.Eventually(t, "the end of the session", func() bool { return door.Look(n.conn()).Sessions == 0 })
		})
	}
}

// sendRandom sends one message that is well formed and makes no sense, or sometimes garbage.
func sendRandom(p *testkit.Peer, r *rand.Rand) bool {
	ids := []uint64{0, 1, 2, 3, 1<<31 + 1, 1<<31 + 2, 1<<31 + 3, 1 << 63}
	handlers := []grid.HandlerID{0, single, stream, 125, 1}
	m := testkit.Message{
		MuxID:      ids[r.IntN(len(ids))],
		Seq:        uint32(r.IntN(5)),
		DeadlineMS: uint32(r.IntN(3)) * 500,
		Handler:    uint8(handlers[r.IntN(len(handlers))]),
		Op:         uint8(r.IntN(testkit.OpMuxServerHeader + 2)),
		Flags:      uint8(r.IntN(64)) | testkit.FlagChecksum,
	}
	if m.MuxID == 0 && r.IntN(30) > 0 { // most of these end the connection
		m.MuxID = 1
	}
	if m.Op >= testkit.OpMerged && m.Op < testkit.OpMuxServerEnd && r.IntN(40) > 0 {
		m.Op = testkit.OpConnectMux
	}
	if r.IntN(2) == 0 {
		m.Payload = make([]byte, r.IntN(20))
	}
	if r.IntN(10) == 0 {
		m.Subroute = testkit.Subroute(m.Handler, "x")
	}
	if r.IntN(4) == 0 {
		m.Metadata = []byte("\x81\xa4user\xc4\x04anna")
		m.Metadata = m.Metadata[:len(m.Metadata)-r.IntN(100)/99]
	}
	b := m.Bytes()
	if r.IntN(300) == 0 {
		b = b[:r.IntN(len(b))]
	}
	return p.Send(b) == nil
}

// features are those of a node of this project.
const features = 1 | 2 | 4 | 16 | 32 | testkit.FeatureFacts

func handle(t *testing.T, n *node, h grid.SingleHandlerContextFn) {
	t.Helper()
	if err := n.RegisterSingleHandlerContext(single, h); err != nil {
		t.Fatal(err)
	}
}

// handleStream registers a handler whose queues have room for window messages each.
func handleStream(t *testing.T, n *node, id grid.HandlerID, window int, h grid.StreamHandlerFn) {
	t.Helper()
	if err := n.RegisterStreamingHandler(id, grid.StreamHandler{Handle: h, InCapacity: window, OutCapacity: window}); err != nil {
		t.Fatal(err)
	}
}

// echoBack sends back what it receives.
func echoBack(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
	for b := range in {
		select {
		case out <- b:
		case <-ctx.Done():
			return grid.NewRemoteErr(context.Cause(ctx))
		}
	}
	return nil
}
