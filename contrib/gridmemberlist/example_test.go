package gridmemberlist_test

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridmemberlist"
	"github.com/gridmesh/grid/discovery"
	"github.com/hashicorp/memberlist"
)

// A node that knows the names of two others at first, and soon those of all.
func Example() {
	ctx := context.Background()
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
	config := memberlist.DefaultLANConfig()
	config.SecretKey, err = os.ReadFile("/etc/orders/gossip.key") // 32 bytes
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, &gridmemberlist.Source{
		Config: config,
		Local:  m.HostName(),
		Join:   []string{"node1.example", "node2.example"},
	})
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServeTLS("node.crt", "node.key"))
}

// A node that gossips over its grid, as all others do.
func ExampleNewNetwork() {
	ctx := context.Background()
	options := grid.ManagerOptions{
		Local:       "https://node3.example:9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
		AcceptGuest: func(_ *http.Request, name string) error {
			if _, ok := gridmemberlist.GuestOf(name); !ok {
				return errors.New("only nodes come here")
			}
			return nil
		},
	}
	m, err := grid.NewManager(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	network, err := gridmemberlist.NewNetwork(m, options)
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, &gridmemberlist.Source{
		Network: network,
		Join:    []string{"https://node1.example:9000", "https://node2.example:9000"},
	})
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServeTLS("node.crt", "node.key"))
}
