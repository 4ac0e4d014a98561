package gridgrpc_test

import (
	"context"
	"fmt"
	"log"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridgrpc"
	"google.golang.org/grpc/health"
	pb "google.golang.org/grpc/health/grpc_health_v1"
)

// A service of gRPC, registered with one node and called by another.
func Example() {
	nodes, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer nodes.Cleanup()

	pb.RegisterHealthServer(gridgrpc.NewServer(nodes.Managers[0]), health.NewServer())

	conn := nodes.Managers[1].Connection(nodes.Hosts[0])
	client := pb.NewHealthClient(gridgrpc.NewClient(conn))
	answer, err := client.Check(context.Background(), &pb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}
