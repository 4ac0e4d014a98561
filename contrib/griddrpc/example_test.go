package griddrpc_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/griddrpc"
	pb "github.com/gridmesh/grid/contrib/griddrpc/internal/testpb"
)

// server implements a service. Its other methods are unimplemented.
type server struct {
	*pb.DRPCTestUnimplementedServer
}

func (server) Unary(_ context.Context, in *pb.Message) (*pb.Message, error) {
	return &pb.Message{Text: strings.ToUpper(in.GetText())}, nil
}

// A service of drpc, registered with one node and called by another.
func Example() {
	nodes, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer nodes.Cleanup()

	if err := pb.DRPCRegisterTest(griddrpc.NewMux(nodes.Managers[0]), server{}); err != nil {
		log.Fatal(err)
	}

	conn := nodes.Managers[1].Connection(nodes.Hosts[0])
	client := pb.NewDRPCTestClient(griddrpc.NewConn(conn))
	out, err := client.Unary(context.Background(), &pb.Message{Text: "hello"})
	fmt.Println(out.GetText(), err)
	// Output: HELLO <nil>
}
