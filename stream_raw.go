package grid

import (
	"context"
	"io"
	"iter"
)

// RawStream is the handler's side of a stream: what the handler of a stream gets in place of two
// channels. The stream ends when the handler returns. One goroutine may receive while others send;
// none of them may use the stream once the handler has returned.
type RawStream struct {
	ctx     context.Context
	mux     *muxServer
	payload []byte
	reading reading
}

// Context returns the context that the handler got.
func (st *RawStream) Context() context.Context { return st.ctx }

// Payload returns what the caller opened the stream with. It belongs to the handler.
func (st *RawStream) Payload() []byte { return st.payload }

// Recv returns the caller's next message, and waits for it. The buffer belongs to the handler, which
// may give it back with PutByteBuffer. Any goroutine may call it, but one at a time.
//
// After the last message it returns io.EOF, if the caller has ended its messages. If the stream is
// cut short, it returns the cause of the handler's context. An io.EOF never means that the caller has
// given up.
func (st *RawStream) Recv() ([]byte, error) { return st.recv(nil) }

// recv is Recv, and fails with errCanceled once giveUp is closed.
func (st *RawStream) recv(giveUp <-chan struct{}) ([]byte, error) {
	if !st.reading.CompareAndSwap(notRead, beingRead) {
		return nil, errResultsTaken
	}
	if st.mux.observed == nil {
		b, err := st.mux.next(st.also(), giveUp)
		st.reading.Store(notRead)
		return b, st.mux.why(st.ctx, err)
	}
	defer st.reading.Store(notRead) // an observer may end the goroutine
	b, err := st.mux.next(st.also(), giveUp)
	return b, st.mux.why(st.ctx, err)
}

// All returns the caller's messages as an iterator, with the guarantees of Recv. An error other than
// io.EOF is the last element, with a nil message. The stream goes on after the loop is left.
func (st *RawStream) All() iter.Seq2[[]byte, error] {
	return receiveAll(st.Recv)
}

// Send sends one message to the caller. It waits while the caller is too far behind. After a nil
// error b no longer belongs to the handler; that does not mean that the caller has received it. Send
// may be called by several goroutines at once, whose messages go out in the order of their calls.
//
// It fails with the cause of the handler's context once that has ended, and with ErrMessageTooLarge
// for a message over Limits.MaxMessageSize, after which the stream goes on. It also fails after
// CloseSend, and once the handler has returned.
func (st *RawStream) Send(b []byte) error {
	err := st.mux.why(st.ctx, st.mux.send(b, st.also(), nil))
	if err == nil {
		PutByteBuffer(b)
	}
	return err
}

// SetHeader is the function of that name for this stream: the header goes with the first message.
func (st *RawStream) SetHeader(md Metadata) error { return SetHeader(st.mux.ctx, md) }

// SendHeader is the function of that name for this stream: the header goes at once.
func (st *RawStream) SendHeader(md Metadata) error { return st.mux.sendHeader(st.ctx, md) }

// SetTrailer is the function of that name for this stream: the trailer goes with its end.
func (st *RawStream) SetTrailer(md Metadata) error { return SetTrailer(st.mux.ctx, md) }

// CloseSend tells the caller that no more messages come, behind everything for which Send has
// returned nil. The handler may go on receiving; what it returns still reaches the caller. CloseSend
// does not wait. It may be called again, and concurrently with Send, which fails from then on.
//
// A node that does not know of that, such as one of the original, learns it when the handler returns. So
// does any once the handler's context has ended: a caller must not take what was cut short for all.
func (st *RawStream) CloseSend() { st.mux.closeSend() }

// sendEnd is part of endSender: it tells the caller that the handler sends no more messages, unless that
// is because it was cut short.
func (st *RawStream) sendEnd() {
	m := st.mux
	if m.has(featureHalves) && !isCutShort(m.ctx) && !isCutShort(st.ctx) {
		m.advise(message{MuxID: m.id, Op: OpMuxServerEnd}, &m.sent)
	}
}

// Done returns a channel that is closed when the stream has ended before the handler has returned:
// the caller has given up or the connection is lost. It is that of the handler's context.
func (st *RawStream) Done() <-chan struct{} { return st.mux.done() }

// SendHeader is SetHeader, and sends the header of a stream at once, ahead of all messages. So the
// caller need not wait for the first of them, which may come late, or only after the caller has sent
// something itself. An empty header is sent, too. No header can be set after that. SendHeader may wait
// for room to send, at most until ctx ends; the header goes with the first message then.
//
// It fails as SetHeader does, also the second time, and once the stream or its messages have ended. The
// header of a request goes with the answer all the same, and that of a stream with its first message if
// the caller is on an older node.
func SendHeader(ctx context.Context, md Metadata) error {
	s, err := answerStateOf(ctx)
	if err != nil {
		return err
	}
	if m, ok := roomOf(ctx).(*muxServer); ok { // the room of a stream's handler is the stream
		return m.sendHeader(ctx, md)
	}
	return s.setHeader(md, true)
}

// also returns what ends Send and Recv, besides the end of the stream: an interceptor may have
// replaced the handler's context.
func (st *RawStream) also() <-chan struct{} {
	if st.ctx == st.mux.ctx {
		return nil
	}
	return st.ctx.Done()
}

// receiveAll makes an iterator of a function that fails with io.EOF at the end.
func receiveAll[T any](recv func() (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := recv()
			if err == io.EOF || !yield(v, err) || err != nil {
				return
			}
		}
	}
}
