package grid_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/gridmesh/grid"
)

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

// Without WithSharedResponse the answer would be reused for other calls once it is sent, while this
// handler goes on to give it to everybody.
func ExampleSingleHandler_WithSharedResponse() {
	here, there, cleanup := pair()
	defer cleanup()
	version := grid.NewMSSWith(map[string]string{"version": "1.2.3"})
	info := grid.NewSingleHandler[grid.NoPayload, *grid.MSS](handlerStat, grid.NewNoPayload, grid.NewMSS).WithSharedResponse()
	err := info.Register(there, func(grid.NoPayload) (*grid.MSS, *grid.RemoteErr) {
		return version, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	for range 2 {
		resp, err := info.Call(context.Background(), here.Connection(there.HostName()), grid.NewNoPayload())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Get("version"))
		info.PutResponse(resp) // the caller's own copy, which may be reused
	}
	// Output:
	// 1.2.3
	// 1.2.3
}

// An Array carries any number of values of one type.
func ExampleNewArrayOf() {
	here, there, cleanup := pair()
	defer cleanup()
	disks := grid.NewArrayOf[*grid.MSS](grid.NewMSS)
	list := grid.NewSingleHandler[grid.NoPayload, *grid.Array[*grid.MSS]](handlerStat, grid.NewNoPayload, disks.New)
	err := list.Register(there, func(grid.NoPayload) (*grid.Array[*grid.MSS], *grid.RemoteErr) {
		return disks.NewWith([]*grid.MSS{
			grid.NewMSSWith(map[string]string{"name": "sda"}),
			grid.NewMSSWith(map[string]string{"name": "sdb"}),
		}), nil
	})
	if err != nil {
		log.Fatal(err)
	}

	resp, err := list.Call(context.Background(), here.Connection(there.HostName()), grid.NewNoPayload())
	if err != nil {
		log.Fatal(err)
	}
	for _, disk := range resp.Value() {
		fmt.Println(disk.Get("name"))
	}
	list.PutResponse(resp) // with its elements
	// Output:
	// sda
	// sdb
}
