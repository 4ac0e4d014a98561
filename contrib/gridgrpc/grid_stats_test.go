package gridgrpc

import (
	"context"
	"testing"

	"github.com/gridmesh/grid"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// TestGridKnowsTheMethods wants each of them in grid's statistics by its name, with its errors.
func TestGridKnowsTheMethods(t *testing.T) {
	p := newPair(t)
	fail := false
	testpb.RegisterTestServiceServer(NewServer(p.server), returning(func(context.Context) error {
		if fail {
			return status.Error(codes.NotFound, "no")
		}
		return nil
	}))
	client := testpb.NewTestServiceClient(NewClient(p.conn))
	for _, call := range calls {
		for i := range 5 {
			fail = i < 2
			if err := call(t.Context(), client); (err != nil) != fail {
				t.Fatal(err)
			}
		}
	}
	for role, stats := range map[grid.Role][]grid.HandlerStats{
		grid.RoleServer: p.server.Connection(p.client.HostName()).HandlerStats(),
		grid.RoleClient: p.conn.HandlerStats(),
	} {
		for _, method := range []string{"UnaryCall", "StreamingOutputCall", "StreamingInputCall", "FullDuplexCall"} {
			found := false
			for _, s := range stats {
				if s.Role != role || s.Name != "grpc.testing.TestService/"+method {
					continue
				}
				found = true
				if s.Calls != 5 || s.Errors.Handler != 2 {
					t.Errorf("%v, %s: %d calls, %+v", role, s.Name, s.Calls, s.Errors)
				}
			}
			if !found {
				t.Errorf("%v: %s is not in %+v", role, method, stats)
			}
		}
	}
}
