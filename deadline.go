package grid

import (
	"context"
	"time"
)

// deadlineGrace bounds how long a context may be behind its own deadline.
const deadlineGrace = time.Second

// WithoutDeadline returns a context whose requests have no deadline if the context has none. Without
// it they end after a minute. They still end with the context, and with the connection. A nil ctx
// stands for context.Background.
//
// A node of the original is asked with the minute. Streams never have a deadline that their context
// has not.
func WithoutDeadline(ctx context.Context) context.Context {
	if ctx == nil {
		ctx = context.Background()
	}
	switch out := outgoingOf(ctx); {
	case out == nil:
		return context.WithValue(ctx, outgoingKey{}, endlessOnly)
	case out.endless:
		return ctx
	}
	return changeOutgoing(ctx, func(out *outgoing) { out.endless = true })
}

// endlessOnly is what most contexts say that have no deadline. Nobody changes what is in a context.
var endlessOnly = &outgoing{endless: true}

// deadlineMS is what goes over the wire for the deadline of ctx: 0 for none. It is rounded up: a
// handler that ended before its caller's deadline would leave the caller with ErrDisconnected.
func deadlineMS(ctx context.Context) (uint32, error) {
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

// cutShort is what has ended ctx; nil where it lasts. A deadline that has passed counts, as the
// context is a moment behind it: who was stopped by the deadline may be faster than the timer.
func cutShort(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case isCutShort(ctx):
		return pastDeadline(ctx)
	}
	return nil
}

// isCutShort reports whether cutShort has an error to return, for which that may have to wait.
func isCutShort(ctx context.Context) bool {
	if ctx.Err() != nil {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && !time.Now().Before(deadline)
}

// whole is the result of a handler whose context an interceptor may have replaced: an error where
// that has ended, and the handler returned for that reason perhaps.
func whole(ctx context.Context, err error) error {
	if err != nil || ctx == nil {
		return err
	}
	return cutShort(ctx)
}
