package grpc

import (
	"context"
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/gridmesh/grid/contrib/gridgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// operations is the service of google/longrunning/operations.proto, whose results are of any type.
type operations struct {
	longrunningpb.UnimplementedOperationsServer
	done *longrunningpb.Operation
}

func (o operations) GetOperation(_ context.Context, req *longrunningpb.GetOperationRequest) (*longrunningpb.Operation, error) {
	if req.GetName() == o.done.GetName() {
		return o.done, nil
	}
	st, err := status.New(codes.NotFound, "no such operation").WithDetails(req)
	if err != nil {
		return nil, err
	}
	return nil, st.Err()
}

func (o operations) DeleteOperation(context.Context, *longrunningpb.DeleteOperationRequest) (*emptypb.Empty, error) {
	return new(emptypb.Empty), nil
}

// WaitOperation waits longer than anybody does.
func (o operations) WaitOperation(ctx context.Context, req *longrunningpb.WaitOperationRequest) (*longrunningpb.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, req.GetTimeout().AsDuration())
	defer cancel()
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestLongRunning(t *testing.T) {
	node, conn := newNodes(t)
	result, err := anypb.New(&longrunningpb.OperationInfo{ResponseType: "kv.Compaction"})
	check(t, err)
	done := &longrunningpb.Operation{
		Name: "operations/1", Metadata: result, Done: true,
		Result: &longrunningpb.Operation_Response{Response: result},
	}
	longrunningpb.RegisterOperationsServer(gridgrpc.NewServer(node), operations{done: done})
	client := longrunningpb.NewOperationsClient(gridgrpc.NewClient(conn))

	got, err := client.GetOperation(t.Context(), &longrunningpb.GetOperationRequest{Name: "operations/1"})
	if err != nil || !proto.Equal(got, done) {
		t.Errorf("got %v, %v", got, err)
	}
	req := &longrunningpb.GetOperationRequest{Name: "operations/2"}
	_, err = client.GetOperation(t.Context(), req)
	st := status.Convert(err)
	if details := st.Details(); st.Code() != codes.NotFound || len(details) != 1 || !proto.Equal(details[0].(proto.Message), req) {
		t.Errorf("got %v with %v", err, st.Details())
	}
	if _, err := client.DeleteOperation(t.Context(), new(longrunningpb.DeleteOperationRequest)); err != nil {
		t.Error(err)
	}
	_, err = client.WaitOperation(t.Context(), &longrunningpb.WaitOperationRequest{Timeout: durationpb.New(1)})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
