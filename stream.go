package grid

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"
)

var (
	errNoInput       = errors.New("grid: the stream's handler takes no requests")
	errRequestsEnded = errors.New("grid: the input of the stream's handler has been ended")
	errResultsTaken  = errors.New("grid: results of the stream are already being read")
	errNilConsumer   = errors.New("grid: Results needs a function")
)

// Stream is the caller's side of a stream to a handler of another node.
//
// A stream ends when its handler returns, when its context ends, when the consumer of its results
// gives up, or with the connection. Limits.MaxStreamWindow bounds its memory, or with a node of the
// original the handler's OutCapacity and InCapacity, in messages. One goroutine may read results
// while others send requests. The methods of a nil *Stream are safe to call.
type Stream struct {
	// Requests carries messages to the handler. A buffer that has been sent no longer belongs to
	// the sender. To end the handler's input, call CloseSend, or close Requests if no other
	// goroutine sends. It is nil if the handler takes no input.
	//
	// Once the handler has returned, the stream has ended or CloseSend was called, nobody receives
	// from Requests: use Send, or also select on Done.
	Requests chan<- []byte

	ctx      context.Context
	mux      *muxClient
	requests chan []byte
	ended    chan struct{} // closed by CloseSend
	endOnce  sync.Once
	adopt    chan func() // hands the pump another job
	reading  atomic.Bool
}

// newStream wraps a mux and, if requests can be sent, starts its pump.
func newStream(m *muxClient) *Stream {
	st := &Stream{ctx: m.ctx, mux: m}
	if m.inCapacity > 0 {
		st.requests = make(chan []byte)
		st.Requests = st.requests
		st.ended = make(chan struct{})
		st.adopt = make(chan func())
		go pumpRequests(m, st.requests, st.ended, st.adopt, func(b []byte) ([]byte, error) { return b, nil })
	}
	return st
}

// typedRequests makes the stream accept its requests as values: from now on its pump reads the
// returned channel in place of Requests. It returns nil if the handler takes no input.
func typedRequests[Req any](st *Stream, encode func(Req) ([]byte, error)) chan<- Req {
	if st == nil || st.adopt == nil {
		return nil
	}
	requests := make(chan Req)
	select {
	case st.adopt <- func() { pumpRequests(st.mux, requests, st.ended, nil, encode) }:
	case <-st.mux.done:
	}
	return requests
}

// Send sends one message to the handler. It waits while the handler is too far behind.
// After a nil error b no longer belongs to the caller; that does not mean that the handler has
// received it. Send may be called by several goroutines at once.
//
// It fails once the handler has returned, with the handler's error if there is one, even while
// messages from the handler are still waiting to be read; a node of the original reports that only
// after they have been read. If the stream has ended in another way, Send returns the error that
// ended it. It also fails if the handler takes no requests, after CloseSend, and if Requests is
// closed.
func (st *Stream) Send(b []byte) (err error) {
	if st == nil {
		return ErrDisconnected
	}
	if st.requests == nil {
		return errNoInput
	}
	return sendTo(st, st.requests, b)
}

// sendTo sends a request over the channel that the pump of st reads.
func sendTo[T any](st *Stream, requests chan<- T, v T) (err error) {
	defer func() {
		if recover() != nil { // a send on a closed channel is the only thing that can panic here
			err = errRequestsEnded
		}
	}()
	if err := st.sendError(); err != nil { // done is closed a moment after a consumer may have seen the end
		return err
	}
	select {
	case requests <- v:
		return nil
	case <-st.mux.done:
	case <-st.ended:
	}
	return st.sendError()
}

// sendError returns the error for senders once nothing can be sent any more; nil before.
func (st *Stream) sendError() error {
	err, over := st.mux.outcome()
	if over {
		return cmp.Or(err, errHandlerReturned)
	}
	select {
	case <-st.ended:
		return errRequestsEnded
	default:
		return nil
	}
}

// CloseSend ends the handler's input, after everything for which Send has returned nil. It does not
// wait. It may be called again, and concurrently with Send, which fails from then on. It returns
// the error that has ended the stream, and nil if there is none: also if the handler takes no
// requests, or has returned without an error.
func (st *Stream) CloseSend() error {
	if st == nil {
		return ErrDisconnected
	}
	if st.ended != nil {
		st.endOnce.Do(func() { close(st.ended) })
	}
	return st.Err()
}

// Done returns a channel that is closed when nothing can be sent any more: the handler has
// returned, or the stream has ended in another way. Err returns the reason. There may still be
// results to read.
func (st *Stream) Done() <-chan struct{} {
	if st == nil {
		return alwaysDone
	}
	return st.mux.done
}

// Err returns nil until Done is closed. After that it returns the same error as Results: the
// handler's *RemoteErr, or nil if the handler returned without one, or what ended the stream before
// that. A nil error does not mean that all of the handler's messages have arrived: only Results
// tells that.
func (st *Stream) Err() error {
	if st == nil {
		return ErrDisconnected
	}
	err, _ := st.mux.outcome()
	return err
}

var errHandlerReturned = errors.New("grid: the stream's handler has returned")

// Results calls next with each message of the handler, in order, until the stream ends. It may be
// called once. The buffers belong to next, which may give them back with PutByteBuffer.
//
// It returns nil if the handler has returned without an error and every message has been delivered;
// otherwise the handler's *RemoteErr, the cause of the context, or ErrDisconnected. It is never nil
// if the handler returned because its context had ended, with or without an error. An error of next
// cancels the stream and is returned.
//
// Other errors that end a stream are ErrUnknownHandler, ErrShutdown and ErrOverloaded if the peer
// does not accept it; ErrOverloaded also if its messages pile up; ErrMessageTooLarge for a request
// over Limits.MaxMessageSize; and ErrIncorrectSequence if messages are missing.
func (st *Stream) Results(next func(b []byte) error) (err error) {
	if st == nil {
		return ErrDisconnected
	}
	if next == nil {
		return errNilConsumer
	}
	if !st.reading.CompareAndSwap(false, true) {
		return errResultsTaken
	}
	st.mux.beginReading()
	defer st.mux.endReading()
	defer st.mux.cancel(errResultsLeft) // only next's error, or its panic, finds the stream open
	for {
		b, more, err := st.mux.next()
		if !more {
			return err
		}
		if err := next(b); err != nil {
			st.mux.cancel(err)
			return err
		}
	}
}

// All returns the handler's messages as an iterator, with the guarantees of Results. An error is
// the last element, with a nil message. Leaving the loop cancels the stream.
func (st *Stream) All() iter.Seq2[[]byte, error] {
	return iterate(st.Results)
}

// iterate turns a function that calls another one for each message into an iterator.
func iterate[T any](results func(next func(T) error) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		left := false
		err := results(func(v T) error {
			if !yield(v, nil) {
				left = true
				return errResultsLeft
			}
			return nil
		})
		if err != nil && !left {
			var none T
			yield(none, err)
		}
	}
}

// cancel ends the stream with an error.
func (st *Stream) cancel(err error) { st.mux.cancel(err) }
