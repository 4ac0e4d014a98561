package grid

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/mpack"
	"github.com/zeebo/xxh3"
)

//go:generate go tool -modfile=internal/tools/go.mod msgp -unexported -tests=false -file=msg.go -o=msg_gen.go
//go:generate go tool -modfile=internal/tools/go.mod stringer -type=Op -trimprefix=Op -output=op_string.go
//go:generate go run internal/tools/handlernames.go
//go:generate go tool -modfile=internal/tools/go.mod stringer -type=State -trimprefix=State -output=state_string.go

// Op is the operation of a message.
type Op uint8

// The operations, as numbered on the wire.
const (
	// OpConnect is the dialer's first message.
	OpConnect Op = iota + 1
	// OpConnectResponse is the acceptor's answer to OpConnect.
	OpConnectResponse
	// OpPing asks whether a connection, or a stream, is alive.
	OpPing
	// OpPong answers OpPing.
	OpPong
	// OpConnectMux opens a stream.
	OpConnectMux
	// OpMuxConnectError refuses a request or a stream.
	OpMuxConnectError
	// OpDisconnectClientMux tells the caller of a stream that it has ended.
	OpDisconnectClientMux
	// OpDisconnectServerMux tells the handler's side that the caller has gone.
	OpDisconnectServerMux
	// OpMuxClientMsg carries a stream message to the handler.
	OpMuxClientMsg
	// OpMuxServerMsg carries a stream message to the caller.
	OpMuxServerMsg
	// OpUnblockSrvMux gives the handler's side credit for one more message.
	OpUnblockSrvMux
	// OpUnblockClMux gives the caller credit for one more message.
	OpUnblockClMux
	// OpAckMux accepts a stream.
	OpAckMux
	// OpRequest is a single request.
	OpRequest
	// OpResponse is the answer to a single request.
	OpResponse
	// OpDisconnect announces that the sender is about to close the connection.
	OpDisconnect
	// OpMerged holds several messages.
	OpMerged
	// OpPiece holds a part of a large message. The original does not know it.
	OpPiece
	// OpAckPieces acknowledges bytes of large messages. The original does not know it.
	OpAckPieces
	// OpFacts tells what the sender is, and which handlers it has. The original does not know it.
	OpFacts
	// OpAckFacts acknowledges OpFacts. The original does not know it.
	OpAckFacts
	// OpMuxServerEnd ends the messages of a stream's handler, which goes on receiving. The original
	// does not know it.
	OpMuxServerEnd
	// OpMuxServerHeader carries the header of a stream's handler ahead of its messages. The original
	// does not know it.
	OpMuxServerHeader
)

// Flags qualify a message.
type Flags uint8

// The flags, as on the wire.
const (
	// FlagCRCxxh3 means that the last four bytes are a checksum.
	FlagCRCxxh3 Flags = 1 << iota
	// FlagEOF marks the last message of its direction.
	FlagEOF
	// FlagStateless requests a kind of stream that does not exist.
	FlagStateless
	// FlagPayloadIsErr means that the payload is the text of an error.
	FlagPayloadIsErr
	// FlagPayloadIsZero distinguishes an empty payload from none.
	FlagPayloadIsZero
	// FlagSubroute means that the ID of a subroute follows the message.
	FlagSubroute
	// FlagMetadata means that metadata follows the message. The original does not know it.
	FlagMetadata
	// FlagPriority means that the answers to a request, or the messages of a stream's handler, are
	// to pass others. The original does not know it.
	FlagPriority
)

var flagNames = [...]string{"CRC", "EOF", "SL", "ERR", "ZERO", "SUB", "META", "PRIO"}

// Set sets flags.
func (f *Flags) Set(flags Flags) { *f |= flags }

// Clear clears flags.
func (f *Flags) Clear(flags Flags) { *f &^= flags }

// String returns the names of the flags that are set, such as "[CRC,EOF]".
func (f Flags) String() string {
	var set []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	return "[" + strings.Join(set, ",") + "]"
}

// message is what goes over the wire. Its fields are written as a msgpack
// array; metadata, the ID of a subroute and a checksum may follow.
//
//msgp:tuple message
//msgp:ignore routeID
type message struct {
	MuxID      uint64
	Seq        uint32
	DeadlineMS uint32
	Handler    HandlerID
	Op         Op
	Flags      Flags
	lane       batch.Lane `msg:"-"` // in which to send it, or to answer it
	alone      bool       `msg:"-"` // in the frame with which it came in
	Payload    []byte     `msg:",zerocopy"`

	subroute *routeID `msg:"-"` // nil for none; points into the parsed bytes
	metadata []byte   `msg:"-"` // nil for none

	// Set only if the message came in pieces.
	coming  int  `msg:"-"` // bytes of the payload, once it is whole
	behind  int  `msg:"-"` // bytes of its metadata, once that is whole
	owned   bool `msg:"-"` // Payload is a buffer of its own
	counted int  `msg:"-"` // bytes that a quota has counted for the message; 0 once it is somebody's
	checked bool `msg:"-"` // its number was right when it began
}

// routeID stands for a subroute and a handler on the wire.
type routeID [32]byte

// MaxDeadline is the longest deadline that a message can carry, about 49 days.
const MaxDeadline = time.Duration(math.MaxUint32) * time.Millisecond

const (
	messageFields = 7
	checksumSize  = 4
)

var (
	errChecksumMissing = errors.New("no room for the checksum")
	errSubrouteMissing = errors.New("no room for the subroute")
)

// size returns the number of bytes that appendTo appends.
func (m *message) size() int {
	n := 1 + mpack.UintSize(m.MuxID) + mpack.UintSize(uint64(m.Seq)) + mpack.UintSize(uint64(m.DeadlineMS)) +
		mpack.UintSize(uint64(m.Handler)) + mpack.UintSize(uint64(m.Op)) + mpack.UintSize(uint64(m.wireFlags())) +
		mpack.BinSize(len(m.Payload)) + len(m.metadata)
	if m.subroute != nil {
		n += len(m.subroute)
	}
	if m.Flags&FlagCRCxxh3 != 0 {
		n += checksumSize
	}
	return n
}

// wireFlags are the flags with those that follow from the other fields.
func (m *message) wireFlags() Flags {
	f := m.Flags &^ (FlagPayloadIsZero | FlagSubroute | FlagMetadata)
	if m.Payload != nil && len(m.Payload) == 0 {
		f |= FlagPayloadIsZero
	}
	if m.subroute != nil {
		f |= FlagSubroute
	}
	if m.metadata != nil {
		f |= FlagMetadata
	}
	return f
}

// appendTo appends the message to dst. FlagPayloadIsZero, FlagSubroute and FlagMetadata are set as
// the other fields ask for.
func (m *message) appendTo(dst []byte) []byte {
	start := len(dst)
	dst = m.appendHead(dst, len(m.Payload))
	dst = append(dst, m.Payload...)
	dst = m.appendTail(dst)
	if m.Flags&FlagCRCxxh3 != 0 {
		dst = appendChecksum(dst, start)
	}
	return dst
}

// appendHead appends what comes before a payload of n bytes.
func (m *message) appendHead(dst []byte, n int) []byte {
	dst = append(dst, 0x90|messageFields)
	dst = mpack.AppendUint(dst, m.MuxID)
	dst = mpack.AppendUint(dst, uint64(m.Seq))
	dst = mpack.AppendUint(dst, uint64(m.DeadlineMS))
	dst = mpack.AppendUint(dst, uint64(m.Handler))
	dst = mpack.AppendUint(dst, uint64(m.Op))
	dst = mpack.AppendUint(dst, uint64(m.wireFlags()))
	return mpack.AppendBinHeader(dst, n)
}

// appendTail appends what comes between the payload and the checksum.
func (m *message) appendTail(dst []byte) []byte {
	dst = append(dst, m.metadata...)
	if m.subroute != nil {
		dst = append(dst, m.subroute[:]...)
	}
	return dst
}

// appendChecksum appends the checksum of the message that begins at start.
func appendChecksum(dst []byte, start int) []byte {
	return binary.LittleEndian.AppendUint32(dst, uint32(xxh3.Hash(dst[start:])))
}

// parse reads a message from b, which Payload, subroute and metadata point into. The payload of an
// OpMerged are the messages in it.
func (m *message) parse(b []byte) error {
	*m = message{}
	rest, ok := m.parseShortest(b)
	if !ok {
		var err error
		if rest, err = m.unmarshalAny(b); err != nil {
			return err
		}
	}
	if m.Op == OpMerged {
		m.Payload = rest // the messages in it
		return nil
	}
	return m.parseTail(b, rest)
}

// unmarshalAny reads the array in any form of msgpack.
func (m *message) unmarshalAny(b []byte) (rest []byte, err error) {
	defer recoverMsgp(&err)
	return m.UnmarshalMsg(b)
}

// parseTail reads what follows the array: metadata, the subroute and the checksum, which covers all
// of b before it.
func (m *message) parseTail(b, rest []byte) error {
	if m.Flags&FlagCRCxxh3 != 0 {
		if len(rest) < checksumSize {
			return fmt.Errorf("%w: %d bytes", errChecksumMissing, len(rest))
		}
		sum := len(b) - checksumSize
		want, got := binary.LittleEndian.Uint32(b[sum:]), uint32(xxh3.Hash(b[:sum]))
		if want != got {
			return fmt.Errorf("checksum mismatch: message says %#x, its bytes %#x", want, got)
		}
		rest = rest[:len(rest)-checksumSize]
	}
	if m.Flags&FlagSubroute != 0 {
		if len(rest) < len(routeID{}) {
			return fmt.Errorf("%w: %d bytes", errSubrouteMissing, len(rest))
		}
		m.subroute = (*routeID)(rest[len(rest)-len(routeID{}):])
		rest = rest[:len(rest)-len(routeID{})]
	}
	if m.Flags&FlagMetadata != 0 {
		m.metadata = rest
	}
	m.normalizePayload()
	return nil
}

// normalizePayload makes an empty payload nil, or not, as its flag says.
func (m *message) normalizePayload() {
	if len(m.Payload) > 0 {
		return
	}
	if m.Flags&FlagPayloadIsZero != 0 {
		m.Payload = []byte{}
	} else {
		m.Payload = nil
	}
}

// parseShortest reads the array where everything in it has the form that nodes write. It
// returns false where something has not, which is not an error yet.
func (m *message) parseShortest(b []byte) (rest []byte, ok bool) {
	if b, ok = m.parseFields(b); !ok {
		return nil, false
	}
	m.Payload, rest, ok = mpack.CutBin(b)
	return rest, ok
}

// parseFields reads the fields before the payload, in the same way.
func (m *message) parseFields(b []byte) (rest []byte, ok bool) {
	if len(b) < 9 || b[0] != 0x90|messageFields {
		return nil, false
	}
	b = b[1:]
	var seq, deadline uint64
	if m.MuxID, b, ok = mpack.CutUint(b, math.MaxUint64); !ok {
		return nil, false
	}
	if seq, b, ok = mpack.CutUint(b, math.MaxUint32); !ok {
		return nil, false
	}
	if deadline, b, ok = mpack.CutUint(b, math.MaxUint32); !ok {
		return nil, false
	}
	m.Seq, m.DeadlineMS = uint32(seq), uint32(deadline)
	var small [3]uint64
	for i := range small {
		if small[i], b, ok = mpack.CutUint(b, math.MaxUint8); !ok {
			return nil, false
		}
	}
	m.Handler, m.Op, m.Flags = HandlerID(small[0]), Op(small[1]), Flags(small[2])
	return b, true
}

// appendMergedHeader appends the head of an OpMerged with n messages.
func appendMergedHeader(dst []byte, n int) []byte {
	m := message{Seq: uint32(n), Op: OpMerged}
	return m.appendTo(dst)
}

// nextMerged takes the first message off the messages inside an OpMerged.
func nextMerged(rest []byte) (one, tail []byte, err error) {
	one, tail, ok := mpack.CutBin(rest)
	if !ok {
		return nil, nil, errors.New("a message runs past the end")
	}
	return one, tail, nil
}

// counted reports whether messages of an operation take a number of their mux's sequence.
func (o Op) counted() bool {
	switch o {
	case OpConnectMux, OpAckMux, OpMuxClientMsg, OpMuxServerMsg, OpUnblockSrvMux, OpUnblockClMux, OpPing, OpMuxServerEnd,
		OpMuxServerHeader:
		return true
	}
	return false
}

// large reports whether messages of an operation go in pieces if their payload is large: those that
// can be taken back, and refused.
func (o Op) large() bool {
	switch o {
	case OpRequest, OpResponse, OpConnectMux, OpMuxClientMsg, OpMuxServerMsg:
		return true
	}
	return false
}

// checked reports whether messages of an operation have a checksum where messages need one.
func (o Op) checked(muxID uint64) bool {
	return muxID != 0 || o == OpAckPieces || o == OpFacts || o == OpAckFacts
}

// final reports whether nothing of the same direction may follow a message.
func (m *message) final() bool {
	switch m.Op {
	case OpMuxServerMsg:
		return m.Flags&FlagEOF != 0
	case OpDisconnectServerMux:
		return true
	}
	return false
}

// maxGrant is the most that one message grants.
const maxGrant = math.MaxInt32 / 2

// credits is what a message of the kind that grant sends is worth.
func (m *message) credits() int {
	return int(max(min(m.DeadlineMS, maxGrant), 1))
}

// footprint is what a message's payload holds once it is copied out of the read buffer. The metadata
// of a call counts as if it were in the same buffer, so that no message counts for more than the
// largest. What comes with an answer does not: it is not in the queue with the payload, and a stream
// keeps one header and one trailer.
func (m *message) footprint() int {
	metadata := 0
	if m.opens() {
		metadata = len(m.metadata)
	}
	switch {
	case m.coming > 0:
		return footprint(m.coming + m.behind)
	case m.Payload == nil && metadata == 0:
		return messageFootprint
	}
	return footprint(len(m.Payload) + metadata)
}

// opens reports whether m starts a call, so that DeadlineMS is the call's time limit.
func (m *message) opens() bool { return m.Op == OpRequest || m.Op == OpConnectMux }

// deadline is when the caller of a request or stream that came in now gives up; zero for never.
func (m *message) deadline(now time.Time) time.Time {
	if m.DeadlineMS == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(m.DeadlineMS) * time.Millisecond)
}

// ownPayload copies the payload out of the read buffer, unless it has a buffer of its own. The
// caller owns it.
func (m *message) ownPayload() []byte {
	switch {
	case m.Payload == nil:
		return nil
	case m.owned:
		m.owned = false
		return m.Payload
	}
	return append(GetByteBufferCap(len(m.Payload)), m.Payload...)
}
