package grid

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
)

// StreamObserver is notified of what happens on one stream. Its functions may be nil. They run on
// the stream's goroutines, which wait for them: a slow one slows its own stream. OnSend may be
// called concurrently with the others. A panic is logged and goes no further.
type StreamObserver struct {
	// OnSend gets the size, in bytes, of each message that this node has sent on the stream, except
	// the payload that opens it and the ends of input and output.
	OnSend func(n int)
	// OnReceive gets the size, in bytes, of each message that the consumer of the stream, or the
	// handler, takes.
	OnReceive func(n int)
	// OnEnd is called once for each stream that was opened, after all other calls.
	//
	// On the calling side that is before Results returns. If nobody calls Results, it is when the
	// stream has ended and nothing is left to be read, or when its context has ended. On the other
	// side it is when the handler, or an interceptor in its place, has returned, and everything it
	// sent is on its way.
	//
	// err is nil if the handler returned nil and the stream was not cut short; a handler that
	// returns after its context has ended was cut short. Otherwise err is the handler's *Error,
	// or what ended the stream before that, such as the cause of a context or ErrDisconnected.
	OnEnd func(err error)
}

// observation is one stream with its observers; nil if it has none.
type observation struct {
	link      *link
	to        target
	observers []StreamObserver
	ended     atomic.Bool // OnEnd is being called, or was

	// The lock of the stream protects following.
	read   bool // somebody reads the results
	left   int  // messages that the last to read has ready
	gaveUp bool // the context ended while somebody read
}

func newObservation(l *link, to target, observers []StreamObserver) *observation {
	if len(observers) == 0 {
		return nil
	}
	return &observation{link: l, to: to, observers: slices.Clone(observers)}
}

func (o *observation) sent(n int) {
	if o == nil || o.ended.Load() {
		return
	}
	for i := range o.observers {
		if f := o.observers[i].OnSend; f != nil {
			o.tell(func() { f(n) })
		}
	}
}

func (o *observation) received(n int) {
	if o == nil || o.ended.Load() {
		return
	}
	for i := range o.observers {
		if f := o.observers[i].OnReceive; f != nil {
			o.tell(func() { f(n) })
		}
	}
}

// end notifies the observers of the end of the stream, once.
func (o *observation) end(err error) {
	if o.claimEnd() {
		o.tellEnd(err)
	}
}

// claimEnd reports whether its caller is the one to call tellEnd. After it the observers get no
// other notification.
func (o *observation) claimEnd() bool { return o != nil && o.ended.CompareAndSwap(false, true) }

func (o *observation) tellEnd(err error) { o.tellEndFrom(0, err) }

// tellEndFrom notifies the observers from the i-th on, even if one of them ends the goroutine.
func (o *observation) tellEndFrom(i int, err error) {
	if i == len(o.observers) {
		return
	}
	defer o.tellEndFrom(i+1, err)
	if f := o.observers[i].OnEnd; f != nil {
		o.tell(func() { f(err) })
	}
}

// tell calls a function of an observer.
func (o *observation) tell(f func()) {
	defer func() {
		if r := recover(); r != nil {
			l := o.link
			if more, ok := l.panics.allow(""); ok {
				l.log.Error("grid: stream observer panicked", "handler", o.to.String(), "peer", l.remote,
					"panic", fmt.Sprint(r), "stack", string(debug.Stack()), "more", more)
			}
		}
	}()
	f()
}
