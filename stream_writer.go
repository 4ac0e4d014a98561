package grid

import (
	"context"
	"io"
)

// WriterToChannel returns a writer that sends everything written to it to ch, for stream handlers
// whose output is text. Each Write sends a copy, in a buffer from GetByteBufferCap that belongs to
// the receiver, and blocks until it is received. When ctx, which may be nil, ends, Write returns
// context.Cause(ctx). The writer is safe for concurrent use.
func WriterToChannel(ctx context.Context, ch chan<- []byte) io.Writer {
	if ctx == nil {
		ctx = context.Background()
	}
	return channelWriter{ctx: ctx, ch: ch}
}

type channelWriter struct {
	ctx context.Context
	ch  chan<- []byte
}

// Write sends a copy of p. It returns len(p), or 0 and the cause of the context's end.
func (w channelWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	b := append(GetByteBufferCap(len(p))[:0], p...)
	select {
	case w.ch <- b:
		return len(p), nil
	case <-w.ctx.Done():
		PutByteBuffer(b)
		return 0, context.Cause(w.ctx)
	}
}
