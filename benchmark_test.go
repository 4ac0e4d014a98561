package grid

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// Handlers of this package's own tests and benchmarks.
const (
	benchEcho   HandlerID = 126
	benchStream HandlerID = 127
)

const benchPayload = 512 // bytes

// benchGrid starts n connected nodes whose benchEcho returns what it gets.
func benchGrid(b *testing.B, n int) *TestGrid {
	b.Helper()
	g, err := SetupTestGrid(n)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(g.Cleanup)
	for _, m := range g.Managers {
		err := m.RegisterSingleHandler(benchEcho, func(p []byte) ([]byte, *RemoteErr) { return p, nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	return g
}

// randomConnection picks a pair of different nodes.
func randomConnection(g *TestGrid, rnd *rand.Rand) *Connection {
	from := rnd.IntN(len(g.Managers))
	to := (from + 1 + rnd.IntN(len(g.Managers)-1)) % len(g.Managers)
	return g.Managers[from].Connection(g.Hosts[to])
}

// BenchmarkRequests echoes 512 bytes between random pairs of nodes, raw and
// typed. One operation is one call. Callers are per core.
func BenchmarkRequests(b *testing.B) {
	typed := NewSingleHandler[*Bytes, *Bytes](benchEcho, NewBytes, NewBytes)
	for _, servers := range []int{2, 4, 8, 16, 32} {
		g := benchGrid(b, servers)
		for _, m := range g.Managers {
			err := typed.Register(m, func(req *Bytes) (*Bytes, *RemoteErr) {
				resp := typed.NewResponse()
				*resp = append((*resp)[:0], *req...)
				return resp, nil
			}, "typed")
			if err != nil {
				b.Fatal(err)
			}
		}
		for _, callers := range []int{1, 4, 32} {
			b.Run(fmt.Sprintf("servers=%d/callers=%d/raw", servers, callers), func(b *testing.B) {
				benchmarkCalls(b, callers, func(rnd *rand.Rand) error {
					resp, err := randomConnection(g, rnd).Request(context.Background(), benchEcho, benchBytes)
					PutByteBuffer(resp)
					return err
				})
			})
			b.Run(fmt.Sprintf("servers=%d/callers=%d/typed", servers, callers), func(b *testing.B) {
				routes := make(map[*Connection]*Subroute)
				for _, m := range g.Managers {
					for _, host := range m.Targets() {
						routes[m.Connection(host)] = m.Connection(host).Subroute("typed")
					}
				}
				req := NewBytesWith(benchBytes)
				benchmarkCalls(b, callers, func(rnd *rand.Rand) error {
					resp, err := typed.Call(context.Background(), routes[randomConnection(g, rnd)], req)
					typed.PutResponse(resp)
					return err
				})
			})
		}
	}
}

// BenchmarkNames echoes 512 bytes between two nodes, with handlers that take a context, by number and by
// name. Run it with -count, and compare medians: the two take turns. Callers are all there are.
func BenchmarkNames(b *testing.B) {
	g := benchGrid(b, 2)
	echo := func(_ context.Context, p []byte) ([]byte, error) { return p, nil }
	typed := NewMethodCodec[[]byte, []byte]("bench.Typed", plainCodec{})
	err := errors.Join(
		g.Managers[1].RegisterSingleHandlerContext(benchStream, echo),
		g.Managers[1].Handle("bench.Echo", echo),
		typed.Handle(g.Managers[1], func(_ context.Context, p *[]byte) (*[]byte, error) { return p, nil }),
	)
	if err != nil {
		b.Fatal(err)
	}
	conn := g.Managers[0].Connection(g.Hosts[1])
	ctx := context.Background()
	for _, callers := range []int{2, 16, 64} {
		for name, call := range map[string]func(*rand.Rand) error{
			"number": func(*rand.Rand) error {
				resp, err := conn.Request(ctx, benchStream, benchBytes)
				PutByteBuffer(resp)
				return err
			},
			"name": func(*rand.Rand) error {
				resp, err := conn.Call(ctx, "bench.Echo", benchBytes)
				PutByteBuffer(resp)
				return err
			},
			"typed": func(*rand.Rand) error {
				_, err := typed.Call(ctx, conn, &benchBytes)
				return err
			},
		} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, name), func(b *testing.B) {
				benchmarkCalls(b, max(callers/runtime.GOMAXPROCS(0), 1), call)
			})
		}
	}
}

var benchBytes = make([]byte, benchPayload)

// benchmarkCalls runs call in many goroutines at once.
func benchmarkCalls(b *testing.B, callers int, call func(rnd *rand.Rand) error) {
	b.ReportAllocs()
	b.SetBytes(2 * benchPayload)
	b.SetParallelism(callers)
	b.RunParallel(func(pb *testing.PB) {
		rnd := rand.New(rand.NewPCG(rand.Uint64(), 0))
		for pb.Next() {
			if err := call(rnd); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkStream sends 512 bytes a message: from the handler over one-way
// streams, and there and back over two-way streams. One operation is one message, or one echo.
func BenchmarkStream(b *testing.B) {
	for _, window := range []int{1, 32, 256} {
		g := benchGrid(b, 2)
		for _, m := range g.Managers {
			registerBenchStreams(b, m, window)
		}
		c := g.Managers[0].Connection(g.Hosts[1])
		for _, streams := range []int{1, 32} {
			b.Run(fmt.Sprintf("oneway/window=%d/streams=%d", window, streams), func(b *testing.B) {
				benchmarkStreams(b, streams, func(n int) error { return drainStream(c.Subroute("source"), n) })
			})
			b.Run(fmt.Sprintf("twoway/window=%d/streams=%d", window, streams), func(b *testing.B) {
				benchmarkStreams(b, streams, func(n int) error { return echoStream(c.Subroute("echo"), n) })
			})
		}
	}
}

func registerBenchStreams(b *testing.B, m *Manager, window int) {
	b.Helper()
	err := m.RegisterStreamingHandler(benchStream, StreamHandler{
		Subroute:    "source",
		OutCapacity: window,
		Handle: func(ctx context.Context, _ []byte, _ <-chan []byte, out chan<- []byte) *RemoteErr {
			for {
				select {
				case out <- GetByteBufferCap(benchPayload)[:benchPayload]:
				case <-ctx.Done():
					return nil
				}
			}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	err = m.RegisterStreamingHandler(benchStream, StreamHandler{
		Subroute:    "echo",
		InCapacity:  window,
		OutCapacity: window,
		Handle: func(ctx context.Context, _ []byte, in <-chan []byte, out chan<- []byte) *RemoteErr {
			for p := range in {
				select {
				case out <- p:
				case <-ctx.Done():
				}
			}
			return nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
}

// benchmarkStreams shares b.N messages among streams that run at once.
func benchmarkStreams(b *testing.B, streams int, run func(n int) error) {
	b.ReportAllocs()
	b.SetBytes(benchPayload)
	done := make(chan error, streams)
	for range streams {
		go func() { done <- run(b.N/streams + 1) }()
	}
	for range streams {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}

// drainStream takes n messages of a one-way stream.
func drainStream(c Streamer, n int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	st, err := c.NewStream(ctx, benchStream, nil)
	if err != nil {
		return err
	}
	for b, err := range st.All() {
		if err != nil {
			return err
		}
		PutByteBuffer(b)
		if n--; n == 0 {
			break
		}
	}
	return nil
}

// echoStream sends n messages over a two-way stream and takes as many.
func echoStream(c Streamer, n int) error {
	st, err := c.NewStream(context.Background(), benchStream, nil)
	if err != nil {
		return err
	}
	go func() {
		defer close(st.Requests)
		for range n {
			if st.Send(GetByteBufferCap(benchPayload)[:benchPayload]) != nil {
				return
			}
		}
	}()
	return st.Results(func(b []byte) error {
		PutByteBuffer(b)
		return nil
	})
}
