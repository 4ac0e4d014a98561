package grid_test

import (
	"context"
	"fmt"
	"log"

	"github.com/gridmesh/grid"
)

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
	err := there.RegisterSingleHandlerContext(handlerWhoami, func(ctx context.Context, _ []byte) ([]byte, error) {
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

// Metadata travels with the context, beside the payload.
func ExampleWithMetadata() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandlerContext(handlerWhoami, func(ctx context.Context, _ []byte) ([]byte, error) {
		md := grid.MetadataFrom(ctx)
		return fmt.Appendf(nil, "%s from %s", md.Get("user"), md.Get("office")), nil
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx := grid.WithMetadata(context.Background(), grid.Metadata{"user": {"anna"}, "office": {"Oslo"}})
	ctx = grid.WithMetadata(ctx, grid.Metadata{"office": {"Rome"}}) // the user stays
	answer, err := here.Connection(there.HostName()).Request(ctx, handlerWhoami, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output: anna from Rome
}

// A handler reads the metadata that its test gives it.
func ExampleWithIncomingMetadata() {
	handler := func(ctx context.Context, _ []byte) ([]byte, error) {
		return []byte("hello, " + grid.MetadataFrom(ctx).Get("user")), nil
	}

	answer, _ := handler(grid.WithIncomingMetadata(context.Background(), grid.Metadata{"user": {"anna"}}), nil)
	fmt.Printf("%s\n", answer)
	// Output: hello, anna
}

// One interceptor names the user in each call of this node and prints how it ended, another lets
// nobody without a name reach the handlers.
func ExampleInterceptor() {
	naming := grid.Interceptor{
		ClientRequest: func(ctx context.Context, _ *grid.CallInfo, req []byte, next grid.RequestFunc) ([]byte, error) {
			if user := ctx.Value(userKey{}); user != nil {
				ctx = grid.WithMetadata(ctx, grid.Metadata{"user": {user.(string)}})
			}
			answer, err := next(ctx, req)
			fmt.Println("ended:", grid.Classify(ctx, err))
			return answer, err
		},
	}
	guarding := grid.Interceptor{
		ServerRequest: func(ctx context.Context, _ *grid.CallInfo, payload []byte,
			next grid.ServeRequestFunc,
		) ([]byte, error) {
			if grid.MetadataFrom(ctx).Get("user") == "" {
				return nil, grid.NewRemoteErrString("who are you?")
			}
			return next(ctx, payload)
		},
	}
	here, there, cleanup := nodes(func(o *grid.ManagerOptions) {
		o.Interceptors = []grid.Interceptor{naming, guarding} // the first is outermost
	})
	defer cleanup()
	err := there.RegisterSingleHandler(handlerEcho, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}

	conn := here.Connection(there.HostName())
	for _, ctx := range []context.Context{
		context.WithValue(context.Background(), userKey{}, "anna"),
		context.Background(),
	} {
		answer, err := conn.Request(ctx, handlerEcho, []byte("hello"))
		fmt.Printf("%q %t\n", answer, err == nil)
	}
	// Output:
	// ended: none
	// "hello" true
	// ended: handler_error
	// "" false
}

type userKey struct{}

// What happens on a stream is told to an observer.
func ExampleStreamInfo_Observe() {
	counting := grid.Interceptor{
		ClientStream: func(ctx context.Context, info *grid.StreamInfo, payload []byte, next grid.NewStreamFunc) (*grid.Stream, error) {
			messages, size := 0, 0
			info.Observe(grid.StreamObserver{
				OnReceive: func(n int) { messages, size = messages+1, size+n },
				OnEnd:     func(err error) { fmt.Println(messages, "messages,", size, "bytes,", err) },
			})
			return next(ctx, payload)
		},
	}
	here, there, cleanup := nodes(func(o *grid.ManagerOptions) { o.Interceptors = []grid.Interceptor{counting} })
	defer cleanup()
	count := grid.StreamHandler{
		OutCapacity: 4,
		Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *grid.RemoteErr {
			for range 3 {
				select {
				case out <- []byte("hello"):
				case <-ctx.Done():
					return nil
				}
			}
			return nil
		},
	}
	for _, m := range []*grid.Manager{here, there} {
		if err := m.RegisterStreamingHandler(handlerCount, count); err != nil {
			log.Fatal(err)
		}
	}

	stream, err := here.Connection(there.HostName()).NewStream(context.Background(), handlerCount, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := stream.Results(func([]byte) error { return nil }); err != nil {
		log.Fatal(err)
	}
	// Output: 3 messages, 15 bytes, <nil>
}

// Requests are watched while somebody subscribes to them.
func ExampleManager_Traces() {
	here, there, cleanup := pair()
	defer cleanup()
	err := there.RegisterSingleHandler(handlerEcho, func(payload []byte) ([]byte, *grid.RemoteErr) {
		return payload, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	traces := make(chan grid.TraceInfo, 100) // more are dropped
	if err := here.Traces().Subscribe(grid.TraceInternode, traces, ctx.Done(), nil); err != nil {
		log.Fatal(err)
	}

	if _, err := here.Connection(there.HostName()).Request(ctx, handlerEcho, []byte("hello")); err != nil {
		log.Fatal(err)
	}
	trace := <-traces
	fmt.Println(trace.Remote == there.HostName(), trace.BytesOut, trace.BytesIn)
	// Output: true 5 5
}
