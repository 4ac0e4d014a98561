package grid

import "fmt"

// State is the state of a Connection.
type State uint32

const (
	// StateUnconnected is the state before the dialing node's first attempt, and on the other node
	// until the peer has dialed or is overdue.
	StateUnconnected State = iota
	// StateConnecting is the state of the dialing node from its first attempt until it has been
	// connected for the first time.
	StateConnecting
	// StateConnected is the only state in which calls go through.
	StateConnected
	// StateConnectionError is the state after a connection was lost, until it is up again, and that
	// of a peer that should have dialed this node by now.
	StateConnectionError
	// StateShutdown is the final state: the Manager has been shut down or closed.
	StateShutdown
)

// MarshalText returns the text of String, so that a State is readable in JSON.
func (i State) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText parses what MarshalText returns. It fails for any other text.
func (i *State) UnmarshalText(text []byte) error {
	for s := StateUnconnected; s <= StateShutdown; s++ {
		if s.String() == string(text) {
			*i = s
			return nil
		}
	}
	return fmt.Errorf("grid: unknown state %.40q", text)
}
