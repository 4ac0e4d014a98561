package gridconsul_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridconsul"
	"github.com/gridmesh/grid/discovery"
	"github.com/hashicorp/consul/api"
)

// A node that starts alone, and finds the others in Consul.
func Example() {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		log.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       "https://" + host + ":9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
	})
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, &gridconsul.Source{
		Client:  client,
		Service: "orders-grid",
		Local:   m.HostName(),
	})
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServeTLS("node.crt", "node.key"))
}
