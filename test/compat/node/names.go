//go:build !nonames

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gridmesh/grid"
)

func answering(h func(ctx context.Context, payload []byte) ([]byte, error)) grid.SingleHandlerContextFn {
	return h
}

func registerMethod(m *grid.Manager, name string, h func(ctx context.Context, payload []byte) ([]byte, error)) error {
	return m.Handle(name, h)
}

func registerMethodStream(m *grid.Manager, name string, h func(ctx context.Context, payload []byte, st stream) error) error {
	return m.HandleStream(name, func(ctx context.Context, st *grid.RawStream) error { return h(ctx, st.Payload(), st) })
}

func call(ctx context.Context, c *grid.Connection, method string, payload []byte) ([]byte, error) {
	return c.Call(ctx, method, payload)
}

func open(ctx context.Context, c *grid.Connection, method string, payload []byte) (*grid.Stream, error) {
	return c.OpenStream(ctx, method, payload)
}

// receive calls next with each message of a stream to a method, and returns its error.
func receive(st *grid.Stream, next func(b []byte) error) error {
	for {
		b, err := st.Recv()
		if err == io.EOF {
			<-st.Done()
			return st.Err()
		}
		if err != nil {
			return err
		}
		if err := next(b); err != nil {
			return err
		}
	}
}

func setHeader(ctx context.Context, key, value string) {
	if err := grid.SetHeader(ctx, grid.Metadata{key: {value}}); err != nil {
		panic(err)
	}
}

func setTrailer(ctx context.Context, key, value string) {
	if err := grid.SetTrailer(ctx, grid.Metadata{key: {value}}); err != nil {
		panic(err)
	}
}

// withAnswer returns a context for a call, and what tells afterwards which metadata has come back.
func withAnswer(ctx context.Context) (context.Context, func() string) {
	ctx, answer := grid.WithAnswerMetadata(ctx)
	return ctx, func() string { return metadataText(answer.Header(), answer.Trailer()) }
}

// answerOf is what came back with a stream.
func answerOf(st *grid.Stream) string { return metadataText(st.Header(), st.Trailer()) }

func metadataText(header, trailer grid.Metadata) string {
	if header == nil && trailer == nil {
		return ""
	}
	return fmt.Sprint(header, trailer)
}

func notFound(text, details string) error {
	return grid.NewError(grid.NotFound, text).WithDetails([]byte(details))
}

// describe says what a caller learns from an error.
func describe(err error) string {
	var e *grid.Error
	if !errors.As(err, &e) || !e.Remote {
		return fmt.Sprintf("%v, which no handler returned", err)
	}
	return fmt.Sprintf("%v: %s; %s", e.Code, e.Text, e.Details)
}

// twoValues returns the context of a call with two values of a key.
func twoValues(ctx context.Context) context.Context {
	return grid.WithMetadata(ctx, grid.Metadata{"user": {"anna", "bert"}})
}

var (
	method = grid.NewMethod[grid.MSS, grid.MSS]("compat.Echo")
	duplex = grid.NewDuplexMethod[grid.MSS, grid.MSS]("compat.Mirror")
)

// callMethod calls a method with a value.
func callMethod(ctx context.Context, c *grid.Connection, value string) (string, error) {
	resp, err := method.Call(ctx, c, &grid.MSS{"is": value})
	if err != nil {
		return "", err
	}
	return resp.Get("is"), nil
}

// exchange sends values to a method, and returns those that come back.
func exchange(ctx context.Context, c *grid.Connection, values []string) (got []string, err error) {
	st, err := duplex.Call(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, value := range values {
		if err := st.Send(&grid.MSS{"is": value}); err != nil {
			return nil, err
		}
		resp, err := st.Recv()
		if err != nil {
			return nil, err
		}
		got = append(got, resp.Get("is"))
	}
	if err := st.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := st.Recv(); err != io.EOF {
		return nil, fmt.Errorf("%w in place of the end", err)
	}
	return got, nil
}

func callOnSubroute(ctx context.Context, c *grid.Connection, payload []byte) ([]byte, error) {
	return c.Subroute("disks").Subroute("sda").Call(ctx, "compat.Echo", payload)
}

func init() { has = append(has, "names") }
