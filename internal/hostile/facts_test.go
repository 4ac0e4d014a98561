package hostile

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
	"github.com/tinylib/msgp/msgp"
)

// manyFacts are as much as a peer may say of itself.
func manyFacts(version string) []byte {
	b := msgp.AppendString(msgp.AppendString([]byte{0x83}, "Version"), version)
	b = msgp.AppendMapHeader(msgp.AppendString(b, "Labels"), 64)
	for i := range 64 {
		b = msgp.AppendString(msgp.AppendString(b, fmt.Sprintf("%016d", i)), strings.Repeat("x", 16))
	}
	var routes []byte
	for i := range 4096 {
		routes = binary.BigEndian.AppendUint64(routes, uint64(i))
	}
	return msgp.AppendBytes(msgp.AppendString(b, "StreamRoutes"), routes)
}

// A peer that says again and again what it is makes a node keep it once, and answer.
func TestAFloodOfFactsTakesBoundedMemory(t *testing.T) {
	n := start(t, nil)
	p := n.joinAs(t, features)
	go io.Copy(io.Discard, p.In)
	heap := func() int {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	before := heap()
	const rounds = 1000
	for i := range rounds {
		p.MustSend(t, testkit.Message{Seq: uint32(i), Op: testkit.OpFacts, Flags: testkit.FlagChecksum, Payload: manyFacts(fmt.Sprint(i))})
	}
	testkit.Eventually(t, "the last", func() bool { return n.conn().Peer().Version == fmt.Sprint(rounds-1) })
	if took := heap() - before; took > 1<<20 {
		t.Errorf("%d bytes are held for what a peer says of itself", took)
	}
	if got := len(n.conn().Peer().Labels); got != 64 {
		t.Errorf("%d labels", got)
	}
}

// What a peer says of itself beyond all bounds ends the connection, and does not count.
func TestFactsTooLargeEndTheConnection(t *testing.T) {
	for name, payload := range map[string][]byte{
		"a field of a later version": append(msgp.AppendString([]byte{0x81}, "Later"), msgp.AppendBytes(nil, make([]byte, 1<<20))...),
		"a version":                  append(msgp.AppendString([]byte{0x81}, "Version"), msgp.AppendString(nil, strings.Repeat("x", 1<<20))...),
		"labels that do not come":    append(msgp.AppendString([]byte{0x81}, "Labels"), 0xdf, 0xff, 0xff, 0xff, 0xff),
		"routes that do not come":    append(msgp.AppendString([]byte{0x81}, "StreamRoutes"), 0xc6, 0xff, 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, nil)
			p := n.joinAs(t, features)
			p.MustSend(t, testkit.Message{Op: testkit.OpFacts, Flags: testkit.FlagChecksum, Payload: payload})
			go io.Copy(io.Discard, p.In)
			conn := n.conn()
			testkit.Eventually(t, "the end of the connection", func() bool { return conn.Peer().Since.IsZero() })
			if got := conn.Peer(); got.Version != "" || len(got.Labels) > 0 {
				t.Errorf("known: %+v", got)
			}
		})
	}
}
