package grpc

import (
	"context"
	"io"
	"iter"
	"testing"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridgrpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/grpc/status"
)

// TestTheHandlerGoesFirst has a client of gRPC call handlers of gridpb.
func TestTheHandlerGoesFirst(t *testing.T) {
	node, conn := newNodes(t)
	check(t, getFeature.Handle(node, func(_ context.Context, p *pb.Point) (*pb.Feature, error) {
		return nil, grid.Errorf(grid.NotFound, "nothing at %d", p.GetLatitude())
	}))
	check(t, listFeatures.Handle(node, func(_ context.Context, _ *pb.Rectangle, out *grid.Sender[pb.Feature]) error {
		return out.Send(features[1])
	}))
	check(t, recordRoute.Handle(node, func(_ context.Context, in iter.Seq2[*pb.Point, error]) (*pb.RouteSummary, error) {
		sum := new(pb.RouteSummary)
		for _, err := range in {
			if err != nil {
				return nil, err
			}
			sum.PointCount++
		}
		return sum, nil
	}))
	check(t, routeChat.Handle(node, func(_ context.Context, st *grid.ServerStream[pb.RouteNote, pb.RouteNote]) error {
		for note, err := range st.All() {
			if err != nil {
				return err
			}
			if err := st.Send(note); err != nil {
				return err
			}
		}
		return nil
	}))

	ctx := t.Context()
	client := pb.NewRouteGuideClient(gridgrpc.NewClient(conn))
	_, err := client.GetFeature(ctx, &pb.Point{Latitude: 7})
	if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != "nothing at 7" {
		t.Errorf("got %v", err)
	}
	list, err := client.ListFeatures(ctx, new(pb.Rectangle))
	check(t, err)
	if f, err := list.Recv(); err != nil || f.GetName() != "b" {
		t.Errorf("got %v, %v", f, err)
	}
	if _, err := list.Recv(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
	record, err := client.RecordRoute(ctx)
	check(t, err)
	check(t, record.Send(new(pb.Point)))
	if sum, err := record.CloseAndRecv(); err != nil || sum.GetPointCount() != 1 {
		t.Errorf("got %v, %v", sum, err)
	}
	chat, err := client.RouteChat(ctx)
	check(t, err)
	check(t, chat.Send(&pb.RouteNote{Message: "hello"}))
	if note, err := chat.Recv(); err != nil || note.GetMessage() != "hello" {
		t.Errorf("got %v, %v", note, err)
	}
	check(t, chat.CloseSend())
	if _, err := chat.Recv(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}
