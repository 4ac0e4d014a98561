package grid

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
)

// FuzzAssembly has a peer cut messages into pieces, mix them and give some up, as the input says.
// What arrives and what is held must be what a model says that knows the whole messages.
func FuzzAssembly(f *testing.F) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(5, seed))
		data := make([]byte, 20+r.IntN(400))
		for i := range data {
			data[i] = byte(r.IntN(256))
			if data[i]&7 == 6 && r.IntN(8) > 0 { // most would be short without
				data[i]++
			}
		}
		f.Add(data)
	}
	f.Add([]byte("\x00\x00\x00\x00\xff\x01\x00\xff"))         // a request in two pieces
	f.Add([]byte("\x00\x00\x00\x00\xff\x05\x00\x00\x00\x00")) // one that is given up
	f.Add([]byte("\x00\x04\x00\x00\x00\x00\x04\x00\x00\x00\x00\x02\xff\xff\x01\x00\xff\x01\x00\xff"))
	f.Add([]byte("\x00\x01\x7f\xeb\x01")) // metadata and a subroute around a boundary of the pool
	f.Fuzz(func(t *testing.T, data []byte) {
		synctest.Test(t, func(t *testing.T) { fuzzAssembly(t, script{data: data, masked: true}) })
	})
}

// begunMessage is a message that the model has begun.
type begunMessage struct {
	m    message
	b    []byte // all of it
	sent int    // bytes
	text string // what is delivered once it is whole; empty for nothing
}

// assemblyModel knows what has become of all messages.
type assemblyModel struct {
	in     *script
	c      *Connection
	peer   net.Conn
	begun  []*begunMessage
	sum    int // bytes of them
	want   []string
	calls  int
	seq    uint32 // of the stream
	last   uint64 // ID of a request
	broken bool   // a rule was

	mu  sync.Mutex // Protects following.
	got []string
}

// The limits of the model: few messages are begun at a time.
const (
	modelMax    = 80 << 10
	modelStream = 1001 // the ID of the stream
	modelNobody = 1000 // the ID of a call that nobody has made
)

func fuzzAssembly(t *testing.T, in script) {
	x := &assemblyModel{in: &in, last: 1}
	m, err := NewManager(context.Background(), ManagerOptions{
		Local:        "http://local:1",
		Hosts:        []string{"http://local:1", "http://remote:1"},
		AuthRequest:  func(*http.Request) error { return nil },
		BlockConnect: make(chan struct{}),
		Logger:       slog.New(slog.DiscardHandler),
		Limits:       Limits{MaxMessageSize: modelMax},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	handler := func(ctx context.Context, b []byte) ([]byte, error) {
		x.deliver("request", GetSubroute(ctx), MetadataFrom(ctx).Get("user"), b)
		return nil, nil
	}
	m.RegisterSingleHandlerContext(testSingle, handler)
	m.RegisterSingleHandlerContext(testSingle, handler, "fuzz")
	m.RegisterStreamingHandler(testStream, StreamHandler{InCapacity: 4, Handle: func(_ context.Context, _ []byte, in <-chan []byte, _ chan<- []byte) *RemoteErr {
		for b := range in {
			x.deliver("message", "", "", b)
		}
		return nil
	}})
	x.c = m.Connection("http://remote:1")
	here, there := net.Pipe()
	x.peer = there
	s := x.c.newSession(newGreeting(here, nil, false, fuzzLimits.MaxHandshakeSize), process{}, nativeFeatures, 0, 0)
	var running sync.WaitGroup
	running.Go(func() { runToEnd(x.c, s) })
	running.Go(func() { io.Copy(io.Discard, there) })
	synctest.Wait()
	x.send(message{MuxID: modelStream, Handler: testStream, Op: OpConnectMux})
	for len(in.data) > 0 && !x.broken {
		x.step(&running)
		synctest.Wait()
		if !x.broken {
			x.check(t)
		}
	}
	there.Close()
	running.Wait()
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	slices.Sort(x.got)
	slices.Sort(x.want)
	if !slices.Equal(x.got, x.want) {
		t.Errorf("delivered\n%s\nwant\n%s", strings.Join(x.got, "\n"), strings.Join(x.want, "\n"))
	}
	checkNothingLeft(t, x.c)
}

func (x *assemblyModel) deliver(what, subroute, metadata string, b []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got = append(x.got, delivered(what, subroute, metadata, b))
}

func delivered(what, subroute, metadata string, b []byte) string {
	return fmt.Sprintf("%s %q %q %s", what, subroute, metadata, sum(b))
}

// send sends a message with its checksum.
func (x *assemblyModel) send(m message) {
	m.Flags |= FlagCRCxxh3
	if _, err := x.peer.Write(x.in.frame(0x80|byte(ws.OpBinary), m.appendTo(nil))); err != nil {
		x.broken = true // it was before
	}
}

// check compares what is held.
func (x *assemblyModel) check(t *testing.T) {
	t.Helper()
	requests, bytes, streamed := 0, 0, messageFootprint
	for _, p := range x.begun {
		switch p.m.Op {
		case OpRequest:
			requests++
			bytes += footprint(len(p.m.Payload) + len(p.m.metadata))
		case OpMuxClientMsg:
			streamed += footprint(len(p.m.Payload))
		}
	}
	h := x.c.holds()
	// The last message that the handler of a stream has got counts until it gets another.
	if h.LargeIn != x.sum || h.QuotaRequests != requests || h.QuotaRequestBytes != bytes || h.QuotaStreamBytes < streamed {
		t.Fatalf("%q; held %+v, want %d requests with %d bytes, %d bytes of streams, %d bytes in all", fmt.Sprint(x.c.newest.reason), h, requests, bytes, streamed, x.sum)
	}
}

// step does what the input says next.
func (x *assemblyModel) step(running *sync.WaitGroup) {
	in := x.in
	what := in.byte() & 7
	if what == 0 || len(x.begun) == 0 {
		x.begin(running)
		return
	}
	i := int(in.byte()) % len(x.begun)
	p := x.begun[i]
	left := len(p.b) - p.sent
	switch what {
	default:
		x.piece(p, x.cut(left))
	case 5:
		x.send(message{MuxID: p.m.MuxID, Op: OpPiece})
		p.sent, p.text = len(p.b), ""
	case 6:
		x.lie(p)
		x.broken = true
		return
	}
	if p.sent == len(p.b) {
		x.begun = slices.Delete(x.begun, i, i+1)
		x.sum -= len(p.b)
		if p.text != "" {
			x.want = append(x.want, p.text)
		}
	}
}

// cut says how many of the bytes that are left a piece gets.
func (x *assemblyModel) cut(left int) int {
	n := int(x.in.byte())
	switch {
	case n == 255:
		return left
	case n&1 == 0:
		n *= 200
	}
	return max(min(n, left), 1)
}

// piece sends the next n bytes of a message.
func (x *assemblyModel) piece(p *begunMessage, n int) {
	m := message{MuxID: p.m.MuxID, Op: OpPiece, Seq: uint32(len(p.b) - p.sent - n), Payload: p.b[p.sent : p.sent+n]}
	if p.sent == 0 {
		m.DeadlineMS = uint32(len(p.b))
	}
	x.send(m)
	p.sent += n
}

// begin begins a message.
func (x *assemblyModel) begin(running *sync.WaitGroup) {
	in := x.in
	kind := in.byte() % 5
	payload := pattern(len(x.want)+len(x.begun), pieceThreshold+1+(int(in.byte())<<8|int(in.byte()))%40_000)
	p := &begunMessage{m: message{MuxID: x.last, Handler: testSingle, Op: OpRequest, Flags: FlagEOF, Payload: payload}}
	p.text = delivered("request", "", "", payload)
	switch kind {
	case 1:
		route := makeRouteID(testSingle, "fuzz")
		p.m.subroute, p.m.metadata = &route, fuzzMetadata
		p.text = delivered("request", "fuzz", "anna", payload)
	case 2, 3:
		p.m.Op, p.m.Handler, p.m.MuxID = OpResponse, 0, modelNobody
		p.text = ""
	case 4:
		p.m = message{MuxID: modelStream, Op: OpMuxClientMsg, Seq: x.seq + 1, Payload: payload}
		p.text = delivered("message", "", "", payload)
	}
	if x.sum+p.m.size() > 2*modelMax {
		return
	}
	if kind == 2 { // somebody makes the call
		x.calls++
		p.m.MuxID = uint64(2 * x.calls)
		p.text = delivered("answer", "", "", payload)
		running.Go(func() {
			if b, err := x.c.Request(context.Background(), testSingle, nil); err == nil {
				x.deliver("answer", "", "", b)
			}
		})
		synctest.Wait()
	}
	if slices.ContainsFunc(x.begun, func(other *begunMessage) bool { return other.m.MuxID == p.m.MuxID }) {
		return
	}
	switch kind {
	case 0, 1:
		x.last += 2
	case 4:
		x.seq++
	}
	p.b = p.m.appendTo(nil)
	x.begun = append(x.begun, p)
	x.sum += len(p.b)
	head := len(p.m.appendHead(nil, len(payload)))
	x.piece(p, head+min(x.cut(len(p.b)-head), len(p.b)-head-1))
}

// lie sends what breaks a rule.
func (x *assemblyModel) lie(p *begunMessage) {
	left := p.b[p.sent:]
	m := message{MuxID: p.m.MuxID, Op: OpPiece, Seq: uint32(len(left) - 1), Payload: left[:1]}
	switch x.in.byte() % 6 {
	case 0:
		m.Seq++
	case 1:
		m.Payload = nil
		m.Seq++
	case 2:
		m.Payload = append(slices.Clone(left), 0)
		m.Seq = 0
	case 3:
		m.DeadlineMS = uint32(len(p.b))
	case 4:
		m.MuxID = 999
	case 5:
		m = message{MuxID: 997, Op: OpPiece, DeadlineMS: 2 * modelMax, Payload: p.b[:100]}
	}
	x.send(m)
}
