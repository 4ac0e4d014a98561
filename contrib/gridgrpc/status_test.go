package gridgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestTheStatusOfAHandlerArrives wants for each error of a handler the status that gRPC makes of it.
func TestTheStatusOfAHandlerArrives(t *testing.T) {
	withDetails, err := status.New(codes.FailedPrecondition, "no room").WithDetails(
		&errdetails.ErrorInfo{Reason: "FULL", Domain: "disks", Metadata: map[string]string{"disk": "7"}},
		&errdetails.RetryInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		err  error
		want *status.Status
	}{
		"code":        {status.Error(codes.NotFound, "no such key"), status.New(codes.NotFound, "no such key")},
		"no text":     {status.Error(codes.Aborted, ""), status.New(codes.Aborted, "")},
		"details":     {withDetails.Err(), withDetails},
		"own code":    {status.Error(99, "ours"), status.New(99, "ours")},
		"large code":  {status.Error(1000, "ours"), status.New(1000, "ours")},
		"plain":       {errors.New("broken"), status.New(codes.Unknown, "broken")},
		"wrapped":     {fmt.Errorf("get: %w", status.Error(codes.DataLoss, "gone")), status.New(codes.DataLoss, "get: rpc error: code = DataLoss desc = gone")},
		"canceled":    {context.Canceled, status.New(codes.Canceled, "context canceled")},
		"deadline":    {context.DeadlineExceeded, status.New(codes.DeadlineExceeded, "context deadline exceeded")},
		"end of file": {io.EOF, status.New(codes.Unknown, "EOF")},
		"not UTF-8":   {errors.New("a\xffb"), status.New(codes.Unknown, "a\uFFFDb")},
	} {
		t.Run(name, func(t *testing.T) {
			forAllKinds(t, func(context.Context) error { return test.err },
				func(t *testing.T, call func(ctx context.Context, opts ...grpc.CallOption) error) {
					got := status.Convert(call(t.Context()))
					if !proto.Equal(got.Proto(), test.want.Proto()) {
						t.Errorf("got %v, want %v", got.Proto(), test.want.Proto())
					}
				})
		})
	}
}
