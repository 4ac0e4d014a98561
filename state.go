package grid

import "fmt"

// State is the state of a Connection.
type State uint32

const (
	// StateUnconnected is the state before the first attempt.
	StateUnconnected State = iota
	// StateConnecting is the state of the dialing side during its first attempts.
	StateConnecting
	// StateConnected is the only state in which calls get through.
	StateConnected
	// StateConnectionError is the state after a connection was lost, until it is up again, and that of a peer that should
	// have dialed this node by now.
	StateConnectionError
	// StateShutdown is final.
	StateShutdown
)

// MarshalText returns the text of String, so that a State is readable in JSON.
func (i State) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (i *State) UnmarshalText(text []byte) error {
	for s := StateUnconnected; s <= StateShutdown; s++ {
		if s.String() == string(text) {
			*i = s
			return nil
		}
	}
	return fmt.Errorf("grid: unknown state %.40q", text)
}
