package testkit

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"
	"github.com/zeebo/xxh3"
)

// Operations and flags of messages, as docs/protocol.md numbers them.
const (
	OpConnect             = 1
	OpConnectResponse     = 2
	OpPing                = 3
	OpPong                = 4
	OpConnectMux          = 5
	OpMuxConnectError     = 6
	OpDisconnectClientMux = 7
	OpDisconnectServerMux = 8
	OpMuxClientMsg        = 9
	OpMuxServerMsg        = 10
	OpAckMux              = 13
	OpRequest             = 14
	OpResponse            = 15
	OpMerged              = 17
	OpPiece               = 18
	OpAckPieces           = 19
	OpFacts               = 20
	OpAckFacts            = 21
	OpMuxServerEnd        = 22
	OpMuxServerHeader     = 23

	FlagChecksum    = 1
	FlagEOF         = 2
	FlagEmpty       = 16 // the payload is empty, which is different from none
	FlagSubroute    = 32
	FlagMetadata    = 64
	optionsOfParts  = FlagEmpty | FlagSubroute | FlagMetadata
	fieldsOfMessage = 7
)

// Message is what peers send each other, in the words of docs/protocol.md. It is written and read
// by this package's own code, so that a mistake of the library's is not made twice.
type Message struct {
	MuxID              uint64
	Seq, DeadlineMS    uint32
	Handler, Op, Flags uint8
	Payload            []byte
	Metadata, Subroute []byte // nil for none; a subroute has 32 bytes
}

// Bytes returns the message as it goes over the wire. Flags that follow from the other fields are
// set as they ask for, and a checksum is written where its flag is set.
func (m Message) Bytes() []byte {
	flags := m.Flags &^ optionsOfParts
	if m.Payload != nil && len(m.Payload) == 0 {
		flags |= FlagEmpty
	}
	if m.Subroute != nil {
		flags |= FlagSubroute
	}
	if m.Metadata != nil {
		flags |= FlagMetadata
	}
	b := msgp.AppendArrayHeader(nil, fieldsOfMessage)
	for _, n := range []uint64{m.MuxID, uint64(m.Seq), uint64(m.DeadlineMS), uint64(m.Handler), uint64(m.Op), uint64(flags)} {
		b = msgp.AppendUint64(b, n)
	}
	b = msgp.AppendBytes(b, m.Payload)
	b = append(b, m.Metadata...)
	b = append(b, m.Subroute...)
	if flags&FlagChecksum != 0 {
		b = binary.LittleEndian.AppendUint32(b, uint32(xxh3.Hash(b)))
	}
	return b
}

// Subroute is what stands for a handler on a route.
func Subroute(handler uint8, route string) []byte {
	id := sha256.Sum256([]byte(route))
	id[0], id[1] = handler, 0
	return id[:]
}

// ParseMessage reads a message, up to and with its payload. What follows that is not looked at.
func ParseMessage(b []byte) (m Message, err error) {
	m, _, err = parse(b)
	return m, err
}

func parse(b []byte) (m Message, rest []byte, err error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err == nil && n != fieldsOfMessage {
		err = fmt.Errorf("%d fields", n)
	}
	if err == nil {
		m.MuxID, rest, err = msgp.ReadUint64Bytes(rest)
	}
	for _, field := range []*uint32{&m.Seq, &m.DeadlineMS} {
		if err == nil {
			*field, rest, err = msgp.ReadUint32Bytes(rest)
		}
	}
	for _, field := range []*uint8{&m.Handler, &m.Op, &m.Flags} {
		if err == nil {
			*field, rest, err = msgp.ReadUint8Bytes(rest)
		}
	}
	if err == nil {
		m.Payload, rest, err = msgp.ReadBytesZC(rest)
	}
	if err != nil {
		return m, nil, fmt.Errorf("message %x: %w", b, err)
	}
	return m, rest, nil
}

// ParseFrame reads the messages of a frame, which are several where they were merged.
func ParseFrame(frame []byte) (all []Message, err error) {
	raw, err := split(frame)
	for _, one := range raw {
		m, parseErr := ParseMessage(one)
		all = append(all, m)
		err = errors.Join(err, parseErr)
	}
	return all, err
}

// split returns the messages of a frame, which are several where they were merged.
func split(frame []byte) (all [][]byte, err error) {
	outer, rest, err := parse(frame)
	if err != nil || outer.Op != OpMerged {
		return [][]byte{frame}, err
	}
	head := Message{Seq: outer.Seq, Op: OpMerged}.Bytes()
	if len(frame)-len(rest) != len(head) || string(frame[:len(head)]) != string(head) {
		return nil, fmt.Errorf("merged message %x does not begin with %x", frame, head)
	}
	for range outer.Seq {
		var one []byte
		if one, rest, err = msgp.ReadBytesZC(rest); err != nil {
			return nil, fmt.Errorf("merged message %x: %w", frame, err)
		}
		inner, err := ParseMessage(one)
		if err != nil {
			return nil, err
		}
		if inner.Op == OpMerged {
			return nil, fmt.Errorf("nested merged message %x", frame)
		}
		all = append(all, one)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("merged message %x has %d bytes too many", frame, len(rest))
	}
	return all, nil
}

// merge returns what goes into one frame.
func merge(all [][]byte) []byte {
	if len(all) == 1 {
		return all[0]
	}
	b := Message{Seq: uint32(len(all)), Op: OpMerged}.Bytes()
	for _, one := range all {
		b = msgp.AppendBytes(b, one)
	}
	return b
}

// Hello is the payload of OpConnect.
type Hello struct {
	ID       [16]byte
	Host     string
	Features uint32 // of this project's own; 0 for a peer that has none
}

// Message returns the first message of a dialer.
func (h Hello) Message() Message {
	fields := uint32(2)
	if h.Features != 0 {
		fields++
	}
	b := msgp.AppendMapHeader(nil, fields)
	b = msgp.AppendBytes(msgp.AppendString(b, "ID"), h.ID[:])
	b = msgp.AppendString(msgp.AppendString(b, "Host"), h.Host)
	if h.Features != 0 {
		b = msgp.AppendUint32(msgp.AppendString(b, "Grid"), h.Features)
	}
	return Message{Op: OpConnect, Payload: b}
}

// Features that peers may have, as docs/protocol.md has them.
const (
	FeatureFacts   = 1 << 8  // the node says what it is
	FeatureHalves  = 1 << 10 // it takes OpMuxServerEnd
	FeatureHeaders = 1 << 11 // it takes OpMuxServerHeader
)

// Answer is the payload of OpConnectResponse to a peer without features.
type Answer struct {
	ID       [16]byte
	Accepted bool
	Reason   string // for a rejection
}

// Message returns the first message of an acceptor.
func (a Answer) Message() Message {
	b := msgp.AppendMapHeader(nil, 3)
	b = msgp.AppendBytes(msgp.AppendString(b, "ID"), a.ID[:])
	b = msgp.AppendBool(msgp.AppendString(b, "Accepted"), a.Accepted)
	b = msgp.AppendString(msgp.AppendString(b, "RejectedReason"), a.Reason)
	return Message{Op: OpConnectResponse, Payload: b}
}

// ParseAnswer reads the payload of an OpConnectResponse, whatever else is in it.
func ParseAnswer(payload []byte) (a Answer, err error) {
	fields, _, err := msgp.ReadMapStrIntfBytes(payload, nil)
	if err != nil {
		return a, err
	}
	var okID, okAccepted, okReason bool
	var id []byte
	id, okID = fields["ID"].([]byte)
	a.Accepted, okAccepted = fields["Accepted"].(bool)
	a.Reason, okReason = fields["RejectedReason"].(string)
	if copy(a.ID[:], id) != len(a.ID) || !okID || !okAccepted || !okReason {
		return a, errors.New("a field is missing, or is of another type")
	}
	return a, nil
}
