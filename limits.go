package grid

import "fmt"

// Limits bounds what one peer can make a node do. A field that is 0 has the
// default that is named at it.
type Limits struct {
	// MaxMessageSize is the largest message, in bytes, that is taken and sent:
	// 64 MiB. A larger one is refused before it is sent (ErrMessageTooLarge), and closes the
	// connection with WebSocket status 1009 where a peer sends it. All nodes should use the same.
	MaxMessageSize int
}

// defaultMaxMessageSize is 64 MiB.
const defaultMaxMessageSize = 64 << 20

// maxOverhead is what a message takes beside its payload, in bytes, at the most.
const maxOverhead = 96

func (l Limits) withDefaults() Limits {
	if l.MaxMessageSize == 0 {
		l.MaxMessageSize = defaultMaxMessageSize
	}
	return l
}

func (l Limits) check() error {
	if l.MaxMessageSize != 0 && l.MaxMessageSize < 4<<10 {
		return fmt.Errorf("grid: Limits.MaxMessageSize: %d is less than 4096 bytes", l.MaxMessageSize)
	}
	return nil
}
