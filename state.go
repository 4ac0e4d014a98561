package grid

// State is the state of a Connection.
type State uint32

const (
	// StateUnconnected is the state before the first attempt.
	StateUnconnected State = iota
	// StateConnecting is the state of the dialing side during its first attempts.
	StateConnecting
	// StateConnected is the only state in which calls get through.
	StateConnected
	// StateConnectionError is the state after a connection was lost, until it is up again.
	StateConnectionError
	// StateShutdown is final.
	StateShutdown
)
