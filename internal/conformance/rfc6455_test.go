package conformance

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/door"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/gridmesh/grid/internal/testnode"
	"github.com/gridmesh/grid/internal/wsframe"
)

// The tests in this file hold a node, over a real socket, against RFC 6455: what it answers, and
// how it closes. internal/wsframe tests the reading of frames in more cases, and in every way that
// bytes can be cut.

// single is the handler that requests are for.
const single grid.HandlerID = 127

// rfcFrame is a frame, right or wrong. Whether it is masked depends on who sends it.
type rfcFrame struct {
	op      ws.OpCode
	more    bool // FIN is not set
	rsv     byte
	payload string
	wire    string // in place of all that, where set; masked with zeros where the mask bit is set
	mask    maskUse
}

type maskUse int

const (
	maskedAsItShould maskUse = iota
	maskedWrongly
)

func (f rfcFrame) append(dst []byte, dialed bool) []byte {
	if f.wire != "" {
		return append(dst, f.wire...)
	}
	masked := dialed != (f.mask == maskedWrongly)
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	head := make([]byte, wsframe.HeaderSize(len(f.payload), masked))
	wsframe.PutHeader(head, f.op, len(f.payload), masked, key)
	if f.more {
		head[0] &^= 0x80
	}
	head[0] |= f.rsv << 4
	dst = append(dst, head...)
	start := len(dst)
	dst = append(dst, f.payload...)
	if masked {
		wsframe.Mask(dst[start:], key)
	}
	return dst
}

func rfcPing(payload string) rfcFrame { return rfcFrame{op: ws.OpPing, payload: payload} }
func rfcText(payload string) rfcFrame { return rfcFrame{op: ws.OpText, payload: payload} }
func rfcPart(op ws.OpCode, payload string) rfcFrame {
	return rfcFrame{op: op, payload: payload, more: true}
}
func rfcLast(payload string) rfcFrame { return rfcFrame{op: ws.OpContinuation, payload: payload} }

func rfcClose(code int, reason string) rfcFrame {
	return rfcFrame{op: ws.OpClose, payload: string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason}
}

// rfcRequest is a request whose message has size bytes, so that its frame has; 0 for whatever it
// takes.
func rfcRequest(id uint64, size int) string {
	m := testkit.Message{MuxID: id, DeadlineMS: 60000, Handler: uint8(single), Op: testkit.OpRequest, Flags: testkit.FlagEOF}
	for have := len(m.Bytes()); have < size; have = len(m.Bytes()) {
		m.Payload = append(m.Payload, make([]byte, max(1, size-have-10))...)
	}
	b := m.Bytes()
	if size > 0 && len(b) != size {
		panic(fmt.Sprintf("no message has %d bytes", size))
	}
	return string(b)
}

// rfcRequestFrame is a whole frame with a request.
func rfcRequestFrame(id uint64, size int) rfcFrame {
	return rfcFrame{op: ws.OpBinary, payload: rfcRequest(id, size)}
}

// aliveID is the request that every case sends last. Only a node that went on has an answer to it.
const aliveID = 99

// rfcOutcome is what a node does: pongs, answers to requests, and a close where code is set.
type rfcOutcome struct {
	pongs   []string
	answers []uint64 // MuxIDs
	code    ws.StatusCode
}

func (o rfcOutcome) String() string {
	return fmt.Sprintf("pongs %q, answers to %d, close code %d", o.pongs, o.answers, o.code)
}

type rfcCase struct {
	section, name string
	frames        []rfcFrame
	want          rfcOutcome
	chop          int // bytes a write; 0 for all at once
}

// alive is the outcome of what is in order: pongs, and answers to the requests and the last one.
func alive(pongs []string, answers ...uint64) rfcOutcome {
	return rfcOutcome{pongs: pongs, answers: append(answers, aliveID)}
}

// closes is the outcome of what ends the connection.
func closes(code ws.StatusCode) rfcOutcome { return rfcOutcome{code: code} }

func rfcFraming() (cases []rfcCase) {
	add := func(section, name string, want rfcOutcome, frames ...rfcFrame) {
		cases = append(cases, rfcCase{section: section, name: name, frames: frames, want: want})
	}
	for _, size := range []int{20, 125, 126, 127, 128, 65535, 65536, 100000} {
		add("5.2", fmt.Sprintf("a payload of %d bytes", size), alive(nil, 2), rfcRequestFrame(2, size))
	}
	for _, size := range []int{125, 126, 4096} {
		for _, chop := range []int{1, 7, 997} {
			cases = append(cases, rfcCase{
				"5.2", fmt.Sprintf("a payload of %d bytes in writes of %d", size, chop),
				[]rfcFrame{rfcRequestFrame(2, size)},
				alive(nil, 2), chop,
			})
		}
	}
	for rsv := byte(1); rsv < 8; rsv++ {
		add("5.2", fmt.Sprintf("reserved bits %03b of a message", rsv), closes(1002), rfcFrame{op: ws.OpBinary, rsv: rsv, payload: rfcRequest(2, 0)})
		add("5.2", fmt.Sprintf("reserved bits %03b of a text", rsv), closes(1002), rfcFrame{op: ws.OpText, rsv: rsv})
		add("5.2", fmt.Sprintf("reserved bits %03b of a ping", rsv), closes(1002), rfcFrame{op: ws.OpPing, rsv: rsv})
		add("5.2", fmt.Sprintf("reserved bits %03b of a close", rsv), closes(1002), rfcFrame{op: ws.OpClose, rsv: rsv})
		add("5.2", fmt.Sprintf("reserved bits %03b of a fragment", rsv), closes(1002),
			rfcPart(ws.OpBinary, "a"), rfcFrame{op: ws.OpContinuation, rsv: rsv})
	}
	for op := range ws.OpCode(16) {
		if op >= 3 && op <= 7 || op >= 11 {
			add("5.2", fmt.Sprintf("reserved opcode %d", op), closes(1002), rfcFrame{op: op})
			add("5.2", fmt.Sprintf("reserved opcode %d with a payload", op), closes(1002), rfcFrame{op: op, payload: "x"})
			add("5.2", fmt.Sprintf("reserved opcode %d after a message", op), rfcOutcome{answers: []uint64{2}, code: 1002}, rfcRequestFrame(2, 0), rfcFrame{op: op})
		}
	}
	add("5.1", "a message masked as it must not be", closes(1002), rfcFrame{op: ws.OpBinary, payload: "a", mask: maskedWrongly})
	add("5.1", "a ping masked as it must not be", closes(1002), rfcFrame{op: ws.OpPing, mask: maskedWrongly})
	add("5.1", "a close masked as it must not be", closes(1002), rfcFrame{op: ws.OpClose, mask: maskedWrongly})
	return cases
}

// rfcLengths are lengths that no right encoder writes. bit is the mask bit.
func rfcLengths(dialed bool) (cases []rfcCase) {
	bit, key := byte(0), ""
	if dialed {
		bit, key = 0x80, "\x00\x00\x00\x00"
	}
	head := func(op ws.OpCode, length byte, rest string) rfcFrame {
		return rfcFrame{wire: string([]byte{0x80 | byte(op), bit | length}) + rest + key}
	}
	for _, c := range []struct {
		name  string
		frame rfcFrame
		code  ws.StatusCode
	}{
		{"a 16-bit length of 0", head(ws.OpBinary, 126, "\x00\x00"), 1002},
		{"a 16-bit length of 125", head(ws.OpBinary, 126, "\x00\x7d"), 1002},
		{"a 64-bit length of 0", head(ws.OpBinary, 127, "\x00\x00\x00\x00\x00\x00\x00\x00"), 1002},
		{"a 64-bit length of 65535", head(ws.OpBinary, 127, "\x00\x00\x00\x00\x00\x00\xff\xff"), 1002},
		{"a 64-bit length with the highest bit", head(ws.OpBinary, 127, "\x80\x00\x00\x00\x00\x01\x00\x00"), 1002},
		{"a 64-bit length over the limit", head(ws.OpBinary, 127, "\x00\x00\x00\x00\x04\x00\x00\x01"), 1009},
		{"the largest length", head(ws.OpBinary, 127, "\x7f\xff\xff\xff\xff\xff\xff\xff"), 1009},
		{"a text over the limit", head(ws.OpText, 127, "\x00\x00\x00\x00\x04\x00\x00\x01"), 1009},
		{"a ping with a 16-bit length", head(ws.OpPing, 126, "\x00\x7e"), 1002},
		{"a ping with a 64-bit length", head(ws.OpPing, 127, "\x00\x00\x00\x00\x00\x01\x00\x00"), 1002},
		{"a close with a 16-bit length", head(ws.OpClose, 126, "\x00\x7e"), 1002},
	} {
		cases = append(cases, rfcCase{section: "5.2", name: c.name, frames: []rfcFrame{c.frame}, want: closes(c.code)})
	}
	return cases
}

func rfcFragmentation() (cases []rfcCase) {
	add := func(name string, want rfcOutcome, frames ...rfcFrame) {
		cases = append(cases, rfcCase{section: "5.4", name: name, frames: frames, want: want})
	}
	whole := rfcRequest(2, 300)
	part := func(from, to int) string { return whole[from:to] }
	add("two fragments", alive(nil, 2), rfcPart(ws.OpBinary, part(0, 150)), rfcLast(part(150, 300)))
	each := []rfcFrame{rfcPart(ws.OpBinary, part(0, 1))}
	for i := 1; i < 300; i++ {
		each = append(each, rfcPart(ws.OpContinuation, part(i, i+1)))
	}
	add("a fragment for each byte", alive(nil, 2), append(each, rfcLast(""))...)
	add("empty fragments", alive(nil, 2), rfcPart(ws.OpBinary, ""), rfcPart(ws.OpContinuation, ""),
		rfcPart(ws.OpContinuation, whole), rfcPart(ws.OpContinuation, ""), rfcLast(""))
	add("a ping between fragments", alive([]string{"p"}, 2), rfcPart(ws.OpBinary, part(0, 150)), rfcPing("p"), rfcLast(part(150, 300)))
	add("a pong between fragments", alive(nil, 2), rfcPart(ws.OpBinary, part(0, 150)),
		rfcFrame{op: ws.OpPong, payload: "p"}, rfcLast(part(150, 300)))
	add("two fragmented messages", alive(nil, 2, 4), rfcPart(ws.OpBinary, part(0, 150)), rfcLast(part(150, 300)),
		rfcPart(ws.OpBinary, rfcRequest(4, 0)), rfcLast(""))
	add("a fragmented text", alive(nil, 2), rfcPart(ws.OpText, "a"), rfcLast("b"), rfcRequestFrame(2, 0))
	add("a continuation of nothing", closes(1002), rfcLast("a"))
	add("a continuation of nothing that goes on", closes(1002), rfcPart(ws.OpContinuation, "a"), rfcLast("b"))
	add("a continuation after a whole message", rfcOutcome{answers: []uint64{2}, code: 1002}, rfcRequestFrame(2, 0), rfcLast(""))
	add("a continuation after a fragmented message", rfcOutcome{answers: []uint64{2}, code: 1002},
		rfcPart(ws.OpBinary, part(0, 150)), rfcLast(part(150, 300)), rfcLast(""))
	add("a message within a fragmented one", closes(1002), rfcPart(ws.OpBinary, part(0, 150)), rfcRequestFrame(4, 0))
	add("a fragment of a message within another", closes(1002), rfcPart(ws.OpBinary, part(0, 150)), rfcPart(ws.OpBinary, part(0, 150)))
	add("a text within a fragmented message", closes(1002), rfcPart(ws.OpBinary, part(0, 150)), rfcText("a"))
	add("a message within a fragmented text", closes(1002), rfcPart(ws.OpText, "a"), rfcRequestFrame(2, 0))
	return cases
}

func rfcControl() (cases []rfcCase) {
	add := func(section, name string, want rfcOutcome, frames ...rfcFrame) {
		cases = append(cases, rfcCase{section: section, name: name, frames: frames, want: want})
	}
	large := strings.Repeat("p", 125)
	for _, payload := range []string{"", "p", "\x00\xff\xfe\xfd\xfc", large} {
		add("5.5.2", fmt.Sprintf("a ping of %d bytes", len(payload)), alive([]string{payload}), rfcPing(payload))
	}
	cases = append(cases, rfcCase{"5.5.2", "a ping in writes of a byte", []rfcFrame{rfcPing(large)}, alive([]string{large}), 1})
	add("5.5.3", "a pong that nobody asked for", alive(nil), rfcFrame{op: ws.OpPong})
	add("5.5.3", "a pong with a payload that nobody asked for", alive(nil), rfcFrame{op: ws.OpPong, payload: large})
	add("5.5.3", "a pong, then a ping", alive([]string{"p"}), rfcFrame{op: ws.OpPong, payload: "q"}, rfcPing("p"))
	for _, op := range []ws.OpCode{ws.OpPing, ws.OpPong, ws.OpClose} {
		add("5.5", fmt.Sprintf("opcode %d with 126 bytes", op), closes(1002), rfcFrame{op: op, payload: large + "p"})
		add("5.5", fmt.Sprintf("opcode %d with 65536 bytes", op), closes(1002), rfcFrame{op: op, payload: strings.Repeat("p", 65536)})
		add("5.5", fmt.Sprintf("opcode %d in fragments", op), closes(1002), rfcPart(op, "a"), rfcLast("b"))
		add("5.5", fmt.Sprintf("opcode %d in fragments within a message", op), closes(1002), rfcPart(ws.OpBinary, "a"), rfcPart(op, ""))
	}
	return cases
}

func rfcClosing() (cases []rfcCase) {
	add := func(section, name string, code ws.StatusCode, frames ...rfcFrame) {
		cases = append(cases, rfcCase{section: section, name: name, frames: frames, want: closes(code)})
	}
	add("5.5.1", "no code", 1000, rfcFrame{op: ws.OpClose})
	add("5.5.1", "half a code", 1002, rfcFrame{op: ws.OpClose, payload: "\x03"})
	add("5.5.1", "a reason", 1000, rfcClose(1000, "good bye"))
	add("5.5.1", "a reason beyond ASCII", 1000, rfcClose(1000, "κόσμε"))
	add("5.5.1", "the longest reason", 1000, rfcClose(1000, strings.Repeat("*", 123)))
	add("5.5.1", "a reason that is too long", 1002, rfcClose(1000, strings.Repeat("*", 124)))
	add("5.5.1", "a close within a fragmented message", 1001, rfcPart(ws.OpBinary, "a"), rfcClose(1001, ""))
	add("5.5.1", "two closes", 1001, rfcClose(1001, ""), rfcClose(1000, ""))
	add("5.5.1", "a ping after it", 1000, rfcClose(1000, ""), rfcPing("p"))
	add("5.5.1", "a request after it", 1000, rfcClose(1000, ""), rfcRequestFrame(2, 0))
	add("5.5.1", "much after it", 1000, rfcClose(1000, ""), rfcFrame{op: ws.OpBinary, payload: strings.Repeat("x", 1<<20)})
	for _, reason := range []string{"\xff", "\xce", "a\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"} {
		add("8.1", fmt.Sprintf("the reason %q", reason), 1007, rfcClose(1000, reason))
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add("7.4", fmt.Sprintf("the code %d", code), ws.StatusCode(code), rfcClose(code, ""))
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add("7.4", fmt.Sprintf("the code %d", code), 1002, rfcClose(code, ""))
	}
	return cases
}

func rfcTexts() (cases []rfcCase) {
	add := func(section, name string, want rfcOutcome, frames ...rfcFrame) {
		cases = append(cases, rfcCase{section: section, name: name, frames: frames, want: want})
	}
	for _, text := range []string{"", "a", "κόσμε", "\U0010ffff", strings.Repeat("κόσμε", 10000)} {
		add("5.6", fmt.Sprintf("the text %.20q", text), alive(nil), rfcText(text))
	}
	add("5.6", "a text cut within a character", alive([]string{"p"}), rfcPart(ws.OpText, "\xce"), rfcPing("p"), rfcLast("\xba"))
	for _, text := range []string{"\x80", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xfe", "κόσ\xce", "a\xffb"} {
		add("8.1", fmt.Sprintf("the text %q", text), closes(1007), rfcText(text))
		add("8.1", fmt.Sprintf("the text %q in fragments", text), closes(1007), rfcPart(ws.OpText, text[:len(text)/2]), rfcLast(text[len(text)/2:]))
	}
	return cases
}

func TestRFC6455AsAcceptor(t *testing.T) {
	cases := slices.Concat(rfcFraming(), rfcLengths(true), rfcFragmentation(), rfcControl(), rfcClosing(), rfcTexts())
	for _, c := range cases {
		t.Run(c.section+", "+c.name, func(t *testing.T) {
			t.Parallel()
			m, p := testnode.AcceptPeer(t, nil)
			checkRFC(t, m, p, c)
		})
	}
}

func TestRFC6455AsDialer(t *testing.T) {
	cases := slices.Concat(rfcFraming(), rfcLengths(false), rfcFragmentation(), rfcControl(), rfcClosing(), rfcTexts())
	for _, c := range cases {
		t.Run(c.section+", "+c.name, func(t *testing.T) {
			t.Parallel()
			m, p := testnode.DialPeer(t)
			checkRFC(t, m, p, c)
		})
	}
}

// checkRFC plays a case to a node and compares what it does.
func checkRFC(t *testing.T, m *grid.Manager, p *testkit.Peer, c rfcCase) {
	err := m.RegisterSingleHandler(single, func([]byte) ([]byte, *grid.RemoteErr) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	p.Handshake(t, m.ID)
	var wire []byte
	for _, f := range append(slices.Clone(c.frames), rfcRequestFrame(aliveID, 0)) {
		wire = f.append(wire, p.Dialed)
	}
	chop := len(wire)
	if c.chop > 0 {
		chop = c.chop
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for piece := range slices.Chunk(wire, chop) {
			if _, err := p.Conn.Write(piece); err != nil {
				return // closed already
			}
		}
	}()
	got := observeRFC(t, p, c.want.answers...)
	slices.Sort(got.answers) // handlers run at the same time
	if c.want.code != 0 && !slices.ContainsFunc(got.answers, func(id uint64) bool { return !slices.Contains(c.want.answers, id) }) {
		got.answers = c.want.answers // a handler may be too late for the connection's end, but must not run after it
	}
	if !slices.Equal(got.pongs, c.want.pongs) || !slices.Equal(got.answers, c.want.answers) || got.code != c.want.code {
		t.Errorf("the node has %v\nwant %v", got, c.want)
	}
	p.Conn.Close()
	<-sent
}

// observeRFC reads what the node does until it answers the last request and those that are awaited,
// or closes and hangs up.
func observeRFC(t *testing.T, p *testkit.Peer, awaited ...uint64) (got rfcOutcome) {
	t.Helper()
	missing := func(id uint64) bool { return !slices.Contains(got.answers, id) }
	for missing(aliveID) || slices.ContainsFunc(awaited, missing) {
		frame, err := p.NextFrame()
		switch {
		case errors.Is(err, io.EOF) && got.code != 0:
			return got
		case err != nil:
			t.Errorf("after %v: %v", got, err)
			return got
		case got.code != 0:
			t.Errorf("after the close frame: %+v", frame.Header)
		case frame.Header.Masked == p.Dialed || frame.Header.Rsv != 0 || !frame.Header.Fin:
			t.Errorf("the node sent %+v", frame.Header)
		}
		payload := ws.UnmaskFrame(frame).Payload
		switch frame.Header.OpCode {
		case ws.OpPong:
			got.pongs = append(got.pongs, string(payload))
		case ws.OpClose:
			got.code = ws.StatusNoStatusRcvd
			if len(payload) > 0 {
				got.code, _ = ws.ParseCloseFrameData(payload)
			}
		case ws.OpBinary:
			messages, err := testkit.ParseFrame(payload)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				if m.Op == testkit.OpResponse {
					got.answers = append(got.answers, m.MuxID)
				}
			}
		default:
			t.Errorf("the node sent %+v", frame.Header)
		}
	}
	return got
}

// Of several pings at once the newest has to be answered (5.5.3), whatever else goes on.
func TestManyPingsAreAnswered(t *testing.T) {
	m, p := testnode.AcceptPeer(t, nil)
	p.Handshake(t, m.ID)
	var wire []byte
	for i := range 1000 {
		wire = rfcPing(fmt.Sprint(i)).append(wire, true)
	}
	if _, err := p.Conn.Write(wire); err != nil {
		t.Fatal(err)
	}
	last := -1
	for last != 999 {
		frame, err := p.NextFrame()
		if err != nil {
			t.Fatal(err)
		}
		if frame.Header.OpCode != ws.OpPong {
			continue
		}
		var i int
		if _, err := fmt.Sscan(string(frame.Payload), &i); err != nil || i <= last {
			t.Fatalf("pong %q after that of %d", frame.Payload, last)
		}
		last = i
	}
}

// A sender in the middle of a message over the limit learns why the connection ends: 10.4 and
// 7.1.1.
func TestASenderOfTooMuchLearnsWhy(t *testing.T) {
	const limit = 4 << 20 // far more than the socket's buffers hold
	l, local := testkit.Listen(t)
	o, name := testnode.Dialed(local)
	o.Limits.MaxMessageSize = limit
	m := testnode.Serve(t, l, o)
	p := testkit.Dial(t, local, grid.RoutePath, name)
	p.Handshake(t, m.ID)
	wire := rfcFrame{op: ws.OpBinary, payload: strings.Repeat("x", limit+1)}.append(nil, true)
	sent := make(chan int)
	go func() {
		n, _ := p.Conn.Write(wire)
		sent <- n
	}()
	if n := <-sent; n < limit {
		t.Errorf("%d bytes were taken", n)
	}
	if got := observeRFC(t, p); got.code != ws.StatusMessageTooBig {
		t.Errorf("got %v", got)
	}
}

// A peer that does not close after the close frame is not waited for.
func TestAPeerThatDoesNotCloseIsLeft(t *testing.T) {
	l, local := testkit.Listen(t)
	o, name := testnode.Dialed(local)
	o.Limits.WriteTimeout = 50 * time.Millisecond
	m := testnode.Serve(t, l, o)
	p := testkit.Dial(t, local, grid.RoutePath, name)
	p.Handshake(t, m.ID)
	if _, err := p.Conn.Write(rfcClose(1000, "").append(nil, true)); err != nil {
		t.Fatal(err)
	}
	if got := observeRFC(t, p); got.code != ws.StatusNormalClosure {
		t.Errorf("got %v", got)
	}
	conn := m.Connection(name)
	testkit.Eventually(t, "the session's end", func() bool { return door.Look(conn).Sessions == 0 })
}
