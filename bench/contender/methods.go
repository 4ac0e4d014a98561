package contender

import (
	"context"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridpb"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// The methods of gridProtobuf's service without the service.
var (
	pbCall   = gridpb.NewMethod[pb.SimpleRequest, pb.SimpleResponse]("grpc.testing.BenchmarkService/UnaryCall")
	pbSource = gridpb.NewStreamMethod[pb.SimpleRequest, pb.SimpleResponse]("grpc.testing.BenchmarkService/StreamingFromServer")
)

var gridMessages = Contender{
	Name:    "gridpb",
	About:   "this library, with methods whose values are the messages of grpc protobuf, with contrib/gridpb",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		register := func(m *grid.Manager, _ Setup) error {
			if err := pbCall.Handle(m, protobufServer{}.UnaryCall); err != nil {
				return err
			}
			return pbSource.Handle(m, func(ctx context.Context, req *pb.SimpleRequest, out *grid.Sender[pb.SimpleResponse]) error {
				o, err := decodeOrder(req.GetPayload().GetBody())
				if err != nil {
					return err
				}
				m := &pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, o.Size)}}
				return o.produce(ctx, func() error { return out.Send(m) })
			})
		}
		return startGrid(s, 0, register, func(c *grid.Connection) Client { return gridMessagesClient{c} })
	},
}

type gridMessagesClient struct{ conn *grid.Connection }

func (c gridMessagesClient) Echo(payload []byte) error {
	answer, err := pbCall.Call(context.Background(), c.conn,
		&pb.SimpleRequest{FillServerId: true, Payload: &pb.Payload{Body: payload}})
	if err != nil {
		return err
	}
	return Check(payload, answer.GetPayload().GetBody())
}

func (c gridMessagesClient) Ask(request []byte) (int, error) {
	answer, err := pbCall.Call(context.Background(), c.conn, &pb.SimpleRequest{Payload: &pb.Payload{Body: request}})
	return len(answer.GetPayload().GetBody()), err
}

func (c gridMessagesClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	for m, err := range pbSource.Call(ctx, c.conn, &pb.SimpleRequest{Payload: &pb.Payload{Body: o.encode()}}) {
		if err != nil {
			return err
		}
		if !each(len(m.GetPayload().GetBody())) {
			return nil
		}
	}
	return nil
}

func (gridMessagesClient) Close() error { return nil }

// The same with types that have methods of MessagePack.
var (
	msgpEcho   = grid.NewMethod[grid.Bytes, grid.Bytes]("bench.Echo")
	msgpAsk    = grid.NewMethod[grid.Bytes, grid.Bytes]("bench.Ask")
	msgpSource = grid.NewStreamMethod[grid.Bytes, grid.Bytes]("bench.Source")
)

var gridMethods = Contender{
	Name:    "grid methods",
	About:   "this library, with methods of grid.Bytes, which is encoded by methods of MessagePack",
	Streams: true,
	TLS:     true,
	Shared:  true,
	Apart:   true,
	Start: func(s Setup) (Nodes, error) {
		register := func(m *grid.Manager, _ Setup) error {
			err := msgpEcho.Handle(m, func(_ context.Context, b *grid.Bytes) (*grid.Bytes, error) { return b, nil })
			if err != nil {
				return err
			}
			err = msgpAsk.Handle(m, func(_ context.Context, request *grid.Bytes) (*grid.Bytes, error) {
				answer, err := perform(*request, zeros)
				b := grid.Bytes(answer)
				return &b, err
			})
			if err != nil {
				return err
			}
			return msgpSource.Handle(m, func(ctx context.Context, order *grid.Bytes, out *grid.Sender[grid.Bytes]) error {
				o, err := decodeOrder(*order)
				if err != nil {
					return err
				}
				b := grid.Bytes(make([]byte, o.Size))
				return o.produce(ctx, func() error { return out.Send(&b) })
			})
		}
		return startGrid(s, 0, register, func(c *grid.Connection) Client { return gridMethodsClient{c} })
	},
}

type gridMethodsClient struct{ conn *grid.Connection }

func (c gridMethodsClient) Echo(payload []byte) error {
	b := grid.Bytes(payload)
	answer, err := msgpEcho.Call(context.Background(), c.conn, &b)
	if err != nil {
		return err
	}
	return Check(payload, *answer)
}

func (c gridMethodsClient) Ask(request []byte) (int, error) {
	b := grid.Bytes(request)
	answer, err := msgpAsk.Call(context.Background(), c.conn, &b)
	if err != nil {
		return 0, err
	}
	return len(*answer), nil
}

func (c gridMethodsClient) Stream(ctx context.Context, o Order, each func(size int) bool) error {
	order := grid.Bytes(o.encode())
	for b, err := range msgpSource.Call(ctx, c.conn, &order) {
		if err != nil {
			return err
		}
		if !each(len(*b)) {
			return nil
		}
	}
	return nil
}

func (gridMethodsClient) Close() error { return nil }
