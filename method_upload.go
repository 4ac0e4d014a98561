package grid

import (
	"context"
	"errors"
	"iter"
)

// UploadMethod is a method that takes a stream of values and answers it with one. One value, usually
// a package variable, serves both ends: Handle on the node that answers, Call on the node that asks.
// Create it with NewUploadMethod or NewUploadMethodCodec. All methods but WithMaxDepth are safe for
// concurrent use.
//
// Values are new each time, and belong to whoever gets them. A nil one is sent as a zero value.
type UploadMethod[In, Resp any] struct {
	methodName
	ins   form[In]
	resps form[Resp]
}

// NewUploadMethod returns the method with a name: see NewMethod.
func NewUploadMethod[In, Resp any, PIn Message[In], PResp Message[Resp]](name string) *UploadMethod[In, Resp] {
	return &UploadMethod[In, Resp]{
		methodName: methodName{name: name},
		ins:        msgpForm[In, PIn](name, "message"),
		resps:      msgpForm[Resp, PResp](name, "response"),
	}
}

// NewUploadMethodCodec is NewUploadMethod for values that c encodes.
func NewUploadMethodCodec[In, Resp any](name string, c Codec) *UploadMethod[In, Resp] {
	return &UploadMethod[In, Resp]{
		methodName: methodName{name: name},
		ins:        codecForm[In](c, name, "message"),
		resps:      codecForm[Resp](c, name, "response"),
	}
}

// WithMaxDepth is like that of Method.
func (m *UploadMethod[In, Resp]) WithMaxDepth(n int) *UploadMethod[In, Resp] {
	m.ins.limit(n)
	m.resps.limit(n)
	return m
}

// Handle registers handle, on a subroute if one is given, as that of Method does. in yields the
// caller's values until there are no more. If the caller gives up, or a value cannot be decoded, the
// last element is an error with a nil value. handle may return without having taken all.
func (m *UploadMethod[In, Resp]) Handle(node *Manager, handle func(ctx context.Context, in iter.Seq2[*In, error]) (*Resp, error), subroute ...string) error {
	to, err := method(m.on(subroute), handle == nil)
	if err != nil {
		return err
	}
	return node.registerRaw(to, func(ctx context.Context, raw *RawStream) error {
		PutByteBuffer(raw.Payload())
		resp, err := handle(ctx, newServerStream(raw, &m.ins, &m.resps).All())
		if err = outcomeOf(err); err != nil {
			return err
		}
		return sendOver(raw, &m.resps, resp)
	})
}

// Call sends all values to the method, until the handler returns, and returns its response. The
// errors are those of Connection.OpenStream and of Stream.Results, among them the handler's; and those
// of encoding and decoding, wrapped.
func (m *UploadMethod[In, Resp]) Call(ctx context.Context, c Opener, values iter.Seq[*In]) (*Resp, error) {
	raw, err := m.open(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	defer raw.Cancel(errResultsLeft) // also after a panic of values; an ended stream has ended
	for v := range values {
		b, err := m.ins.encode(v)
		if err != nil {
			return nil, err
		}
		if err := raw.Send(b); err != nil {
			PutByteBuffer(b)
			if !raw.over() {
				return nil, err // and the handler must not take what it has for all
			}
			break // the result says why
		}
	}
	_ = raw.CloseSend() // the result says what has ended the stream
	return m.result(raw)
}

// result returns the only value that the handler sends before it returns.
func (m *UploadMethod[In, Resp]) result(raw *Stream) (*Resp, error) {
	var resp *Resp
	err := (&ClientStream[In, Resp]{raw, &m.ins, &m.resps}).results(func(v *Resp) error {
		if resp != nil {
			return errResponses
		}
		resp = v
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errNoResponse
	}
	return resp, nil
}

// HandledBy is like that of Method.
func (m *UploadMethod[In, Resp]) HandledBy(c Opener) bool { return m.handledBy(c) }

// over reports whether nothing more can be sent, because the handler has returned or the stream has
// ended.
func (st *Stream) over() bool {
	select {
	case <-st.Done():
		return true
	default:
		return false
	}
}

var (
	errNoResponse = errors.New("grid: the method's handler has returned without a response")
	errResponses  = errors.New("grid: the method's handler has sent more than one response")
)
