package grid

import "fmt"

// refuse answers a request or a stream that this node does not accept.
func (s *sender) refuse(m *message, text string) {
	payload, _ := (&muxConnectError{Error: text}).MarshalMsg(nil)
	s.reply(message{
		MuxID:      m.MuxID,
		DeadlineMS: m.DeadlineMS,
		Handler:    m.Handler,
		Op:         OpMuxConnectError,
		Flags:      m.Flags & FlagEOF,
		Payload:    payload,
	}, nil)
}

// refuseUnknown refuses a call to an unregistered handler.
func (s *sender) refuseUnknown(m *message) {
	s.recent.add(s.remote, RoleServer, m.Handler, "called, but not registered here")
	s.refuse(m, unknownHandlerText)
}

// overloaded refuses a request or a stream that exceeds a limit.
func (s *sender) overloaded(m *message, over limit) {
	s.countRefusal(RoleServer, m.Handler, over) // before the peer can see it
	s.refuse(m, string(ErrOverloaded))
}

// errorResponse returns the answer of a handler that failed.
func (s *sender) errorResponse(id uint64, seq uint32, err *RemoteErr) message {
	return message{
		MuxID:   id,
		Seq:     seq,
		Op:      OpResponse,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: s.errorText(string(*err)),
	}
}

// errorText returns the text of an error as it goes over the wire.
func (s *sender) errorText(text string) []byte {
	if len(text) > s.maxMessage-maxOverhead {
		return fmt.Appendf(nil, "%v: error text of %d bytes", ErrMessageTooLarge, len(text))
	}
	return []byte(text)
}

// errShutdown is ErrShutdown, for use where a pointer is needed.
var errShutdown = ErrShutdown
