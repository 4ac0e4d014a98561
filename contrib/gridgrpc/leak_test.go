package gridgrpc

import (
	"context"
	"io"
	"runtime"
	"testing"

	"github.com/gridmesh/grid/internal/testkit"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// talk sends and receives until somebody gives up.
func talk() service {
	return service{
		duplex: func(stream testpb.TestService_FullDuplexCallServer) error {
			for {
				if _, err := stream.Recv(); err == io.EOF {
					return nil
				} else if err != nil {
					return err
				}
				if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 1000)}}); err != nil {
					return err
				}
			}
		},
		output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
			for {
				if err := stream.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 1000)}}); err != nil {
					return err
				}
			}
		},
	}
}

// TestAbandonedStreamsLeaveNothing gives streams up at all points, as callers may: by the end of their
// context.
func TestAbandonedStreamsLeaveNothing(t *testing.T) {
	type client = testpb.TestServiceClient
	duplex := func(ctx context.Context, c client, use func(testpb.TestService_FullDuplexCallClient) error) error {
		stream, err := c.FullDuplexCall(ctx, grpc.OnFinish(func(error) {}))
		if err != nil {
			return err
		}
		return use(stream)
	}
	for name, use := range map[string]func(context.Context, client) error{
		"opened": func(ctx context.Context, c client) error {
			return duplex(ctx, c, func(testpb.TestService_FullDuplexCallClient) error { return nil })
		},
		"sent": func(ctx context.Context, c client) error {
			return duplex(ctx, c, func(stream testpb.TestService_FullDuplexCallClient) error {
				return stream.Send(new(testpb.StreamingOutputCallRequest))
			})
		},
		"received": func(ctx context.Context, c client) error {
			return duplex(ctx, c, func(stream testpb.TestService_FullDuplexCallClient) error {
				if err := stream.Send(new(testpb.StreamingOutputCallRequest)); err != nil {
					return err
				}
				_, err := stream.Recv()
				return err
			})
		},
		"input ended": func(ctx context.Context, c client) error {
			return duplex(ctx, c, func(stream testpb.TestService_FullDuplexCallClient) error { return stream.CloseSend() })
		},
		"not read": func(ctx context.Context, c client) error {
			_, err := c.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest))
			return err
		},
		"read once": func(ctx context.Context, c client) error {
			stream, err := c.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest))
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"request not sent": func(ctx context.Context, c client) error {
			_, err := c.(interface {
				stream(context.Context) (grpc.ClientStream, error)
			}).stream(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			testpb.RegisterTestServiceServer(NewServer(p.server), talk())
			c := NewClient(p.conn)
			client := streamer{testpb.NewTestServiceClient(c), c}
			if err := calls["duplex"](t.Context(), client); err != nil { // whatever stays is there
				t.Fatal(err)
			}
			before := runtime.NumGoroutine()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range 20 {
				if err := use(ctx, client); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			p.wantNothingOpen(t, before)
		})
	}
}

// streamer is a client that can also open a stream without sending its request.
type streamer struct {
	testpb.TestServiceClient

	c *Client
}

func (s streamer) stream(ctx context.Context) (grpc.ClientStream, error) {
	return s.c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, testpb.TestService_StreamingOutputCall_FullMethodName)
}

// TestStreamsThatEndLeaveNothing wants that also where their context does not end.
func TestStreamsThatEndLeaveNothing(t *testing.T) {
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			p := newPair(t)
			testpb.RegisterTestServiceServer(NewServer(p.server), returning(func(context.Context) error { return nil }))
			client := testpb.NewTestServiceClient(NewClient(p.conn))
			if err := call(t.Context(), client); err != nil {
				t.Fatal(err)
			}
			before := runtime.NumGoroutine()
			for range 20 {
				if err := call(t.Context(), client); err != nil {
					t.Fatal(err)
				}
			}
			p.wantNothingOpen(t, before)
		})
	}
}

// TestAStreamThatEndsForgetsItsOptions wants that also where its context does not end.
func TestAStreamThatEndsForgetsItsOptions(t *testing.T) {
	p := newPair(t)
	testpb.RegisterTestServiceServer(NewServer(p.server), returning(func(context.Context) error { return nil }))
	client := testpb.NewTestServiceClient(NewClient(p.conn))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forgotten := make(chan struct{})
	func() {
		kept := new([64]int)
		runtime.AddCleanup(kept, func(done chan struct{}) { close(done) }, forgotten)
		st, err := client.StreamingOutputCall(ctx, new(testpb.StreamingOutputCallRequest), grpc.OnFinish(func(error) { kept[0]++ }))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = st.Recv()
		}
		if err != io.EOF {
			t.Fatal(err)
		}
	}()
	testkit.Eventually(t, "the options to be forgotten", func() bool {
		runtime.GC()
		select {
		case <-forgotten:
			return true
		default:
			return false
		}
	})
}

// wantNothingOpen waits until no call is open at either node, and no more goroutines run than before.
func (p pair) wantNothingOpen(t *testing.T, goroutines int) {
	t.Helper()
	testkit.Eventually(t, "all calls to end", func() bool {
		return len(p.server.Open())+len(p.client.Open()) == 0 && runtime.NumGoroutine() <= goroutines
	}, func() string {
		stacks := make([]byte, 1<<20)
		return string(stacks[:runtime.Stack(stacks, true)])
	})
}
