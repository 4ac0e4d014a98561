package grid

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"github.com/gridmesh/grid/internal/batch"
	"github.com/gridmesh/grid/internal/wsframe"
)

// largeMessage is the number of bytes from which a request or an answer is put together without the lock of the send queue. It would
// not share a frame with others in any case.
const largeMessage = 64 << 10

// pingDeadlineMS is what goes over the wire with a ping.
const pingDeadlineMS = 5000

// Why a session ended, where no I/O error says it.
var (
	errPeerSilent   = errors.New("peer is silent")
	errReplaced     = errors.New("replaced by a newer connection from the same host")
	errPeerLeaving  = errors.New("peer is shutting down")
	errLocalClose   = errors.New("closed locally")
	errSilentEnd    = errors.New("peer closed the connection without a word")
	errMuxDone      = errors.New("mux already ended")
	errUnchecked    = errors.New("message without a checksum")
	errUnaskedPong  = errors.New("WebSocket pong that nobody asked for: a changed message")
	errMessageNoMux = errors.New("message without a mux ID")
)

// session is one live socket of a Connection with all that depends on it. A
// reconnect makes a new one: nothing of an old session can touch the new.
//
// Three goroutines run while it lives: the reader (run), the flusher
// (batch.Writer.Run) and the janitor. None of them ever waits for a peer, a
// handler or a consumer; only the flusher waits for the socket.
type session struct {
	conn           *Connection
	socket         net.Conn
	frames         *wsframe.Reader
	out            *batch.Writer
	peer           process // whom it is with
	dialed         bool    // this node opened the connection
	native         bool    // the peer is a node of this project
	features       uint32  // that both nodes have
	maxMessage     int     // bytes of the largest message that both nodes take
	peerMaxMessage int     // what the peer has said of that; 0 where it has not
	checksum       Flags   // FlagCRCxxh3, or 0 under TLS

	calls    callTable
	callPool sync.Pool
	clients  muxTable[*muxClient] // streams opened here
	servers  muxTable[*muxServer] // streams opened by the peer
	workers  workers              // run the peer's requests
	running  runningCalls         // requests of the peer whose handlers have a context
	incoming incomingSet          // requests of the peer
	heaviest heaviest             // streams with the most waiting; the reader's alone

	forged  bool          // a pong came that nobody had asked for; the reader's alone
	arrived time.Time     // when the frame that is being dispatched came in; the reader's alone
	leaving bool          // the peer has said that it leaves; the reader's alone
	ticks   atomic.Uint32 // of the janitor

	began  time.Time     // of the session; times since then are monotonic
	rtt    atomic.Int64  // nanoseconds
	tick   time.Duration // between the rounds of the janitor
	life   pulse         // of the peer; the janitor's alone
	probes probes

	announced  atomic.Bool // in the log
	ran        atomic.Bool // run has begun
	parted     atomic.Bool // part was called: what still comes in is of no use
	reasonOnce sync.Once
	failOnce   sync.Once
	reason     error         // why it ended; set before failed is closed
	written    chan struct{} // closed when the close frame, the last of all, is written
	failed     chan struct{} // closed by fail: the socket is closed
	finished   chan struct{} // closed when all its goroutines and entries are gone
}

// newSession prepares a session over a socket whose handshake is done. Nothing runs until run is called.
func newSession(c *Connection, socket net.Conn, frames *wsframe.Reader, dialed bool) *session {
	s := &session{
		conn:       c,
		socket:     socket,
		frames:     frames,
		dialed:     dialed,
		began:      time.Now(),
		maxMessage: c.limits.MaxMessageSize,
		tick:       c.limits.tick(),
		written:    make(chan struct{}),
		failed:     make(chan struct{}),
		finished:   make(chan struct{}),
	}
	s.workers.init()
	if !c.bothTLS() {
		s.checksum = FlagCRCxxh3
	}
	tuneTCP(rawSocket(socket), c.limits.PeerTimeout/10)
	frames.SetOnPing(func(payload []byte) {
		s.out.Control(wsframe.AppendControl(nil, ws.OpPong, payload, dialed, newMask()))
	})
	s.out = s.newWriter()
	return s
}

// newWriter prepares the sending half of the session.
func (s *session) newWriter() *batch.Writer {
	return batch.New(s.socket, batch.Config{
		Masked:       s.dialed,
		Limit:        s.conn.limits.MaxQueuedBytes,
		Reserve:      s.conn.limits.MaxQueuedControlBytes,
		MaxShared:    s.maxMessage,
		Large:        min(largeMessage, s.maxMessage/16),
		Timeout:      s.conn.limits.WriteTimeout,
		OneShot:      overTLS(s.socket),
		MergedHeader: appendMergedHeader,
		OnWrite:      s.conn.onWrite(),
		OnFrame:      s.conn.traffic.out.frame,
	})
}

// run reads until the session ends, then fails everything that was open on it
// and waits for the session's own goroutines. It returns why the session ended.
func (s *session) run() error {
	s.ran.Store(true)
	s.life.start(s.began, s.frames)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.out.Run(); err != nil {
			s.fail(err)
			return
		}
		close(s.written)
	})
	wg.Go(s.janitor)
	err := s.readLoop()
	s.abandon()
	s.fail(s.farewell(err))
	s.out.Close()
	wg.Wait()
	s.frames.Release()
	close(s.finished)
	return s.reason
}

// janitor pings the peer and ends what is overdue.
func (s *session) janitor() {
	tick := time.NewTicker(s.tick)
	defer tick.Stop()
	var pinged time.Time
	for {
		select {
		case <-s.failed:
			return
		case <-tick.C:
			if now := time.Now(); now.Sub(pinged) >= s.conn.limits.PingInterval-s.tick/2 {
				pinged = now
				s.ping()
			}
			l := s.life.feel(turn(), s.tick, s.frames, s.out)
			// The sign of life may be older than the look that saw it by a tick, and the next look is a tick away.
			if l.silent > s.conn.limits.PeerTimeout-2*s.tick-s.tick/2 {
				silent := l.silent.Round(time.Millisecond)
				err := fmt.Errorf("%w for %v", errPeerSilent, silent)
				s.part(err, fmt.Sprintf("nothing received for %v", silent))
				s.flushed()
				s.fail(err)
				return
			}
			for _, id := range s.calls.sweep(s.ticks.Add(l.rounds())) {
				s.giveUp(id)
			}
			for _, m := range s.clients.all() {
				m.checkAlive(&l)
			}
			for _, m := range s.servers.all() {
				m.checkAlive(&l)
			}
		}
	}
}

// ping asks the peer for a sign of life.
func (s *session) ping() {
	now := time.Now() // the janitor's own time may be late
	payload, err := (&pingMsg{T: now}).MarshalMsg(nil)
	if err != nil {
		return
	}
	s.probes.sent(now)
	s.advise(message{Op: OpPing, DeadlineMS: pingDeadlineMS, Payload: payload}, nil)
}

// nextMuxID chooses the number of a new call or stream. Two nodes of this
// project use odd and even numbers, so that no number means two things between
// them. A node of the original counts from 1: numbers from 2^31 stay clear of its own.
func (s *session) nextMuxID() uint64 {
	n := atomic.AddUint64(&s.conn.NextID, 1)
	switch {
	case !s.native:
		return 1<<31 + n
	case s.dialed:
		return 2*n - 1
	default:
		return 2 * n
	}
}

// deadlineMS is what goes over the wire for the deadline of ctx: 0 for none. It is rounded up: a handler
// that ended before its caller's deadline would leave the caller with ErrDisconnected.
func (s *session) deadlineMS(ctx context.Context) (uint32, error) {
	if ctx.Err() != nil {
		return 0, contextCause(ctx)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, nil
	}
	left := time.Until(deadline)
	if left <= 0 {
		return 0, pastDeadline(ctx)
	}
	return uint32((min(left, MaxDeadline) + time.Millisecond - 1) / time.Millisecond), nil
}

// pastDeadline is the error of a context whose deadline has passed just now: the
// context itself, and with it the cause, is a moment behind the clock.
func pastDeadline(ctx context.Context) error {
	patience := time.NewTimer(deadlineGrace)
	defer patience.Stop()
	select {
	case <-ctx.Done():
		return contextCause(ctx)
	case <-patience.C:
		return context.DeadlineExceeded
	}
}

// cutShort is what has ended ctx; nil where it lasts. A deadline that has passed counts, as the context
// is a moment behind it: who was stopped by the deadline may be faster than the timer.
func cutShort(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return pastDeadline(ctx)
	}
	return nil
}

// deadlineGrace bounds how long a context may be behind its own deadline.
const deadlineGrace = time.Second

// readLoop dispatches what comes in until reading fails.
func (s *session) readLoop() error {
	incoming, received := s.conn.manager.incoming, &s.conn.traffic.in.bytes
	taken := s.frames.Taken()
	for {
		b, err := s.frames.Next()
		if n := s.frames.Taken(); n != taken {
			received.Add(n - taken)
			incoming.add(n - taken)
			taken = n
		}
		if err != nil {
			return err
		}
		if s.parted.Load() {
			continue
		}
		if s.forged {
			return errUnaskedPong
		}
		s.arrived = s.began.Add(time.Since(s.began)) // half of what time.Now costs
		if err := s.receive(b); err != nil {
			return &violation{err}
		}
	}
}
