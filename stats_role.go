package grid

import "fmt"

// Role is the side of a call: that of the handler, or that of the caller.
type Role uint8

const (
	// RoleServer is a handler of this node, called by others.
	RoleServer Role = iota
	// RoleClient is a handler of another node, called from here.
	RoleClient
)

// String returns "server" or "client".
func (r Role) String() string {
	if r == RoleClient {
		return "client"
	}
	return "server"
}

// MarshalText returns the text of String.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses what MarshalText returns.
func (r *Role) UnmarshalText(text []byte) error {
	switch string(text) {
	case RoleServer.String():
		*r = RoleServer
	case RoleClient.String():
		*r = RoleClient
	default:
		return fmt.Errorf("grid: unknown role %.40q", text)
	}
	return nil
}
