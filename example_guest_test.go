package grid_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gridmesh/grid"
)

// A server calls a node that nobody can dial, over the connection that the node has opened.
func ExampleJoin() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel() // ends the nodes
	server := httptest.NewUnstartedServer(nil)
	url := "http://" + server.Listener.Addr().String()
	m, err := grid.NewManager(ctx, grid.ManagerOptions{
		Local:       url,
		AuthRequest: func(*http.Request) error { return nil }, // leaves it to AcceptGuest
		AcceptGuest: func(r *http.Request, name string) error {
			if r.Header.Get("Authorization") != "Bearer token of "+name {
				return errors.New("this is not your name")
			}
			return nil
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	server.Config.Handler = m.Handler()
	server.Start()
	defer server.Close()
	answers := make(chan string)
	m.OnGuest(func(guest *grid.Connection) { // on a goroutine of its own
		answer, err := guest.Request(ctx, grid.HandlerUserFirst, []byte("how warm is it?"))
		answers <- fmt.Sprintf("%s says %s, %v", guest.Remote, answer, err)
	})

	// Elsewhere, behind a NAT. Handlers come before the connection.
	ready := make(chan struct{})
	thermometer, err := grid.Join(ctx, url, grid.ManagerOptions{
		Local:        "thermometer 7",
		AddAuth:      func(string) string { return "token of thermometer 7" },
		BlockConnect: ready,
		Logger:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	err = thermometer.RegisterSingleHandler(grid.HandlerUserFirst, func([]byte) ([]byte, *grid.RemoteErr) {
		return []byte("21 °C"), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	close(ready)
	fmt.Println(<-answers)
	// Output: thermometer 7 says 21 °C, <nil>
}
