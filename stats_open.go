package grid

import (
	"time"
)

// OpenCall is a single request or a stream that has not ended.
type OpenCall struct {
	// Role is RoleServer where the peer calls this node, and RoleClient where this node calls the peer.
	Role Role
	// Stream tells a stream from a single request.
	Stream bool
	// Peer is the name of the other node.
	Peer string
	// Handler and Subroute say what is called, Name is the handler's.
	Handler  HandlerID
	Name     string
	Subroute string
	// Age is how long it has been open. That of a single request from here may be 2.5 seconds short or over.
	Age time.Duration

	number int // of the registration, where Role is RoleServer
}
