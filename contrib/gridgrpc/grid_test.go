package gridgrpc

import (
	"context"
	"io"
	"testing"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

// pair is two nodes that are connected.
type pair struct {
	server, client *grid.Manager
	conn           *grid.Connection // from the client
}

func newPair(t testing.TB) pair {
	t.Helper()
	nodes, err := grid.SetupTestGrid(2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nodes.Cleanup)
	return pair{nodes.Managers[0], nodes.Managers[1], nodes.Managers[1].Connection(nodes.Hosts[0])}
}

// service is a TestService whose methods are functions of a test.
type service struct {
	testpb.UnimplementedTestServiceServer

	unary  func(context.Context, *testpb.SimpleRequest) (*testpb.SimpleResponse, error)
	output func(*testpb.StreamingOutputCallRequest, testpb.TestService_StreamingOutputCallServer) error
	input  func(testpb.TestService_StreamingInputCallServer) error
	duplex func(testpb.TestService_FullDuplexCallServer) error
}

func (s service) UnaryCall(ctx context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
	return s.unary(ctx, req)
}

func (s service) StreamingOutputCall(req *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
	return s.output(req, stream)
}

func (s service) StreamingInputCall(stream testpb.TestService_StreamingInputCallServer) error {
	return s.input(stream)
}

func (s service) FullDuplexCall(stream testpb.TestService_FullDuplexCallServer) error {
	return s.duplex(stream)
}

// serve registers a service and returns a client of it.
func serve(t testing.TB, s service) (*Client, testpb.TestServiceClient) {
	t.Helper()
	p := newPair(t)
	testpb.RegisterTestServiceServer(NewServer(p.server), s)
	c := NewClient(p.conn)
	return c, testpb.NewTestServiceClient(c)
}

// calls are the four kinds of calls to a service, each to its end. They return its error.
var calls = map[string]func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error{
	"unary": func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error {
		_, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}, opts...)
		return err
	},
	"output": func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error {
		stream, err := client.StreamingOutputCall(ctx, &testpb.StreamingOutputCallRequest{}, opts...)
		if err != nil {
			return err
		}
		return drain(stream)
	},
	"input": func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error {
		stream, err := client.StreamingInputCall(ctx, opts...)
		if err != nil {
			return err
		}
		_, err = stream.CloseAndRecv()
		return err
	},
	"duplex": func(ctx context.Context, client testpb.TestServiceClient, opts ...grpc.CallOption) error {
		stream, err := client.FullDuplexCall(ctx, opts...)
		if err != nil {
			return err
		}
		if err := stream.CloseSend(); err != nil {
			return err
		}
		return drain(stream)
	},
}

// drain reads a stream to its end.
func drain(stream interface {
	Recv() (*testpb.StreamingOutputCallResponse, error)
},
) error {
	for {
		if _, err := stream.Recv(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// returning returns a service whose methods all do the same, and send nothing more than they must.
func returning(do func(ctx context.Context) error) service {
	return service{
		unary: func(ctx context.Context, _ *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
			return new(testpb.SimpleResponse), do(ctx)
		},
		output: func(_ *testpb.StreamingOutputCallRequest, stream testpb.TestService_StreamingOutputCallServer) error {
			return do(stream.Context())
		},
		input: func(stream testpb.TestService_StreamingInputCallServer) error {
			if err := do(stream.Context()); err != nil {
				return err
			}
			return stream.SendAndClose(new(testpb.StreamingInputCallResponse))
		},
		duplex: func(stream testpb.TestService_FullDuplexCallServer) error { return do(stream.Context()) },
	}
}

// forAllKinds runs a test for each kind of call to a service that does the same in all methods.
func forAllKinds(t *testing.T, do func(ctx context.Context) error,
	test func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error),
) {
	t.Helper()
	for kind, call := range calls {
		t.Run(kind, func(t *testing.T) {
			_, client := serve(t, returning(do))
			test(t, func(ctx context.Context, opts ...grpc.CallOption) error { return call(ctx, client, opts...) })
		})
	}
}
