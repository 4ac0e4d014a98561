package gridauth_test

import (
	"bytes"
	"context"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gridmesh/grid"
	"github.com/gridmesh/grid/contrib/gridauth"
)

// A node that shows and asks for tokens. The secret is in a file that openssl rand -hex 32 wrote,
// the same on all nodes.
func Example() {
	const local = "https://node1.example:9000"
	hosts := []string{local, "https://node2.example:9000"}

	auth, err := gridauth.New(gridauth.Options{
		Host:     local,
		Audience: "orders",
		Sign:     readKey("2026-11"),
	})
	if err != nil {
		log.Fatal(err)
	}
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local:       local,
		Hosts:       hosts,
		AddAuth:     auth.AddAuth,
		AuthRequest: auth.AuthRequest,
		VerifyPeer:  auth.VerifyPeer,
	})
	if err != nil {
		log.Fatal(err)
	}
	http.Handle(grid.RoutePath, m.Handler())
	server := &http.Server{Addr: ":9000", ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second} // they end with the upgrade
	log.Fatal(server.ListenAndServeTLS("node1.crt", "node1.key"))
}

// A new key for a grid that runs. All nodes take a step before the first takes the next one.
func ExampleAuth_SetKeys() {
	old, next := readKey("2026-11"), readKey("2026-12")
	auth, err := gridauth.New(gridauth.Options{Host: "https://node1.example:9000", Audience: "orders", Sign: old})
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range [][]gridauth.Key{
		{old, next}, // know the next key
		{next, old}, // sign with it
		{next},      // forget the old one
	} {
		waitForAdministrator()
		if err := auth.SetKeys(step[0], step[1:]...); err != nil {
			log.Print(err) // the keys are as before
		}
	}
}

func readKey(id string) gridauth.Key {
	secret, err := os.ReadFile("/etc/orders/" + id + ".secret")
	if err != nil {
		log.Fatal(err)
	}
	return gridauth.Key{ID: id, Secret: bytes.TrimSpace(secret)}
}

func waitForAdministrator() {}
