package grid_test

import (
	"context"
	"fmt"
	"iter"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/gridmesh/grid"
)

func ExampleMethod() {
	here, there, cleanup := pair()
	defer cleanup()
	// Made once, usually as a variable of the package, and used by both sides.
	stat := grid.NewMethod[grid.MSS, grid.MSS]("disk.Stat")
	err := stat.Handle(there, func(_ context.Context, req *grid.MSS) (*grid.MSS, error) {
		return &grid.MSS{"path": req.Get("path"), "size": "42"}, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	resp, err := stat.Call(context.Background(), here.Connection(there.HostName()), &grid.MSS{"path": "/tmp/a"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Get("path"), resp.Get("size"))
	// Output: /tmp/a 42
}

func ExampleNewMethodCodec() {
	type disk struct {
		Name string
		Free int
	}
	here, there, cleanup := pair()
	defer cleanup()
	stat := grid.NewMethodCodec[disk, disk]("disk.StatJSON", grid.JSONCodec)
	err := stat.Handle(there, func(_ context.Context, req *disk) (*disk, error) {
		return &disk{Name: req.Name, Free: 7}, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	resp, err := stat.Call(context.Background(), here.Connection(there.HostName()), &disk{Name: "sda"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", *resp)
	// Output: {Name:sda Free:7}
}

// The handler sends, the caller ranges over what comes.
func ExampleStreamMethod() {
	here, there, cleanup := pair()
	defer cleanup()
	list := grid.NewStreamMethod[grid.MSS, grid.MSS]("disk.List")
	err := list.Handle(there, func(_ context.Context, req *grid.MSS, out *grid.Sender[grid.MSS]) error {
		for _, name := range []string{"sda", "sdb"} {
			if err := out.Send(&grid.MSS{"name": req.Get("dir") + name}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	for disk, err := range list.Call(context.Background(), here.Connection(there.HostName()), &grid.MSS{"dir": "/dev/"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(disk.Get("name"))
	}
	// Output:
	// /dev/sda
	// /dev/sdb
}

// The caller sends any number of values, the handler answers once.
func ExampleUploadMethod() {
	here, there, cleanup := pair()
	defer cleanup()
	count := grid.NewUploadMethod[grid.MSS, grid.MSS]("words.Count")
	err := count.Handle(there, func(_ context.Context, words iter.Seq2[*grid.MSS, error]) (*grid.MSS, error) {
		n := 0
		for _, err := range words {
			if err != nil {
				return nil, err
			}
			n++
		}
		return &grid.MSS{"words": fmt.Sprint(n)}, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	words := slices.Values([]*grid.MSS{{"word": "one"}, {"word": "two"}})
	resp, err := count.Call(context.Background(), here.Connection(there.HostName()), words)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Get("words"))
	// Output: 2
}

// Both ends send and receive.
func ExampleDuplexMethod() {
	here, there, cleanup := pair()
	defer cleanup()
	upper := grid.NewDuplexMethod[grid.MSS, grid.MSS]("words.Upper")
	err := upper.Handle(there, func(_ context.Context, st *grid.ServerStream[grid.MSS, grid.MSS]) error {
		for req, err := range st.All() {
			if err != nil {
				return err
			}
			if err := st.Send(&grid.MSS{"word": strings.ToUpper(req.Get("word"))}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second) // for the whole stream
	defer cancel()
	st, err := upper.Call(ctx, here.Connection(there.HostName()))
	if err != nil {
		log.Fatal(err)
	}
	for _, word := range []string{"one", "two"} {
		if err := st.Send(&grid.MSS{"word": word}); err != nil {
			log.Fatal(err)
		}
	}
	st.CloseSend()
	for resp, err := range st.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.Get("word"))
	}
	// Output:
	// ONE
	// TWO
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
