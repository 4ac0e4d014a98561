package hostile

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/testkit"
)

// threshold is the largest payload that goes as a whole.
const threshold = 32 << 10

// piece is the part of a message from one place to another, as it goes over the wire.
func piece(m testkit.Message, from, to int) testkit.Message {
	b := m.Bytes()
	p := testkit.Message{MuxID: m.MuxID, Seq: uint32(len(b) - to), Op: testkit.OpPiece, Flags: testkit.FlagChecksum, Payload: b[from:to]}
	if from == 0 {
		p.DeadlineMS = uint32(len(b))
	}
	return p
}

// abandoned ends a message early.
func abandoned(id uint64) testkit.Message {
	return testkit.Message{MuxID: id, Op: testkit.OpPiece, Flags: testkit.FlagChecksum}
}

// with is m after a change.
func with(m testkit.Message, change func(m *testkit.Message)) testkit.Message {
	change(&m)
	return m
}

// partly is messages that a peer has begun and not finished.
type partly struct {
	begun map[uint64]testkit.Message
	sent  map[uint64]int
}

// send sends a piece that keeps to the rules, of a new message or of one that was begun, or gives
// one up.
func (p *partly) send(to *testkit.Peer, r *rand.Rand) bool {
	if p.begun == nil {
		p.begun, p.sent = make(map[uint64]testkit.Message), make(map[uint64]int)
	}
	id := uint64(101 + 2*r.IntN(8))
	m, begun := p.begun[id]
	if !begun {
		m = testkit.Message{
			MuxID:   id,
			Handler: uint8([]grid.HandlerID{single, stream, 125, 1}[r.IntN(4)]),
			Op:      []uint8{testkit.OpRequest, testkit.OpResponse, testkit.OpConnectMux, testkit.OpMuxClientMsg, testkit.OpMuxServerMsg}[r.IntN(5)],
			Flags:   uint8(r.IntN(16)) &^ testkit.FlagChecksum,
			Payload: make([]byte, threshold+1+r.IntN(10_000)),
		}
		p.begun[id], p.sent[id] = m, 0
	}
	size, from := len(m.Bytes()), p.sent[id]
	n := min(size-from, 60+r.IntN(size))
	one := piece(m, from, from+n)
	if p.sent[id] += n; begun && r.IntN(5) == 0 {
		one = abandoned(id)
		n = size - from
	}
	if from+n == size {
		delete(p.begun, id)
	}
	return to.Send(one.Bytes()) == nil
}

// A peer that breaks the rules of messages in pieces loses its connection, and nothing of what it
// had begun is left.
func TestPiecesThatBreakTheRules(t *testing.T) {
	const most = 1 << 20
	request := testkit.Message{MuxID: 1, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: make([]byte, 100_000)}
	size := len(request.Bytes())
	begin := piece(request, 0, 1000)
	of := func(m testkit.Message) testkit.Message { return piece(m, 0, 100) }
	changed := func(change func(m *testkit.Message)) testkit.Message { return of(with(request, change)) }
	var many []testkit.Message
	for id := range uint64(30) {
		many = append(many, changed(func(m *testkit.Message) { m.MuxID = 2*id + 1 }))
	}
	ack := func(n uint32) testkit.Message {
		return testkit.Message{Seq: n, Op: testkit.OpAckPieces, Flags: testkit.FlagChecksum}
	}
	for name, test := range map[string]struct {
		sent []testkit.Message
		word string // in the close frame
	}{
		"a first piece twice":                            {[]testkit.Message{begin, begin}, "malformed piece"},
		"a piece without a first":                        {[]testkit.Message{piece(request, 1000, 2000)}, "malformed piece"},
		"the end of nothing":                             {[]testkit.Message{abandoned(1)}, "malformed piece"},
		"a piece behind the last":                        {[]testkit.Message{begin, piece(request, 1000, size), piece(request, 2000, 3000)}, "malformed piece"},
		"a piece behind the end":                         {[]testkit.Message{begin, abandoned(1), piece(request, 1000, 2000)}, "malformed piece"},
		"a piece that is left out":                       {[]testkit.Message{begin, piece(request, 2000, 3000)}, "malformed piece"},
		"a piece twice":                                  {[]testkit.Message{begin, piece(request, 1000, 2000), piece(request, 1000, 2000)}, "malformed piece"},
		"an empty piece":                                 {[]testkit.Message{begin, piece(request, 1000, 1000)}, "malformed piece"},
		"a first piece without payload":                  {[]testkit.Message{piece(request, 0, size-100_000)}, "malformed piece"},
		"half a head":                                    {[]testkit.Message{piece(request, 0, 5)}, "malformed piece"},
		"a first piece that is wrong about what follows": {[]testkit.Message{with(begin, func(m *testkit.Message) { m.Seq++ })}, "malformed piece"},
		"more than the message has": {[]testkit.Message{begin, with(piece(request, 1000, size), func(m *testkit.Message) {
			m.Payload = append(slices.Clone(m.Payload), 1)
		})}, "malformed piece"},
		"more than a message may have": {[]testkit.Message{changed(func(m *testkit.Message) { m.Payload = make([]byte, most) })}, "malformed piece"},
		"the largest size there is":    {[]testkit.Message{with(begin, func(m *testkit.Message) { m.DeadlineMS = 1<<32 - 1 })}, "malformed piece"},
		"a size less than the payload": {[]testkit.Message{with(begin, func(m *testkit.Message) { m.DeadlineMS -= 100; m.Seq -= 100 })}, "malformed piece"},
		"a size less than the head":    {[]testkit.Message{with(begin, func(m *testkit.Message) { m.DeadlineMS = 3 })}, "malformed piece"},
		"a payload of four gigabytes": {[]testkit.Message{with(begin, func(m *testkit.Message) {
			i := strings.Index(string(m.Payload), "\xc6\x00\x01") // its length
			m.Payload = slices.Clone(m.Payload)
			copy(m.Payload[i:], "\xc6\xff\xff\xff\xff")
			m.DeadlineMS = 3
		})}, "malformed piece"},
		"a small payload":            {[]testkit.Message{changed(func(m *testkit.Message) { m.Payload = m.Payload[:threshold] })}, "malformed piece"},
		"a long tail":                {[]testkit.Message{changed(func(m *testkit.Message) { m.Metadata = make([]byte, 9000) })}, "malformed piece"},
		"a piece in pieces":          {[]testkit.Message{changed(func(m *testkit.Message) { m.Op = testkit.OpPiece })}, "malformed piece"},
		"a merged one in pieces":     {[]testkit.Message{changed(func(m *testkit.Message) { m.Op = testkit.OpMerged })}, "malformed piece"},
		"a ping in pieces":           {[]testkit.Message{changed(func(m *testkit.Message) { m.Op = testkit.OpPing })}, "malformed piece"},
		"a refusal in pieces":        {[]testkit.Message{changed(func(m *testkit.Message) { m.Op = testkit.OpMuxConnectError })}, "malformed piece"},
		"a message of another ID":    {[]testkit.Message{with(begin, func(m *testkit.Message) { m.MuxID = 3 })}, "malformed piece"},
		"a checksum of the whole":    {[]testkit.Message{changed(func(m *testkit.Message) { m.Flags |= testkit.FlagChecksum })}, "malformed piece"},
		"no ID":                      {[]testkit.Message{changed(func(m *testkit.Message) { m.MuxID = 0 })}, "message without a mux ID"},
		"a piece without a checksum": {[]testkit.Message{with(begin, func(m *testkit.Message) { m.Flags = 0 })}, "message without a checksum"},
		"bad metadata": {[]testkit.Message{
			piece(with(request, func(m *testkit.Message) { m.Metadata = []byte("soup") }), 0, size+4),
		}, "malformed message"},
		"no room for the subroute": {[]testkit.Message{with(piece(request, 0, size), func(m *testkit.Message) {
			m.Payload = slices.Clone(m.Payload)
			m.Payload[strings.Index(string(m.Payload), "\x0e\x02\xc6")+1] |= testkit.FlagSubroute
		})}, "malformed message"},
		"more than may be begun":                      {many, "malformed piece"},
		"an acknowledgment of nothing":                {[]testkit.Message{ack(1)}, "1 bytes of pieces"},
		"an acknowledgment of as much as there is":    {[]testkit.Message{ack(1<<32 - 1)}, "bytes of pieces"},
		"an acknowledgment without a checksum":        {[]testkit.Message{with(ack(0), func(m *testkit.Message) { m.Flags = 0 })}, "message without a checksum"},
		"a message that is not finished, and a break": {[]testkit.Message{begin, {Op: testkit.OpRequest}}, "message without a mux ID"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startOnPipe(t, func(o *grid.ManagerOptions) { o.Limits.MaxMessageSize = most })
				handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return nil, nil })
				p := n.joinAs(t, features)
				word := make(chan string)
				go func() {
					defer p.Conn.Close()
					for {
						f, err := p.NextFrame()
						if err != nil {
							word <- ""
							return
						}
						if f.Header.OpCode == ws.OpClose {
							word <- string(f.Payload)
							return
						}
					}
				}()
				for _, m := range test.sent {
					if p.Send(m.Bytes()) != nil {
						break
					}
				}
				if got := <-word; !strings.Contains(got, test.word) {
					t.Errorf("the close frame says %q, want %q", got, test.word)
				}
				synctest.Wait()
				if held := door.Look(n.conn()); held.Sessions != 0 || !held.Empty() {
					t.Errorf("still held: %+v", held)
				}
			})
		})
	}
}

// joinAs is join with features.
func (n *node) joinAs(t *testing.T, features uint32) *testkit.Peer {
	t.Helper()
	p := n.knock(t)
	p.Greet(t, testkit.Hello{Host: n.peer, Features: features})
	if err := n.conn().WaitForConnect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// What is odd and yet within the rules does no harm.
func TestPiecesWithinTheRules(t *testing.T) {
	request := testkit.Message{MuxID: 1, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: make([]byte, 100_000)}
	size := len(request.Bytes())
	as := func(id uint64, op uint8) testkit.Message {
		return with(request, func(m *testkit.Message) { m.MuxID, m.Op = id, op })
	}
	type answers map[uint64]uint8 // operation by ID
	for name, test := range map[string]struct {
		sent     [][]testkit.Message // by frame
		features uint32
		want     answers
	}{
		"all in one": {[][]testkit.Message{{piece(request, 0, size)}}, features, answers{1: testkit.OpResponse}},
		"byte by byte, in frames of several": {func() (all [][]testkit.Message) {
			all = append(all, []testkit.Message{piece(request, 0, 30)})
			for from := 30; from < 2030; from += 100 {
				var frame []testkit.Message
				for i := range 100 {
					frame = append(frame, piece(request, from+i, from+i+1))
				}
				all = append(all, frame)
			}
			return append(all, []testkit.Message{piece(request, 2030, size-1), piece(request, size-1, size)})
		}(), features, answers{1: testkit.OpResponse}},
		"several that are mixed": {[][]testkit.Message{
			{piece(as(1, 14), 0, 100), piece(as(3, 14), 0, 100)}, {piece(as(5, 14), 0, 100)}, {piece(as(3, 14), 100, size), piece(as(1, 14), 100, size)}, {abandoned(5)},
		}, features, answers{1: testkit.OpResponse, 3: testkit.OpResponse}},
		"one that takes the ID of one that was given up": {[][]testkit.Message{
			{piece(request, 0, 100)}, {abandoned(1)}, {piece(request, 0, size)},
		}, features, answers{1: testkit.OpResponse}},
		"an answer, and a message of a stream, that nobody waits for": {[][]testkit.Message{
			{piece(as(2, testkit.OpResponse), 0, 100)},
			{piece(as(2, testkit.OpResponse), 100, size)},
			{piece(as(7, testkit.OpMuxServerMsg), 0, size)},
		}, features, answers{}},
		"messages of streams that are not there": {[][]testkit.Message{
			{piece(with(as(9, testkit.OpMuxClientMsg), func(m *testkit.Message) { m.Flags = 0 }), 0, 100)},
			{piece(with(as(8, testkit.OpMuxServerMsg), func(m *testkit.Message) { m.Flags = 0 }), 0, 100)},
			{abandoned(8), abandoned(9)},
		}, features, answers{9: testkit.OpDisconnectClientMux, 8: testkit.OpDisconnectServerMux}},
		"a request to nobody": {[][]testkit.Message{
			{piece(with(request, func(m *testkit.Message) { m.Handler = 99 }), 0, size)},
		}, features, answers{1: testkit.OpMuxConnectError}},
		"an opening of a stream that is there": {[][]testkit.Message{
			{{MuxID: 3, Handler: uint8(stream), Op: testkit.OpConnectMux, Flags: testkit.FlagChecksum}},
			{piece(with(as(3, testkit.OpConnectMux), func(m *testkit.Message) { m.Handler = uint8(stream) }), 0, size)},
			{{MuxID: 3, Op: testkit.OpDisconnectServerMux, Flags: testkit.FlagChecksum}},
		}, features, answers{3: testkit.OpDisconnectClientMux}},
		"from who has not agreed to them": {[][]testkit.Message{
			{piece(request, 0, size)}, {piece(request, 0, 100)},
		}, features &^ 32, answers{}},
		"an acknowledgment of nothing": {[][]testkit.Message{{{Op: testkit.OpAckPieces, Flags: testkit.FlagChecksum}}}, features, answers{}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startOnPipe(t, nil)
				handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return nil, nil })
				handleStream(t, n, stream, 1, func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *grid.RemoteErr {
					<-ctx.Done()
					return nil
				})
				p := n.joinAs(t, test.features)
				var mu sync.Mutex
				got := answers{}
				go func() {
					for {
						raw, err := p.Next()
						if err != nil {
							return
						}
						if m, err := testkit.ParseMessage(raw); err == nil && m.MuxID != 0 {
							mu.Lock()
							got[m.MuxID] = m.Op
							mu.Unlock()
						}
					}
				}()
				for _, frame := range test.sent {
					p.MustSend(t, frame...)
				}
				synctest.Wait()
				mu.Lock()
				defer mu.Unlock()
				if len(got) != len(test.want) {
					t.Errorf("answered by %v, want %v", got, test.want)
				}
				for id, op := range test.want {
					if got[id] != op {
						t.Errorf("%d is answered by %d, want %d", id, got[id], op)
					}
				}
				if held := door.Look(n.conn()); !held.Empty() || n.conn().State() != grid.StateConnected {
					t.Errorf("%v, held: %+v", n.conn().State(), held)
				}
			})
		})
	}
}

// Whole messages in pieces that share a frame do not share a buffer.
func TestPiecesThatShareAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startOnPipe(t, nil)
		var mu sync.Mutex
		got := map[byte][]byte{}
		handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) {
			mu.Lock()
			defer mu.Unlock()
			got[payload[0]] = payload
			if payload[0] == 1 && bytes.IndexByte(payload[:cap(payload)], 2) >= 0 {
				t.Error("the second message is in the buffer of the first")
			}
			return nil, nil
		})
		p := n.joinAs(t, features)
		go io.Copy(io.Discard, p.In)
		// The buffer of a frame with the first two has the size of one for the first payload.
		sizes := []int{70_000, 40_000, 70_000, 130_000}
		var all []testkit.Message
		for i, size := range sizes {
			m := testkit.Message{MuxID: uint64(2*i + 1), Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: bytes.Repeat([]byte{byte(i + 1)}, size)}
			all = append(all, piece(m, 0, len(m.Bytes())))
		}
		p.MustSend(t, all[:2]...)
		p.MustSend(t, all[2])
		p.MustSend(t, all[3])
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		for i, size := range sizes {
			if !bytes.Equal(got[byte(i+1)], bytes.Repeat([]byte{byte(i + 1)}, size)) {
				t.Errorf("message %d has not come as it was", i)
			}
		}
	})
}

// A peer may begin as much as it may, in as many messages as that gives, and stop: what it takes is
// bounded by the documented formula, and it takes it no longer than the connection lasts.
func TestWhatIsBegunTakesBoundedMemory(t *testing.T) {
	const most = 8 << 20
	for name, size := range map[string]int{"many small ones": threshold + 1, "large ones": most - 200} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := startOnPipe(t, func(o *grid.ManagerOptions) { o.Limits.MaxMessageSize = most })
				handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) { return nil, nil })
				p := n.joinAs(t, features)
				go io.Copy(io.Discard, p.In)
				before := testkit.Memory()
				sum, count := 0, 0
				var begun []testkit.Message
				for id := uint64(1); ; id += 2 {
					m := testkit.Message{MuxID: id, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: make([]byte, size)}
					if sum += len(m.Bytes()); sum > 2*most {
						break
					}
					count++
					if size > threshold+1 {
						begun = append(begun, m)
					}
					p.MustSend(t, piece(m, 0, 100))
				}
				synctest.Wait()
				begunOnly := testkit.Memory() - before - len(begun)*size
				held := door.Look(n.conn())
				if held.LargeIn > 2*most || held.QuotaRequests != count {
					t.Errorf("%d messages of %d are begun: %+v", count, size, held)
				}
				if begunOnly > 4*most+count<<20 || size > 1<<20 && begunOnly > count<<20+(1<<20) {
					t.Errorf("%d messages of which nothing has come take %d bytes", count, begunOnly)
				}
				for _, m := range begun { // all but the last byte comes
					all := len(m.Bytes())
					for from := 100; from < all-1; from += 200_000 {
						p.MustSend(t, piece(m, from, min(from+200_000, all-1)))
					}
				}
				synctest.Wait()
				if took := testkit.Memory() - before - len(begun)*size; took > 6*most {
					t.Errorf("%d messages take %d bytes, of which each is %d", count, took, size)
				} else {
					t.Logf("%d messages take %d bytes, %d at first", count, took, begunOnly)
				}
				runtime.KeepAlive(begun)
				p.Conn.Close()
				synctest.Wait()
				if held := door.Look(n.conn()); held.Sessions != 0 || !held.Empty() {
					t.Errorf("still held: %+v", held)
				}
			})
		})
	}
}

// A node that leaves takes what a peer has begun, and refuses it as it refuses all that is new.
func TestPiecesForANodeThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := startOnPipe(t, nil)
		gate := make(chan struct{})
		handle(t, n, func(_ context.Context, payload []byte) ([]byte, error) {
			<-gate
			return nil, nil
		})
		p := n.joinAs(t, features)
		request := func(id uint64) testkit.Message {
			return testkit.Message{MuxID: id, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF, Payload: make([]byte, 100_000)}
		}
		size := len(request(1).Bytes())
		var mu sync.Mutex
		texts := map[uint64]string{}
		read := make(chan struct{})
		go func() {
			defer close(read)
			for {
				raw, err := p.Next()
				if err != nil {
					p.Conn.Close()
					return
				}
				if m, err := testkit.ParseMessage(raw); err == nil && m.Op == testkit.OpResponse {
					mu.Lock()
					texts[m.MuxID] = string(m.Payload)
					mu.Unlock()
				}
			}
		}()
		p.MustSend(t, piece(request(1), 0, size)) // runs
		p.MustSend(t, piece(request(3), 0, 100))  // has begun
		p.MustSend(t, piece(request(5), 0, 100))  // and is given up
		p.MustSend(t, piece(request(7), 0, 100))  // and is not
		synctest.Wait()
		left := make(chan error, 1)
		go func() { left <- n.Shutdown(t.Context()) }()
		synctest.Wait()
		p.MustSend(t, piece(request(3), 100, size), piece(request(9), 0, 100), piece(request(9), 100, size), abandoned(5))
		synctest.Wait()
		close(gate)
		<-read
		if err := <-left; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if texts[1] != "" || len(texts) != 3 || !strings.Contains(texts[3], "shut") || !strings.Contains(texts[9], "shut") {
			t.Errorf("answered with %v", texts)
		}
		synctest.Wait()
		if held := door.Look(n.conn()); !held.Empty() {
			t.Errorf("still held: %+v", held)
		}
	})
}
