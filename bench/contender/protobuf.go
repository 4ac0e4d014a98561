package contender

import (
	"context"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridgrpc"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// The service of both is grpc.testing.BenchmarkService, as protoc-gen-go-grpc has generated it for
// gRPC's own benchmarks.

var grpcProtobuf = Contender{
	Name:    "grpc protobuf",
	About:   "gRPC-go with generated code and its codec of protobuf, and stream workers",
	Module:  grpcModule,
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		use := grpcUse{register: func(r grpc.ServiceRegistrar) { pb.RegisterBenchmarkServiceServer(r, protobufServer{}) }}
		return startGRPC(s, use, func(cc *grpc.ClientConn) (Client, error) { return newProtobufClient(cc), nil })
	},
}

var gridProtobuf = Contender{
	Name:    "gridgrpc",
	About:   "the code of grpc protobuf over this library, with contrib/gridgrpc",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start:   func(s Setup) (Nodes, error) { return startGridProtobuf(s, 0) },
}

var gridProtobufPolling = Contender{
	Name:   "gridgrpc polling",
	About:  "the code of grpc protobuf over this library, with ManagerOptions.BusyPoll of 200 µs",
	Shared: true,
	Apart:  true,
	Start:  func(s Setup) (Nodes, error) { return startGridProtobuf(s, busyPoll) },
}

func startGridProtobuf(s Setup, poll time.Duration) (Nodes, error) {
	register := func(m *grid.Manager, _ Setup) error {
		pb.RegisterBenchmarkServiceServer(gridgrpc.NewServer(m), protobufServer{})
		return nil
	}
	return startGrid(s, poll, register, func(c *grid.Connection) Client { return newProtobufClient(gridgrpc.NewClient(c)) })
}

// protobufServer performs the task that is the body of a request; one with FillServerId is an echo.
type protobufServer struct {
	pb.UnimplementedBenchmarkServiceServer
}

func (protobufServer) UnaryCall(_ context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if req.GetFillServerId() {
		return &pb.SimpleResponse{Payload: req.GetPayload()}, nil
	}
	answer, err := perform(req.GetPayload().GetBody(), zeros)
	if err != nil {
		return nil, err
	}
	return &pb.SimpleResponse{Payload: &pb.Payload{Body: answer}}, nil
}

func (protobufServer) StreamingFromServer(req *pb.SimpleRequest, st pb.BenchmarkService_StreamingFromServerServer) error {
	o, err := decodeOrder(req.GetPayload().GetBody())
	if err != nil {
		return err
	}
	m := &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, o.Size)}}
	return o.produce(st.Context(), func() error { return st.Send(m) })
}

type protobufClient struct{ service pb.BenchmarkServiceClient }

func newProtobufClient(cc grpc.ClientConnInterface) Client {
	return protobufClient{pb.NewBenchmarkServiceClient(cc)}
}

func (c protobufClient) Echo(payload []byte) error {
	answer, err := c.service.UnaryCall(context.Background(),
		&pb.SimpleRequest{FillServerId: true, Payload: &pb.Payload{Body: payload}})
	if err != nil {
		return err
	}
	return Check(payload, answer.GetPayload().GetBody())
}

func (c protobufClient) Ask(request []byte) (int, error) {
	answer, err := c.service.UnaryCall(context.Background(), &pb.SimpleRequest{Payload: &pb.Payload{Body: request}})
	return len(answer.GetPayload().GetBody()), err
}

func (c protobufClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := c.service.StreamingFromServer(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: o.encode()}})
	if err != nil {
		return err
	}
	return consume(func() (int, error) {
		m, err := st.Recv()
		return len(m.GetPayload().GetBody()), err
	}, each)
}

func (protobufClient) Close() error { return nil }
