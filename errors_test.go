package grid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestRemoteErrorsMatchByTextInEitherForm(t *testing.T) {
	value, pointer := RemoteErr("gone"), NewRemoteErrString("gone")
	for _, err := range []error{
		value, pointer, fmt.Errorf("calling: %w", value), fmt.Errorf("calling: %w", pointer),
		errors.Join(io.EOF, value), errors.Join(io.EOF, pointer),
	} {
		for _, target := range []error{value, pointer, RemoteErr("gone"), NewRemoteErrString("gone")} {
			if !errors.Is(err, target) {
				t.Errorf("%T is not %T", err, target)
			}
		}
		for _, target := range []error{RemoteErr("other"), NewRemoteErrString("other"), errors.New("gone"), (*RemoteErr)(nil)} {
			if errors.Is(err, target) {
				t.Errorf("%T is %T %v", err, target, target)
			}
		}
		var asValue RemoteErr
		if !errors.As(err, &asValue) || asValue != value {
			t.Errorf("%T as RemoteErr: %q", err, asValue)
		}
		var asPointer *RemoteErr
		if !errors.As(err, &asPointer) || *asPointer != value {
			t.Errorf("%T as *RemoteErr: %v", err, asPointer)
		}
		if got := IsRemoteErr(err); got == nil || *got != value {
			t.Errorf("%T: IsRemoteErr is %v", err, got)
		}
	}
	if !errors.Is(NewRemoteErr(ErrDisconnected), ErrDisconnected) {
		t.Error("a copy of ErrDisconnected is another error")
	}
}

func TestErrorsThatAreNotRemoteStayOut(t *testing.T) {
	for _, err := range []error{nil, io.EOF, (*RemoteErr)(nil), fmt.Errorf("calling: %w", (*RemoteErr)(nil))} {
		if got := IsRemoteErr(err); got != nil {
			t.Errorf("%T: got %v", err, got)
		}
	}
}

func TestNewRemoteErrKeepsTheText(t *testing.T) {
	for _, err := range []error{nil, (*RemoteErr)(nil)} {
		if got := NewRemoteErr(err); got != nil {
			t.Errorf("no error became %v", got)
		}
	}
	for _, err := range []error{io.EOF, RemoteErr("gone"), fmt.Errorf("calling: %w", NewRemoteErrString("gone")), errors.New("")} {
		if got := NewRemoteErr(err); got == nil || got.Error() != err.Error() {
			t.Errorf("got %v, want %v", got, err)
		}
	}
	if got := NewRemoteErrf("%d of %s", 3, "x"); *got != "3 of x" {
		t.Errorf("got %v", got)
	}
	if got := (ErrResponse{msg: "gone"}).Error(); got != "gone" {
		t.Errorf("got %q", got)
	}
}

// A nil *RemoteErr is no error, wherever an error is wanted.
func TestANilRemoteErrIsNoError(t *testing.T) {
	none := func() *RemoteErr { return nil }
	c := startCluster(t, 2, func(_ int, o *ManagerOptions) {
		one := Interceptor{
			ServerRequest: func(ctx context.Context, _ *CallInfo, payload []byte, next ServeRequestFunc) ([]byte, error) {
				out, err := next(ctx, payload)
				if err != nil {
					return nil, fmt.Errorf("next failed: %w", err)
				}
				return out, none()
			},
			ServerStream: func(ctx context.Context, _ *StreamInfo, payload []byte, next ServeStreamFunc) error {
				if err := next(ctx, payload); err != nil {
					return fmt.Errorf("next failed: %w", err)
				}
				return none()
			},
		}
		o.Interceptors = []Interceptor{one, one}
	})
	typed := NewSingleHandler[*Bytes, *Bytes](testSingle, NewBytes, NewBytes)
	for _, n := range c.nodes {
		if err := errors.Join(
			n.RegisterSingleHandler(testSingle, func(b []byte) ([]byte, *RemoteErr) { return b, none() }),
			n.RegisterSingleHandlerContext(testSingle, func(_ context.Context, b []byte) ([]byte, error) { return b, none() }, "context"),
			typed.RegisterContext(n.Manager, func(_ context.Context, b *Bytes) (*Bytes, error) { return b, none() }, "typed"),
			n.RegisterStreamingHandler(testStream, StreamHandler{
				Handle: func(context.Context, []byte, <-chan []byte, chan<- []byte) *RemoteErr { return none() },
			}),
		); err != nil {
			t.Fatal(err)
		}
	}
	conn := c.conn(0, 1)
	for _, r := range []Requester{conn, conn.Subroute("context")} {
		if _, err := r.Request(t.Context(), testSingle, []byte("x")); err != nil {
			t.Errorf("request: %v", err)
		}
	}
	if _, err := typed.Call(t.Context(), conn.Subroute("typed"), NewBytesWith([]byte("x"))); err != nil {
		t.Errorf("typed: %v", err)
	}
	st, err := conn.NewStream(t.Context(), testStream, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Results(func([]byte) error { return nil }); err != nil {
		t.Errorf("stream: %v", err)
	}
}
