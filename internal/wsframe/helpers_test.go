package wsframe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing/iotest"

	"github.com/gobwas/ws"
)

// frame is a frame as a peer might send it, right or wrong.
type frame struct {
	op      ws.OpCode
	more    bool // FIN not set
	rsv     byte
	payload string
}

var testKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

func (f frame) append(dst []byte, masked bool) []byte {
	head := make([]byte, HeaderSize(len(f.payload), masked))
	PutHeader(head, f.op, len(f.payload), masked, testKey)
	if f.more {
		head[0] &^= finBit
	}
	head[0] |= f.rsv << 4
	dst = append(dst, head...)
	start := len(dst)
	dst = append(dst, f.payload...)
	if masked {
		Mask(dst[start:], testKey)
	}
	return dst
}

func binaryFrame(payload string) frame { return frame{op: ws.OpBinary, payload: payload} }
func firstPart(payload string) frame   { return frame{op: ws.OpBinary, payload: payload, more: true} }

func nextPart(payload string) frame {
	return frame{op: ws.OpContinuation, payload: payload, more: true}
}
func lastPart(payload string) frame  { return frame{op: ws.OpContinuation, payload: payload} }
func textFrame(payload string) frame { return frame{op: ws.OpText, payload: payload} }
func ping(payload string) frame      { return frame{op: ws.OpPing, payload: payload} }
func pong(payload string) frame      { return frame{op: ws.OpPong, payload: payload} }

func closing(code ws.StatusCode, reason string) frame {
	return frame{op: ws.OpClose, payload: string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason}
}

func encode(frames []frame, masked bool) []byte {
	var b []byte
	for _, f := range frames {
		b = f.append(b, masked)
	}
	return b
}

// event is something a Reader told its user.
type event struct {
	what    string // message, ping, pong, or the error
	payload string
}

func (e event) String() string {
	if len(e.payload) > 40 {
		return fmt.Sprintf("%s of %d bytes, %.40q…", e.what, len(e.payload), e.payload)
	}
	return fmt.Sprintf("%s %q", e.what, e.payload)
}

func message(payload string) event { return event{"message", payload} }
func gotPing(payload string) event { return event{"ping", payload} }
func gotPong(payload string) event { return event{"pong", payload} }
func closed(code int, reason string) event {
	return event{fmt.Sprintf("closed %d", code), reason}
}
func fails(code int) event { return event{what: fmt.Sprintf("fails %d", code)} }

var (
	ended = event{what: "EOF"}
	cut   = event{what: "unexpected EOF"}
)

func errorEvent(err error) event {
	var ce *CloseError
	var pe *ProtocolError
	switch {
	case errors.As(err, &ce):
		return closed(int(ce.Code), ce.Reason)
	case errors.As(err, &pe):
		return fails(int(pe.Code))
	default:
		return event{what: err.Error()}
	}
}

// record reads everything from src.
func record(src io.Reader, early []byte, c Config) []event {
	var events []event
	c.OnPing = func(p []byte) { events = append(events, gotPing(string(p))) }
	c.OnPong = func(p []byte) { events = append(events, gotPong(string(p))) }
	r := NewReader(src, early, c)
	defer r.Release()
	for {
		msg, err := r.Next()
		if err != nil {
			if _, again := r.Next(); again != err {
				panic("the error did not stay")
			}
			return append(events, errorEvent(err))
		}
		events = append(events, message(string(msg)))
		for i := range msg { // the message is the caller's until the next call
			msg[i] = 0xee
		}
	}
}

// randomReader cuts what it reads into pieces of a random size.
type randomReader struct {
	src io.Reader
	rnd *rand.Rand
	max int
}

func (r *randomReader) Read(p []byte) (int, error) {
	n := 1 + r.rnd.IntN(r.max)
	return r.src.Read(p[:min(n, len(p))])
}

type chunking struct {
	name string
	cut  func(io.Reader) io.Reader
}

var chunkings = []chunking{
	{"whole", func(r io.Reader) io.Reader { return r }},
	{"byte by byte", iotest.OneByteReader},
	{"in halves", iotest.HalfReader},
	{"with the error along with the last bytes", iotest.DataErrReader},
	{"in random small chunks", func(r io.Reader) io.Reader {
		return &randomReader{r, rand.New(rand.NewPCG(1, 2)), 9}
	}},
	{"in random large chunks", func(r io.Reader) io.Reader {
		return &randomReader{r, rand.New(rand.NewPCG(3, 4)), 9000}
	}},
}
