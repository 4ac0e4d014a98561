package grid

import "fmt"

// refuse answers a request or a stream that is not taken.
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

// refuseUnknown refuses a call of a handler that is not registered.
func (s *sender) refuseUnknown(m *message) {
	s.recent.add(s.remote, RoleServer, m.Handler, "called, but not registered here")
	s.refuse(m, unknownHandlerText)
}

// overloaded refuses a request or a stream that is over a limit. The reader calls it.
func (s *sender) overloaded(m *message, over limit) {
	s.refuse(m, string(ErrOverloaded))
	s.refuses(RoleServer, m.Handler, over)
}

// errorResponse is the answer of a handler that failed.
func (s *sender) errorResponse(id uint64, seq uint32, err *RemoteErr) message {
	return message{
		MuxID:   id,
		Seq:     seq,
		Op:      OpResponse,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: s.errorText(string(*err)),
	}
}

// errorText is the text of an error as it is sent.
func (s *sender) errorText(text string) []byte {
	if len(text) > s.maxMessage-maxOverhead {
		return fmt.Appendf(nil, "%v: error text of %d bytes", ErrMessageTooLarge, len(text))
	}
	return []byte(text)
}

// errShutdown is ErrShutdown where a pointer is needed.
var errShutdown = ErrShutdown

// refuses counts and tells that a call of a handler was refused, or ended, over a limit.
func (l *link) refuses(role Role, h HandlerID, over limit) {
	l.refusals[over].Add(1)
	l.recent.add(l.remote, role, h, "overloaded: over Limits."+limitNames[over])
	l.noteOverload(limitNames[over])
}

// noteOverload logs the first refusal of a peer, and then one line a minute at the most.
func (l *link) noteOverload(limit string) {
	if skipped, ok := l.overloads.take(""); ok {
		l.log.Warn("grid: overloaded", "peer", l.remote, "local", l.local, "limit", limit, "more_refused", skipped)
	}
}
