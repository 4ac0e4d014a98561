package gridkubernetes_test

import (
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridkubernetes"
	"github.com/gridmesh/grid/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// A pod whose name is its address, which is in the environment variable POD_IP.
func Example() {
	config, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       "http://" + os.Getenv("POD_IP") + ":9000",
		AuthRequest: func(*http.Request) error { return nil }, // lets everybody in
	})
	if err != nil {
		log.Fatal(err)
	}
	go discovery.Run(ctx, m, &gridkubernetes.Source{
		Client:    clientset.DiscoveryV1(),
		Namespace: "app",
		Service:   "grid",
		Port:      9000,
	})
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
