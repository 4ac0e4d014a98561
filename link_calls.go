package grid

import (
	"context"
	"errors"
	"time"
)

// notSent counts a call that failed before it could be sent.
func (l *link) notSent(ctx context.Context, to target, err error) {
	calls := l.called.get(to.number)
	calls.calls.Add(1)
	l.callFailed(ctx, calls, to, err)
}

// callFailed counts the error of a call by this node.
func (l *link) callFailed(ctx context.Context, calls *handlerCounters, to target, err error) {
	class := Classify(ctx, err)
	if class == ErrorNone {
		return
	}
	if class == ErrorHandler {
		calls.handlerFailed(err)
	} else {
		calls.failed(class)
	}
	if class != ErrorCanceled && class != ErrorLeft {
		l.recent.add(l.remote, RoleClient, to, withoutNames(err))
	}
}

// withoutNames returns the text of an error without the call's names, for where those are known.
func withoutNames(err error) string {
	if named, ok := err.(*callError); ok {
		return named.err.Error()
	}
	return err.Error()
}

// streamEnded counts a stream that this node opened.
func (l *link) streamEnded(ctx context.Context, to target, d time.Duration, err error) {
	calls := l.called.get(to.number)
	calls.streamEnded(d)
	l.callFailed(ctx, calls, to, err)
}

// requestServed counts a request of the peer. inTime reports whether its handler returned before
// the caller's deadline; cut is what had ended the handler's context by then, or nil.
func (l *link) requestServed(h target, d time.Duration, failure error, inTime bool, cut error) {
	calls := l.served.get(h.number)
	calls.ended(d)
	switch {
	case !inTime:
		calls.failed(ErrorDeadline)
		l.recent.add(l.remote, RoleServer, h, errLate.Error())
	case cut != nil:
		class := classOf(cut)
		calls.failed(class)
		if class != ErrorCanceled {
			l.recent.add(l.remote, RoleServer, h, cut.Error())
		}
	case failure != nil:
		calls.handlerFailed(failure)
		l.recent.add(l.remote, RoleServer, h, failure.Error())
	}
}

// errLate is recorded for a call whose handler returned after its deadline.
var errLate = errors.New("handler returned after the caller's deadline")

// streamServed counts a stream of the peer. cause is what ended it before its handler returned, or
// nil.
func (l *link) streamServed(h target, d time.Duration, result error, cause error) {
	calls := l.served.get(h.number)
	calls.streamEnded(d)
	switch {
	case cause != nil:
		class := classOf(cause)
		calls.failed(class)
		if class != ErrorCanceled {
			l.recent.add(l.remote, RoleServer, h, cause.Error())
		}
	case result != nil:
		calls.handlerFailed(result)
		l.recent.add(l.remote, RoleServer, h, result.Error())
	}
}

// countRefusal counts and logs that a limit made this node refuse or end a call.
func (l *link) countRefusal(role Role, to target, over limit) {
	l.refusals[over].Add(1)
	l.recent.add(l.remote, role, to, "overloaded: over Limits."+limitNames[over])
	l.noteOverload(limitNames[over])
}

// noteOverload logs the first refusal of a peer, and then at most one line a minute.
func (l *link) noteOverload(limit string) {
	if skipped, ok := l.overloads.allow(""); ok {
		l.log.Warn("grid: overloaded", "peer", l.remote, "local", l.local, "limit", limit, "more_refused", skipped)
	}
}
