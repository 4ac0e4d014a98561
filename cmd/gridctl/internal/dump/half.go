package dump

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"time"

	"github.com/gobwas/ws"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/cmd/gridctl/internal/wire"
)

// half is one direction of a connection.
type half struct {
	*conversation
	from, to string
	state    state
	buffer   []byte // what is not understood yet
	message  []byte // the fragments of a WebSocket message
	op       ws.OpCode
}

// state is how far a half is understood.
type state uint8

const (
	lost   state = iota // it looks for a beginning, at the start of each packet
	frames              // WebSocket frames follow
	closed              // nothing that is understood follows
)

const (
	maxHead  = 64 << 10  // bytes of an HTTP head
	maxFrame = 128 << 20 // bytes that a frame is believed to have
)

// side is the number of a half in the conversation.
func (h *half) side() int {
	if h == &h.halves[0] {
		return 0
	}
	return 1
}

// lose notes that bytes are missing.
func (h *half) lose(at time.Time, n int) {
	if h.state == frames && h.grid {
		h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "-", Wrong: fmt.Sprintf("%d bytes are missing in the capture", n)})
	}
	if h.state == frames {
		h.state = lost
	}
	h.buffer, h.message = nil, nil
}

// receive takes the bytes of a packet.
func (h *half) receive(at time.Time, b []byte) {
	if h.state == closed {
		return
	}
	if h.state == lost && len(h.buffer) > 0 && !mayBeHead(h.buffer) {
		h.buffer = nil // a packet further on may begin with something known
	}
	h.buffer = append(h.buffer, b...)
	for h.state != closed && len(h.buffer) > 0 && h.step(at) {
	}
}

// step takes something from the buffer, and reports whether it did.
func (h *half) step(at time.Time) bool {
	if h.state == frames {
		return h.frame(at)
	}
	switch b := h.buffer; {
	case isTLS(b):
		h.state = closed
		if !h.tls {
			h.tls = true
			h.sum.TLS++
			h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "-", Detail: "TLS: this cannot be read; capture where it is not encrypted, or use gridctl tap"})
		}
		return false
	case mayBeHead(b):
		return h.head(at)
	case plausible(b, false):
		h.state = frames
		return true
	}
	for i := 1; i < len(h.buffer); i++ { // behind a gap, packets come in one
		if h.buffer[i] == wholeBinary && plausible(h.buffer[i:], true) {
			h.buffer, h.state = h.buffer[i:], frames
			return true
		}
	}
	h.buffer = nil
	return false
}

// wholeBinary is the first byte of a frame with a whole message.
const wholeBinary = 0x80 | byte(ws.OpBinary)

func isTLS(b []byte) bool {
	return len(b) >= 3 && b[0] >= 0x14 && b[0] <= 0x17 && b[1] == 3 && b[2] <= 4
}

// mayBeHead reports whether HTTP begins there.
func mayBeHead(b []byte) bool {
	for _, start := range [][]byte{[]byte("GET "), []byte("HTTP/1.")} {
		if n := min(len(b), len(start)); bytes.Equal(b[:n], start[:n]) {
			return len(b) <= maxHead
		}
	}
	return false
}

// head takes a request for a WebSocket, or the answer to one.
func (h *half) head(at time.Time) bool {
	end := bytes.Index(h.buffer, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	head := h.buffer[:end+4]
	h.buffer = h.buffer[end+4:]
	l := &Line{Time: at, From: h.from, To: h.to, Op: "HTTP"}
	r := bufio.NewReader(bytes.NewReader(head))
	if head[0] == 'G' {
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("X-Minio-Time") == "" && req.Header.Get("Upgrade") == "" {
			h.state = closed // a request of somebody else
			return false
		}
		l.Detail = fmt.Sprintf("GET %s", req.URL.Path)
		if req.Header.Get("Upgrade") == "" {
			l.Wrong = "no header Upgrade: it is no WebSocket, or a proxy has dropped that"
		} else {
			h.state = frames
		}
		h.emit(l)
		return true
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		h.state = closed
		return false
	}
	resp.Body.Close()
	l.Detail = resp.Status
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols:
		h.state = frames
	case resp.StatusCode >= 200:
		h.state = closed
		l.Wrong = "no WebSocket"
	}
	h.emit(l)
	return true
}

// plausible reports whether a frame with a message of a grid begins there: for sure, if that is
// whole, as it may have to be, and else most likely.
func plausible(b []byte, whole bool) bool {
	head, rest, ok := cutHeader(b)
	if !ok || head.OpCode != ws.OpBinary || !head.Fin || head.Length < 9 || len(rest) < 9 {
		return false
	}
	n := int(min(head.Length, int64(len(rest))))
	payload := unmask(head, rest[:n])
	if int64(n) < head.Length {
		_, _, err := wire.ParseHead(payload)
		return err == nil && !whole
	}
	m, err := wire.Parse(payload)
	return err == nil && m.Sum != wire.SumWrong
}

// cutHeader takes the header of a frame off b; false where there is no valid one.
func cutHeader(b []byte) (head ws.Header, rest []byte, ok bool) {
	r := bytes.NewReader(b)
	head, err := ws.ReadHeader(r)
	if err != nil || head.Rsv != 0 || head.OpCode.IsReserved() || head.Length > maxFrame || head.OpCode.IsControl() && (head.Length > ws.MaxControlFramePayloadSize || !head.Fin) {
		return head, nil, false
	}
	return head, b[len(b)-r.Len():], true
}

func unmask(head ws.Header, b []byte) []byte {
	b = bytes.Clone(b)
	if head.Masked {
		ws.Cipher(b, head.Mask, 0)
	}
	return b
}

// frame takes a whole frame.
func (h *half) frame(at time.Time) bool {
	head, rest, ok := cutHeader(h.buffer)
	if !ok {
		if len(h.buffer) < ws.MaxHeaderSize && bytes.IndexByte([]byte{0x82, 0x02, 0x80, 0x00, 0x88, 0x89, 0x8a, 0x81, 0x01}, h.buffer[0]) >= 0 {
			return false // more of it may come
		}
		h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "-", Wrong: "what follows is no WebSocket frame"})
		h.state, h.buffer = lost, nil
		return false
	}
	if int64(len(rest)) < head.Length {
		return false
	}
	payload := unmask(head, rest[:head.Length])
	h.buffer = rest[head.Length:]
	switch head.OpCode {
	case ws.OpPing, ws.OpPong:
		h.emit(&Line{Time: at, From: h.from, To: h.to, Op: map[ws.OpCode]string{ws.OpPing: "WebSocket ping", ws.OpPong: "WebSocket pong"}[head.OpCode], Size: len(payload)})
	case ws.OpClose:
		h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "WebSocket close", Size: len(payload), Detail: closeText(payload)})
		h.state = closed
	case ws.OpContinuation:
		h.message = append(h.message, payload...)
		if head.Fin && h.op == ws.OpBinary {
			h.whole(at, h.message)
		}
	default:
		h.op, h.message = head.OpCode, payload
		if head.Fin && h.op == ws.OpBinary {
			h.whole(at, payload)
		}
	}
	if len(h.message) > maxFrame {
		h.message = nil
	}
	return true
}

func closeText(payload []byte) string {
	code, reason := ws.ParseCloseFrameDataUnsafe(payload)
	if len(payload) == 0 {
		return "without a status"
	}
	return fmt.Sprintf("%d %s", code, reason)
}

// whole takes a WebSocket message.
func (h *half) whole(at time.Time, b []byte) {
	h.message = nil
	m, err := wire.Parse(b)
	if err != nil {
		if h.grid {
			h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "-", Size: len(b), Wrong: "not a message: " + err.Error()})
		}
		return
	}
	h.isGrid()
	all := []wire.Message{m}
	wrong := ""
	if m.Op == grid.OpMerged {
		if all, err = m.Merged(); err != nil {
			wrong = "a frame of several messages: " + err.Error()
		}
	}
	for i := range all {
		h.sum.Messages++
		h.emit(h.describe(at, &all[i]))
	}
	if wrong != "" {
		h.emit(&Line{Time: at, From: h.from, To: h.to, Op: "Merged", Wrong: wrong})
	}
}
