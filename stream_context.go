package grid

import "context"

// RecvContext is Recv, but if ctx ends while it waits, it returns the cause of ctx. The stream goes
// on then, and no message is lost: a later Recv returns it.
func (st *Stream) RecvContext(ctx context.Context) ([]byte, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	b, err := st.recv(ctx.Done())
	return b, gaveUp(ctx, err)
}

// SendCopy is Send, but b stays the caller's, who may use it again on return. If ctx ends while it
// waits, it returns the cause of ctx. The stream goes on then, without the message.
func (st *Stream) SendCopy(ctx context.Context, b []byte) error {
	switch {
	case ctx == nil:
		return errNilContext
	case st == nil:
		return ErrDisconnected
	case st.requests != nil:
		own := append(GetByteBufferCap(len(b)), b...)
		err := sendTo(st, st.requests, own, ctx.Done())
		if err != nil {
			PutByteBuffer(own)
		}
		return gaveUp(ctx, err)
	case st.mux.inCapacity == 0:
		return errNoInput
	}
	return gaveUp(ctx, st.sent(st.mux.send(b, ctx.Done()), ctx.Done()))
}

// WaitForHeader waits until Header returns all that it ever will: until the handler has sent its header,
// or its first message, or the stream has ended. Messages stay where they are. If the stream has ended
// and there is no header, WaitForHeader returns the error that ended it, which is nil if the handler has
// returned without one. If ctx ends first, it returns the cause of ctx, and the stream goes on.
//
// A handler that sends no header, or runs on a node that does not send it ahead of the messages, makes
// it wait for the first message.
func (st *Stream) WaitForHeader(ctx context.Context) (Metadata, error) {
	switch {
	case ctx == nil:
		return nil, errNilContext
	case st == nil:
		return nil, ErrDisconnected
	case !st.mux.waitForHeader(ctx.Done()):
		return nil, contextCause(ctx)
	}
	header := st.mux.header()
	if header != nil {
		return header, nil
	}
	err, _ := st.mux.endedBy()
	return nil, err
}

// RecvContext is Recv, but if ctx ends while it waits, it returns the cause of ctx. The stream goes
// on then, and no message is lost: a later Recv returns it.
func (st *RawStream) RecvContext(ctx context.Context) ([]byte, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	b, err := st.recv(ctx.Done())
	return b, gaveUp(ctx, err)
}

// SendCopy is Send, but b stays the handler's, which may use it again on return. If ctx ends while it
// waits, it returns the cause of ctx. The stream goes on then, without the message.
func (st *RawStream) SendCopy(ctx context.Context, b []byte) error {
	if ctx == nil {
		return errNilContext
	}
	return gaveUp(ctx, st.mux.why(st.ctx, st.mux.send(b, st.also(), ctx.Done())))
}

// gaveUp returns the error for a caller who may have given up waiting because ctx has ended.
func gaveUp(ctx context.Context, err error) error {
	if err == errCanceled {
		return contextCause(ctx)
	}
	return err
}
