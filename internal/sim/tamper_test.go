package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/internal/simnet"
	"github.com/gridmesh/grid/internal/wsframe"
	"github.com/tinylib/msgp/msgp"
)

// tampers stands between two nodes as a faulty peer would: it loses, repeats and swaps whole
// messages of streams, their checksums intact. What the network cannot do the sequence numbers are
// there for. It leaves alone what opens a stream, and single requests, which have none.
type tampers struct {
	mu   sync.Mutex // Protects following.
	rng  *rand.Rand
	left map[[2]string]int     // messages still to be tampered with, by from and to
	ever map[twoNodes]struct{} // pairs that were tampered with
}

// newTampers draws from a seed.
func newTampers(seed uint64) tampers {
	return tampers{
		rng:  rand.New(rand.NewPCG(seed, 0x74616d70)),
		left: make(map[[2]string]int),
		ever: make(map[twoNodes]struct{}),
	}
}

// tamper lets the next messages from one node to another be tampered with.
func (w *world) tamper(f faultPlan) {
	t := &w.tampers
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left[[2]string{w.nodes[f.a].host, w.nodes[f.b].host}] += f.amount
	t.ever[nodesOf(f.a, f.b)] = struct{}{}
}

func (w *world) stopTampering() {
	w.tampers.mu.Lock()
	defer w.tampers.mu.Unlock()
	clear(w.tampers.left)
}

// with reports whether messages between two nodes were tampered with.
func (t *tampers) with(a, b int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.ever[nodesOf(a, b)]
	return ok
}

// dialer returns the dialer of a host.
func (t *tampers) dialer(n *simnet.Network, host string, incoming func(int64)) grid.ContextDialer {
	dial := n.Dialer(host)
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return t.wrap(c, host, incoming), nil
	}
}

// tamperedListener wraps what it accepts.
type tamperedListener struct {
	net.Listener
	t        *tampers
	host     string
	incoming func(int64)
}

func (l tamperedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.t.wrap(c, l.host, l.incoming), nil
}

func (t *tampers) wrap(c net.Conn, local string, incoming func(int64)) net.Conn {
	remote, _, _ := strings.Cut(c.RemoteAddr().String(), ":")
	return &tamperedConn{c.(*simnet.Conn), t, [2]string{local, remote}, incoming}
}

// tamperedConn changes what is written. Nodes write whole frames.
type tamperedConn struct {
	*simnet.Conn
	t        *tampers
	hosts    [2]string
	incoming func(int64) // is told of bytes before the node sees them
}

func (c *tamperedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.incoming(int64(n))
	}
	return n, err
}

func (c *tamperedConn) Write(b []byte) (int, error) {
	changed, ok := c.t.change(c.hosts, b)
	if !ok {
		return c.Conn.Write(b)
	}
	if _, err := c.Conn.Write(changed); err != nil {
		return 0, err
	}
	return len(b), nil
}

// change returns what is written in place of a frame. ok is false where that is the frame itself.
func (t *tampers) change(hosts [2]string, frame []byte) (changed []byte, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left[hosts] == 0 || t.rng.IntN(2) == 0 {
		return nil, false
	}
	masked, messages, err := splitFrame(frame)
	if err != nil {
		return nil, false // the HTTP upgrade, a control frame, or a part of a large frame
	}
	var eligible []int
	for i, m := range messages {
		if m.tamperable() {
			eligible = append(eligible, i)
		}
	}
	if len(eligible) == 0 {
		return nil, false
	}
	t.left[hosts]--
	i := eligible[t.rng.IntN(len(eligible))]
	messages = t.spoil(messages, i)
	for _, m := range messages {
		changed = appendFrame(changed, m.raw, masked)
	}
	return changed, true
}

// spoil loses, repeats or swaps message i.
func (t *tampers) spoil(messages []rawMessage, i int) []rawMessage {
	one := messages[i]
	next := i + 1
	for next < len(messages) && (messages[next].id != one.id || !messages[next].tamperable()) {
		next++
	}
	var spoiled []rawMessage
	switch how := t.rng.IntN(3); {
	case how == 0 && next < len(messages):
		spoiled = append(spoiled, messages...)
		spoiled[i], spoiled[next] = spoiled[next], spoiled[i]
	case how == 1:
		spoiled = append(spoiled, messages[:i+1]...)
		spoiled = append(spoiled, messages[i:]...)
	default:
		spoiled = append(spoiled, messages[:i]...)
		spoiled = append(spoiled, messages[i+1:]...)
	}
	return spoiled
}

// rawMessage is a message as it was written.
type rawMessage struct {
	raw []byte
	id  uint64
	op  grid.Op
}

// tamperable reports whether a message has a sequence number by which the loss of it, or its
// repetition, can be found.
func (m rawMessage) tamperable() bool {
	switch m.op {
	case grid.OpAckMux, grid.OpMuxClientMsg, grid.OpMuxServerMsg, grid.OpUnblockSrvMux, grid.OpUnblockClMux:
		return true
	}
	return false
}

var errNoFrame = errors.New("not a whole frame of messages")

// splitFrame returns the messages in a frame.
func splitFrame(frame []byte) (masked bool, messages []rawMessage, err error) {
	h, err := ws.ReadHeader(bytes.NewReader(frame))
	if err != nil || h.OpCode != ws.OpBinary || !h.Fin || int64(ws.HeaderSize(h))+h.Length != int64(len(frame)) {
		return false, nil, errNoFrame
	}
	b := bytes.Clone(frame[ws.HeaderSize(h):])
	if h.Masked {
		ws.Cipher(b, h.Mask, 0)
	}
	m, inside, rest, err := parseMessage(b)
	if err != nil {
		return false, nil, err
	}
	if m.op != grid.OpMerged {
		return h.Masked, []rawMessage{m}, nil
	}
	for range inside {
		var one []byte
		if one, rest, err = msgp.ReadBytesZC(rest); err != nil {
			return false, nil, err
		}
		if m, _, _, err = parseMessage(one); err != nil {
			return false, nil, err
		}
		messages = append(messages, m)
	}
	return h.Masked, messages, nil
}

// parseMessage reads as much of a message as tampering needs to know. seq is its second field, rest
// what follows its fields.
func parseMessage(b []byte) (m rawMessage, seq uint64, rest []byte, err error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil || n != 7 {
		return m, 0, nil, errNoFrame
	}
	var fields [6]uint64 // mux ID, sequence, deadline, handler, operation, flags
	for i := range fields {
		if fields[i], rest, err = msgp.ReadUint64Bytes(rest); err != nil {
			return m, 0, nil, err
		}
	}
	if _, rest, err = msgp.ReadBytesZC(rest); err != nil {
		return m, 0, nil, err
	}
	return rawMessage{b, fields[0], grid.Op(fields[4])}, fields[1], rest, nil
}

// appendFrame appends a message in a frame of its own.
func appendFrame(b, message []byte, masked bool) []byte {
	var key [4]byte
	if masked {
		binary.NativeEndian.PutUint32(key[:], rand.Uint32())
	}
	var header [wsframe.MaxHeaderSize]byte
	n := wsframe.PutHeader(header[:], ws.OpBinary, len(message), masked, key)
	b = append(b, header[:n]...)
	start := len(b)
	b = append(b, message...)
	if masked {
		ws.Cipher(b[start:], key, 0)
	}
	return b
}
