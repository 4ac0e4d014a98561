package grid

import "fmt"

// Role is the side of a handler that its statistics are about.
type Role uint8

const (
	// RoleServer is a handler of this node, called by others.
	RoleServer Role = iota
	// RoleClient is a handler of other nodes, called from here.
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

// UnmarshalText reads what MarshalText writes.
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
