package grid

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/race"
	"github.com/gridmesh/grid/internal/wsframe"
)

// pattern returns n bytes that are different at each place of a piece, and for each seed.
func pattern(seed, n int) []byte {
	b := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(seed+1)*0x9e3779b97f4a7c15^uint64(i)*0xbf58476d1ce4e5b9)
	}
	return b[:n:n]
}

func sum(b []byte) string { return fmt.Sprintf("%d bytes %x", len(b), checksumOf(b)) }

func checksumOf(b []byte) []byte { return appendChecksum(slices.Clip(b), 0)[len(b):] }

// Requests, answers, openings and messages of streams of any size arrive as they were sent.
func TestLargeMessagesArriveUnharmed(t *testing.T) {
	const most = 20 << 20
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = most })
	echo := func(ctx context.Context, b []byte) ([]byte, error) {
		if md := MetadataFrom(ctx); len(md) > 0 && md.Get("sum") != sum(b) {
			return nil, NewRemoteErrf("got %s with the metadata %q", sum(b), md.Get("sum"))
		}
		return b, nil
	}
	c.handle(t, echo)
	c.handle(t, echo, "sub", "route")
	typed := NewSingleHandler[*Bytes, *Bytes](125, NewBytes, NewBytes)
	typedStream := NewStream[*Bytes, *Bytes, *Bytes](124, NewBytes, NewBytes, NewBytes)
	c.stream(t, 2, 2, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		if len(payload) > 0 {
			out <- payload
		}
		return echoBack(ctx, nil, in, out)
	})
	for _, n := range c.nodes {
		if err := typed.Register(n.Manager, func(b *Bytes) (*Bytes, *RemoteErr) { return b, nil }); err != nil {
			t.Fatal(err)
		}
		err := typedStream.Register(n.Manager, func(_ context.Context, _ *Bytes, in <-chan *Bytes, out chan<- *Bytes) *RemoteErr {
			for b := range in {
				out <- b
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	sizes := []int{
		pieceThreshold, pieceThreshold + 1, 33 << 10, 64 << 10, 252<<10 + 1, 1 << 20, 1<<20 + 1, 4<<20 - 5, 4<<20 + 1, 9_999_999,
		most - maxOverhead - 200,
	}
	if race.Enabled || testing.Short() {
		sizes = sizes[:7]
	}
	call := func(conn *Connection, seed, n int) error {
		b := pattern(seed, n)
		same := func(got []byte, err error) error {
			if err == nil && !bytes.Equal(got, b) {
				err = fmt.Errorf("%s came back as %s", sum(b), sum(got))
			}
			return err
		}
		ctx := WithMetadata(t.Context(), Metadata{"sum": {sum(b)}})
		if err := same(conn.Request(t.Context(), testSingle, b)); err != nil {
			return fmt.Errorf("a request: %w", err)
		}
		if err := same(conn.Request(ctx, testSingle, b)); err != nil {
			return fmt.Errorf("a request with metadata: %w", err)
		}
		if err := same(conn.Subroute("sub/route").Request(ctx, testSingle, b)); err != nil {
			return fmt.Errorf("a request on a subroute: %w", err)
		}
		answer, err := typed.Call(t.Context(), conn, NewBytesWith(b))
		if err != nil {
			return fmt.Errorf("a typed request: %w", err)
		}
		if err := same(*answer, nil); err != nil {
			return fmt.Errorf("a typed request: %w", err)
		}
		st, err := conn.NewStream(t.Context(), testStream, b)
		if err != nil {
			return fmt.Errorf("a stream: %w", err)
		}
		var sending sync.WaitGroup
		sending.Go(func() {
			for range 3 {
				st.Send(bytes.Clone(b))
			}
			st.CloseSend()
		})
		came := 0
		err = st.Results(func(got []byte) error { came++; return same(got, nil) })
		sending.Wait()
		if err != nil || came != 4 {
			return fmt.Errorf("a stream: %d messages, %w", came, err)
		}
		ts, err := typedStream.Call(t.Context(), conn, NewBytesWith(nil))
		if err != nil {
			return fmt.Errorf("a typed stream: %w", err)
		}
		sending.Go(func() {
			ts.Send(NewBytesWith(bytes.Clone(b)))
			ts.CloseSend()
		})
		err = ts.Results(func(got *Bytes) error { return same(*got, nil) })
		sending.Wait()
		if err != nil {
			return fmt.Errorf("a typed stream: %w", err)
		}
		return nil
	}
	for i, n := range sizes {
		var both sync.WaitGroup
		for from := range 2 {
			both.Go(func() {
				if err := call(c.conn(from, 1-from), 2*i+from, n); err != nil {
					t.Errorf("%d bytes from %d: %v", n, from, err)
				}
			})
		}
		both.Wait()
	}
	c.waitIdle(t)
	for from := range 2 {
		if s := c.conn(from, 1-from).Stats(); s.Connects != 1 {
			t.Errorf("connected %d times; the last error is %q", s.Connects, s.LastError)
		}
	}
}

// piecePeer is a fake peer that takes messages in pieces.
type piecePeer struct {
	*fakePeer
	n    *testNode
	conn *Connection
}

// startPieces starts a node with a peer that takes large messages in pieces, on pipes.
func startPieces(t *testing.T, edit func(o *ManagerOptions)) (*cluster, *piecePeer) {
	t.Helper()
	c := newPipes(1)
	n, host := startForFake(t, c, edit)
	p := c.knock(t, n)
	p.introduceAs(t, host, nativeFeatures&^featureFacts) // which would add messages about handlers
	conn := n.Connection(host)
	if err := conn.WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.frames.Next(); err != nil { // the session's first ping
		t.Fatal(err)
	}
	return c, &piecePeer{p, n, conn}
}

// cut sends the first bytes of m in pieces of so many bytes each.
func (p *piecePeer) cut(t *testing.T, m message, pieces ...int) {
	t.Helper()
	b := m.appendTo(nil)
	begin := uint32(len(b))
	for _, n := range pieces {
		p.send(t, message{MuxID: m.MuxID, Seq: uint32(len(b) - n), DeadlineMS: begin, Op: OpPiece, Payload: b[:n]})
		b, begin = b[n:], 0
	}
}

// rest sends what follows the first bytes of m.
func (p *piecePeer) rest(t *testing.T, m message, after int) {
	t.Helper()
	b := m.appendTo(nil)[after:]
	for len(b) > 0 {
		n := min(len(b), 100<<10)
		p.send(t, message{MuxID: m.MuxID, Seq: uint32(len(b) - n), Op: OpPiece, Payload: b[:n]})
		b = b[n:]
	}
}

// ack says that n bytes of pieces were read.
func (p *piecePeer) ack(t *testing.T, n int) {
	t.Helper()
	p.send(t, message{Seq: uint32(n), Op: OpAckPieces, Flags: FlagCRCxxh3})
}

// giveUp ends a message early.
func (p *piecePeer) giveUp(t *testing.T, id uint64) {
	t.Helper()
	p.send(t, message{MuxID: id, Op: OpPiece})
}

// reading reads in the background, acknowledges nothing, and answers pings of nobody. It returns what
// came so far, the acknowledgments left out. Call it when all goroutines wait.
func (p *piecePeer) reading(t *testing.T) func() []message {
	t.Helper()
	var mu sync.Mutex
	var came []message
	go p.each(t, func(m message) {
		if m.MuxID == 0 && (m.Op == OpPing || m.Op == OpAckPieces) {
			return
		}
		mu.Lock()
		came = append(came, m)
		mu.Unlock()
	})
	return func() []message {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		all := came
		came = nil
		return all
	}
}

// inPieces returns the bytes of pieces in what came, and how many messages were given up.
func inPieces(came []message) (bytes, abandoned int) {
	for _, m := range came {
		if m.Op == OpPiece {
			bytes += len(m.Payload)
			if len(m.Payload) == 0 {
				abandoned++
			}
		}
	}
	return bytes, abandoned
}

// only fails where something else came than pieces and the given operations.
func only(t *testing.T, came []message, ops ...Op) {
	t.Helper()
	for _, m := range came {
		found := m.Op == OpPiece
		for _, op := range ops {
			found = found || m.Op == op
		}
		if !found {
			t.Errorf("%v came", m.Op)
		}
	}
}

func (p *piecePeer) wantEmpty(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if held := p.conn.holds(); !held.Empty() {
		t.Errorf("still held: %+v", held)
	}
	if p.conn.State() != StateConnected {
		t.Errorf("the connection is %v: %s", p.conn.State(), p.conn.Stats().LastError)
	}
}

// A caller that gives up in the middle of a request has its buffer back at once. The peer is told
// that the rest does not come.
func TestACallerGivesUpInTheMiddleOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := startPieces(t, nil)
		came := p.reading(t)
		tired := errors.New("tired")
		for name, call := range map[string]func(ctx context.Context, b []byte) error{
			"a request": func(ctx context.Context, b []byte) error {
				_, err := p.conn.Request(ctx, testSingle, b)
				return err
			},
			"an opening": func(ctx context.Context, b []byte) error {
				_, err := p.conn.NewStream(ctx, testStream, b)
				return err
			},
		} {
			p.n.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack, OutCapacity: 1})
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			b := pattern(0, 1<<20)
			go func() { done <- call(ctx, b) }()
			got := came()
			only(t, got)
			n, abandoned := inPieces(got)
			if n != 64<<10 || abandoned != 0 {
				t.Errorf("%s: %d bytes came, %d given up", name, n, abandoned)
			}
			cancel(tired)
			if err := <-done; err != tired {
				t.Errorf("%s got %v", name, err)
			}
			clear(b) // which the race detector sees
			got = came()
			only(t, got)
			if n, abandoned := inPieces(got); n != 0 || abandoned != 1 {
				t.Errorf("%s: after the caller had given up, %d bytes came, %d given up", name, n, abandoned)
			}
			p.ack(t, 64<<10)
			p.wantEmpty(t)
		}
	})
}

// What a peer has begun and gives up is dropped: it counts until then, and not any longer.
func TestAPeerGivesUpInTheMiddleOfAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, nil)
		ran := false
		c.handle(t, func(context.Context, []byte) ([]byte, error) { ran = true; return nil, nil })
		c.stream(t, 1, 1, echoBack)
		came := p.reading(t)
		big := pattern(0, 300<<10)
		p.cut(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: big}, 1000, 100<<10, 1)
		p.cut(t, message{MuxID: 3, Handler: testStream, Op: OpConnectMux, Payload: big}, 50<<10)
		p.send(t, message{MuxID: 5, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux})
		p.cut(t, message{MuxID: 5, Seq: 1, Op: OpMuxClientMsg, Payload: big}, 50<<10)
		synctest.Wait()
		counts := footprint(len(big))
		if h := p.conn.holds(); h.QuotaRequests != 1 || h.QuotaRequestBytes != counts || h.QuotaStreams != 2 ||
			h.QuotaStreamBytes != 2*counts+messageFootprint || h.LargeIn < 3*len(big) || h.StreamsIn != 1 {
			t.Errorf("held in the middle: %+v", h)
		}
		for _, id := range []uint64{1, 3, 5} {
			p.giveUp(t, id)
		}
		synctest.Wait()
		if h := p.conn.holds(); h.QuotaRequests+h.QuotaRequestBytes+h.LargeIn != 0 || h.QuotaStreamBytes != messageFootprint {
			t.Errorf("held when all is given up: %+v", h)
		}
		// The stream goes on, as the message has taken its number.
		p.send(t, message{MuxID: 5, Seq: 2, Op: OpMuxClientMsg, Payload: []byte("soup")})
		echo := false
		for _, m := range came() {
			echo = echo || m.Op == OpMuxServerMsg && string(m.Payload) == "soup"
		}
		if !echo {
			t.Error("the stream has not gone on")
		}
		p.send(t, message{MuxID: 5, Op: OpDisconnectServerMux})
		p.wantEmpty(t)
		if ran {
			t.Error("a handler ran")
		}
	})
}

func TestACallerGivesUpInTheMiddleOfAnAnswer(t *testing.T) {
	t.Run("of this node", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, p := startPieces(t, nil)
			c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, 1<<20), nil })
			came := p.reading(t)
			p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
			if n, abandoned := inPieces(came()); n != 64<<10 || abandoned != 0 {
				t.Errorf("%d bytes came, %d given up", n, abandoned)
			}
			if h := p.conn.holds(); h.QuotaRequests != 1 || h.LargeOut == 0 {
				t.Errorf("held in the middle: %+v", h)
			}
			p.send(t, message{MuxID: 1, Op: OpDisconnectServerMux})
			got := came()
			only(t, got)
			if n, abandoned := inPieces(got); n != 0 || abandoned != 1 {
				t.Errorf("after the caller had given up, %d bytes came, %d given up", n, abandoned)
			}
			p.ack(t, 64<<10)
			p.wantEmpty(t)
		})
	})
	t.Run("of the peer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, p := startPieces(t, nil)
			came := p.reading(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := p.conn.Request(ctx, testSingle, nil)
				done <- err
			}()
			request := came()[0]
			answer := message{MuxID: request.MuxID, Op: OpResponse, Flags: FlagEOF, Payload: pattern(0, 300<<10)}
			p.cut(t, answer, 100<<10)
			synctest.Wait()
			cancel()
			if err := <-done; err != context.Canceled {
				t.Errorf("the caller got %v", err)
			}
			if got := came(); len(got) != 1 || got[0].Op != OpDisconnectServerMux {
				t.Errorf("the peer was told %v", got)
			}
			p.giveUp(t, request.MuxID)
			p.wantEmpty(t)
			p.cut(t, answer, 100<<10) // which nobody waits for anymore, and may crossed the cancellation
			p.rest(t, answer, 100<<10)
			p.wantEmpty(t)
		})
	})
}

// A message of a stream that ends is given up, whoever ends the stream.
func TestAStreamEndsInTheMiddleOfAMessage(t *testing.T) {
	const size = 1 << 20
	source := func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		out <- make([]byte, size)
		<-ctx.Done()
		return nil
	}
	for name, test := range map[string]func(t *testing.T, c *cluster, p *piecePeer, came func() []message) Op{
		"the peer's caller, while the handler sends": func(t *testing.T, c *cluster, p *piecePeer, came func() []message) Op {
			c.stream(t, 1, 1, source)
			p.send(t, message{MuxID: 1, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux})
			came()
			p.send(t, message{MuxID: 1, Op: OpDisconnectServerMux})
			return OpDisconnectClientMux
		},
		"the deadline, while the handler sends": func(t *testing.T, c *cluster, p *piecePeer, came func() []message) Op {
			c.stream(t, 1, 1, source)
			p.send(t, message{MuxID: 1, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux, DeadlineMS: 5000})
			came()
			time.Sleep(5 * time.Second)
			return OpPiece
		},
		"the caller, while it sends": func(t *testing.T, c *cluster, p *piecePeer, came func() []message) Op {
			c.stream(t, 1, 1, echoBack)
			ctx, cancel := context.WithCancel(t.Context())
			st, err := p.conn.NewStream(ctx, testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			id := came()[0].MuxID
			p.send(t, message{MuxID: id, DeadlineMS: 1, Op: OpAckMux})
			if err := st.Send(make([]byte, size)); err != nil {
				t.Error(err)
			}
			came()
			cancel()
			return OpDisconnectServerMux
		},
		"the peer's handler, while the caller sends": func(t *testing.T, c *cluster, p *piecePeer, came func() []message) Op {
			c.stream(t, 1, 1, echoBack)
			st, err := p.conn.NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			id := came()[0].MuxID
			p.send(t, message{MuxID: id, DeadlineMS: 1, Op: OpAckMux})
			if err := st.Send(make([]byte, size)); err != nil {
				t.Error(err)
			}
			came()
			p.send(t, message{MuxID: id, Seq: 1, Op: OpMuxServerMsg, Flags: FlagEOF})
			return OpPiece
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := startPieces(t, nil)
				came := p.reading(t)
				op := test(t, c, p, came)
				got := came()
				only(t, got, op)
				if n, abandoned := inPieces(got); n != 0 || abandoned != 1 {
					t.Errorf("at the end, %d bytes came, %d given up: %v", n, abandoned, got)
				}
				p.ack(t, 64<<10)
				p.wantEmpty(t)
			})
		})
	}
}

// Whatever is begun, in both directions, ends with the connection.
func TestTheConnectionIsLostInTheMiddleOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, nil)
		c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, 1<<20), nil })
		c.stream(t, 1, 1, echoBack)
		p.reading(t)
		big := make([]byte, 300<<10)
		p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
		p.send(t, message{MuxID: 3, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux})
		p.cut(t, message{MuxID: 3, Seq: 1, Op: OpMuxClientMsg, Payload: big}, 50<<10)
		p.cut(t, message{MuxID: 5, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: big}, 50<<10)
		p.cut(t, message{MuxID: 7, Handler: testStream, Op: OpConnectMux, Payload: big}, 50<<10)
		done := make(chan error, 2)
		go func() {
			_, err := p.conn.Request(t.Context(), testSingle, make([]byte, 1<<20))
			done <- err
		}()
		go func() {
			_, err := p.conn.NewStream(t.Context(), testStream, make([]byte, 1<<20))
			done <- err
		}()
		synctest.Wait()
		if h := p.conn.holds(); h.LargeIn == 0 || h.LargeOut == 0 || h.QuotaRequests != 2 || h.QuotaStreams != 2 {
			t.Errorf("held in the middle: %+v", h)
		}
		p.socket.Close()
		for range 2 {
			if err := <-done; !errors.Is(err, ErrDisconnected) {
				t.Errorf("a call got %v", err)
			}
		}
		synctest.Wait()
		if left := c.idle(); left != "" {
			t.Error(left)
		}
	})
}

// Answers and messages of streams that have begun finish in a shutdown, also in one that is in a
// hurry. Requests do not, and the peer learns of it. It is told behind all of that that the node
// leaves.
func TestAShutdownInTheMiddleOfMessages(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		t.Run(fmt.Sprint("in a hurry: ", hurry), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 400 << 10
				c, p := startPieces(t, nil)
				c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, size), nil })
				c.stream(t, 0, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
					out <- make([]byte, size)
					return nil
				})
				done := make(chan error, 1)
				go func() {
					_, err := p.conn.Request(t.Context(), testSingle, make([]byte, size))
					done <- err
				}()
				synctest.Wait() // its first piece is being written
				p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
				p.send(t, message{MuxID: 3, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux, Flags: FlagEOF})
				synctest.Wait()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if hurry {
					cancel()
				}
				left := make(chan error, 1)
				go func() { left <- p.n.Shutdown(ctx) }()
				synctest.Wait()
				bytes, ends := map[uint64]int{}, map[uint64]string{}
				var last Op
				p.each(t, func(m message) {
					last = m.Op
					switch {
					case m.Op != OpPiece:
					case len(m.Payload) == 0:
						ends[m.MuxID] = "given up"
					default:
						bytes[m.MuxID] += len(m.Payload)
						if m.Seq == 0 {
							ends[m.MuxID] = "whole"
						}
						p.ack(t, len(m.Payload))
						if ends[2] == "whole" && m.MuxID == 2 {
							p.send(t, message{MuxID: 2, Op: OpResponse, Flags: FlagEOF})
						}
					}
				})
				p.socket.Close()
				request, want := "whole", error(nil)
				if hurry {
					request, want = "given up", ErrDisconnected
				}
				if ends[1] != "whole" || ends[3] != "whole" || ends[2] != request {
					t.Errorf("the answer is %s, the message of the stream %s, the request %s: %v", ends[1], ends[3], ends[2], bytes)
				}
				if err := <-done; !errors.Is(err, want) {
					t.Errorf("the request got %v", err)
				}
				if last != OpDisconnect {
					t.Errorf("%v is the last message", last)
				}
				if err := <-left; (err != nil) != hurry {
					t.Errorf("Shutdown: %v", err)
				}
				synctest.Wait()
				if left := c.idle(); left != "" {
					t.Error(left)
				}
			})
		})
	}
}

// A message that is too much is refused with its first piece. What follows is left out.
func TestAFirstPieceIsRefused(t *testing.T) {
	const most = 1 << 20
	big := pattern(0, 600<<10) // counts as the largest
	request := func(id uint64, payload []byte) message {
		return message{MuxID: id, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: payload}
	}
	opening := func(id uint64, payload []byte) message {
		return message{MuxID: id, Handler: testStream, Op: OpConnectMux, Payload: payload}
	}
	for name, test := range map[string]struct {
		limits     Limits
		first, too message // the second is too much
		op         Op      // of what refuses it
	}{
		"MaxRequests":     {Limits{MaxRequests: 1}, request(1, big), request(3, big), OpMuxConnectError},
		"MaxRequestBytes": {Limits{MaxRequestBytes: most + 64}, request(1, big), request(3, big), OpMuxConnectError},
		"MaxStreams":      {Limits{MaxStreams: 1}, opening(1, big), opening(3, big), OpMuxConnectError},
		"MaxStreamBytes":  {Limits{MaxStreamBytes: most + 200}, opening(1, big), opening(3, big), OpMuxConnectError},
		"MaxStreamBytes, in a message": {
			Limits{MaxStreamBytes: most + 200}, opening(1, big), message{MuxID: 9, Seq: 1, Op: OpMuxClientMsg, Payload: big}, OpMuxServerMsg,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := startPieces(t, func(o *ManagerOptions) {
					o.Limits = test.limits
					o.Limits.MaxMessageSize = most
				})
				ran := 0
				c.handle(t, func(context.Context, []byte) ([]byte, error) { ran++; return nil, nil })
				c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
					for b := range in {
						t.Errorf("%d bytes arrived", len(b))
					}
					return nil
				})
				came := p.reading(t)
				if test.too.MuxID == 9 {
					p.send(t, message{MuxID: 9, Seq: minStreamWindow, Handler: testStream, Op: OpConnectMux})
				}
				p.cut(t, test.first, 1000)
				came()
				p.cut(t, test.too, 1000)
				got := came()
				if len(got) == 0 || got[0].Op != test.op || got[0].MuxID != test.too.MuxID || !bytes.Contains(got[0].Payload, []byte(ErrOverloaded)) {
					t.Fatalf("got %v", got)
				}
				before := memory()
				p.cut(t, message{MuxID: 11, Op: OpResponse, Payload: big[:500<<10]}, 1000) // nobody waits for it
				p.rest(t, test.too, 1000)
				if got := came(); len(got) > 0 {
					t.Errorf("at the end of what was refused, %v came", got)
				}
				if took := memory() - before; took > 300<<10 {
					t.Errorf("what is left out takes %d bytes", took)
				}
				p.giveUp(t, 11)
				p.giveUp(t, test.first.MuxID)
				p.wantEmpty(t)
				if ran > 0 {
					t.Error("a handler ran")
				}
				if test.op == OpMuxConnectError { // now there is room
					p.cut(t, test.too, 1000)
					p.rest(t, test.too, 1000)
					if got := came(); len(got) == 0 || got[0].Op == OpMuxConnectError {
						t.Errorf("when there is room, %v came", got)
					}
				}
			})
		})
	}
}

// The caller of a request that is refused does not send the rest of it.
func TestACallerStopsWhenItIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := startPieces(t, nil)
		came := p.reading(t)
		done := make(chan error, 1)
		go func() {
			_, err := p.conn.Request(t.Context(), testSingle, make([]byte, 1<<20))
			done <- err
		}()
		first := came()[0]
		payload, _ := (&muxConnectError{Error: string(ErrOverloaded)}).MarshalMsg(nil)
		p.send(t, message{MuxID: first.MuxID, Op: OpMuxConnectError, Flags: FlagEOF, Payload: payload})
		if err := <-done; !errors.Is(err, ErrOverloaded) {
			t.Errorf("the caller got %v", err)
		}
		got := came()
		only(t, got)
		if n, abandoned := inPieces(got); n != 0 || abandoned != 1 {
			t.Errorf("then %d bytes came, %d given up", n, abandoned)
		}
		p.ack(t, 64<<10)
		p.wantEmpty(t)
	})
}

func TestTheDeadlineCountsFromTheFirstPiece(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, nil)
		left := make(chan time.Duration, 2)
		tell := func(ctx context.Context) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
		}
		c.handle(t, func(ctx context.Context, _ []byte) ([]byte, error) { tell(ctx); return nil, nil })
		c.stream(t, 1, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
			tell(ctx)
			return nil
		})
		p.reading(t)
		for _, m := range []message{
			{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, DeadlineMS: 10_000, Payload: make([]byte, 100<<10)},
			{MuxID: 3, Handler: testStream, Op: OpConnectMux, DeadlineMS: 10_000, Payload: make([]byte, 100<<10)},
		} {
			p.cut(t, m, 1000)
			time.Sleep(4 * time.Second)
			p.rest(t, m, 1000)
			if d := <-left; d != 6*time.Second {
				t.Errorf("%v has %v left of 10s after 4s", m.Op, d)
			}
		}
	})
}

// A small call does not wait until a large one has passed a slow link, as it does towards a peer
// that takes no pieces.
func TestASmallCallPassesALargeOne(t *testing.T) {
	const size, rate = 16 << 20, 1 << 20 // bytes, and bytes a second
	wait := func(t *testing.T, features uint32) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			c := newPipes(1)
			n, host := startForFake(t, c, nil)
			p := &piecePeer{c.knock(t, n), n, n.Connection(host)}
			p.introduceAs(t, host, features)
			if err := p.conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := p.frames.Next(); err != nil { // the session's first ping
				t.Fatal(err)
			}
			p.frames = wsframe.NewReader(&rateLimited{p.socket, rate}, nil, wsframe.Config{Client: true})
			large := make(chan error, 1)
			go func() {
				_, err := p.conn.Request(t.Context(), testSingle, make([]byte, size))
				large <- err
			}()
			synctest.Wait() // it is being written
			small := make(chan time.Duration, 1)
			go func() {
				start := time.Now()
				if _, err := p.conn.Request(t.Context(), testSingle, []byte("small")); err != nil {
					t.Error(err)
				}
				small <- time.Since(start)
			}()
			go func() {
				reply := func(m message) {
					if m.MuxID != 0 {
						m.Flags |= FlagCRCxxh3
					}
					writeHandshake(p.socket, m, true) // until the end of the test
				}
				for {
					b, err := p.frames.Next()
					if err != nil {
						return
					}
					for _, m := range parseAll(t, b) {
						switch m.Op {
						case OpPing:
							pong, _ := (&pongMsg{}).MarshalMsg(nil)
							reply(message{Op: OpPong, Payload: pong})
						case OpPiece:
							reply(message{Seq: uint32(len(m.Payload)), Op: OpAckPieces, Flags: FlagCRCxxh3})
							if m.Seq == 0 {
								reply(message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF})
							}
						case OpRequest:
							reply(message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF})
						}
					}
				}
			}()
			took = <-small
			if err := <-large; err != nil {
				t.Errorf("the large one: %v", err)
			}
			if left := c.idle(); left != "" {
				t.Error(left)
			}
			p.socket.Close()
		})
		return took
	}
	with := wait(t, nativeFeatures)
	without := wait(t, nativeFeatures&^featurePieces)
	if with > 200*time.Millisecond || without < 10*time.Second {
		t.Errorf("a small call waits for %v, and for %v if large messages go as a whole", with, without)
	}
}

// No second buffer holds a large message while it is sent.
func TestALargeRequestTakesNoSecondBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := startPieces(t, nil)
		came := p.reading(t)
		b := make([]byte, 32<<20)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		before := memory()
		go func() {
			p.conn.Request(ctx, testSingle, b)
			close(done)
		}()
		if n, _ := inPieces(came()); n != 64<<10 {
			t.Errorf("%d bytes came", n)
		}
		if took := memory() - before; took > 2<<20 {
			t.Errorf("%d bytes for a request of %d", took, len(b))
		}
		cancel()
		<-done
	})
}

// Towards a peer that takes no pieces, nothing changes.
func TestNothingGoesInPiecesToOthers(t *testing.T) {
	for _, features := range []uint32{0, nativeFeatures &^ featurePieces} {
		synctest.Test(t, func(t *testing.T) {
			c := newPipes(1)
			n, host := startForFake(t, c, nil)
			c.handle(t, func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
			p := c.knock(t, n)
			p.introduceAs(t, host, features)
			conn := n.Connection(host)
			if err := conn.WaitForConnect(t.Context()); err != nil {
				t.Fatal(err)
			}
			payload := pattern(0, 200<<10)
			go conn.Request(t.Context(), testSingle, payload)
			next := func() (b []byte, m message) { // the next that is not the session's first ping
				for b == nil || m.Op == OpPing {
					var err error
					if b, err = p.frames.Next(); err != nil {
						t.Fatal(err)
					}
					m = parseAll(t, bytes.Clone(b))[0]
				}
				return b, m
			}
			b, m := next()
			want := message{MuxID: m.MuxID, DeadlineMS: 60_000, Handler: testSingle, Op: OpRequest, Flags: FlagEOF | FlagCRCxxh3, Payload: payload}
			if !bytes.Equal(b, want.appendTo(nil)) {
				t.Errorf("the request is %v with %d bytes", m.Op, len(m.Payload))
			}
			p.send(t, message{MuxID: m.MuxID, Op: OpResponse, Flags: FlagEOF})
			p.send(t, message{MuxID: 1, Seq: 5, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: payload})
			b, _ = next()
			want = message{MuxID: 1, Seq: 5, Op: OpResponse, Flags: FlagEOF | FlagCRCxxh3, Payload: payload}
			if !bytes.Equal(b, want.appendTo(nil)) {
				t.Errorf("the answer is %.50x", b)
			}
			go io.Copy(io.Discard, p.socket)
		})
	}
}

// The long error of a handler that returns while its messages wait for credit is not one of those
// that go in pieces.
func TestALongErrorOfAStreamArrives(t *testing.T) {
	c := startCluster(t, 2, nil)
	text := string(bytes.Repeat([]byte("x"), 100<<10))
	c.stream(t, 1, 1, func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		for range 2 { // one is more than the window, and the other waits
			select {
			case out <- make([]byte, 100<<10):
			case <-ctx.Done():
			}
		}
		return NewRemoteErrString(text)
	})
	st, err := c.conn(0, 1).NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the handler's return", func() bool { return st.Err() != nil })
	n := 0
	err = st.Results(func([]byte) error { n++; return nil })
	if n != 2 || err == nil || err.Error() != text {
		t.Errorf("%d messages, and an error of %d bytes", n, len(fmt.Sprint(err)))
	}
	c.waitIdle(t)
}

// A peer that takes pieces and does not say so would hold up whatever is large for ever.
func TestAPeerThatDoesNotAcknowledgeIsDropped(t *testing.T) {
	for name, test := range map[string]struct {
		unacked int
		lost    bool
	}{
		"nothing":    {-1, true},
		"too little": {16 << 10, true},
		"nearly all": {16<<10 - 1, false},
		"all":        {0, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, p := startPieces(t, nil)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() {
					_, err := p.conn.Request(ctx, testSingle, make([]byte, 60<<10))
					done <- err
				}()
				read, pings := 0, 0
				p.each(t, func(m message) {
					switch m.Op {
					case OpPiece:
						if read += len(m.Payload); m.Seq == 0 && test.unacked >= 0 {
							p.ack(t, read-test.unacked)
						}
					case OpPing:
						var ping pingMsg
						if _, err := ping.UnmarshalMsg(m.Payload); err != nil {
							t.Fatal(err)
						}
						pong, _ := (&pongMsg{T: ping.T}).MarshalMsg(nil)
						p.send(t, message{Op: OpPong, Payload: pong})
						if pings++; pings == 2 {
							p.socket.Close()
						}
					}
				})
				p.socket.Close()
				cancel()
				<-done
				synctest.Wait()
				if lost := p.n.log.count("before the pieces in front of it were acknowledged") > 0; lost != test.lost {
					t.Errorf("lost for that: %v\n%s", lost, p.n.log)
				}
				if left := c.idle(); left != "" {
					t.Error(left)
				}
			})
		})
	}
}

// Once a peer has said goodbye, or is refused, nobody reads its acknowledgments. What is queued
// for it is sent without them, and the session ends.
func TestALargeAnswerHoldsUpNoGoodbye(t *testing.T) {
	for name, last := range map[string][]byte{
		"a close frame":  wsframe.AppendClose(nil, ws.StatusGoingAway, "", true, newMask()),
		"a broken rule":  ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame([]byte("soup")))),
		"a broken frame": {0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 1 << 20
				c, p := startPieces(t, nil)
				c.handle(t, func(context.Context, []byte) ([]byte, error) { return make([]byte, size), nil })
				p.send(t, message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
				came, ended := 0, make(chan struct{})
				go func() {
					defer close(ended)
					p.each(t, func(m message) { came += len(m.Payload) })
					p.socket.Close()
				}()
				synctest.Wait() // the window is full
				start := time.Now()
				if _, err := p.socket.Write(last); err != nil {
					t.Fatal(err)
				}
				<-ended
				if took := time.Since(start); took > time.Second || came < size {
					t.Errorf("it took %v, and %d bytes came", took, came)
				}
				synctest.Wait()
				if h := p.conn.holds(); h.Sessions != 0 || !h.Empty() {
					t.Errorf("still held: %+v", h)
				}
			})
		})
	}
}

// What goes over the wire for a large message between nodes of this project, piece by piece:
// testdata/native/pieces.json.
func TestPiecesHaveTheirBytes(t *testing.T) {
	type vector struct {
		Name    string `json:"name"`
		Encoded string `json:"encoded_hex"`
	}
	var got []vector
	add := func(name string, b []byte) {
		var m message
		if err := m.parse(b); err != nil || !bytes.Equal(m.appendTo(nil), b) {
			t.Errorf("%s: read as %+v, %v", name, m, err)
		}
		got = append(got, vector{name, hex.EncodeToString(b)})
	}
	payload, route := bytes.Repeat([]byte("a"), pieceThreshold+1), makeRouteID(128, "sub/route")
	for _, v := range []struct {
		name     string
		checksum Flags
		message
	}{
		{"a request without checksums", 0, message{MuxID: 3, DeadlineMS: 60_000, Handler: 128, Op: OpRequest, Flags: FlagEOF}},
		{"a request with metadata on a subroute", FlagCRCxxh3, message{MuxID: 3, DeadlineMS: 60_000, Handler: 128, Op: OpRequest, Flags: FlagEOF, subroute: &route, metadata: fuzzMetadata}},
		{"an answer", FlagCRCxxh3, message{MuxID: 3, Seq: 7, Op: OpResponse, Flags: FlagEOF}},
		{"the 300th message of a stream", FlagCRCxxh3, message{MuxID: 5, Seq: 300, Op: OpMuxServerMsg}},
	} {
		v.Payload = payload
		b := berth{m: v.message, pieces: pieces{total: v.size(), checksum: v.checksum}}
		sizes := []int{40, 20, v.size() - 120, 60}
		for i, name := range []string{"the first piece", "the next", "", "the last"} {
			if piece := b.AppendPiece(nil, sizes[i]); name != "" {
				add(v.name+", "+name, piece)
			}
		}
		b = berth{m: v.message, pieces: pieces{total: v.size(), checksum: v.checksum}}
		add(v.name+", given up", b.AppendAbandoned(nil))
	}
	for name, checksum := range map[string]Flags{"20,000 bytes were read, without a checksum": 0, "20,000 bytes were read": FlagCRCxxh3} {
		s := sender{checksum: checksum}
		m := message{Seq: 20_000, Op: OpAckPieces}
		s.stamp(&m)
		add(name, m.appendTo(nil))
	}
	slices.SortFunc(got, func(a, b vector) int { return strings.Compare(a.Name, b.Name) })
	b, err := os.ReadFile("testdata/native/pieces.json")
	if err != nil {
		t.Fatal(err)
	}
	var want struct{ Pieces []vector }
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want.Pieces) {
		t.Errorf("got %v, want %v", got, want.Pieces)
	}
}

// A message takes its place in its stream with its first piece. One that is missing, or comes twice,
// ends the stream at once.
func TestTheNumberOfAMessageCountsWithItsFirstPiece(t *testing.T) {
	for _, wrong := range []uint32{1, 3} { // 2 is next
		synctest.Test(t, func(t *testing.T) {
			c, p := startPieces(t, nil)
			c.stream(t, 4, 4, func(_ context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
				for range in {
				}
				return nil
			})
			came := p.reading(t)
			big := make([]byte, 100<<10)
			p.send(t, message{MuxID: 1, Handler: testStream, Op: OpConnectMux})
			p.cut(t, message{MuxID: 1, Seq: 1, Op: OpMuxClientMsg, Payload: big}, 1000)
			p.rest(t, message{MuxID: 1, Seq: 1, Op: OpMuxClientMsg, Payload: big}, 1000)
			came()
			p.cut(t, message{MuxID: 1, Seq: wrong, Op: OpMuxClientMsg, Payload: big}, 1000)
			ended := false
			for _, m := range came() {
				ended = ended || m.Op == OpMuxServerMsg && m.Flags&FlagPayloadIsErr != 0
			}
			if !ended {
				t.Errorf("message %d in place of 2 was taken by the handler's side", wrong)
			}
			p.giveUp(t, 1)

			st, err := p.conn.NewStream(t.Context(), testStream, nil)
			if err != nil {
				t.Fatal(err)
			}
			id := came()[0].MuxID
			p.send(t, message{MuxID: id, DeadlineMS: 4, Op: OpAckMux})
			p.cut(t, message{MuxID: id, Seq: wrong - 1, Op: OpMuxServerMsg, Payload: big}, 1000) // 1 is next
			synctest.Wait()
			if err := st.Err(); !errors.Is(err, ErrIncorrectSequence) {
				t.Errorf("message %d in place of 1: the stream has %v", wrong-1, err)
			}
			p.giveUp(t, id)
			p.wantEmpty(t)
		})
	}
}

// Many large calls in both directions, of which many are given up at any moment: no node breaks a
// rule that the other one holds it to, and nothing is left.
func TestManyLargeCallsAreGivenUp(t *testing.T) {
	const most = 3 << 20
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) { o.Limits.MaxMessageSize = most })
	answer := pattern(1, most-maxOverhead)
	// The first bytes of a payload say how long the answer is to be.
	reply := func(b []byte) []byte { return append([]byte(nil), answer[:binary.LittleEndian.Uint32(b)]...) }
	c.handle(t, func(ctx context.Context, b []byte) ([]byte, error) { return reply(b), nil })
	c.stream(t, 2, 2, func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
		for b := range in {
			select {
			case out <- reply(b):
			case <-ctx.Done():
				return NewRemoteErr(context.Cause(ctx))
			}
		}
		return nil
	})
	var callers sync.WaitGroup
	for i := range 16 {
		conn := c.conn(i%2, 1-i%2)
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 7))
			size := func() int { return min(32<<10+r.IntN(1<<(10+r.IntN(12))), most-maxOverhead) }
			payload := make([]byte, most)
			for range 6 {
				want := size()
				b := payload[:size()]
				binary.LittleEndian.PutUint32(b, uint32(want))
				ctx, cancel := context.WithCancel(t.Context())
				timer := time.AfterFunc(time.Duration(r.IntN(30))*time.Millisecond, cancel)
				if r.IntN(3) == 0 {
					timer.Stop()
				}
				var err error
				var got []byte
				if r.IntN(2) == 0 {
					got, err = conn.Request(ctx, testSingle, b)
				} else {
					var st *Stream
					if st, err = conn.NewStream(ctx, testStream, b); err == nil {
						message := bytes.Clone(b)
						go func() {
							st.Send(message)
							st.CloseSend()
						}()
						err = st.Results(func(b []byte) error { got = b; return nil })
					}
				}
				switch {
				case err == nil && !bytes.Equal(got, answer[:want]):
					t.Errorf("got %s, want %s", sum(got), sum(answer[:want]))
				case err != nil && !errors.Is(err, context.Canceled):
					t.Error(err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	c.waitIdle(t)
	for from := range 2 {
		if s := c.conn(from, 1-from).Stats(); s.Connects != 1 {
			t.Errorf("connected %d times; the last error is %q", s.Connects, s.LastError)
		}
	}
}

// The first piece of a call shows if no handler is going to run for it. The caller is told at once.
func TestAFirstPieceShowsThatNoHandlerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := startPieces(t, nil)
		running := make(chan struct{})
		c.handle(t, func(context.Context, []byte) ([]byte, error) { <-running; return nil, nil })
		c.stream(t, 1, 1, echoBack)
		came := p.reading(t)
		big := make([]byte, 300<<10)
		refused := func(m message, text string) {
			t.Helper()
			m.Payload = big
			p.cut(t, m, 1000)
			got := came()
			if len(got) != 1 || got[0].MuxID != m.MuxID || !bytes.Contains(got[0].Payload, []byte(text)) {
				t.Errorf("%v of handler %d was answered by %v", m.Op, m.Handler, got)
			}
			if h := p.conn.holds(); h.QuotaRequestBytes > messageFootprint || h.QuotaStreams > 0 {
				t.Errorf("held for what was refused: %+v", h)
			}
			p.rest(t, m, 1000)
			if got := came(); len(got) > 0 {
				t.Errorf("at the end of what was refused, %v came", got)
			}
		}
		refused(message{MuxID: 1, Handler: 99, Op: OpRequest, Flags: FlagEOF}, unknownHandlerText)
		refused(message{MuxID: 3, Handler: 99, Op: OpConnectMux}, unknownHandlerText)
		p.send(t, message{MuxID: 5, Handler: testSingle, Op: OpRequest, Flags: FlagEOF})
		synctest.Wait()
		left := make(chan error, 1)
		go func() { left <- p.n.Shutdown(t.Context()) }()
		synctest.Wait()
		refused(message{MuxID: 7, Handler: testSingle, Op: OpRequest, Flags: FlagEOF}, string(ErrShutdown))
		refused(message{MuxID: 9, Handler: testStream, Op: OpConnectMux}, string(ErrShutdown))
		close(running)
		synctest.Wait()
		p.socket.Close()
		if err := <-left; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}
