//go:build nonames

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gridmesh/grid"
)

const (
	// named is the handler ID of methods.
	named grid.HandlerID = 74
	// methodCapacity is the InCapacity and the OutCapacity of their streams.
	methodCapacity = 16
)

func answering(h func(ctx context.Context, payload []byte) ([]byte, error)) grid.SingleHandlerContextFn {
	return func(ctx context.Context, payload []byte) ([]byte, *grid.RemoteErr) {
		answer, err := h(ctx, payload)
		return answer, grid.NewRemoteErr(err)
	}
}

func registerMethod(m *grid.Manager, name string, h func(ctx context.Context, payload []byte) ([]byte, error)) error {
	return m.RegisterSingleHandlerContext(named, answering(h), name)
}

func registerMethodStream(m *grid.Manager, name string, h func(ctx context.Context, payload []byte, st stream) error) error {
	return m.RegisterStreamingHandler(named, grid.StreamHandler{
		Subroute:    name,
		InCapacity:  methodCapacity,
		OutCapacity: methodCapacity,
		Handle: func(ctx context.Context, payload []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			return grid.NewRemoteErr(h(ctx, payload, channels{ctx, in, out}))
		},
	})
}

// channels is a stream made of channels.
type channels struct {
	ctx context.Context
	in  <-chan []byte
	out chan<- []byte
}

func (c channels) Recv() ([]byte, error) {
	b, more := <-c.in
	switch {
	case more:
		return b, nil
	case c.ctx.Err() != nil:
		return nil, c.ctx.Err()
	}
	return nil, io.EOF
}

func (c channels) Send(b []byte) error {
	select {
	case c.out <- b:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (channels) CloseSend() {} // it comes with the handler's return

func call(ctx context.Context, c *grid.Connection, method string, payload []byte) ([]byte, error) {
	return c.Subroute(method).Request(ctx, named, payload)
}

func open(ctx context.Context, c *grid.Connection, method string, payload []byte) (*grid.Stream, error) {
	return c.Subroute(method).NewStream(ctx, named, payload)
}

func receive(st *grid.Stream, next func(b []byte) error) error { return st.Results(next) }

func setHeader(context.Context, string, string)  {}
func setTrailer(context.Context, string, string) {}

func withAnswer(ctx context.Context) (context.Context, func() string) {
	return ctx, func() string { return "" }
}

func answerOf(*grid.Stream) string { return "" }

func notFound(text, _ string) error { return errors.New(text) }

func describe(err error) string { return fmt.Sprintf("Unknown: %s; ", err) }

// twoValues returns the context of a call with what cannot be sent, as there are no two values of a key.
func twoValues(ctx context.Context) context.Context {
	md := make(grid.Metadata)
	md.Set("", "anna")
	return grid.WithMetadata(ctx, md)
}

func callMethod(ctx context.Context, c *grid.Connection, value string) (string, error) {
	b, err := grid.NewMSSWith(map[string]string{"is": value}).MarshalMsg(nil)
	if err != nil {
		return "", err
	}
	answer, err := call(ctx, c, "compat.Echo", b)
	if err != nil {
		return "", err
	}
	resp := grid.NewMSS()
	_, err = resp.UnmarshalMsg(answer)
	return resp.Get("is"), err
}

func exchange(ctx context.Context, c *grid.Connection, values []string) (got []string, err error) {
	st, err := open(ctx, c, "compat.Mirror", nil)
	if err != nil {
		return nil, err
	}
	go func() {
		for _, value := range values {
			b, err := grid.NewMSSWith(map[string]string{"is": value}).MarshalMsg(nil)
			if err != nil || st.Send(b) != nil {
				break
			}
		}
		_ = st.CloseSend()
	}()
	err = receive(st, func(b []byte) error {
		resp := grid.NewMSS()
		_, err := resp.UnmarshalMsg(b)
		got = append(got, resp.Get("is"))
		return err
	})
	return got, err
}

func callOnSubroute(ctx context.Context, c *grid.Connection, payload []byte) ([]byte, error) {
	return call(ctx, c, "disks/sda/compat.Echo", payload)
}
