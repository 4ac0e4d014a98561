package grid

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// largeMessage is the size in bytes from which a request or an answer is encoded without holding
// the lock of the send queue. It would not share a frame with others anyway.
const largeMessage = 64 << 10

// Why a session ended, if no I/O error says it.
var (
	errPeerSilent    = errors.New("peer is silent")
	errReplaced      = errors.New("replaced by a newer connection from the same host")
	errPeerLeaving   = errors.New("peer is shutting down")
	errLocalClose    = errors.New("closed locally")
	errHostRemoved   = errors.New("peer was removed from the hosts")
	errGoodbye       = errors.New("peer says goodbye")
	errRemovedByPeer = errors.New("peer has removed this node from its hosts")
	errSilentEnd     = errors.New("peer closed the connection without a word")
	errUnchecked     = errors.New("message without a checksum")
	errUnacked       = errors.New("ping answered before the pieces in front of it were acknowledged")
	errUnaskedPong   = errors.New("WebSocket pong that nobody asked for: a changed message")
	errMessageNoMux  = errors.New("message without a mux ID")
)

// session is one live socket of a Connection with everything that depends on it. A reconnect makes
// a new one, so nothing of an old session can touch the new one.
//
// Two goroutines run while it lives, the reader (run) and the flusher (batch.Writer.Run), and at
// times a third one, the janitor's. None of them ever waits for a handler or a consumer, and only the
// flusher writes to the socket.
type session struct {
	sender
	socket net.Conn
	frames *wsframe.Reader
	poll   *poller                     // what frames reads from; nil where the socket itself is
	peer   process                     // the peer's process
	heard  *facts                      // what the peer said of itself before the session began; nil if it does not
	local  string                      // address
	reader reader                      // the peer, as the bulletin knows it
	lost   func(s *session, why error) // tells the Connection that the session accepts no more calls

	callClient callClient // single requests from here
	callServer callServer // single requests of the peer
	muxes      muxes      // streams, in both directions
	assembly   assembly   // of large messages of the peer; the reader's alone

	forged  bool // an unsolicited pong came; the reader's alone
	leaving bool // the peer has said that it is leaving; the reader's alone

	began   time.Time     // of the session; times since then are monotonic
	rtt     atomic.Int64  // nanoseconds
	tick    time.Duration // between rounds of the janitor
	live    liveness      // of the peer; the janitor's alone
	pings   pings
	pinged  time.Time // when the last one was sent; the janitor's alone
	janitor janitor

	announced atomic.Bool   // in the log
	ran       atomic.Bool   // run has begun
	aborted   atomic.Bool   // abort was called: further input is useless
	dropped   atomic.Uint64 // bytes of input, after frames has ended

	ending   sync.Mutex    // Protects following.
	reason   error         // why the session ends, as first set; nil while it lasts
	written  chan struct{} // closed when the close frame, the last of all, is written
	closed   chan struct{} // closed by end, with the socket
	finished chan struct{} // closed when all its goroutines and entries are gone
}

// newSession prepares a session over a socket whose handshake is done. Nothing runs until run is
// called.
func newSession(l *link, handlers *atomic.Pointer[registry], lost func(*session, error), peer process, with agreement, g *greeting) *session {
	s := &session{
		socket:   g.socket,
		frames:   g.frames,
		peer:     peer,
		local:    g.socket.LocalAddr().String(),
		lost:     lost,
		began:    time.Now(),
		tick:     l.limits.tick(),
		written:  make(chan struct{}),
		closed:   make(chan struct{}),
		finished: make(chan struct{}),
	}
	s.sender = sender{agreement: with, link: l, dialed: g.dialed, endSession: s.end}
	s.checksum = l.checksum()
	s.heard, s.reader = g.heard, reader{known: g.told}
	tuneTCP(rawSocket(s.socket), l.limits.PeerTimeout/10)
	if l.busyPoll > 0 {
		if s.poll = newPoller(s.socket, l.busyPoll, &l.active); s.poll != nil {
			s.frames.SetSource(s.poll)
		}
	}
	s.frames.SetMaxMessage(l.limits.MaxMessageSize)
	s.frames.SetAhead(pieceAhead)
	s.frames.SetOnPing(func(payload []byte) {
		s.batch.Control(wsframe.AppendControl(nil, ws.OpPong, payload, s.dialed, newMask()))
	})
	if s.has(featureNative) && s.checksum != 0 {
		s.frames.SetOnPong(func(payload []byte) { s.forged = s.forged || len(payload) > 0 })
	}
	s.batch = batch.New(s.socket, batch.Config{
		Masked:         s.dialed,
		Limit:          l.limits.MaxQueuedBytes,
		Reserve:        l.limits.MaxQueuedControlBytes,
		MaxShared:      s.maxMessage,
		MaxBegun:       2 * s.maxMessage,
		Large:          min(largeMessage, s.maxMessage/16),
		Timeout:        l.limits.WriteTimeout,
		OneShot:        overTLS(s.socket),
		Unacknowledged: unacknowledged(s.socket),
		MergedHeader:   appendMergedHeader,
		OnWrite:        l.countWritten,
		OnFrame:        l.flowOut.frame,
	})
	s.callClient.init(&s.sender, handlers, s.began, s.tick)
	s.callServer.init(&s.sender, handlers, s.began)
	s.muxes.init(&s.sender, handlers, s.began, s.tick)
	return s
}

// run reads until the session ends, then fails everything still open on it and waits for the
// session's own goroutines. It returns why the session ended.
func (s *session) run() error {
	s.ran.Store(true)
	s.live.start(s.began, s.frames)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.batch.Run(); err != nil {
			s.end(err)
			return
		}
		close(s.written)
	})
	s.beginRounds()
	s.joinBulletin()
	err := s.readLoop()
	s.leaveBulletin()
	s.dropPartials()
	s.batch.LiftWindow()
	reason := s.meaning(err)
	s.setReason(reason)
	s.abandon()
	s.closeHandshake(err)
	s.end(reason)
	s.batch.Close()
	s.janitor.end()
	wg.Wait()
	s.frames.Release()
	close(s.finished)
	return s.reason
}

// process identifies a process that connected under the name of a peer.
type process struct {
	id      [16]byte
	address string // its last known address
	meant   bool   // it has dialed, and this node by its name
}
