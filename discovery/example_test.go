package discovery_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/discovery"
)

// A pod that finds the others in DNS, through a headless Service.
func ExampleRun() {
	ctx := context.Background()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       "http://" + os.Getenv("POD_IP") + ":9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
	})
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, discovery.DNS("http://grid.app.svc.cluster.local.:9000"))
}

// What an inventory of the application's own knows, with more patience than usual.
func ExamplePoll() {
	ctx := context.Background()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       "http://10.0.0.1:9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
	})
	if err != nil {
		log.Fatal(err)
	}
	runner := &discovery.Runner{Hold: 5 * time.Minute}
	go runner.Run(ctx, m, &discovery.Poll{Find: askInventory, Every: 30 * time.Second, Name: "inventory"})
}

func askInventory(context.Context) ([]string, error) { return nil, nil }
