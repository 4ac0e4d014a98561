package gridetcd_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridetcd"
	"github.com/gridmesh/grid/discovery"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// A node that starts alone, and finds the others in etcd.
func Example() {
	ctx := context.Background()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://etcd.example:2379"}, DialTimeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       "https://" + host + ":9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
	})
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, &gridetcd.Source{
		Client: client,
		Prefix: "/orders/nodes/",
		Local:  m.HostName(),
	})
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServeTLS("node.crt", "node.key"))
}
