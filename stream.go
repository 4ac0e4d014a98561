package grid

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"sync"
	"sync/atomic"
)

var (
	errNoInput       = errors.New("grid: the stream's handler takes no requests")
	errRequestsEnded = errors.New("grid: the input of the stream's handler has been ended")
	errResultsTaken  = errors.New("grid: messages of the stream are already being read")
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
	// goroutine sends. It is nil if the handler takes no input, and for a stream that was opened by
	// name: use Send.
	//
	// Once the handler has returned, the stream has ended or CloseSend was called, nobody receives
	// from Requests: use Send, or also select on Done.
	Requests chan<- []byte

	ctx      context.Context
	mux      *muxClient
	requests chan []byte
	ended    chan struct{} // closed by CloseSend; nil without Requests, as are the others
	endOnce  sync.Once
	adopt    chan func() // hands the pump another job
	reading  reading
}

// reading is whether somebody reads the messages of a stream.
type reading struct{ atomic.Uint32 }

const (
	notRead   uint32 = iota // nobody does
	beingRead               // somebody does
	wasRead                 // Results has
)

// newStream wraps a mux. If it is to have Requests, and the handler takes any, it starts their pump.
func newStream(m *muxClient, withRequests bool) *Stream {
	st := &Stream{ctx: m.ctx, mux: m}
	if withRequests && m.inCapacity > 0 {
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
// closed. A message over Limits.MaxMessageSize fails with ErrMessageTooLarge; it ends the stream if
// that has Requests, and otherwise the stream goes on.
func (st *Stream) Send(b []byte) (err error) {
	switch {
	case st == nil:
		return ErrDisconnected
	case st.requests != nil:
		return sendTo(st, st.requests, b, nil)
	case st.mux == nil || st.mux.inCapacity == 0: // or one that an application has made
		return errNoInput
	}
	err = st.sent(st.mux.send(b, nil), nil)
	if err == nil {
		PutByteBuffer(b)
	}
	return err
}

// sent returns what Send returns, given the outcome of sending; and errCanceled once giveUp is closed.
func (st *Stream) sent(err error, giveUp <-chan struct{}) error {
	switch {
	case err != errSendOver && err != errSendClosed:
		return err
	case st.mux.takesNone():
		return errNoInput
	case err == errSendOver:
		select {
		case <-st.mux.done: // which is about to be closed; in a shutdown, a while later
			return st.sendError()
		case <-giveUp:
			return errCanceled
		}
	}
	return errRequestsEnded
}

// sendTo sends a request over the channel that the pump of st reads. It fails with errCanceled once
// giveUp is closed.
func sendTo[T any](st *Stream, requests chan<- T, v T, giveUp <-chan struct{}) (err error) {
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
	case <-giveUp:
		return errCanceled
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
	} else if st.mux.inCapacity > 0 {
		st.mux.closeSend()
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
// handler's *Error, or nil if the handler returned without one, or what ended the stream before
// that. A nil error does not mean that all of the handler's messages have arrived: only Results
// tells that.
func (st *Stream) Err() error {
	if st == nil {
		return ErrDisconnected
	}
	err, _ := st.mux.outcome()
	return err
}

// Recv returns the handler's next message, and waits for it. The buffer belongs to the caller, who
// may give it back with PutByteBuffer. Any goroutine may call it, but one at a time, and none while
// Results or All read.
//
// After the last message it returns io.EOF: once the handler has returned without an error and every
// message has been delivered, or once the handler has ended its messages with RawStream.CloseSend.
// In the second case the handler may still receive, and how it returns is told by Done and Err. If
// the stream ends in another way, Recv returns the errors of Results.
//
// A stream that is not read to its end goes on until its context ends.
func (st *Stream) Recv() ([]byte, error) { return st.recv(nil) }

// recv is Recv, and fails with errCanceled once giveUp is closed.
func (st *Stream) recv(giveUp <-chan struct{}) ([]byte, error) {
	if st == nil {
		return nil, ErrDisconnected
	}
	if !st.reading.CompareAndSwap(notRead, beingRead) {
		return st.recvTaken()
	}
	if st.mux.observed != nil {
		return st.recvObserved(giveUp)
	}
	b, more, gaveUp := st.mux.next(false, giveUp)
	if gaveUp {
		st.reading.Store(notRead)
		return nil, errCanceled
	}
	if !more {
		return nil, st.recvEnd()
	}
	st.reading.Store(notRead)
	return b, nil
}

// recvObserved is Recv for a stream with observers, which may end the goroutine.
func (st *Stream) recvObserved(giveUp <-chan struct{}) (b []byte, err error) {
	exits := true
	defer func() {
		if exits {
			st.mux.cancel(errResultsLeft)
			st.mux.endReading()
			st.reading.Store(notRead)
		}
	}()
	st.mux.beginReading()
	b, more, gaveUp := st.mux.next(false, giveUp)
	switch {
	case more:
		st.mux.pauseReading()
		st.reading.Store(notRead)
	case gaveUp:
		st.mux.pauseReading()
		st.reading.Store(notRead)
		err = errCanceled
	default:
		err = st.recvEnd()
	}
	exits = false
	return b, err
}

// recvEnd ends a Recv that has found no more messages.
func (st *Stream) recvEnd() error {
	err, ended := st.mux.endedBy()
	if ended {
		st.mux.endReading()
	} else {
		st.mux.pauseReading()
	}
	st.reading.Store(notRead)
	return cmp.Or(err, io.EOF)
}

// recvTaken is the outcome of a Recv while somebody reads, or after Results.
func (st *Stream) recvTaken() ([]byte, error) {
	if st.reading.Load() != wasRead {
		return nil, errResultsTaken
	}
	err, _ := st.mux.endedBy()
	return nil, cmp.Or(err, io.EOF)
}

// Header returns the metadata that the handler has sent with SendHeader, or with its first message; nil
// before that has come, and if there is none. It does not wait. It must not be changed.
func (st *Stream) Header() Metadata {
	if st == nil {
		return nil
	}
	return st.mux.header()
}

// Trailer returns the metadata with which the handler's end of the stream came; nil before that, and
// if there is none. It must not be changed.
func (st *Stream) Trailer() Metadata {
	if st == nil {
		return nil
	}
	return st.mux.trailer()
}

// Results calls next with each message of the handler, in order, until the stream ends. It may be
// called once, and not while Recv is. The buffers belong to next, which may give them back with
// PutByteBuffer.
//
// It returns nil if the handler has returned without an error and every message has been delivered;
// otherwise the handler's *Error, the cause of the context, or ErrDisconnected. It is never nil
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
	if !st.reading.CompareAndSwap(notRead, beingRead) {
		return errResultsTaken
	}
	st.mux.beginReading()
	defer st.reading.Store(wasRead)
	defer st.mux.endReading()
	defer st.mux.cancel(errResultsLeft) // only next's error, or its panic, finds the stream open
	for {
		b, more, _ := st.mux.next(true, nil)
		if !more {
			err, _ := st.mux.endedBy()
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

// Cancel ends the stream with an error, as the end of its context does, unless it has ended. Recv,
// Send and Err return it then; nil stands for context.Canceled. The handler's context ends.
func (st *Stream) Cancel(err error) {
	if st != nil {
		st.mux.cancel(cmp.Or(err, context.Canceled))
	}
}
