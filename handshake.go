package grid

import (
	"time"

	"github.com/zeebo/xxh3"
)

//go:generate go tool -modfile=internal/tools/go.mod msgp -unexported -tests=false -io=false -file=handshake.go -o=handshake_gen.go

// connectReq is the payload of OpConnect. Time and Token are expected by later
// originals. Grid, To and Max are this project's own: a set of features, 0 for the original,
// the name of the node that is meant, and the largest message that is taken, in bytes.
type connectReq struct {
	ID    [16]byte  `msg:"ID"`
	Host  string    `msg:"Host"`
	Time  time.Time `msg:"Time,omitempty"`
	Token string    `msg:"Token,omitempty"`
	Grid  uint32    `msg:"Grid,omitempty"`
	To    string    `msg:"To,omitempty"`
	Max   uint32    `msg:"Max,omitempty"`
}

// connectResp is the payload of OpConnectResponse. Grid is as in connectReq, and only sent to who sent it. Host is
// the name of the node that answers, and only sent to who sent To. Max is only sent to who sent one.
type connectResp struct {
	ID             [16]byte `msg:"ID"`
	Accepted       bool     `msg:"Accepted"`
	RejectedReason string   `msg:"RejectedReason"`
	Grid           uint32   `msg:"Grid,omitempty"`
	Host           string   `msg:"Host,omitempty"`
	Max            uint32   `msg:"Max,omitempty"`
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

// shouldDial says which of two nodes opens the connection between them: true for the local one.
func shouldDial(local, remote string) bool {
	ours, theirs := xxh3.HashString(local+remote), xxh3.HashString(remote+local)
	if ours == theirs {
		return local < remote
	}
	return ours < theirs
}
