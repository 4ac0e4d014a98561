package grid

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// RemoteClient is the peer that called a handler.
type RemoteClient struct {
	// Name is the peer's name: its base URL, or that of a guest. Manager.Connection leads back to
	// the peer.
	Name string

	address *atomic.Pointer[string] // of the link
}

// GetCaller returns the peer that called the handler, given the handler's context. It returns nil
// for any other context, and for nil. The result must not be changed.
func GetCaller(ctx context.Context) *RemoteClient {
	if ctx == nil {
		return nil
	}
	caller, _ := ctx.Value(callerKey{}).(*RemoteClient)
	return caller
}

// GetSubroute returns the subroute on which the handler was called, given the handler's context. It
// is empty if there is none, and for a nil ctx.
func GetSubroute(ctx context.Context) string {
	if ctx == nil {
		return ""
	}
	subroute, _ := ctx.Value(subrouteKey{}).(string)
	return subroute
}

type (
	callerKey   struct{}
	subrouteKey struct{}
	roomKey     struct{}
)

// roomOf returns the room in which a handler's decoded values count, given the handler's context;
// nil for any other context.
func roomOf(ctx context.Context) room {
	if ctx == nil { // of an interceptor
		return nil
	}
	r, _ := ctx.Value(roomKey{}).(room)
	return r
}

// panickedKey is the key for the context of a handler that has panicked.
type panickedKey struct{}

// callerContext carries what a handler may look up in its context.
type callerContext struct {
	context.Context
	caller   *RemoteClient
	subroute string
	metadata *incomingMetadata // nil for none
	room     room              // of what the handler decodes
	answer   answerState
	panicked atomic.Pointer[context.Context] // the context of the handler, if that has panicked
}

func (c *callerContext) Value(key any) any {
	switch key.(type) {
	case callerKey:
		return c.caller
	case subrouteKey:
		return c.subroute
	case incomingKey:
		return c.metadata
	case roomKey:
		return c.room
	case answerKey:
		return &c.answer
	case panickedKey:
		return &c.panicked
	}
	return c.Context.Value(key)
}

// keepOnPanic keeps the context that a handler got from the interceptors, unless it has returned. It
// is to be deferred.
func keepOnPanic(ctx context.Context, returned *bool) {
	if *returned || ctx == nil { // of an interceptor
		return
	}
	if kept, ok := ctx.Value(panickedKey{}).(*atomic.Pointer[context.Context]); ok {
		kept.Store(&ctx)
	}
}

// contextOfPanic returns the context that a handler had when it panicked: that which it got from the
// interceptors, or else ctx, which is nil for a handler without one.
func contextOfPanic(ctx context.Context) context.Context {
	if ctx == nil {
		return context.Background()
	}
	if kept, ok := ctx.Value(panickedKey{}).(*atomic.Pointer[context.Context]); ok && kept.Load() != nil {
		return *kept.Load()
	}
	return ctx
}

// guardedContext wraps an application's context for use by goroutines of the library. A panic of
// its methods must not end the process, and a context that is done must have an error.
type guardedContext struct{ context.Context }

func (g guardedContext) Deadline() (deadline time.Time, ok bool) {
	defer ignorePanic()
	return g.Context.Deadline()
}

func (g guardedContext) Done() (done <-chan struct{}) {
	defer ignorePanic()
	return g.Context.Done()
}

func (g guardedContext) Value(key any) (v any) {
	defer ignorePanic()
	return g.Context.Value(key)
}

func (g guardedContext) Err() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("grid: Err of the context panicked: %v", r)
		}
	}()
	if err = g.Context.Err(); err != nil {
		return err
	}
	select {
	case <-g.Context.Done():
		return doneError(g.Context)
	default:
		return nil
	}
}

// guard makes g guard ctx. It returns the guarded context, which has an AfterFunc method if ctx has
// one.
func (g *guardedContext) guard(ctx context.Context) context.Context {
	g.Context = ctx
	if after, ok := ctx.(afterFuncer); ok {
		return guardedAfterContext{*g, after}
	}
	return g
}

// afterFuncer is implemented by contexts that call functions at their end themselves; see
// context.AfterFunc.
type afterFuncer interface {
	AfterFunc(f func()) (stop func() bool)
}

type guardedAfterContext struct {
	guardedContext
	after afterFuncer
}

func (g guardedAfterContext) AfterFunc(f func()) (stop func() bool) {
	defer ignorePanic()
	stop = func() bool { return false } //nolint:wastedassign // what is returned after a panic
	theirs := g.after.AfterFunc(f)
	return func() bool {
		defer ignorePanic()
		return theirs()
	}
}

// ignorePanic is meant to be deferred.
func ignorePanic() { _ = recover() }

// doneError is the error of a context that is done but has no error itself.
func doneError(ctx context.Context) error {
	if err := ctx.Err(); err != nil { // it was a moment behind
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// bounded returns a context for goroutines of the library that ends with ctx, however odd that is:
// also at its deadline if its Done is nil or never closes. The cause is that of ctx.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	parent := new(guardedContext).guard(ctx)
	ctx, cancel := context.WithCancelCause(parent)
	deadline, ok := parent.Deadline()
	if !ok {
		return ctx, func() { cancel(nil) }
	}
	left := time.Until(deadline)
	if parent.Done() != nil {
		left += deadlineGrace // it may have a cause of its own
	}
	late := time.AfterFunc(left, func() { cancel(context.DeadlineExceeded) })
	return ctx, func() {
		late.Stop()
		cancel(nil)
	}
}
