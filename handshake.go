package grid

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/zeebo/xxh3"
)

//go:generate go tool -modfile=internal/tools/go.mod msgp -unexported -tests=false -io=false -file=handshake.go -o=handshake_gen.go

// connectReq is the payload of OpConnect. Time and Token are expected by later
// originals. Grid, To, Max and Sum are this project's own: a set of features, 0 for the original,
// the name of the node that is meant, the largest message that is taken, in bytes, and a checksum.
type connectReq struct {
	ID    [16]byte  `msg:"ID"`
	Host  string    `msg:"Host"`
	Time  time.Time `msg:"Time,omitempty"`
	Token string    `msg:"Token,omitempty"`
	Grid  uint32    `msg:"Grid,omitempty"`
	To    string    `msg:"To,omitempty"`
	Max   uint32    `msg:"Max,omitempty"`
	Sum   uint32    `msg:"Sum,omitempty"`
}

// connectResp is the payload of OpConnectResponse. Grid is as in connectReq, and only sent to who
// sent it. Host is the name of the node that answers, and only sent to who sent To. Max and Sum are
// only sent to who sent them.
type connectResp struct {
	ID             [16]byte `msg:"ID"`
	Accepted       bool     `msg:"Accepted"`
	RejectedReason string   `msg:"RejectedReason"`
	Grid           uint32   `msg:"Grid,omitempty"`
	Host           string   `msg:"Host,omitempty"`
	Max            uint32   `msg:"Max,omitempty"`
	Sum            uint32   `msg:"Sum,omitempty"`
}

// muxConnectError is the payload of OpMuxConnectError.
type muxConnectError struct {
	Error string `msg:"Error"`
}

// pingMsg is the payload of a connection's OpPing. Earlier originals send none.
type pingMsg struct {
	T time.Time `msg:"t,omitempty"`
}

// pongMsg is the payload of OpPong. T is that of the ping.
type pongMsg struct {
	NotFound bool      `msg:"nf"`
	Err      *string   `msg:"e"`
	T        time.Time `msg:"t,omitempty"`
}

// agreementSum is a checksum of what the two nodes have to agree on, never 0. Messages of the
// handshake have none of their own. Nodes that differ in what they take each other for, because of
// a flipped bit, would get each other wrong for as long as the connection lasts.
func agreementSum(features, maxMessage uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], features)
	binary.LittleEndian.PutUint32(b[4:], maxMessage)
	return max(uint32(xxh3.Hash(b[:])), 1)
}

// checkAgreement compares what has come in to its checksum; 0 for none.
func checkAgreement(features, maxMessage, sum uint32) error {
	if sum != 0 && sum != agreementSum(features, maxMessage) {
		return errGarbled
	}
	return nil
}

var errGarbled = errors.New("the features do not fit their checksum")

// shouldDial says which of two nodes opens the connection between them: true for the local one.
func shouldDial(local, remote string) bool {
	ours, theirs := xxh3.HashString(local+remote), xxh3.HashString(remote+local)
	if ours == theirs {
		return local < remote
	}
	return ours < theirs
}

// rejected is the reason that a peer gets who has not shown who it is. The log has the real one.
const rejected = "rejected"
