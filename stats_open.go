package grid

import (
	"time"
)

// OpenCall is a single request or a stream that has not ended.
type OpenCall struct {
	// Role is RoleServer if the peer is the caller, and RoleClient if this node is.
	Role Role
	// Stream reports whether the call is a stream; otherwise it is a single request.
	Stream bool
	// Peer is the name of the other node.
	Peer string
	// Handler and Subroute identify the handler, Name is its name.
	Handler  HandlerID
	Name     string
	Subroute string
	// Age is how long the call has been open. For a single request from this node it may be off by
	// up to 2.5 seconds.
	Age time.Duration

	number int // of the registration, where Role is RoleServer
}
