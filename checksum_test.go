package grid

import (
	"testing"
	"testing/synctest"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

// A single flipped bit must not turn the checksum off, or hide a message of a frame.
func TestAFlippedBitIsFoundWhereverItIs(t *testing.T) {
	request := message{MuxID: 1, Handler: testSingle, Op: OpRequest, Flags: FlagEOF | FlagCRCxxh3}
	unchecked := request
	unchecked.Flags = FlagEOF
	merged := func(count int, messages ...message) []byte {
		b := appendMergedHeader(nil, count)
		for _, m := range messages {
			b = msgp.AppendBytes(b, m.appendTo(nil))
		}
		return b
	}
	second := request
	second.MuxID = 3
	for _, test := range []struct {
		name     string
		features uint32 // of the peer: 0 for an original
		bytes    []byte
		lost     bool
	}{
		{"a message", nativeFeatures, request.appendTo(nil), false},
		{"a message without its checksum", nativeFeatures, unchecked.appendTo(nil), true},
		{"a message of an original without its checksum", 0, unchecked.appendTo(nil), false},
		{"two messages", nativeFeatures, merged(2, request, second), false},
		{"two messages of which one lacks its checksum", nativeFeatures, merged(2, request, unchecked), true},
		{"two messages that are said to be one", nativeFeatures, merged(1, request, second), true},
		{"two messages of an original that are said to be one", 0, merged(1, request, second), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := newPipes(1)
			n, host := startForFake(t, c, nil)
			p := c.knock(t, n)
			p.introduceAs(t, host, test.features)
			go func() {
				for {
					if _, err := p.frames.Next(); err != nil {
						return
					}
				}
			}()
			frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame(test.bytes)))
			if _, err := p.socket.Write(frame); err != nil && !test.lost {
				t.Fatal(err)
			}
			synctest.Wait()
			if lost := n.Connection(host).State() != StateConnected; lost != test.lost {
				t.Errorf("%s: the connection is lost: %v\n%s", test.name, lost, n.log)
			}
			n.Close()
			p.socket.Close()
		})
	}
}

// A flipped bit in the header of a frame makes a pong of a message, which must not get lost unseen.
func TestAMessageThatHasBecomeAPongEndsTheConnection(t *testing.T) {
	for _, test := range []struct {
		name     string
		features uint32
		payload  string
		ends     bool
	}{
		{"a pong with bytes of a native peer", nativeFeatures, "bytes", true},
		{"an empty one", nativeFeatures, "", false},
		{"one of the original", 0, "bytes", false},
	} {
		c := &cluster{nodes: []*testNode{listenTCP(t, "127.0.0.1:0", "http://127.0.0.1")}}
		n, host := startForFake(t, c, nil)
		p := c.knock(t, n)
		p.introduceAs(t, host, test.features)
		conn := n.Connection(host)
		if err := conn.WaitForConnect(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.socket.Write(wsframe.AppendControl(nil, ws.OpPong, []byte(test.payload), true, newMask()))
		p.send(t, message{Op: OpPing}) // after it
		if test.ends {
			eventually(t, test.name, func() bool { return n.log.count("pong that nobody asked for") == 1 }, n.log.String)
			continue
		}
		if m := p.next(t); m.Op != OpPong {
			t.Errorf("%s: got %v", test.name, m.Op)
		}
	}
}
