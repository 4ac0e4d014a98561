package grid_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/gridmesh/grid"
)

// One node of two: start it with localhost:9001 or localhost:9002 as its argument.
func Example() {
	addr, ready := os.Args[1], make(chan struct{})
	m, err := grid.NewManager(context.Background(), grid.ManagerOptions{
		Local:        "http://" + addr,
		Hosts:        []string{"http://localhost:9001", "http://localhost:9002"},
		AuthRequest:  func(*http.Request) error { return nil }, // lets everybody in
		BlockConnect: ready,
	})
	if err != nil {
		log.Fatal(err)
	}
	err = m.Handle("greet", func(_ context.Context, name []byte) ([]byte, error) {
		return fmt.Appendf(nil, "hello %s, I am %s", name, addr), nil
	})
	if err != nil {
		log.Fatal(err)
	}
	close(ready) // handlers first, then calls
	server := http.Server{Addr: addr, Handler: m.Handler(), ReadTimeout: 5 * time.Second, IdleTimeout: 5 * time.Second}
	go func() { log.Fatal(server.ListenAndServe()) }()
	conn := m.Connection(m.Targets()[0])
	conn.WaitForConnect(context.Background())
	answer, err := conn.Call(context.Background(), "greet", []byte(addr))
	fmt.Printf("%s %v\n", answer, err)
	select {} // keeps serving
}

// Handlers of the examples.
const (
	handlerEcho = grid.HandlerUserFirst + iota
	handlerStat
	handlerCount
	handlerUpper
	handlerWhoami
	handlerRemove
	handlerText
	handlerSlow
)

// pair starts two connected nodes. Programs use NewManager instead.
func pair() (here, there *grid.Manager, cleanup func()) {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	return g.Managers[0], g.Managers[1], g.Cleanup
}

// nodes starts two connected nodes with options of their own. Programs use NewManager instead.
func nodes(edit func(o *grid.ManagerOptions)) (here, there *grid.Manager, cleanup func()) {
	servers := []*httptest.Server{httptest.NewUnstartedServer(nil), httptest.NewUnstartedServer(nil)}
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, "http://"+s.Listener.Addr().String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	var managers []*grid.Manager
	for i, s := range servers {
		o := grid.ManagerOptions{
			Local:       hosts[i],
			Hosts:       hosts,
			AuthRequest: func(*http.Request) error { return nil },
			Logger:      slog.New(slog.DiscardHandler),
		}
		edit(&o)
		m, err := grid.NewManager(ctx, o)
		if err != nil {
			log.Fatal(err)
		}
		s.Config.Handler = m.Handler()
		s.Start()
		managers = append(managers, m)
	}
	if err := managers[0].Connection(hosts[1]).WaitForConnect(ctx); err != nil {
		log.Fatal(err)
	}
	return managers[0], managers[1], func() {
		cancel()
		for i, s := range servers {
			managers[i].Close()
			s.Close()
		}
	}
}

func ExampleConnection_Call() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.Handle("echo", func(_ context.Context, payload []byte) ([]byte, error) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := here.Connection(there.HostName()).Call(ctx, "echo", []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	grid.PutByteBuffer(answer) // may be left to the garbage collector
	// Output: hello
}

func ExampleConnection_Request() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerEcho, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := here.Connection(there.HostName()).Request(ctx, handlerEcho, []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	grid.PutByteBuffer(answer) // may be left to the garbage collector
	// Output: hello
}

func ExampleNameHandler() {
	const handlerReport = grid.HandlerUserFirst + 100
	fmt.Println(handlerReport)
	if err := grid.NameHandler(handlerReport, "Report"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(handlerReport)
	// Output:
	// HandlerID(228)
	// Report
}

// A unit test may run as many nodes as it wants in its own process.
func ExampleSetupTestGrid() {
	g, err := grid.SetupTestGrid(3)
	if err != nil {
		log.Fatal(err)
	}
	defer g.Cleanup()
	for _, m := range g.Managers {
		fmt.Println(m.Connection(m.Targets()[0]).State())
	}
	// Output:
	// Connected
	// Connected
	// Connected
}
