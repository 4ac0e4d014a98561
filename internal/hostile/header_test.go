package hostile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/testkit"
	"github.com/tinylib/msgp/msgp"
)

// newest are the features of a node of this state.
const newest = features | 1<<6 | 1<<7 | 1<<9 | testkit.FeatureHalves | testkit.FeatureHeaders

// header is a header of a stream's handler, with its metadata; an empty one without.
func header(id uint64, seq int, metadata []byte) testkit.Message {
	if metadata == nil {
		return checked(testkit.Message{MuxID: id, Seq: uint32(seq), Op: testkit.OpMuxServerHeader})
	}
	part := msgp.AppendBytes(msgp.AppendString([]byte{0x81}, "header"), metadata)
	return checked(testkit.Message{MuxID: id, Seq: uint32(seq), Op: testkit.OpMuxServerHeader, Metadata: part})
}

// ended is the end of the messages of a stream's handler.
func ended(id uint64, seq int) testkit.Message {
	return checked(testkit.Message{MuxID: id, Seq: uint32(seq), Op: testkit.OpMuxServerEnd})
}

// receive returns the node's next message that says nothing of the node.
func receive(t *testing.T, p *testkit.Peer) testkit.Message {
	t.Helper()
	for {
		if m, _ := p.Receive(t); m.Op != testkit.OpFacts {
			return m
		}
	}
}

// anna is metadata of one pair.
var anna = []byte("\x81\xa4user\xc4\x04anna")

// Headers and ends that are about a request, or a stream of the peer itself, change nothing there.
func TestHeadersAndEndsOfWhatHasNone(t *testing.T) {
	n := start(t, nil)
	handleStream(t, n, stream, 2, echoBack)
	p := n.joinAs(t, newest)
	answered := make(chan error, 1)
	go func() {
		b, err := n.conn().Request(t.Context(), single, nil)
		if err == nil && string(b) != "hi" {
			err = fmt.Errorf("the answer is %q", b)
		}
		answered <- err
	}()
	request := receive(t, p)
	id := request.MuxID
	p.MustSend(t, header(id, 0, anna), ended(id, 1), header(id, 2, nil),
		checked(testkit.Message{MuxID: id, Op: testkit.OpResponse, Flags: testkit.FlagEOF, Payload: []byte("hi")}))
	if err := <-answered; err != nil {
		t.Error(err)
	}
	const own = 101
	p.MustSend(t, checked(testkit.Message{MuxID: own, Seq: 1 << 16, Handler: uint8(stream), Op: testkit.OpConnectMux}),
		header(own, 1, anna), ended(own, 2),
		checked(testkit.Message{MuxID: own, Seq: 1, Op: testkit.OpMuxClientMsg, Payload: []byte("ho")}))
	told := map[uint64]int{}
	for {
		m := receive(t, p)
		if m.Op == testkit.OpMuxServerMsg && string(m.Payload) == "ho" {
			break
		}
		if m.Op == testkit.OpDisconnectServerMux {
			told[m.MuxID]++
		}
	}
	if told[id] != 3 || told[own] != 2 {
		t.Errorf("the node has answered %v times", told)
	}
	p.MustSend(t, checked(testkit.Message{MuxID: own, Op: testkit.OpDisconnectServerMux}))
	n.waitIdle(t)
	if got := n.conn().State(); got != grid.StateConnected {
		t.Errorf("the connection is %v", got)
	}
}

// A handler's side that sends them again and again ends its stream, and no other.
func TestAFloodOfHeadersAndEndsEndsItsStream(t *testing.T) {
	for name, flood := range map[string]func(id uint64, seq int) testkit.Message{
		"headers": func(id uint64, seq int) testkit.Message { return header(id, seq, anna) },
		"ends":    ended,
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, nil)
			p := n.joinAs(t, newest)
			st, err := n.conn().OpenStream(t.Context(), "flood", nil)
			if err != nil {
				t.Fatal(err)
			}
			open := receive(t, p)
			p.MustSend(t, checked(testkit.Message{MuxID: open.MuxID, DeadlineMS: 1 << 16, Op: testkit.OpAckMux}))
			const rounds = 1000
			for seq := 1; seq <= rounds; seq++ {
				p.MustSend(t, flood(open.MuxID, seq))
			}
			for left := rounds - 1; left > 0; left-- { // one ends the stream, and the others find none
				if m := receive(t, p); m.Op != testkit.OpDisconnectServerMux || m.MuxID != open.MuxID {
					t.Fatalf("the node sent %+v", m)
				}
			}
			<-st.Done()
			if err := st.Err(); err == nil || !strings.Contains(err.Error(), "came") {
				t.Errorf("the stream ended with %v", err)
			}
			n.waitIdle(t)
			if got := n.conn().State(); got != grid.StateConnected {
				t.Errorf("the connection is %v", got)
			}
		})
	}
}

// What no header may be ends the connection, whatever stream it is of.
func TestHeadersThatBreakTheRules(t *testing.T) {
	large := msgp.AppendBytes(msgp.AppendString([]byte{0x81}, "k"), make([]byte, 9000))
	many := msgp.AppendMapHeader(nil, 65)
	for i := range 65 {
		many = msgp.AppendBytes(msgp.AppendString(many, fmt.Sprintf("%02d", i)), nil)
	}
	raw := func(part []byte) testkit.Message {
		return checked(testkit.Message{MuxID: 1 << 20, Op: testkit.OpMuxServerHeader, Metadata: part})
	}
	for name, m := range map[string]testkit.Message{
		"too many bytes":          header(1<<20, 1, large),
		"too many pairs":          header(1<<20, 1, many),
		"no metadata":             header(1<<20, 1, []byte{0x91}),
		"a map that does not end": header(1<<20, 1, []byte{0xdf, 0xff, 0xff, 0xff, 0xff}),
		"no map":                  raw([]byte{0xc0}),
		"keys that do not come":   raw([]byte{0xdf, 0xff, 0xff, 0xff, 0xff}),
		"a key twice":             raw(append(append([]byte{0x82}, "\xa6header\xc4\x01\x80"...), "\xa6header\xc4\x01\x80"...)),
		"without a checksum":      {MuxID: 1 << 20, Op: testkit.OpMuxServerHeader},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, nil)
			p := n.joinAs(t, newest)
			p.MustSend(t, m)
			conn := n.conn()
			for m, err := p.Next(); err == nil; m, err = p.Next() { // to the close frame
				if one, err := testkit.ParseMessage(m); err != nil || one.Op != testkit.OpPing && one.Op != testkit.OpFacts {
					t.Errorf("the node sent %+v, %v", one, err)
				}
			}
			p.Conn.Close()
			testkit.Eventually(t, "the end of the connection", func() bool { return conn.State() != grid.StateConnected })
			n.waitIdle(t)
		})
	}
}
