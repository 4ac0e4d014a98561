package gridgrpc

import (
	"context"
	"io"
	"slices"
	"testing"

	"google.golang.org/grpc"
	channelzpb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	channelz "google.golang.org/grpc/channelz/service"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// TestHealth runs gRPC's health service: unary, and a stream that goes on.
func TestHealth(t *testing.T) {
	p := newPair(t)
	server := health.NewServer()
	healthpb.RegisterHealthServer(NewServer(p.server), server)
	client := healthpb.NewHealthClient(NewClient(p.conn))

	got, err := client.Check(t.Context(), new(healthpb.HealthCheckRequest))
	if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "kv"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	list, err := client.List(t.Context(), new(healthpb.HealthListRequest))
	if err != nil || len(list.GetStatuses()) != 1 {
		t.Errorf("got %v, %v", list, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{Service: "kv"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{
		healthpb.HealthCheckResponse_SERVICE_UNKNOWN,
		healthpb.HealthCheckResponse_SERVING,
		healthpb.HealthCheckResponse_NOT_SERVING,
	} {
		if want != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
			server.SetServingStatus("kv", want)
		}
		if got, err := watch.Recv(); err != nil || got.GetStatus() != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	cancel()
	if _, err := watch.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after the end: %v", err)
	}
}

// TestReflection asks a server for what it serves, as grpcurl does.
func TestReflection(t *testing.T) {
	p := newPair(t)
	s := NewServer(p.server)
	healthpb.RegisterHealthServer(s, health.NewServer())
	testpb.RegisterTestServiceServer(s, service{})
	reflection.Register(s)
	stream, err := reflectionpb.NewServerReflectionClient(NewClient(p.conn)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var names []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	for _, want := range []string{"grpc.health.v1.Health", "grpc.testing.TestService"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	files := ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "grpc.testing.TestService"},
	}).GetFileDescriptorResponse().GetFileDescriptorProto()
	if len(files) == 0 {
		t.Fatal("no file")
	}
	var file descriptorpb.FileDescriptorProto
	if err := proto.Unmarshal(files[0], &file); err != nil || len(file.GetService()) == 0 {
		t.Errorf("got %v, %v", &file, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Error(err)
	}

	methods := s.GetServiceInfo()["grpc.testing.TestService"].Methods
	if !slices.Contains(methods, grpc.MethodInfo{Name: "FullDuplexCall", IsClientStream: true, IsServerStream: true}) {
		t.Errorf("got %v", methods)
	}
}

// TestChannelz runs a service that gRPC registers by itself.
func TestChannelz(t *testing.T) {
	p := newPair(t)
	channelz.RegisterChannelzServiceToServer(NewServer(p.server))
	answer, err := channelzpb.NewChannelzClient(NewClient(p.conn)).GetServers(t.Context(), new(channelzpb.GetServersRequest))
	if err != nil || !answer.GetEnd() {
		t.Errorf("got %v, %v", answer, err)
	}
}
