package grid

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gridmesh/grid/pubsub"
)

// link is what the sessions of a Connection, and the calls and streams on them, know of it: who the
// two nodes are, what the peer may make this node do, and where to count and log. It outlives
// sessions, as handlers may. Nothing in it leads back to the Connection or the Manager.
type link struct {
	local, remote string
	log           *slog.Logger
	limits        *Limits       // of the Manager
	busyPoll      time.Duration // ManagerOptions.BusyPoll
	caller        RemoteClient  // the peer, as handlers see it

	active       activity
	requestQuota *quota       // the peer's requests that run here
	streamQuota  *quota       // the peer's streams that run here, and the bytes of all streams
	grown        atomic.Int64 // bytes by which the windows of streams have grown

	address  atomic.Pointer[string] // of the peer on the network, or when it was there last; nil before that
	facts    atomic.Pointer[facts]  // what the peer has said of itself, now or when it was there last; nil before that
	bulletin *bulletin              // of the node
	drains   func()                 // is told when facts.draining has changed

	nextID   *uint64 // Connection.NextID
	lastPong *int64  // Connection.LastPong

	*traffic
	toldIn   *byteTeller  // ManagerOptions.Incoming
	toldOut  *byteTeller  // ManagerOptions.Outgoing
	served   counterTable // calls of the peer, by number of the registration
	called   counterTable // calls from here, by number of the target
	refusals refusalCounters
	recent   *errorRing // of the Manager

	traces    *pubsub.PubSub[TraceInfo, TraceType] // ManagerOptions.TraceTo
	panics    *logLimit                            // of handlers and observers; of the Manager
	overloads *logLimit                            // refusals
	ignored   *logLimit                            // operations of the peer
}

// newMuxID numbers a call or stream of this node.
func (l *link) newMuxID() uint64 { return atomic.AddUint64(l.nextID, 1) }

// moreWindow returns by how much a window that is to grow by n bytes may grow, if all windows
// together may grow by most.
func (l *link) moreWindow(n, most int) int {
	if l.grown.Add(int64(n)) > int64(most) {
		l.grown.Add(-int64(n))
		return 0
	}
	return n
}

// ponged records the answer to a ping.
func (l *link) ponged(now time.Time) { atomic.StoreInt64(l.lastPong, now.UnixNano()) }

// bothTLS reports whether TLS protects both names' traffic, so that messages need no checksum.
func (l *link) bothTLS() bool { return isTLS(l.local) && isTLS(l.remote) }

// checksum returns the flag of messages that need a checksum.
func (l *link) checksum() Flags {
	if l.bothTLS() {
		return 0
	}
	return FlagCRCxxh3
}

func isTLS(name string) bool {
	return strings.HasPrefix(name, "https:") || strings.HasPrefix(name, "wss:")
}

// countWritten counts bytes that were written to a socket.
func (l *link) countWritten(n int) {
	l.flowOut.add(int64(n))
	l.toldOut.add(int64(n))
}

// countRead counts bytes that were read from a socket.
func (l *link) countRead(n int64) {
	l.flowIn.add(n)
	l.toldIn.add(n)
}

// handlerContext returns the context of a handler that the peer called with m. It has the deadline
// unless that is zero. r counts what the handler decodes. answer is what the handler sets to go with
// its answer, as far as the peer takes that.
func (l *link) handlerContext(labels context.Context, deadline time.Time, subroute string, m *message, r room, a *agreement) (_ context.Context, _ context.CancelCauseFunc, answer *answerState) {
	if labels == nil {
		labels = context.Background()
	}
	parent := &callerContext{
		Context:  labels,
		caller:   &l.caller,
		subroute: subroute,
		metadata: newIncomingMetadata(m),
		room:     r,
	}
	answer = &parent.answer
	answer.takes(a)
	ctx, cancel := context.WithCancelCause(parent)
	if deadline.IsZero() {
		return ctx, cancel, answer
	}
	ctx, stop := context.WithDeadline(ctx, deadline)
	return ctx, func(cause error) {
		cancel(cause)
		stop()
	}, answer
}

// admitted enters a call that m opens into a quota, unless that was done when its first piece came.
// It returns the bytes counted for it and, if they are too many, the limit.
func (l *link) admitted(m *message, q *quota) (size int, over limit) {
	if m.counted > 0 {
		size, m.counted = m.counted, 0
		return size, limitNone
	}
	size = m.footprint()
	return size, q.enter(size)
}

// ignore logs an unknown operation.
func (l *link) ignore(op Op) {
	if more, ok := l.ignored.allow(op.String()); ok {
		l.log.Debug("grid: unexpected operation ignored", "peer", l.remote, "op", op.String(), "more", more)
	}
}

// lastPongTime returns when the peer last answered a ping; zero for never.
func (l *link) lastPongTime() time.Time {
	if n := atomic.LoadInt64(l.lastPong); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// recovered turns a panic of a handler into an error for its caller and a log entry, which has the
// context of the handler.
func (l *link) recovered(ctx context.Context, h target, err *error) {
	if r := recover(); r != nil {
		if more, ok := l.panics.allow(""); ok {
			l.log.ErrorContext(contextOfPanic(ctx), "grid: handler panicked", "handler", h.String(), "peer", l.remote,
				"panic", fmt.Sprint(r), "stack", string(debug.Stack()), "more", more)
		}
		*err = &Error{Code: Internal, Text: fmt.Sprintf("handler %v panicked: %v", h, r), Remote: true}
	}
}
