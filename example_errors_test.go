package grid_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/gridmesh/grid"
)

// errNotFound is known to both sides: only its text crosses the wire.
var errNotFound = grid.RemoteErr("not found")

func ExampleRemoteErr() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerRemove, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return nil, &errNotFound
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	_, err = conn.Request(context.Background(), handlerRemove, []byte("a"))
	fmt.Println(errors.Is(err, errNotFound))
	_, err = conn.Request(context.Background(), handlerEcho, nil) // nobody has registered it
	fmt.Println(errors.Is(err, grid.ErrUnknownHandler))
	var nobody *grid.Connection // such as Manager.Connection returns for an unknown name
	_, err = nobody.Request(context.Background(), handlerEcho, nil)
	fmt.Println(errors.Is(err, grid.ErrDisconnected))
	// Output:
	// true
	// true
	// true
}

// Statistics, metrics and logs tell few reasons apart.
func ExampleClassify() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandlerContext(handlerRemove, func(ctx context.Context, payload []byte) ([]byte, error) {
		if len(payload) == 0 {
			return nil, &errNotFound
		}
		<-ctx.Done() // the deadline of the caller
		return nil, grid.NewRemoteErr(context.Cause(ctx))
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	short, cancel := context.WithTimeoutCause(context.Background(), time.Millisecond, errors.New("too slow for me"))
	defer cancel()
	gone, leave := context.WithCancel(context.Background())
	leave()
	for _, call := range []struct {
		ctx     context.Context
		handler grid.HandlerID
		payload string
	}{
		{context.Background(), handlerRemove, ""},
		{context.Background(), handlerEcho, ""},
		{short, handlerRemove, "a"},
		{gone, handlerRemove, "a"},
	} {
		_, err := conn.Request(call.ctx, call.handler, []byte(call.payload))
		switch class := grid.Classify(call.ctx, err); class {
		case grid.ErrorHandler:
			fmt.Println(class, "by the handler:", errors.Is(err, errNotFound))
		case grid.ErrorCanceled, grid.ErrorDeadline:
			fmt.Println(class, "by the caller")
		default:
			fmt.Println(class)
		}
	}
	// Output:
	// handler_error by the handler: true
	// unknown_handler
	// deadline_exceeded by the caller
	// canceled by the caller
}
