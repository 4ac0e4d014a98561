package grid

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// readLoop dispatches input until reading fails.
func (s *session) readLoop() error {
	taken := s.frames.Taken()
	for {
		b, err := s.frames.Next()
		if n := s.frames.Taken(); n != taken {
			s.countRead(n - taken)
			taken = n
		}
		if err != nil {
			return err
		}
		if s.aborted.Load() {
			continue
		}
		if s.forged {
			return errUnaskedPong
		}
		now := s.began.Add(time.Since(s.began)) // half of what time.Now costs
		err = s.receive(b, now)
		s.muxes.endRun()
		if err != nil {
			return &violation{err}
		}
	}
}

// receive dispatches one frame that arrived now. An error ends the session.
func (s *session) receive(b []byte, now time.Time) error {
	var m message
	if err := m.parse(b); err != nil {
		return fmt.Errorf("malformed message: %w", err)
	}
	if m.Op != OpMerged {
		s.flowIn.frame(1)
		m.alone = true
		err := s.dispatch(&m, now)
		s.muxes.endRun()
		s.batch.WaitReserve()
		return err
	}
	rest, merged := m.Payload, m.Seq
	s.flowIn.frame(int(min(uint64(m.Seq), uint64(len(rest))))) // on 32 bits, Seq may overflow an int
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
		if err := s.dispatch(&m, now); err != nil {
			return err
		}
		if !s.muxes.collecting() { // else there was no answer, and others wait for what came
			s.batch.WaitReserve()
		}
	}
	if len(rest) > 0 {
		return fmt.Errorf("malformed merged message: %d bytes behind the last of %d messages", len(rest), merged)
	}
	return nil
}

// dispatch checks a message, and hands it to what it concerns, unless it is only a part of one. m
// and its payload are valid only during the call. Nothing in here waits.
func (s *session) dispatch(m *message, now time.Time) error {
	if m.Op.checked(m.MuxID) && s.has(featureNative) && s.checksum&^m.Flags != 0 { // a flipped bit in the flags would disable the check
		return errUnchecked
	}
	if !m.joins() {
		s.muxes.endRun()
	}
	if m.Op == OpPiece && s.has(featurePieces) {
		return s.piece(m, now)
	}
	s.takePriority(m)
	return s.route(m, now)
}

// route hands a whole message to the call, stream or session it concerns.
func (s *session) route(m *message, now time.Time) error {
	if m.metadata != nil {
		if err := s.takeMetadata(m); err != nil {
			return err
		}
	}
	if m.MuxID == 0 {
		return s.dispatchConnection(m)
	}
	if s.poll != nil && !s.leaving {
		s.poll.expects = true // calls often follow each other
	}
	switch m.Op {
	case OpRequest:
		s.callServer.handle(m, now)
	case OpResponse:
		s.callClient.answer(m)
	case OpConnectMux:
		s.muxes.accept(m, now)
	case OpMuxClientMsg, OpUnblockSrvMux, OpPing, OpDisconnectServerMux:
		if !s.muxes.toServer(m, now) && m.Op == OpDisconnectServerMux {
			s.callServer.cancel(m.MuxID)
		}
	case OpAckMux, OpMuxServerMsg, OpUnblockClMux, OpPong, OpDisconnectClientMux:
		s.muxes.toClient(m, now)
	case OpMuxServerEnd, OpMuxServerHeader:
		if m.Op == OpMuxServerEnd && !s.has(featureHalves) || m.Op == OpMuxServerHeader && !s.has(featureHeaders) {
			s.ignore(m.Op)
			break
		}
		s.muxes.toClient(m, now)
	case OpMuxConnectError:
		s.connectError(m)
	default:
		s.ignore(m.Op)
	}
	return nil
}

// dispatchConnection handles a message about the connection itself.
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
	case OpFacts, OpAckFacts:
		if !s.has(featureFacts) {
			break
		}
		return s.takeFacts(m)
	case OpAckPieces:
		if !s.has(featurePieces) {
			break
		}
		if n := int(min(m.Seq, math.MaxInt32)); !s.batch.Acknowledge(n) {
			return fmt.Errorf("%d bytes of pieces acknowledged that were not sent", n)
		}
		return nil
	}
	return fmt.Errorf("%w: %v", errMessageNoMux, m.Op)
}

// connectError ends the call or the stream that the peer did not accept.
func (s *session) connectError(m *message) {
	var refused muxConnectError
	if err := unmarshal(&refused, m.Payload); err != nil {
		refused.Error = "refused"
	}
	if err := refusal(refused.Error); !s.callClient.refused(m.MuxID, err) {
		s.muxes.refused(m.MuxID, err)
	}
}
