package gridgrpc

import (
	"context"
	"testing"

	"github.com/gridmesh/grid/internal/race"
	testpb "google.golang.org/grpc/interop/grpc_testing"
)

func BenchmarkUnary(b *testing.B) {
	_, client := serve(b, service{unary: func(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{Payload: req.GetPayload()}, nil
	}})
	payload := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.UnaryCall(b.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: payload}}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAUnaryCallAllocatesLittle beyond its messages, which take about ten allocations at both ends.
func TestAUnaryCallAllocatesLittle(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	_, client := serve(t, service{unary: func(_ context.Context, req *testpb.SimpleRequest) (*testpb.SimpleResponse, error) {
		return &testpb.SimpleResponse{Payload: req.GetPayload()}, nil
	}})
	payload := make([]byte, 512)
	got := testing.AllocsPerRun(2000, func() {
		if _, err := client.UnaryCall(t.Context(), &testpb.SimpleRequest{Payload: &testpb.Payload{Body: payload}}); err != nil {
			t.Fatal(err)
		}
	})
	if got > 25 {
		t.Errorf("%v allocations", got)
	}
}
