package grid

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
)

//go:generate go tool -modfile=internal/tools/go.mod msgp -unexported -tests=false -io=false -file=handshake.go -o=handshake_gen.go

// connectReq is the payload of OpConnect. Later originals expect Time and Token. The last five
// fields are this project's own: Grid is a set of features (0 for the original), To the name of the
// node to reach, Max the largest message accepted, in bytes, Sum a checksum, and Meta a metadataTerm.
type connectReq struct {
	ID    [16]byte  `msg:"ID"`
	Host  string    `msg:"Host"`
	Time  time.Time `msg:"Time,omitempty"`
	Token string    `msg:"Token,omitempty"`
	Grid  uint32    `msg:"Grid,omitempty"`
	To    string    `msg:"To,omitempty"`
	Max   uint32    `msg:"Max,omitempty"`
	Sum   uint32    `msg:"Sum,omitempty"`
	Meta  uint64    `msg:"Meta,omitempty"`
}

// connectResp is the payload of OpConnectResponse. Grid, Max, Sum and Meta are as in connectReq, each
// sent only to a node that sent its own. Host is the name of the answering node, sent only to a
// node that sent To.
type connectResp struct {
	ID             [16]byte `msg:"ID"`
	Accepted       bool     `msg:"Accepted"`
	RejectedReason string   `msg:"RejectedReason"`
	Grid           uint32   `msg:"Grid,omitempty"`
	Host           string   `msg:"Host,omitempty"`
	Max            uint32   `msg:"Max,omitempty"`
	Sum            uint32   `msg:"Sum,omitempty"`
	Meta           uint64   `msg:"Meta,omitempty"`
}

// muxConnectError is the payload of OpMuxConnectError.
type muxConnectError struct {
	Error string `msg:"Error"`
}

// pingMsg is the payload of a connection's OpPing. Earlier originals send none.
type pingMsg struct {
	T time.Time `msg:"t,omitempty"`
}

// pongMsg is the payload of OpPong. T is copied from the ping.
type pongMsg struct {
	NotFound bool      `msg:"nf"`
	Err      *string   `msg:"e"`
	T        time.Time `msg:"t,omitempty"`
}

// agreementSum returns a checksum, never 0, of what the two nodes must agree on. Messages of the
// handshake have no checksum of their own. If a flipped bit made the nodes disagree, they would
// misunderstand each other for as long as the connection lasts.
func agreementSum(features, maxMessage uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], features)
	binary.LittleEndian.PutUint32(b[4:], maxMessage)
	return max(uint32(xxh3.Hash(b[:])), 1)
}

// checkAgreement compares received values with their checksum; a sum of 0 means none.
func checkAgreement(features, maxMessage, sum uint32) error {
	if sum != 0 && sum != agreementSum(features, maxMessage) {
		return errGarbled
	}
	return nil
}

// metadataTerm returns what a node tells of the largest metadata that it takes, in bytes: the number
// and, in the upper half, a checksum that also covers its features.
func metadataTerm(features, most uint32) uint64 {
	return uint64(agreementSum(features, most))<<32 | uint64(most)
}

// checkMetadataTerm compares what a peer tells of the largest metadata with its checksum; 0 stands for
// nothing told.
func checkMetadataTerm(features uint32, term uint64) error {
	if term != 0 && term != metadataTerm(features, uint32(term)) {
		return errGarbled
	}
	return nil
}

var errGarbled = errors.New("the features do not fit their checksum")

// isGuest reports whether a name is that of a guest. All names of hosts have a colon, and no name of
// a guest has one.
func isGuest(name string) bool { return !strings.Contains(name, ":") }

// shouldDial reports whether the local node, of two, opens the connection between them. A guest
// always does.
func shouldDial(local, remote string) bool {
	if isGuest(local) != isGuest(remote) {
		return isGuest(local)
	}
	ours, theirs := xxh3.HashString(local+remote), xxh3.HashString(remote+local)
	if ours == theirs {
		return local < remote
	}
	return ours < theirs
}

// rejected is the only reason told to a peer that has not proved who it is. The log has the real
// one.
const rejected = "rejected"
