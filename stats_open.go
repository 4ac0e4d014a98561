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
	// Handler and Subroute identify the handler, Name is its name. A method has its own name,
	// HandlerNamed as Handler, and no subroute.
	Handler  HandlerID
	Name     string
	Subroute string
	// Age is how long the call has been open. For a single request from this node it may be off by
	// up to 2.5 seconds, or up to a second if somebody has called Open or Stats each second.
	Age time.Duration

	number int // of the target
}

// openCall describes a call that has not ended.
func openCall(role Role, to target, age time.Duration) OpenCall {
	return OpenCall{Role: role, Handler: to.id, Name: to.String(), Subroute: to.subroute(), Age: age, number: to.number}
}
