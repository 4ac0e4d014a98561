package grid

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

// fuzzLimits are small, so that a few bytes reach them.
var fuzzLimits = Limits{
	MaxMessageSize: 40 << 10, MaxHandshakeSize: 1 << 10, // there are messages that go in pieces
	MaxRequests: 4, MaxStreams: 3, MaxRequestBytes: 70 << 10, MaxStreamBytes: 70 << 10,
	MaxQueuedBytes: 4 << 10, MaxQueuedControlBytes: 64 << 10,
}

// script makes what a peer sends of arbitrary bytes: mostly frames and messages that are well
// formed, with a right checksum, as nothing gets past that by chance.
type script struct {
	data   []byte
	masked bool
	begun  map[uint64][]byte // what is still to be sent of messages in pieces, by mux ID
}

// The steps of a script.
const (
	stepMessage  = iota // and 1: likelier than the others
	stepPiece    = 2
	stepMerged   = 3
	stepVerbatim = 4 // a message, byte by byte
	stepFrame    = 5 // of any kind
	stepRaw      = 6 // no frame
	stepPause    = 7
)

func (s *script) byte() byte {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return b
}

// bytes takes up to n bytes, in memory of their own.
func (s *script) bytes(n int) []byte {
	n = min(n, len(s.data))
	b := append([]byte{}, s.data[:n]...)
	s.data = s.data[n:]
	return b
}

// next returns what to send next, and how long to wait before; more is false at the end.
func (s *script) next() (b []byte, pause time.Duration, more bool) {
	if len(s.data) == 0 {
		return nil, 0, false
	}
	switch kind := s.byte() & 7; kind {
	default:
		return s.frame(0x80|byte(ws.OpBinary), s.message()), 0, true
	case stepPiece:
		return s.frame(0x80|byte(ws.OpBinary), s.piece()), 0, true
	case stepMerged:
		n := int(s.byte() & 15)
		merged := appendMergedHeader(nil, n)
		for range n {
			merged = msgp.AppendBytes(merged, s.message())
		}
		return s.frame(0x80|byte(ws.OpBinary), merged), 0, true
	case stepVerbatim:
		n := int(s.byte())<<8 | int(s.byte())
		return s.frame(0x80|byte(ws.OpBinary), s.bytes(n)), 0, true
	case stepFrame:
		first := s.byte()
		return s.frame(first, s.bytes(int(s.byte()))), 0, true
	case stepRaw:
		return s.bytes(int(s.byte())), 0, true
	case stepPause:
		return nil, time.Duration(s.byte()) * 100 * time.Millisecond, true
	}
}

var (
	fuzzIDs      = []uint64{0, 1, 2, 3, 4, 5, 6, 1<<31 + 1, 1<<31 + 2, 1<<31 + 3, 1<<31 + 4, 1<<31 + 5, 1 << 63, 1<<64 - 1, 7, 8}
	fuzzHandlers = []HandlerID{testSingle, testStream, 125, 124, 123, 0, 122, 255}
)

// message encodes a message. Most fields take few values, so that messages belong together.
func (s *script) message() []byte {
	m := message{
		MuxID:      fuzzIDs[s.byte()&15],
		Op:         Op(s.byte() % byte(OpMuxServerHeader+2)),
		Handler:    fuzzHandlers[s.byte()&7],
		Flags:      Flags(s.byte()),
		Seq:        uint32(s.byte() & 15),
		DeadlineMS: uint32(s.byte()) * 100,
	}
	if b := s.byte(); m.Op == OpMerged && b > 10 { // most would be malformed
		m.Op = OpMuxClientMsg
	}
	if m.Flags&FlagPayloadIsZero == 0 {
		m.Payload = s.bytes(int(s.byte()) * int(s.byte()&31))
	}
	if m.Flags&FlagSubroute != 0 {
		route := makeRouteID(m.Handler, "fuzz")
		m.subroute = &route
	}
	if m.Flags&FlagMetadata != 0 && m.Op != OpMerged {
		m.metadata = fuzzMetadata
		if m.Op == OpResponse || m.Op == OpMuxServerMsg || m.Op == OpMuxServerHeader {
			m.metadata = fuzzAnswer
		}
		if s.byte()&3 == 0 { // a malformed one ends the session
			m.metadata = s.bytes(int(s.byte() & 31))
		}
	}
	return m.appendTo(nil)
}

// piece encodes a piece of a message: of a new one, or of one that was begun, which it may end.
func (s *script) piece() []byte {
	id, what := fuzzIDs[s.byte()&15], s.byte()
	rest, begun := s.begun[id]
	m := message{MuxID: id, Op: OpPiece, Flags: FlagCRCxxh3}
	switch {
	case !begun:
		op := []Op{OpRequest, OpResponse, OpConnectMux, OpMuxClientMsg, OpMuxServerMsg, OpRequest, OpMuxClientMsg, Op(what >> 3)}[what&7]
		whole := message{MuxID: id, Op: op, Handler: fuzzHandlers[s.byte()&7], Seq: uint32(s.byte() & 3), Payload: make([]byte, pieceThreshold+1+int(what))}
		if whole.Flags = Flags(s.byte()) &^ FlagCRCxxh3; whole.Flags&FlagMetadata != 0 {
			whole.metadata = fuzzMetadata
		}
		rest = whole.appendTo(nil)
		m.DeadlineMS = uint32(len(rest))
	case what&7 == 7:
		delete(s.begun, id)
		return m.appendTo(nil)
	}
	n := len(rest)
	if what&3 > 0 {
		n = min(n, 40+int(s.byte())*100)
	}
	m.Payload, rest = rest[:n], rest[n:]
	m.Seq = uint32(len(rest))
	if s.begun == nil {
		s.begun = make(map[uint64][]byte)
	}
	if s.begun[id] = rest; len(rest) == 0 {
		delete(s.begun, id)
	}
	return m.appendTo(nil)
}

// fuzzMetadata is a well formed map of one pair.
var fuzzMetadata = []byte("\x81\xa4user\xc4\x04anna")

// fuzzAnswer is what an answer may carry: that as its header and its trailer.
var fuzzAnswer = (&answerPart{header: fuzzMetadata, trailer: fuzzMetadata}).encode()

func (s *script) frame(first byte, payload []byte) []byte {
	head := make([]byte, wsframe.HeaderSize(len(payload), s.masked))
	wsframe.PutHeader(head, 0, len(payload), s.masked, [4]byte{1, 2, 3, 4})
	head[0] = first
	if s.masked {
		wsframe.Mask(payload, [4]byte{1, 2, 3, 4})
	}
	return append(head, payload...)
}

// verbatim is the step that sends a message as it is.
func verbatim(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{stepVerbatim}, uint16(len(b))), b...)
}

// fuzzManager is a node that only knows one peer, and dials nobody.
func fuzzManager(t *testing.T, dialer ContextDialer) (*Manager, *Connection) {
	t.Helper()
	m, err := NewManager(context.Background(), ManagerOptions{
		Local:        "http://local:1",
		Hosts:        []string{"http://local:1", "http://remote:1"},
		AuthRequest:  func(*http.Request) error { return nil },
		Dialer:       dialer,
		BlockConnect: make(chan struct{}),
		Logger:       slog.New(slog.DiscardHandler),
		Limits:       fuzzLimits,
	})
	if err != nil {
		t.Fatal(err)
	}
	echoes := func(b []byte) ([]byte, *RemoteErr) { return b, nil }
	waits := StreamHandler{InCapacity: 4, OutCapacity: 1, Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, _ chan<- []byte) *RemoteErr {
		<-ctx.Done()
		return NewRemoteErr(context.Cause(ctx))
	}}
	sends := StreamHandler{OutCapacity: 3, Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
		for range 10 {
			select {
			case out <- append([]byte(nil), payload...):
			case <-ctx.Done():
			}
		}
		return nil
	}}
	panics := func(context.Context, []byte) ([]byte, error) { panic("fuzz") }
	headed := func(ctx context.Context, st *RawStream) error {
		if string(st.Payload()) == "hello" {
			_ = SendHeader(ctx, Metadata{"served": {"by", "raw"}})
		}
		b, err := st.Recv()
		_ = st.SendHeader(nil)
		_ = st.Send(b)
		st.CloseSend()
		for err == nil {
			_, err = st.Recv()
		}
		return err
	}
	err = errors.Join(
		m.RegisterSingleHandlerContext(testSingle, func(ctx context.Context, b []byte) ([]byte, error) {
			for key, values := range MetadataFrom(ctx) {
				b = append(append(b, key...), strings.Join(values, "")...)
			}
			if len(b) > 0 && b[0] == 'w' {
				<-ctx.Done()
			}
			return b, nil
		}),
		m.RegisterSingleHandler(testSingle, echoes, "fuzz"),
		m.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack, InCapacity: 2, OutCapacity: 2}),
		m.RegisterStreamingHandler(testStream, StreamHandler{Handle: echoBack, InCapacity: 2, OutCapacity: 2, Subroute: "fuzz"}),
		m.RegisterStreamingHandler(125, waits),
		m.RegisterStreamingHandler(124, sends),
		m.RegisterSingleHandlerContext(123, panics),
		m.registerRaw(target{id: 122}, headed),
	)
	if err != nil {
		t.Fatal(err)
	}
	return m, m.Connection("http://remote:1")
}

// checkBounds fails where a connection holds more than its limits.
func checkBounds(t *testing.T, c *Connection) {
	t.Helper()
	requests, streams := c.requestQuota.used.Load(), c.streamQuota.used.Load()
	if requests>>quotaShift > int64(fuzzLimits.MaxRequests) || requests&quotaBytes > int64(fuzzLimits.MaxRequestBytes) {
		t.Fatalf("%d requests run with %d bytes", requests>>quotaShift, requests&quotaBytes)
	}
	if streams>>quotaShift > int64(fuzzLimits.MaxStreams) || streams&quotaBytes > int64(fuzzLimits.MaxStreamBytes) {
		t.Fatalf("%d streams run with %d bytes", streams>>quotaShift, streams&quotaBytes)
	}
	if s := c.current.Load(); s != nil {
		if n := s.batch.Queued(); n > fuzzLimits.MaxQueuedBytes+fuzzLimits.MaxQueuedControlBytes+2*fuzzLimits.MaxMessageSize {
			t.Fatalf("%d bytes are queued", n)
		}
	}
}

// checkNothingLeft fails where a connection that has ended still counts something.
func checkNothingLeft(t *testing.T, c *Connection) {
	t.Helper()
	if r, s, a := c.requestQuota.used.Load(), c.streamQuota.used.Load(), c.active.running.Load(); r != 0 || s != 0 || a != 0 {
		t.Fatalf("left: requests %x, streams %x, %d calls", r, s, a)
	}
}

// readValid reads what a node sends until it hangs up. All of it has to be valid, whatever the node
// was sent.
func readValid(t *testing.T, conn net.Conn, peerDialed bool) {
	frames := wsframe.NewReader(conn, nil, wsframe.Config{Client: peerDialed})
	defer frames.Release()
	for {
		b, err := frames.Next()
		if _, ok := errors.AsType[*wsframe.ProtocolError](err); ok {
			t.Errorf("the node sent: %v", err)
		}
		if err != nil {
			return
		}
		var m message
		if err := m.parse(b); err != nil {
			t.Errorf("the node sent %x: %v", b, err)
			continue
		}
		for rest := m.Payload; m.Op == OpMerged && m.Seq > 0; m.Seq-- {
			one, tail, err := nextMerged(rest)
			var inner message
			if err == nil {
				err = inner.parse(one)
			}
			if err != nil {
				t.Errorf("the node sent %x: %v", b, err)
				break
			}
			rest = tail
		}
	}
}

// FuzzSession has a peer that passed the handshake send anything, while both sides call. The
// session must end when the peer goes, with all that was open on it; nothing may be left, be over a
// limit or panic.
func FuzzSession(f *testing.F) {
	var all []byte
	for _, e := range loadWireVectors(f).Messages {
		if len(e.Frame) < 1000 {
			all = append(all, verbatim(e.Frame)...)
			f.Add(verbatim(e.Frame), false, false, true)
		}
	}
	for _, e := range loadMetadataVectors(f).Messages {
		f.Add(verbatim(e.Frame), false, true, true)
	}
	f.Add(all, true, true, true)
	for _, c := range loadTranscripts(f) {
		var caller, callee []byte
		for _, step := range c.Steps {
			if step.Op == OpConnect.String() || step.Op == OpConnectResponse.String() {
				continue
			}
			if step.fromCaller() {
				caller = append(caller, verbatim(step.Frame)...)
			} else {
				callee = append(callee, verbatim(step.Frame)...)
			}
		}
		f.Add(caller, false, false, true)
		f.Add(callee, true, false, true)
	}
	// Answers to all that fuzzCalls calls: acks, messages, ends.
	answers := ""
	for id := byte(7); id <= 10; id++ {
		for _, m := range []string{"\x0d\x00\x00\x00", "\x0a\x00\x00\x01", "\x0a\x00\x00\x02", "\x0a\x00\x02\x03"} {
			answers += "\x00" + string(id) + m + "\x00\x00\x05\x01hello"
		}
	}
	f.Add([]byte(answers), false, false, true)
	for _, seed := range headerSeeds() {
		f.Add(seed, false, true, true)
		f.Add(seed, true, true, true)
	}
	for _, seed := range []string{
		"\x00\x02\x0e\x00\x02\x00\x00\x00\x05\x01hello", // a request
		"\x00\x01\x05\x06\x01\x64\x00\x00\x05\x01hello" + "\x00\x01\x09\x06\x01\x01\x00\x00\x05\x01hello" + "\x00\x01\x09\x06\x03\x02\x00\x00\x00\x00", // a stream with a header
		"\x00\x02\x05\x01\x00\x00\x00\x00\x00\x00" + "\x00\x02\x09\x01\x00\x01\x00\x00\x05\x01hello" + "\x00\x02\x09\x00\x02\x02\x00\x00\x00\x00",      // a stream
		"\x00\x02\x05\x02\x00\x00\x00\x00\x00\x00" + "\x00\x02\x09\x02\x00\x01\x00\x00\x05\x01hello" + "\x00\x02\x09\x02\x00\x02\x00\x00\x05\x01hello", // one that is not read
		"\x03\x03\x01\x0d\x00\x00\x00\x00\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x00\x01\x01x\x01\x0a\x00\x02\x02\x00\x00\x00\x00",                        // answers, merged
		"\x02\x01\x05\x00\x00\x02\x01" + "\x02\x01\x01\x80" + "\x02\x03\x08\x00\x00\x02" + "\x02\x01\x00",                                              // requests in pieces, mixed
		"\x00\x02\x05\x01\x01\x00\x00\x00\x00\x00" + "\x02\x02\x03\x01\x01\x00\x05" + "\x02\x02\x07" + "\x02\x02\x08\x01\x02\x02",                      // messages of a stream, the first given up
		"\x02\x0e\x01\x00\x00\x02\x20\x02\x0f\x01\x00\x00\x02\x20\x02\x0e\x00\x02\x0f\x07",                                                             // answers
		"\x02\x01\x05\x00\x00\x02\x01\x02\x02\x05\x00\x00\x02\x01\x02\x03\x05\x00\x00\x02\x01\x07\xff\x07\xff",                                         // more than may be begun
		"\x00\x00\x13\x00\x01\x05\x00\x0b\x00\x00",                                         // an acknowledgment
		"\x05\x02\x05hello\x05\x89\x00\x05\x80\x05world\x05\x88\x02\x03\xe8",               // fragments, a ping, a close
		"\x06\x0e\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00\x07\xff\x07\xff", // half a frame, and silence
	} {
		for _, dialed := range []bool{false, true} {
			f.Add([]byte(seed), dialed, !dialed, true)
			f.Add([]byte(strings.Repeat(seed, 20)), dialed, dialed, false)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, dialed, native, reads bool) {
		synctest.Test(t, func(t *testing.T) { fuzzSession(t, script{data: data, masked: !dialed}, dialed, native, reads) })
	})
}

// runToEnd is Connection.start on the goroutine of the caller.
func runToEnd(c *Connection, s *session) {
	if c.begin(s, nil) == nil {
		c.run(s)
	}
}

// headerSeeds are what handlers' sides send to all that fuzzCalls calls: headers and ends of messages, in
// orders that are allowed and others.
func headerSeeds() (seeds [][]byte) {
	const (
		ack    = "\x0d\x00\x01\x00\x0a\x00\x00\x00"
		header = "\x17\x00\x41#\x00\x00\x00\x00\x01"
		empty  = "\x17\x00\x01#\x00\x00\x00\x00"
		one    = "\x0a\x00\x01#\x00\x00\x05\x01hello"
		end    = "\x16\x00\x01#\x00\x00\x00\x00"
		last   = "\x0a\x00\x43#\x00\x00\x00\x00\x01"
	)
	for _, order := range [][]string{
		{header, one, end, last}, {empty, last}, {one, header}, {header, header}, {end, empty}, {header, end, end}, {header, end, one}, {header}, {end, last},
	} {
		var seed []byte
		for _, id := range "\x01\x02\x03\x04\x05\x06\x0e\x0f" {
			seed = append(append(seed, stepMessage, byte(id)), ack...)
			for i, m := range order {
				m = strings.Replace(m, "#", string(rune(i+1)), 1)
				seed = append(append(seed, stepMessage, byte(id)), m...)
			}
		}
		seeds = append(seeds, seed)
	}
	return seeds
}

func fuzzSession(t *testing.T, in script, dialed, native, reads bool) {
	m, c := fuzzManager(t, nil)
	defer m.Close()
	here, there := net.Pipe()
	features := map[bool]uint32{true: nativeFeatures}[native]
	s := c.newSession(newGreeting(here, nil, dialed, fuzzLimits.MaxHandshakeSize), process{}, features, 0, 0)
	var running sync.WaitGroup
	running.Go(func() { runToEnd(c, s) })
	synctest.Wait()
	running.Go(func() {
		if reads {
			readValid(t, there, !dialed)
		}
	})
	fuzzCalls(&running, c)
	for {
		b, pause, more := in.next()
		if !more {
			break
		}
		time.Sleep(pause)
		if len(b) > 0 {
			if _, err := there.Write(b); err != nil {
				break
			}
		}
		checkBounds(t, c)
	}
	synctest.Wait()
	checkBounds(t, c)
	there.Close()
	running.Wait()
	synctest.Wait()
	checkNothingLeft(t, c)
}

// fuzzCalls calls the peer, until the connection or a deadline ends it.
func fuzzCalls(running *sync.WaitGroup, c *Connection) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	var calls sync.WaitGroup
	for i := range 2 {
		calls.Go(func() { c.Request(ctx, testSingle, []byte("request")) })
		calls.Go(func() {
			st, err := c.NewStream(ctx, testStream, []byte("stream"))
			if i == 1 { // as one that is opened by name
				st, err = c.openStream(ctx, testStream, nil, []byte("stream"), true)
			}
			if err != nil {
				return
			}
			calls.Go(func() { st.WaitForHeader(ctx) })
			calls.Go(func() {
				for range 3 {
					if st.Send([]byte("message")) != nil {
						return
					}
				}
				st.CloseSend()
			})
			st.Results(func(b []byte) error {
				PutByteBuffer(b)
				time.Sleep(time.Duration(i) * 10 * time.Second) // one of the consumers is slow
				return nil
			})
		})
	}
	running.Go(func() {
		calls.Wait()
		cancel()
	})
}

// FuzzAccept has a client send anything in place of a handshake, some of it along with the upgrade,
// or anything after it.
func FuzzAccept(f *testing.F) {
	for _, c := range loadTranscripts(f) {
		for _, step := range c.Steps {
			if step.Op == OpConnect.String() {
				f.Add(verbatim(step.Frame), 0)
			}
		}
	}
	for _, g := range generations {
		req := g.req
		req.Host, req.Time = "http://remote:1", req.Time.Truncate(0)
		payload, err := req.MarshalMsg(nil)
		if err != nil {
			f.Fatal(err)
		}
		m := message{Op: OpConnect, Payload: payload}
		f.Add(verbatim(m.appendTo(nil)), 10)
		f.Add(append(verbatim(m.appendTo(nil)), "\x00\x02\x0e\x00\x02\x00\x00\x00\x05\x01hello"...), 1000)
	}
	f.Add([]byte("\x06\x08\x82\xff\x00\x00\x00\x00\x7f\xff\x07\xff"), 1)
	f.Fuzz(func(t *testing.T, data []byte, early int) {
		synctest.Test(t, func(t *testing.T) {
			m, c := fuzzManager(t, nil)
			defer m.Close()
			here, there := net.Pipe()
			in := script{data: data, masked: true}
			var first []byte
			for len(first) < early&1023 {
				b, _, more := in.next()
				first = append(first, b...)
				if !more {
					break
				}
			}
			var running sync.WaitGroup
			r := httptest.NewRequest(http.MethodGet, RoutePath, nil)
			g, _ := m.acceptor.lobby.enter(r.RemoteAddr)
			m.acceptor.lobby.use(g, here)
			running.Go(func() { m.acceptor.accept(r, g, first) })
			running.Go(func() { readValid(t, there, true) })
			for {
				b, pause, more := in.next()
				if !more {
					break
				}
				time.Sleep(pause)
				if len(b) > 0 {
					if _, err := there.Write(b); err != nil {
						break
					}
				}
				checkBounds(t, c)
			}
			synctest.Wait()
			there.Close()
			running.Wait()
			m.Close()
			synctest.Wait()
			checkNothingLeft(t, c)
		})
	})
}

// FuzzDial has a server answer an upgrade, or the handshake after it, with anything.
func FuzzDial(f *testing.F) {
	const answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	for _, seed := range []string{
		"", "\r\n\r\n", answer + "x\r\n\r\n", answer, "HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP/1.0 101 X\r\n\r\n", "HTTP/1.1 -1 \r\n",
		"HTTP/1.1 101 Switching Protocols\r\n:\r\n \r\n\r\n", strings.Repeat("X", 5000),
	} {
		f.Add([]byte(seed), false)
	}
	resp := connectResp{Accepted: true}
	for _, reason := range []string{"", "no"} {
		resp.RejectedReason = reason
		resp.Accepted = reason == ""
		payload, err := resp.MarshalMsg(nil)
		if err != nil {
			f.Fatal(err)
		}
		m := message{Op: OpConnectResponse, Payload: payload}
		f.Add(verbatim(m.appendTo(nil)), true)
		f.Add(append(verbatim(m.appendTo(nil)), "\x00\x02\x0e\x00\x02\x00\x00\x00\x05\x01hello"...), true)
	}
	for _, c := range loadTranscripts(f) {
		for _, step := range c.Steps {
			if step.Op == OpConnectResponse.String() {
				f.Add(verbatim(step.Frame), true)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, upgrades bool) {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			m, c := fuzzManager(t, func(context.Context, string, string) (net.Conn, error) { return here, nil })
			defer m.Close()
			var running sync.WaitGroup
			running.Go(func() {
				s, err := m.dialer.dial(t.Context(), c)
				if err != nil {
					here.Close() // as the dial did, if it came that far
					return
				}
				runToEnd(c, s)
			})
			if upgrades {
				if _, err := ws.Upgrade(there); err != nil {
					t.Fatal(err)
				}
			}
			running.Go(func() { io.Copy(io.Discard, there) })
			in := script{data: data}
			for len(in.data) > 0 {
				var b []byte
				if upgrades {
					var pause time.Duration
					b, pause, _ = in.next()
					time.Sleep(pause)
				} else {
					b = in.bytes(100)
				}
				if len(b) > 0 {
					if _, err := there.Write(b); err != nil {
						break
					}
				}
			}
			synctest.Wait()
			there.Close()
			running.Wait()
			synctest.Wait()
			checkNothingLeft(t, c)
		})
	})
}
