package grid

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
		lane:       m.lane,
	}, nil)
}

// refuseUnknown refuses a call to an unregistered handler.
func (s *sender) refuseUnknown(m *message) {
	s.recent.add(s.remote, RoleServer, target{id: m.Handler}, "called, but not registered here")
	s.refuse(m, unknownHandlerText)
}

// overloaded refuses a request or a stream that exceeds a limit.
func (s *sender) overloaded(m *message, to target, over limit) {
	s.countRefusal(RoleServer, to, over) // before the peer can see it
	s.refuse(m, string(ErrOverloaded))
}

// errorResponse returns the answer with an error of the library.
func (s *sender) errorResponse(id uint64, seq uint32, err error) message {
	return s.marked(message{
		MuxID:   id,
		Seq:     seq,
		Op:      OpResponse,
		Flags:   FlagEOF | FlagPayloadIsErr,
		Payload: s.errorText(err.Error(), maxMark),
	}, err)
}

// errShutdown and errRemoved are ErrShutdown and ErrRemoved, for use where a pointer is needed.
var errShutdown, errRemoved = ErrShutdown, ErrRemoved
