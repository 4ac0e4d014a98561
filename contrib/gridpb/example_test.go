package gridpb_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridpb"
	pb "google.golang.org/protobuf/types/known/wrapperspb"
)

// The messages would be your own; these come with protobuf.
var (
	upper = gridpb.NewMethod[pb.StringValue, pb.StringValue]("text.Text/Upper")
	words = gridpb.NewStreamMethod[pb.StringValue, pb.StringValue]("text.Text/Words")
)

func Example() {
	nodes, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	defer nodes.Cleanup()

	err = upper.Handle(nodes.Managers[0], func(_ context.Context, req *pb.StringValue) (*pb.StringValue, error) {
		return pb.String(strings.ToUpper(req.GetValue())), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	err = words.Handle(nodes.Managers[0], func(_ context.Context, req *pb.StringValue, out *grid.Sender[pb.StringValue]) error {
		for word := range strings.FieldsSeq(req.GetValue()) {
			if err := out.Send(pb.String(word)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	conn := nodes.Managers[1].Connection(nodes.Hosts[0])
	resp, err := upper.Call(ctx, conn, pb.String("hello"))
	fmt.Println(resp.GetValue(), err)
	for word, err := range words.Call(ctx, conn, pb.String("one two")) {
		fmt.Println(word.GetValue(), err)
	}
	// Output:
	// HELLO <nil>
	// one <nil>
	// two <nil>
}
