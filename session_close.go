package grid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/wsframe"
)

// A session ends with the closing handshake of RFC 6455: the side that ends it sends what is queued
// and a close frame, and reads on until the close frame of the other side, which does the same.
// Only then is TCP closed, by the acceptor first. An earlier FIN would work between two nodes, but
// not through a proxy: nginx, haproxy and others take it for the end of both directions, and drop
// what they have not passed on. See docs/design.md, "The end of a session".

const (
	// shutdownGrace is how long a shutdown leaves for the goodbye if its context is over, or
	// nearly, and how long a peer that still sends has to read the goodbye of an aborted session.
	shutdownGrace = time.Second
	// abortGrace bounds the goodbye to a peer that is silent, and the goodbye of Close.
	abortGrace = 100 * time.Millisecond
	// lingerQuiet is the silence after which nothing of the peer's is assumed to be on its way
	// anymore.
	lingerQuiet = 50 * time.Millisecond
)

// shutdown sends what is queued, tells the peer that this node is leaving, and waits for its
// goodbye: until ctx ends, at least for grace, and at most until PeerTimeout after the last byte
// was written. It reports whether that was enough time.
func (s *session) shutdown(ctx context.Context, grace time.Duration) bool {
	least := time.NewTimer(grace)
	defer least.Stop()
	word, reason := s.farewell()
	s.setReason(reason) // however the peer ends its side
	s.batch.CloseAfterFlush(append(s.goodbye(), s.closeFrame(ws.StatusGoingAway, word)...))
	ended := s.await(ctx)
	if !ended {
		select {
		case <-s.closed:
			ended = true
		case <-least.C:
		}
	}
	s.end(reason)
	<-s.finished
	return ended || ctx.Err() == nil
}

// removedWord tells a peer, in the close frame, that it was removed.
const removedWord = "removed from the hosts"

// farewell returns what to tell the peer about why this node ends the session, and why it does.
func (s *session) farewell() (word string, reason error) {
	if s.active.why() == ErrRemoved {
		return removedWord, errHostRemoved
	}
	return "", errLocalClose
}

// await waits for the end of a session whose close frame is queued. It returns false if that takes
// too long.
func (s *session) await(ctx context.Context) bool {
	select {
	case <-s.written:
	case <-s.closed:
		return true
	case <-ctx.Done():
		return false
	}
	answer := time.NewTimer(s.limits.PeerTimeout)
	defer answer.Stop()
	select {
	case <-s.closed:
		return true
	case <-ctx.Done():
	case <-answer.C:
	}
	return false
}

// abort ends the session with a word to a peer that may well be gone: open calls and streams fail
// at once, and further input is dropped. Any goroutine may call it; it never waits.
func (s *session) abort(reason error, word string) {
	s.setReason(reason)
	s.aborted.Store(true)
	s.abandon()
	s.batch.CloseAfterFlush(s.closeFrame(ws.StatusPolicyViolation, word))
	s.endOnceSilent(reason, time.Now().Add(shutdownGrace))
}

// endOnceSilent ends an aborted session as soon as nothing has come from the peer for a while. Until
// then it is not gone, and closing a socket that still receives would destroy the goodbye. A peer
// that never falls silent has until latest to read it: the session that replaces this one waits.
func (s *session) endOnceSilent(reason error, latest time.Time) {
	before := s.received()
	time.AfterFunc(abortGrace, func() {
		if s.received() == before || isClosed(s.closed) || time.Now().After(latest) {
			s.end(reason)
			return
		}
		s.endOnceSilent(reason, latest)
	})
}

// received returns how many bytes have come.
func (s *session) received() uint64 {
	_, n := s.frames.Received()
	return n + s.dropped.Load()
}

// peerLeaves records that the peer will close the connection: its close frame is right behind.
// Nothing new is sent to it.
func (s *session) peerLeaves() {
	s.leaving = true
	s.lost(s, errGoodbye)
	if s.poll != nil {
		s.poll.expects = false // polls would take the deadline away
	}
	rawSocket(s.socket).SetReadDeadline(time.Now().Add(s.limits.WriteTimeout))
}

// abandon fails everything that is open. Any goroutine may call it, repeatedly.
func (s *session) abandon() {
	s.ending.Lock()
	why := s.reason
	s.ending.Unlock()
	s.lost(s, why)
	s.callClient.close()
	s.muxes.close()
	s.callServer.close()
}

// meaning returns why the session ends if reading has ended with err, in words for the log.
func (s *session) meaning(err error) error {
	var closed *wsframe.CloseError
	var broken *wsframe.ProtocolError
	var wrong *violation
	switch {
	case errors.As(err, &closed):
		return s.closedByPeer(closed)
	case errors.As(err, &broken):
		return fmt.Errorf("protocol error: %s", broken.Text)
	case errors.As(err, &wrong):
		return wrong.error
	case s.leaving:
		return errPeerLeaving
	case errors.Is(err, io.EOF):
		return errSilentEnd
	}
	return err
}

// closeHandshake finishes after reading has ended with err: it sends what is queued and a close
// frame, and waits until TCP may be closed.
func (s *session) closeHandshake(err error) {
	var closed *wsframe.CloseError
	var broken *wsframe.ProtocolError
	var wrong *violation
	switch {
	case errors.As(err, &closed):
		s.batch.CloseAfterFlush(s.closeFrame(closed.Code, ""))
		s.flushed()
		if s.dialed {
			s.linger() // for the acceptor to close TCP first: RFC 6455, section 7.1.1
		} else {
			s.hangUp()
		}
	case errors.As(err, &broken):
		s.refusePeer(broken.Code, broken.Text)
	case errors.As(err, &wrong):
		s.refusePeer(ws.StatusProtocolError, wrong.word())
	}
}

// closedByPeer turns a close frame of the peer into the reason for the session's end.
func (s *session) closedByPeer(closed *wsframe.CloseError) error {
	switch {
	case !s.leaving:
		return &goodbyeError{closed}
	case closed.Reason == removedWord:
		return errRemovedByPeer
	}
	return errPeerLeaving
}

// refusePeer says goodbye to a peer that broke the rules. What it sends can no longer be
// understood, its close frame included.
func (s *session) refusePeer(code ws.StatusCode, word string) {
	s.batch.CloseAfterFlush(s.closeFrame(code, word))
	if s.linger() {
		s.hangUp()
	}
}

// hangUp closes this end of TCP and waits until the peer has closed its end too. Closing a socket
// that holds unread bytes, or that is written to once more, destroys what the peer has not read
// yet, such as the close frame.
func (s *session) hangUp() {
	if half, ok := rawSocket(s.socket).(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		s.drain(s.limits.WriteTimeout, s.limits.WriteTimeout)
	}
}

// flushed waits until the close frame is written. Writing has its own time limits.
func (s *session) flushed() {
	select {
	case <-s.written:
	case <-s.closed:
	}
}

// linger drops what the peer sends until the close frame is written and nothing more is on its way:
// the peer has closed its end, or has been quiet for a moment. It reports whether the peer is still
// there, and quiet.
func (s *session) linger() bool {
	for {
		switch s.drain(lingerQuiet, s.limits.WriteTimeout) {
		case drainQuiet:
			select {
			case <-s.written:
				return true
			case <-s.closed:
				return false
			default:
			}
		case drainLate: // the peer keeps sending
			s.flushed()
			return false
		case drainEnd:
			s.flushed()
			return false
		}
	}
}

type drained int

const (
	drainEnd   drained = iota // the peer has closed its end, or is gone
	drainQuiet                // nothing came for a while
	drainLate                 // the time is up
)

// drain drops input for at most atMost, or until nothing has come for quiet.
func (s *session) drain(quiet, atMost time.Duration) drained {
	socket := rawSocket(s.socket)
	end := time.Now().Add(atMost)
	b := GetByteBufferCap(4 << 10)
	defer PutByteBuffer(b)
	for now := time.Now(); now.Before(end); now = time.Now() {
		until := now.Add(quiet)
		if until.After(end) {
			until = end
		}
		if socket.SetReadDeadline(until) != nil {
			return drainEnd
		}
		n, err := socket.Read(b[:cap(b)])
		s.dropped.Add(uint64(n))
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && quiet < atMost:
			return drainQuiet
		case errors.Is(err, os.ErrDeadlineExceeded):
			return drainLate
		case err != nil:
			return drainEnd
		}
	}
	return drainLate
}

// goodbye returns the last message to a peer of this project: this node is leaving. From then on
// the peer waits only for the close frame, and not for long. So it goes behind everything that
// waits.
func (s *session) goodbye() []byte {
	if !s.has(featureNative) {
		return nil
	}
	m := message{Op: OpDisconnect}
	return wsframe.AppendControl(nil, ws.OpBinary, m.appendTo(nil), s.dialed, newMask()) // is short enough for that
}

// closeFrame returns the last frame of a session. word goes to the peer's log.
func (s *session) closeFrame(code ws.StatusCode, word string) []byte {
	if code == ws.StatusNoStatusRcvd {
		code = ws.StatusNormalClosure
	}
	return wsframe.AppendClose(nil, code, word, s.dialed, newMask())
}

// violation is a message of the peer that breaks the rules of the grid.
type violation struct{ error }

func (v *violation) Unwrap() error { return v.error }

// word returns what to tell the peer: the rule it broke, without any of its input, such as a key.
func (v *violation) word() string {
	parts := strings.SplitN(v.Error(), ": ", 3)
	return strings.Join(parts[:min(len(parts), 2)], ": ")
}

// discard ends a session that never ran.
func (s *session) discard(reason error) {
	s.end(reason)
	s.frames.Release()
	close(s.finished)
}

// end ends the session at once, without a goodbye; the first reason counts. Any goroutine may call
// it; it never waits.
func (s *session) end(reason error) {
	s.setReason(reason)
	s.ending.Lock()
	first := !isClosed(s.closed)
	if first {
		close(s.closed)
	}
	s.ending.Unlock()
	if first {
		closeSocket(s.socket)
	}
}

// setReason records why the session ends. The first reason counts.
func (s *session) setReason(reason error) {
	s.ending.Lock()
	defer s.ending.Unlock()
	if s.reason == nil {
		s.reason = reason
	}
}
