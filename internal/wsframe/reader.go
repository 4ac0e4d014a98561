package wsframe

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/gobwas/ws"

	"github.com/gridmesh/grid/internal/bytepool"
)

// DefaultMaxMessage is the limit of a Config without one: 64 MiB.
const DefaultMaxMessage = 64 << 20

// Config says which end a Reader reads for, and what it does with control frames.
type Config struct {
	// Client is set at the end that dialed. Its incoming frames must be unmasked, and those of the
	// other end masked.
	Client bool

	// MaxMessage bounds the bytes of one message over all its fragments; larger ones fail with
	// close code 1009. Zero means DefaultMaxMessage.
	MaxMessage int

	// OnPing and OnPong, if set, are called with the payload of a ping or pong, at its place
	// between the messages or within one, on the goroutine that reads. The payload is valid only
	// during the call.
	OnPing, OnPong func(payload []byte)
}

// Reader reads messages. Its methods must not run at the same time; to stop a Next that waits,
// close the source.
type Reader struct {
	config Config
	src    io.Reader // a countingSource
	buffer readBuffer
	err    error // what Next returned last; it stays
	taken  int64 // bytes of the frames begun

	// The message being read in fragments, or last read in pieces.
	kind  messageKind
	size  int    // payload bytes that its frames have claimed, within MaxMessage
	ahead int    // bytes of a message that may be allocated before they come
	msg   []byte // from the pool
	text  utf8Check

	// What Received returns.
	whole, bytes atomic.Uint64
}

type messageKind uint8

const (
	noMessage messageKind = iota
	binaryMessage
	textMessage // read, checked and dropped
)

// NewReader returns a Reader of src that starts with the bytes of early, which were already read
// from src, such as the rest in the buffer of a hijacked HTTP connection. early is copied.
func NewReader(src io.Reader, early []byte, c Config) *Reader {
	if c.MaxMessage <= 0 {
		c.MaxMessage = DefaultMaxMessage
	}
	r := &Reader{config: c}
	r.src = &countingSource{src, &r.bytes}
	r.buffer.init(early)
	return r
}

// countingSource counts the bytes read from a source.
type countingSource struct {
	io.Reader
	bytes *atomic.Uint64
}

func (s *countingSource) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n > 0 {
		s.bytes.Add(uint64(n))
	}
	return n, err
}

// Received returns how many messages, and control frames outside a fragmented one, have arrived
// whole, and how many bytes have been read from the source. Any goroutine may call it at any time:
// repeated calls tell a slow source from a silent one.
func (r *Reader) Received() (whole, bytes uint64) { return r.whole.Load(), r.bytes.Load() }

// SetMaxMessage changes Config.MaxMessage for later messages, such as after a handshake. It must
// not be called while Next runs.
func (r *Reader) SetMaxMessage(n int) { r.config.MaxMessage = n }

// SetAhead lets a message of up to n bytes that comes in one frame have all of its memory with the
// first of its bytes, so that they are copied less. It is for peers that are known. It must not be
// called while Next runs.
func (r *Reader) SetAhead(n int) { r.ahead = n }

// Keep gives the caller the buffer of the message that Next returned last, which begins with the
// message, and is from the pool. It returns nil, and gives nothing, if that has another capacity, or
// there is none for this message alone. It must not be called while Next runs.
func (r *Reader) Keep(capacity int) []byte {
	if cap(r.msg) != capacity {
		return nil
	}
	kept := r.msg
	r.msg = nil
	return kept
}

// SetSource changes what messages are read from. What has been read already comes first. It must not
// be called while Next runs.
func (r *Reader) SetSource(src io.Reader) { r.src = &countingSource{src, &r.bytes} }

// SetOnPing changes Config.OnPing. It must not be called while Next runs.
func (r *Reader) SetOnPing(f func(payload []byte)) { r.config.OnPing = f }

// SetOnPong changes Config.OnPong. It must not be called while Next runs.
func (r *Reader) SetOnPong(f func(payload []byte)) { r.config.OnPong = f }

// Taken returns the bytes of all frames so far, headers included: those of the messages that Next
// has returned, and of control frames and skipped messages between them. It must not be called
// while Next runs.
func (r *Reader) Taken() int64 { return r.taken }

// Next returns the next binary message, which is valid until the next call of Next or Release and
// may be changed until then; see also Keep. Text messages are checked and skipped.
//
// It returns *CloseError when the peer closed, *ProtocolError when the peer broke the rules, io.EOF
// when the source ended between messages, io.ErrUnexpectedEOF when it ended within one, and errors
// of the source as they are. An error is final: every later call returns it again.
func (r *Reader) Next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	r.dropMessage()
	msg, err := r.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	r.whole.Add(1)
	return msg, nil
}

// Release gives the buffers back to the pool. The Reader and the message it returned last are dead
// afterwards: Next returns an error.
func (r *Reader) Release() {
	if r.err == nil {
		r.err = errReleased
	}
	r.dropMessage()
	r.buffer.release()
}

func (r *Reader) dropMessage() {
	bytepool.Put(r.msg)
	r.msg, r.size = nil, 0
}

func (r *Reader) next() ([]byte, error) {
	for {
		h, err := r.header()
		if err != nil {
			return nil, err
		}
		if h.op.IsControl() {
			if err := r.control(h); err != nil {
				return nil, err
			}
			if r.kind == noMessage {
				r.whole.Add(1)
			}
			continue
		}
		switch h.op {
		case ws.OpBinary:
			if h.fin && r.buffer.fits(h.length) {
				r.buffer.frugal = false
				return r.inPlace(h)
			}
			r.buffer.frugal = h.fin && h.length > maxBuffer // large ones often follow each other
			r.kind = binaryMessage
		case ws.OpText:
			r.kind, r.text = textMessage, utf8Check{}
		}
		r.size += h.length

		if r.kind == textMessage {
			err = r.discard(h)
		} else {
			err = r.gather(h)
		}
		if err != nil {
			return nil, err
		}
		if !h.fin {
			continue
		}
		kind := r.kind
		r.kind, r.size = noMessage, 0
		if kind == binaryMessage {
			if r.msg == nil { // nothing but empty fragments
				return []byte{}, nil
			}
			return slices.Clip(r.msg), nil
		}
		if !r.text.valid() {
			return nil, &ProtocolError{Code: ws.StatusInvalidFramePayloadData, Text: "text is not valid UTF-8"}
		}
		r.whole.Add(1)
	}
}

// header is a checked frame header.
type header struct {
	op     ws.OpCode
	fin    bool
	masked bool
	key    uint32 // little-endian word of the wire's four bytes
	length int    // bytes of payload
}

// header takes the next frame header off the buffer. It makes each check as soon as its bytes are
// there, so the outcome does not depend on how the bytes were cut into reads.
func (r *Reader) header() (h header, err error) {
	if err := r.need(2); err != nil {
		return h, err
	}
	b := r.buffer.bytes()
	h.op, h.fin, h.masked = ws.OpCode(b[0]&0x0f), b[0]&finBit != 0, b[1]&maskBit != 0
	if text := r.broken(h, b[0], b[1]); text != "" {
		return h, violation(text)
	}

	size, length := 2, uint64(b[1]&0x7f)
	switch length {
	case 126:
		size += 2
		if err := r.need(size); err != nil {
			return h, err
		}
		if length = uint64(binary.BigEndian.Uint16(r.buffer.bytes()[2:])); length < 126 {
			return h, violation("length not in its shortest form")
		}
	case 127:
		size += 8
		if err := r.need(size); err != nil {
			return h, err
		}
		length = binary.BigEndian.Uint64(r.buffer.bytes()[2:])
		if length>>63 != 0 {
			return h, violation("length with the highest bit set")
		}
		if length <= 0xffff {
			return h, violation("length not in its shortest form")
		}
	}
	if h.op.IsData() && length > uint64(r.config.MaxMessage-r.size) {
		return h, r.tooLarge(uint64(r.size)+length, h.fin)
	}
	h.length = int(length)

	if h.masked {
		size += 4
		if err := r.need(size); err != nil {
			return h, err
		}
		h.key = binary.LittleEndian.Uint32(r.buffer.bytes()[size-4:])
	}
	r.buffer.take(size)
	r.taken += int64(size) + int64(h.length)
	return h, nil
}

// tooLarge refuses a message of size bytes, or of at least that if not all of it has been
// announced.
func (r *Reader) tooLarge(size uint64, whole bool) error {
	least := ""
	if !whole {
		least = "at least "
	}
	return &ProtocolError{
		Code: ws.StatusMessageTooBig,
		Text: fmt.Sprintf("message too large: %s%d bytes, and the limit is %d", least, size, r.config.MaxMessage),
	}
}

// broken names the rule that the first two bytes of a frame break, if any.
func (r *Reader) broken(h header, b0, b1 byte) string {
	switch {
	case b0&0x70 != 0:
		return "reserved bits set"
	case h.op.IsReserved():
		return "reserved opcode"
	case h.masked == r.config.Client:
		if h.masked {
			return "masked frame from the server"
		}
		return "unmasked frame from the client"
	case h.op.IsControl():
		if !h.fin {
			return "fragmented control frame"
		}
		if b1&0x7f > maxControl {
			return "control frame of more than 125 bytes"
		}
	case h.op == ws.OpContinuation:
		if r.kind == noMessage {
			return "continuation of nothing"
		}
	case r.kind != noMessage:
		return "new message within a fragmented one"
	}
	return ""
}

// control handles a control frame. A close frame ends everything with an error.
func (r *Reader) control(h header) error {
	payload, err := r.inPlace(h)
	if err != nil {
		return err
	}
	switch h.op {
	case ws.OpClose:
		return parseClose(payload)
	case ws.OpPing:
		if r.config.OnPing != nil {
			r.config.OnPing(payload)
		}
	case ws.OpPong:
		if r.config.OnPong != nil {
			r.config.OnPong(payload)
		}
	}
	return nil
}

// inPlace returns a payload that fits into the read buffer, without moving it out.
func (r *Reader) inPlace(h header) ([]byte, error) {
	if err := r.fill(h.length); err != nil {
		return nil, unexpected(err)
	}
	payload := r.buffer.take(h.length)
	if h.masked {
		mask(payload, h.key)
	}
	return payload, nil
}

// discard takes, checks and drops the payload of a text frame.
func (r *Reader) discard(h header) error {
	for left, key := h.length, h.key; left > 0; {
		if err := r.fill(1); err != nil {
			return unexpected(err)
		}
		piece := r.buffer.takeUpTo(left)
		left -= len(piece)
		if h.masked {
			key = mask(piece, key)
		}
		r.text.add(piece)
	}
	return nil
}

const (
	// minDirect is the least room, in bytes, for reading past the buffer.
	minDirect = 16 << 10
	// firstMessage is the least capacity, in bytes, of a message put together from pieces.
	firstMessage = 1 << 10
)

// gather appends the payload of a frame to the message, unmasking each piece while it is warm in
// the cache. It copies what is in the buffer, and reads the bulk of a large rest straight to its
// place.
func (r *Reader) gather(h header) error {
	for left, key := h.length, h.key; left > 0; {
		var n int
		var err error
		start := len(r.msg)
		if r.buffer.len() == 0 && left >= r.buffer.leastDirect() {
			r.reserve(min(left, minDirect), start, h.fin)
			n, err = r.buffer.readInto(r.src, r.msg[start:min(cap(r.msg), start+left)])
			r.msg = r.msg[:start+n]
		} else if err = r.fill(1); err == nil {
			piece := r.buffer.takeUpTo(left)
			n = len(piece)
			r.reserve(n, start+n, h.fin)
			r.msg = append(r.msg, piece...)
		}
		if err != nil {
			return unexpected(err)
		}
		if h.masked {
			key = mask(r.msg[start:], key)
		}
		left -= n
	}
	return nil
}

// reserve makes room for n more bytes of the message, and for twice what has arrived of it, so that
// a message is copied about once however it is cut. Claims in frame headers never make that more.
// Only in the last frame, which gives the size of the message, do they make it less; if every frame
// did so, each would cost a copy of everything before it.
func (r *Reader) reserve(n, arrived int, last bool) {
	have := len(r.msg)
	if cap(r.msg)-have >= n {
		return
	}
	most := r.config.MaxMessage
	if last {
		most = r.size
		if most <= r.ahead {
			arrived = most
		}
	}
	grown := bytepool.Get(max(firstMessage, have+n, min(2*arrived, most)))
	grown = append(grown, r.msg...)
	bytepool.Put(r.msg)
	r.msg = grown
}

// need reads until the first n bytes of a frame are in the buffer.
func (r *Reader) need(n int) error {
	err := r.fill(n)
	if err != nil && (r.buffer.len() > 0 || r.kind != noMessage) {
		return unexpected(err)
	}
	return err
}

func (r *Reader) fill(n int) error {
	if r.buffer.len() >= n {
		return nil
	}
	return r.buffer.fill(r.src, n)
}

// unexpected converts the end of the source, where it must not end, to io.ErrUnexpectedEOF.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
