package grid

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// receive dispatches one frame. An error ends the session.
func (s *session) receive(b []byte) error {
	var m message
	if err := m.parse(b); err != nil {
		return fmt.Errorf("malformed message: %w", err)
	}
	if m.Op != OpMerged {
		s.conn.traffic.in.frame(1)
		err := s.dispatch(&m)
		s.out.WaitReserve()
		return err
	}
	rest, merged := m.rest, m.Seq
	s.conn.traffic.in.frame(int(min(uint64(m.Seq), uint64(len(rest))))) // on 32 bits a Seq is more than an int holds
	for range merged {
		one, tail, err := nextMerged(rest)
		if err != nil {
			return fmt.Errorf("malformed merged message: %w", err)
		}
		rest = tail
		if err := m.parse(one); err != nil {
			return fmt.Errorf("malformed message: %w", err)
		}
		if m.Op == OpMerged {
			return errors.New("malformed merged message: nested")
		}
		if err := s.dispatch(&m); err != nil {
			return err
		}
		s.out.WaitReserve()
	}
	if len(rest) > 0 {
		return fmt.Errorf("malformed merged message: %d bytes behind the last of %d messages", len(rest), merged)
	}
	return nil
}

// dispatch hands a message to whom it concerns. m and its payload are valid during the call only. Nothing in here waits.
func (s *session) dispatch(m *message) error {
	if m.MuxID != 0 && s.native && s.checksum&^m.Flags != 0 { // a flipped bit in the flags would turn the check off
		return errUnchecked
	}
	if m.rest != nil {
		if err := s.takeMetadata(m); err != nil {
			return err
		}
	}
	if m.MuxID == 0 {
		return s.dispatchConnection(m)
	}
	switch m.Op {
	case OpRequest:
		s.handleRequest(m)
	case OpResponse:
		if c := s.calls.take(m.MuxID); c != nil {
			c.complete(s.answer(m))
		}
	case OpConnectMux:
		s.acceptMux(m)
	case OpMuxClientMsg, OpUnblockSrvMux, OpPing, OpDisconnectServerMux:
		s.dispatchServer(m)
	case OpAckMux, OpMuxServerMsg, OpUnblockClMux, OpPong, OpDisconnectClientMux:
		s.dispatchClient(m)
	case OpMuxConnectError:
		s.connectError(m)
	default:
		if more, ok := s.conn.ignored.take(m.Op.String()); ok {
			s.conn.log.Debug("grid: unexpected operation ignored", "peer", s.conn.Remote, "op", m.Op.String(), "more", more)
		}
	}
	return nil
}

// dispatchConnection handles what concerns the connection itself.
func (s *session) dispatchConnection(m *message) error {
	switch m.Op {
	case OpPing:
		var ping pingMsg
		if len(m.Payload) > 0 {
			if err := unmarshal(&ping, m.Payload); err != nil {
				return fmt.Errorf("malformed ping: %w", err)
			}
		}
		payload, err := (&pongMsg{T: ping.T}).MarshalMsg(nil)
		if err != nil {
			return err
		}
		s.reply(message{Op: OpPong, Payload: payload}, nil)
		return nil
	case OpPong:
		return s.pong(m)
	case OpDisconnect:
		s.peerLeaves()
		return nil
	}
	return fmt.Errorf("%w: %v", errMessageNoMux, m.Op)
}

func (s *session) pong(m *message) error {
	var pong pongMsg
	if err := unmarshal(&pong, m.Payload); err != nil {
		return fmt.Errorf("malformed pong: %w", err)
	}
	now := time.Now()
	atomic.StoreInt64(&s.conn.LastPong, now.UnixNano())
	if rtt, ok := s.probes.answer(pong.T, now); ok {
		s.rtt.Store(int64(max(rtt, 1))) // 0 says that there was none
	}
	return nil
}

// dispatchServer handles what the peer's caller says about a stream or a request of its own.
func (s *session) dispatchServer(m *message) {
	mux, ok := s.servers.get(m.MuxID)
	switch {
	case ok:
		mux.receive(m)
	case m.Op == OpDisconnectServerMux:
		s.running.cancel(m.MuxID)
	case m.Op == OpMuxClientMsg:
		s.reply(message{MuxID: m.MuxID, Op: OpDisconnectClientMux}, nil)
	case m.Op == OpPing:
		payload, _ := (&pongMsg{NotFound: true}).MarshalMsg(nil)
		s.reply(message{MuxID: m.MuxID, Seq: m.Seq, Op: OpPong, Payload: payload}, nil)
	}
}

// dispatchClient handles what the peer's handler says about a stream opened here.
func (s *session) dispatchClient(m *message) {
	mux, ok := s.clients.get(m.MuxID)
	switch {
	case ok:
		mux.receive(m)
	case m.Op == OpAckMux, m.Op == OpPong, m.Op == OpMuxServerMsg && m.Flags&FlagEOF == 0:
		// Never DisconnectClientMux: it would concern a mux of the peer's own numbering.
		s.reply(message{MuxID: m.MuxID, Op: OpDisconnectServerMux}, nil)
	}
}

// connectError ends the call or the stream that the peer did not take.
func (s *session) connectError(m *message) {
	var refused muxConnectError
	if err := unmarshal(&refused, m.Payload); err != nil {
		refused.Error = "refused"
	}
	if c := s.calls.take(m.MuxID); c != nil {
		c.complete(nil, refusal(refused.Error))
		return
	}
	if mux, ok := s.clients.get(m.MuxID); ok {
		mux.cancel(refusal(refused.Error))
	}
}

// errorText is the text of an error as it is sent.
func (s *session) errorText(text string) []byte {
	if len(text) > s.maxMessage-maxOverhead {
		return fmt.Appendf(nil, "%v: error text of %d bytes", ErrMessageTooLarge, len(text))
	}
	return []byte(text)
}

// refuse answers a request or a stream that is not taken.
func (s *session) refuse(m *message, text string) {
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

// answer is what a response or a final message carries: a copy of its payload that belongs to the receiver, or its error.
func (s *session) answer(m *message) ([]byte, error) {
	if m.Flags&FlagPayloadIsErr != 0 {
		return nil, s.saidError(m)
	}
	return m.ownPayload(), nil
}

// deadline is when the caller of a request or stream that came in now gives up; zero for never.
func (m *message) deadline(now time.Time) time.Time {
	if m.DeadlineMS == 0 {
		return time.Time{}
	}
	return now.Add(time.Duration(m.DeadlineMS) * time.Millisecond)
}

// ownPayload copies the payload out of the read buffer.
func (m *message) ownPayload() []byte {
	if m.Payload == nil {
		return nil
	}
	return append(GetByteBufferCap(len(m.Payload)), m.Payload...)
}
