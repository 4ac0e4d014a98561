package grid_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
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
	err = m.RegisterSingleHandler(grid.HandlerUserFirst, func(name []byte) ([]byte, *grid.RemoteErr) {
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
	answer, err := conn.Request(context.Background(), grid.HandlerUserFirst, []byte(addr))
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
)

// pair starts two connected nodes. Programs use NewManager instead.
func pair() (here, there *grid.Manager, cleanup func()) {
	g, err := grid.SetupTestGrid(2)
	if err != nil {
		log.Fatal(err)
	}
	return g.Managers[0], g.Managers[1], g.Cleanup
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

func ExampleSingleHandler() {
	here, there, cleanup := pair()
	defer cleanup()
	// Made once, usually as a variable of the package, and used by both sides.
	stat := grid.NewSingleHandler[*grid.MSS, *grid.MSS](handlerStat, grid.NewMSS, grid.NewMSS)
	err := stat.Register(there, func(req *grid.MSS) (*grid.MSS, *grid.RemoteErr) {
		resp := stat.NewResponse()
		resp.Set("path", req.Get("path"))
		resp.Set("size", "42")
		return resp, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	req := grid.NewMSSWith(map[string]string{"path": "/tmp/a"})
	resp, err := stat.Call(context.Background(), here.Connection(there.HostName()), req)
	if err != nil {
		log.Fatal(err)
	}
	defer stat.PutResponse(resp)
	fmt.Println(resp.Get("path"), resp.Get("size"))
	// Output: /tmp/a 42
}

func ExampleNewJSONPool() {
	type disk struct {
		Name string
		Free int
	}
	here, there, cleanup := pair()
	defer cleanup()
	pool := grid.NewJSONPool[disk]()
	stat := grid.NewSingleHandler[*grid.JSON[disk], *grid.JSON[disk]](handlerStat, pool.NewJSON, pool.NewJSON)
	err := stat.Register(there, func(req *grid.JSON[disk]) (*grid.JSON[disk], *grid.RemoteErr) {
		return pool.NewJSONWith(&disk{Name: req.Value().Name, Free: 7}), nil
	})
	if err != nil {
		log.Fatal(err)
	}

	resp, err := stat.Call(context.Background(), here.Connection(there.HostName()), pool.NewJSONWith(&disk{Name: "sda"}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", resp.ValueOrZero())
	// Output: {Name:sda Free:7}
}

// A stream in one direction: the handler sends, the caller ranges over what comes.
func ExampleStream_All() {
	here, there, cleanup := pair()
	defer cleanup()
	count := grid.StreamHandler{
		OutCapacity: 16, // messages that the handler may be ahead
		Handle: func(ctx context.Context, payload []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for i := range 3 {
				select {
				case out <- fmt.Appendf(nil, "%s %d", payload, i):
				case <-ctx.Done():
					return nil
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} { // the caller needs the capacities
		if err := m.RegisterStreamingHandler(handlerCount, count); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerCount, []byte("line"))
	if err != nil {
		log.Fatal(err)
	}
	for msg, err := range stream.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
		grid.PutByteBuffer(msg)
	}
	// Output:
	// line 0
	// line 1
	// line 2
}

// A stream in both directions: one goroutine sends while another receives.
func ExampleStream_Send() {
	here, there, cleanup := pair()
	defer cleanup()
	upper := grid.StreamHandler{
		InCapacity:  4,
		OutCapacity: 4,
		Handle: func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for msg := range in { // ends when the caller closes Requests, or goes away
				select {
				case out <- []byte(strings.ToUpper(string(msg))):
				case <-ctx.Done():
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} {
		if err := m.RegisterStreamingHandler(handlerUpper, upper); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerUpper, nil)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer close(stream.Requests) // tells the handler that this was all
		for _, word := range []string{"one", "two", "three"} {
			if err := stream.Send([]byte(word)); err != nil {
				return // the loop below is told why
			}
		}
	}()
	for msg, err := range stream.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", msg)
	}
	// Output:
	// ONE
	// TWO
	// THREE
}

func ExampleStreamTypeHandler() {
	here, there, cleanup := pair()
	defer cleanup()
	// No payload opens the stream; requests are MSS, answers are Bytes.
	upper := grid.NewStream[grid.NoPayload, *grid.MSS, *grid.Bytes](handlerUpper, nil, grid.NewMSS, grid.NewBytes).
		WithInCapacity(4).
		WithOutCapacity(4)
	handle := func(ctx context.Context, in <-chan *grid.MSS, out chan<- *grid.Bytes) *grid.RemoteErr {
		for req := range in {
			resp := upper.NewResponse()
			*resp = append((*resp)[:0], strings.ToUpper(req.Get("word"))...)
			upper.PutRequest(req)
			select {
			case out <- resp:
			case <-ctx.Done():
			}
		}
		return nil
	}
	for _, m := range []*grid.Manager{here, there} {
		if err := upper.RegisterNoPayload(m, handle); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := upper.Call(context.Background(), here.Connection(there.HostName()), grid.NewNoPayload())
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer close(stream.Requests)
		for _, word := range []string{"one", "two"} {
			if err := stream.Send(grid.NewMSSWith(map[string]string{"word": word})); err != nil {
				return
			}
		}
	}()
	err = stream.Results(func(resp *grid.Bytes) error {
		fmt.Printf("%s\n", *resp)
		upper.PutResponse(resp)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// ONE
	// TWO
}

// One handler ID can serve several things that each node has, such as disks.
func ExampleConnection_Subroute() {
	here, there, cleanup := pair()
	defer cleanup()
	for _, disk := range []string{"sda", "sdb"} {
		err := there.RegisterSingleHandler(handlerStat, func([]byte) ([]byte, *grid.RemoteErr) {
			return []byte("stat of " + disk), nil
		}, "disks", disk)
		if err != nil {
			log.Fatal(err)
		}
	}

	disks := here.Connection(there.HostName()).Subroute("disks")
	for _, disk := range []string{"sda", "sdb"} {
		answer, err := disks.Subroute(disk).Request(context.Background(), handlerStat, nil)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s\n", answer)
	}
	// Output:
	// stat of sda
	// stat of sdb
}

// A handler that is given a context knows its caller, its subroute and the time it has.
func ExampleManager_RegisterSingleHandlerContext() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandlerContext(handlerWhoami, func(ctx context.Context, _ []byte) ([]byte, *grid.RemoteErr) {
		_, timed := ctx.Deadline()
		return fmt.Appendf(nil, "%s %s %t", grid.GetCaller(ctx).Name, grid.GetSubroute(ctx), timed), nil
	}, "users")
	if err != nil {
		log.Fatal(err)
	}

	users := here.Connection(there.HostName()).Subroute("users")
	answer, err := users.Request(context.Background(), handlerWhoami, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer) == here.HostName()+" users true")
	// Output: true
}

// errNotFound is known to both sides: only its text crosses the wire.
var errNotFound = grid.RemoteErr("not found")

func ExampleRemoteErr() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerRemove, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return nil, &errNotFound
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	_, err = conn.Request(context.Background(), handlerRemove, []byte("a"))
	fmt.Println(errors.Is(err, errNotFound))
	_, err = conn.Request(context.Background(), handlerEcho, nil) // nobody has registered it
	fmt.Println(errors.Is(err, grid.ErrUnknownHandler))
	var nobody *grid.Connection // such as Manager.Connection returns for an unknown name
	_, err = nobody.Request(context.Background(), handlerEcho, nil)
	fmt.Println(errors.Is(err, grid.ErrDisconnected))
	// Output:
	// true
	// true
	// true
}

func ExampleManager_Shutdown() {
	here, there, cleanup := pair()
	defer cleanup()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(here.Shutdown(ctx)) // what runs may finish until ctx ends

	conn := here.Connection(there.HostName())
	_, err := conn.Request(context.Background(), handlerEcho, nil)
	fmt.Println(conn.State(), errors.Is(err, grid.ErrShutdown))
	// Output:
	// <nil>
	// Shutdown true
}

func ExampleManager_Stats() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerEcho, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	for range 3 {
		answer, err := conn.Request(context.Background(), handlerEcho, []byte("hello"))
		if err != nil {
			log.Fatal(err)
		}
		grid.PutByteBuffer(answer)
	}
	stats := here.Stats()
	for _, p := range stats.Peers {
		fmt.Println(p.State, p.Connects, p.In.Messages >= 3, p.LastError == "")
	}
	for _, h := range stats.Handlers {
		if h.Role == grid.RoleClient {
			fmt.Println(h.Calls, h.Errors.Total(), h.Latency.Quantile(0.5) > 0)
		}
	}
	// Output:
	// Connected 1 true true
	// 3 0 true
}

func ExampleManager_HealthHandler() {
	here, _, cleanup := pair()
	defer cleanup()

	mux := http.NewServeMux()
	mux.Handle("/health/", here.HealthHandler(grid.HealthOptions{Ready: grid.ReadyAll}))
	server := httptest.NewServer(mux)
	defer server.Close()

	resp, err := http.Get(server.URL + "/health/ready")
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// 200 OK
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
