package grpc

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/gridmesh/grid/contrib/gridgrpc"
	"github.com/gridmesh/grid/contrib/gridpb"
	hello "google.golang.org/grpc/examples/helloworld/helloworld"
	pb "google.golang.org/grpc/examples/route_guide/routeguide"
	"google.golang.org/protobuf/proto"
)

// greeter is the service of gRPC's helloworld.proto.
type greeter struct {
	hello.UnimplementedGreeterServer
}

func (greeter) SayHello(_ context.Context, req *hello.HelloRequest) (*hello.HelloReply, error) {
	return &hello.HelloReply{Message: "Hello " + req.GetName()}, nil
}

func TestHelloWorld(t *testing.T) {
	node, conn := newNodes(t)
	hello.RegisterGreeterServer(gridgrpc.NewServer(node), greeter{})
	reply, err := hello.NewGreeterClient(gridgrpc.NewClient(conn)).SayHello(t.Context(), &hello.HelloRequest{Name: "world"})
	if err != nil || reply.GetMessage() != "Hello world" {
		t.Errorf("got %v, %v", reply, err)
	}
}

// guide is the service of gRPC's route_guide.proto, which has a method of each kind.
type guide struct {
	pb.UnimplementedRouteGuideServer
}

var features = []*pb.Feature{
	{Name: "a", Location: &pb.Point{Latitude: 1, Longitude: 1}},
	{Name: "b", Location: &pb.Point{Latitude: 2, Longitude: -2}},
	{Name: "c", Location: &pb.Point{Latitude: 30, Longitude: 30}},
}

func (guide) GetFeature(_ context.Context, p *pb.Point) (*pb.Feature, error) {
	for _, f := range features {
		if proto.Equal(f.GetLocation(), p) {
			return f, nil
		}
	}
	return &pb.Feature{Location: p}, nil
}

func (guide) ListFeatures(r *pb.Rectangle, st pb.RouteGuide_ListFeaturesServer) error {
	for _, f := range features {
		if p := f.GetLocation(); p.GetLatitude() >= r.GetLo().GetLatitude() && p.GetLatitude() <= r.GetHi().GetLatitude() {
			if err := st.Send(f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (guide) RecordRoute(st pb.RouteGuide_RecordRouteServer) error {
	sum := new(pb.RouteSummary)
	for {
		_, err := st.Recv()
		if err == io.EOF {
			return st.SendAndClose(sum)
		} else if err != nil {
			return err
		}
		sum.PointCount++
	}
}

func (guide) RouteChat(st pb.RouteGuide_RouteChatServer) error {
	for {
		note, err := st.Recv()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := st.Send(note); err != nil {
			return err
		}
	}
}

func TestRouteGuide(t *testing.T) {
	node, conn := newNodes(t)
	pb.RegisterRouteGuideServer(gridgrpc.NewServer(node), guide{})
	client := pb.NewRouteGuideClient(gridgrpc.NewClient(conn))

	f, err := client.GetFeature(t.Context(), &pb.Point{Latitude: 2, Longitude: -2})
	if err != nil || f.GetName() != "b" {
		t.Errorf("got %v, %v", f, err)
	}

	list, err := client.ListFeatures(t.Context(), &pb.Rectangle{Lo: &pb.Point{Latitude: 1}, Hi: &pb.Point{Latitude: 2}})
	check(t, err)
	for _, want := range features[:2] {
		if f, err := list.Recv(); err != nil || !proto.Equal(f, want) {
			t.Errorf("got %v, %v, want %v", f, err, want)
		}
	}
	if _, err := list.Recv(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}

	record, err := client.RecordRoute(t.Context())
	check(t, err)
	for range 10 {
		check(t, record.Send(new(pb.Point)))
	}
	if sum, err := record.CloseAndRecv(); err != nil || sum.GetPointCount() != 10 {
		t.Errorf("got %v, %v", sum, err)
	}

	chat, err := client.RouteChat(t.Context())
	check(t, err)
	for _, text := range []string{"one", "", "three"} {
		check(t, chat.Send(&pb.RouteNote{Message: text}))
		if note, err := chat.Recv(); err != nil || note.GetMessage() != text {
			t.Errorf("got %v, %v, want %q", note, err, text)
		}
	}
	check(t, chat.CloseSend())
	if _, err := chat.Recv(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

// The methods of route_guide.proto without its service, as gridpb makes them.
var (
	getFeature   = gridpb.NewMethod[pb.Point, pb.Feature]("routeguide.RouteGuide/GetFeature")
	listFeatures = gridpb.NewStreamMethod[pb.Rectangle, pb.Feature]("routeguide.RouteGuide/ListFeatures")
	recordRoute  = gridpb.NewUploadMethod[pb.Point, pb.RouteSummary]("routeguide.RouteGuide/RecordRoute")
	routeChat    = gridpb.NewDuplexMethod[pb.RouteNote, pb.RouteNote]("routeguide.RouteGuide/RouteChat")
)

// TestTheCallerGoesFirst has gridpb call what is registered with gridgrpc.
func TestTheCallerGoesFirst(t *testing.T) {
	node, conn := newNodes(t)
	pb.RegisterRouteGuideServer(gridgrpc.NewServer(node), guide{})
	ctx := t.Context()
	if f, err := getFeature.Call(ctx, conn, features[0].GetLocation()); err != nil || !proto.Equal(f, features[0]) {
		t.Errorf("got %v, %v", f, err)
	}
	n := 0
	for f, err := range listFeatures.Call(ctx, conn, &pb.Rectangle{Hi: &pb.Point{Latitude: 100}}) {
		if err != nil || !proto.Equal(f, features[n]) {
			t.Fatalf("got %v, %v", f, err)
		}
		n++
	}
	if n != len(features) {
		t.Errorf("got %d features", n)
	}
	sum, err := recordRoute.Call(ctx, conn, slices.Values(make([]*pb.Point, 2)))
	if err != nil || sum.GetPointCount() != 2 {
		t.Errorf("got %v, %v", sum, err)
	}
	chat, err := routeChat.Call(ctx, conn)
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
