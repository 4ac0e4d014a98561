package grid

import (
	"context"
	"time"
)

// notSent counts a call that failed before it could be sent.
func (l *link) notSent(ctx context.Context, h HandlerID, err error) {
	calls := l.called.get(int(h))
	calls.calls.Add(1)
	l.callFailed(ctx, calls, h, err)
}

// callFailed counts the error of a call by this node.
func (l *link) callFailed(ctx context.Context, calls *handlerCounters, h HandlerID, err error) {
	class := Classify(ctx, err)
	if class == ErrorNone {
		return
	}
	calls.failed(class)
	if class != ErrorCanceled && class != ErrorLeft {
		l.recent.add(l.remote, RoleClient, h, withoutNames(err))
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
func (l *link) streamEnded(ctx context.Context, h HandlerID, d time.Duration, err error) {
	calls := l.called.get(int(h))
	calls.ended(d)
	l.callFailed(ctx, calls, h, err)
}

// requestServed counts a request of the peer. inTime reports whether its handler returned before
// the caller's deadline; cut is what had ended the handler's context by then, or nil.
func (l *link) requestServed(h registration, d time.Duration, failure *RemoteErr, inTime bool, cut error) {
	calls := l.served.get(h.number)
	calls.ended(d)
	switch {
	case !inTime:
		calls.failed(ErrorDeadline)
		l.recent.add(l.remote, RoleServer, h.id, errLate)
	case cut != nil:
		class := classOf(cut)
		calls.failed(class)
		if class != ErrorCanceled {
			l.recent.add(l.remote, RoleServer, h.id, cut.Error())
		}
	case failure != nil:
		calls.failed(ErrorHandler)
		l.recent.add(l.remote, RoleServer, h.id, string(*failure))
	}
}

// errLate is recorded for a call whose handler returned after its deadline.
const errLate = "handler returned after the caller's deadline"

// streamServed counts a stream of the peer. cause is what ended it before its handler returned, or
// nil.
func (l *link) streamServed(h registration, d time.Duration, result *RemoteErr, cause error) {
	calls := l.served.get(h.number)
	calls.ended(d)
	class, text := ErrorNone, ""
	switch {
	case cause != nil:
		class, text = classOf(cause), cause.Error()
	case result != nil:
		class, text = ErrorHandler, string(*result)
	}
	if class == ErrorNone {
		return
	}
	calls.failed(class)
	if class != ErrorCanceled {
		l.recent.add(l.remote, RoleServer, h.id, text)
	}
}

// countRefusal counts and logs that a limit made this node refuse or end a call.
func (l *link) countRefusal(role Role, h HandlerID, over limit) {
	l.refusals[over].Add(1)
	l.recent.add(l.remote, role, h, "overloaded: over Limits."+limitNames[over])
	l.noteOverload(limitNames[over])
}

// noteOverload logs the first refusal of a peer, and then at most one line a minute.
func (l *link) noteOverload(limit string) {
	if skipped, ok := l.overloads.allow(""); ok {
		l.log.Warn("grid: overloaded", "peer", l.remote, "local", l.local, "limit", limit, "more_refused", skipped)
	}
}
