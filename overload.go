package grid

// overloaded refuses a request or a stream that is over a limit. The reader calls it.
func (s *session) overloaded(m *message, what string) {
	s.refuse(m, string(ErrOverloaded))
	s.noteOverload(what)
}

// holder is a stream with messages that wait for their consumer.
type holder interface {
	waiting() int // bytes
	overload()    // ends it
}

// hold counts the bytes of a message that a stream is about to queue. Where
// streams hold too much, those with the most waiting are ended: slow consumers'
// own. It returns false, and counts nothing, where that is this stream. The reader calls it.
func (s *session) hold(own holder, bytes int) bool {
	for ok := s.conn.streams.hold(bytes); !ok; ok = !s.conn.streams.over() {
		s.noteOverload("bytes of streams")
		if most := s.mostWaiting(); most != nil && most != own && most.waiting() > own.waiting()+bytes {
			most.overload()
			continue
		}
		s.conn.streams.free(bytes)
		return false
	}
	return true
}

// mostWaiting is the stream with the most waiting; nil where none has any.
func (s *session) mostWaiting() (most holder) {
	n := 0
	look := func(h holder) {
		if waiting := h.waiting(); waiting > n {
			most, n = h, waiting
		}
	}
	for _, m := range s.servers.all() {
		look(m)
	}
	for _, m := range s.clients.all() {
		look(m)
	}
	return most
}

// noteOverload logs the first refusal of a peer, and then one line a minute at the most.
func (s *session) noteOverload(what string) {
	if skipped, ok := s.conn.overloads.take(""); ok {
		s.conn.log.Warn("grid: overloaded", "peer", s.conn.Remote, "local", s.conn.Local, "limit", what, "more_refused", skipped)
	}
}
