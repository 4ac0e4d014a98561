package grid

import (
	"context"
	"math/rand/v2"
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
	c := &cluster{nodes: []*node{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
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
		m.rest, _ = Metadata{"user": "anna"}.encode()
		m.rest = m.rest[:len(m.rest)-r.IntN(100)/99]
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
